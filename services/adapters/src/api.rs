//! The contract, served: decode, call, encode.

use std::sync::Arc;

use prost::Message;
use sensormesh_proto::adapters::v1 as proto;
use sensormesh_proto::adapters::v1::adapters_service_server::AdaptersService;
use sensormesh_store::{Entry, Store};
use sensormesh_types::{Caller, Changes, Clock, Error, Result, mask, page, time};
use tokio::sync::OwnedMutexGuard;
use tonic::{Request, Response, Status};

use crate::aside::Aside;
use crate::connection::{Connection, Settings};
use crate::db;

/// Fields of a connection that an update may take.
const FIELDS: &[&str] = &["enabled", "interval"];
/// Fields that an update may name and that never change by it.
const FIXED: &[&str] = &[
    "connection_id",
    "adapter",
    "state",
    "error",
    "delivered",
    "refused",
    "waiting",
    "dropped",
    "last_time",
    "device_ids",
    "spooled",
];

/// Answers the contract's calls.
pub struct Api {
    pub(crate) connections: Vec<Arc<Connection>>,
    pub(crate) aside: Aside,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
}

impl Api {
    fn find<'a>(&'a self, caller: &'a Caller, id: &str) -> Result<&'a Arc<Connection>> {
        self.visible(caller).find(|connection| connection.id == id).ok_or_else(|| Error::not_found("connection", id))
    }

    fn visible<'a>(&'a self, caller: &'a Caller) -> impl Iterator<Item = &'a Arc<Connection>> {
        self.connections.iter().filter(|connection| caller.scope.admits(&connection.tenant, ""))
    }

    fn describe(&self, connection: &Connection) -> proto::Connection {
        connection.describe(self.aside.waiting(connection), self.clock.now_nanos())
    }

    fn list(&self, caller: &Caller, request: &proto::ListConnectionsRequest) -> Result<proto::ListConnectionsResponse> {
        let size = page::size(request.page_size, 100, 1000)? as usize;
        let query = format!("connections/{}", caller.tenant());
        let after = page::after(&query, &request.page_token)?.unwrap_or_default();
        let mut connections: Vec<_> = self.visible(caller).filter(|connection| *connection.id > *after).collect();
        connections.sort_by_key(|connection| connection.id);
        let more = connections.len() > size;
        connections.truncate(size);
        let next_page_token = connections.last().filter(|_| more).map(|last| page::token(&query, last.id));
        Ok(proto::ListConnectionsResponse {
            connections: connections.iter().map(|connection| self.describe(connection)).collect(),
            next_page_token: next_page_token.unwrap_or_default(),
        })
    }

    async fn update(
        &self,
        caller: &Caller,
        request: proto::UpdateConnectionRequest,
    ) -> Result<proto::UpdateConnectionResponse> {
        let wanted = request.connection.unwrap_or_default();
        let connection = self.find(caller, &wanted.connection_id)?;
        let fields = mask::fields(request.update_mask.as_ref(), FIELDS, FIXED, |field| match field {
            "enabled" => wanted.enabled,
            _ => wanted.interval.is_some(),
        })?;
        let changing = Arc::clone(&connection.changing).lock_owned().await;
        let before = *connection.settings().borrow();
        let mut settings = before;
        if fields.takes("enabled") {
            settings.enabled = wanted.enabled;
        }
        if fields.takes("interval") {
            let interval = wanted.interval.as_ref().and_then(time::to_duration);
            settings.interval =
                interval.ok_or_else(|| Error::invalid("connection.interval", "must be from 1 s to 1 h"))?;
        }
        settings.check()?;
        if settings != before {
            self.save(caller, connection, (before, settings), changing).await?;
        }
        Ok(proto::UpdateConnectionResponse { connection: Some(self.describe(connection)) })
    }

    async fn save(
        &self,
        caller: &Caller,
        connection: &Arc<Connection>,
        (before, settings): (Settings, Settings),
        changing: OwnedMutexGuard<()>,
    ) -> Result<()> {
        let set = proto::Connection {
            connection_id: connection.id.to_owned(),
            adapter: connection.adapter.to_owned(),
            enabled: settings.enabled,
            interval: Some(time::from_duration(settings.interval)),
            ..Default::default()
        };
        let entry = Entry {
            kind: "connection.updated".to_owned(),
            subject: connection.id.to_owned(),
            author: caller.author(),
            changes: Changes::default()
                .field("enabled", &before.enabled, &settings.enabled)
                .field("interval", &before.interval, &settings.interval)
                .text(),
            payload: set.encode_to_vec(),
            ..Default::default()
        };
        let mut tx = self.store.tx(&caller.scope).await?;
        db::save_settings(&mut tx, &connection.tenant, connection.id, connection.adapter, settings).await?;
        tx.append_for(&*connection.tenant, entry);
        let connection = Arc::clone(connection);
        tx.commit_and(move || {
            connection.set(settings);
            drop(changing);
        })
        .await?;
        Ok(())
    }
}

#[tonic::async_trait]
impl AdaptersService for Api {
    async fn get_connection(
        &self,
        request: Request<proto::GetConnectionRequest>,
    ) -> Result<Response<proto::GetConnectionResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?;
        let connection = self.describe(self.find(caller, &request.get_ref().connection_id)?);
        Ok(Response::new(proto::GetConnectionResponse { connection: Some(connection) }))
    }

    async fn list_connections(
        &self,
        request: Request<proto::ListConnectionsRequest>,
    ) -> Result<Response<proto::ListConnectionsResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?;
        Ok(Response::new(self.list(caller, request.get_ref())?))
    }

    async fn update_connection(
        &self,
        request: Request<proto::UpdateConnectionRequest>,
    ) -> Result<Response<proto::UpdateConnectionResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.update(&caller, request.into_inner()).await?))
    }
}
