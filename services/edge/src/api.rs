//! What the edge answers itself, by its own contract.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use sensormesh_mesh::server::Drain;
use sensormesh_mesh::{Context, Mesh, Streaming, caller};
use sensormesh_observability::metrics;
use sensormesh_proto::edge::v1 as proto;
use sensormesh_proto::edge::v1::edge_service_server::EdgeService;
use sensormesh_proto::google::api::HttpBody;
use sensormesh_store::spool::Spool;
use sensormesh_types::{Error, Role, time};
use tonic::{Request, Response, Status};

use crate::audit;
use crate::contract::Contract;
use crate::health::Health;
use crate::openapi;
use crate::spool;
use crate::ticket::{LIFETIME, Tickets};

/// The edge's own service.
pub struct Api {
    /// The edge's part in the mesh.
    pub mesh: Mesh,
    /// The contracts that are published.
    pub contract: Arc<Contract>,
    /// How the services do.
    pub health: Health,
    /// Tickets.
    pub tickets: Tickets,
    /// How the edge stops; set when it begins to listen.
    pub drain: Arc<OnceLock<Drain>>,
    /// The OpenAPI description, made when it is first asked for.
    pub openapi: OnceLock<Bytes>,
    /// Calls that are kept for later.
    pub spool: Option<Spool>,
}

fn body(content_type: &str, data: impl Into<Bytes>) -> Option<HttpBody> {
    Some(HttpBody { content_type: content_type.to_owned(), data: data.into(), extensions: Vec::new() })
}

#[tonic::async_trait]
impl EdgeService for Api {
    async fn get_health(
        &self,
        request: Request<proto::GetHealthRequest>,
    ) -> Result<Response<proto::GetHealthResponse>, Status> {
        let detailed = caller(&request)?.has_role(Role::Operator);
        Ok(Response::new(self.health.overview(detailed).await))
    }

    async fn get_ready(
        &self,
        _request: Request<proto::GetReadyRequest>,
    ) -> Result<Response<proto::GetReadyResponse>, Status> {
        if self.drain.get().is_some_and(|drain| !drain.requested.is_requested()) {
            return Ok(Response::new(proto::GetReadyResponse { status: "ready".to_owned() }));
        }
        Err(Error::unavailable("NOT_READY", "the edge starts or stops", Duration::from_secs(1)).into())
    }

    async fn get_metrics(
        &self,
        _request: Request<proto::GetMetricsRequest>,
    ) -> Result<Response<proto::GetMetricsResponse>, Status> {
        Ok(Response::new(proto::GetMetricsResponse { body: body(metrics::CONTENT_TYPE, metrics::render()) }))
    }

    async fn list_services(
        &self,
        _request: Request<proto::ListServicesRequest>,
    ) -> Result<Response<proto::ListServicesResponse>, Status> {
        Ok(Response::new(self.health.list().await))
    }

    async fn reset_service_breaker(
        &self,
        request: Request<proto::ResetServiceBreakerRequest>,
    ) -> Result<Response<proto::ResetServiceBreakerResponse>, Status> {
        let by = caller(&request)?.actor();
        let service = request.into_inner().service;
        let breaker = self.health.reset(&service)?;
        tracing::info!(by, service, "a breaker was reset");
        Ok(Response::new(proto::ResetServiceBreakerResponse { service, breaker: Some(breaker) }))
    }

    async fn create_ticket(
        &self,
        _request: Request<proto::CreateTicketRequest>,
    ) -> Result<Response<proto::CreateTicketResponse>, Status> {
        let Some(authorization) = Context::current().and_then(|context| context.authorization) else {
            return Err(Error::precondition("NO_TOKEN", "a ticket stands for a token, and there is none").into());
        };
        let ticket = self.tickets.give(&authorization)?;
        let lifetime = i64::try_from(LIFETIME.as_micros()).unwrap_or_default();
        let expire_time = Some(time::from_micros(self.mesh.clock().now_micros() + lifetime));
        Ok(Response::new(proto::CreateTicketResponse { ticket, expire_time }))
    }

    async fn get_receipt(
        &self,
        request: Request<proto::GetReceiptRequest>,
    ) -> Result<Response<proto::GetReceiptResponse>, Status> {
        let caller = caller(&request)?.clone();
        let receipt_id = request.into_inner().receipt_id;
        let found = match &self.spool {
            Some(spool) => spool.receipt(&caller.scope, &receipt_id).await?,
            None => None,
        };
        // to others it is as if it were not there
        let own = found.filter(|receipt| receipt.owner == caller.actor() || caller.has_role(Role::Admin));
        let receipt = own.ok_or_else(|| Error::not_found("receipt_id", &receipt_id))?;
        let method = self.contract.method(&format!("/{}", receipt.method));
        let output = method.map(|method| method.descriptor.output().full_name().to_owned()).unwrap_or_default();
        Ok(Response::new(proto::GetReceiptResponse { receipt: Some(spool::receipt(&receipt_id, receipt, &output)) }))
    }

    async fn list_audit(
        &self,
        request: Request<proto::ListAuditRequest>,
    ) -> Result<Response<proto::ListAuditResponse>, Status> {
        let tenant = caller(&request)?.tenant().to_owned();
        let services = self.contract.services();
        Ok(Response::new(audit::list(&self.mesh, &services, &tenant, request.into_inner()).await?))
    }

    type ExportAuditStream = Streaming<proto::ExportAuditResponse>;

    async fn export_audit(
        &self,
        request: Request<proto::ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        let tenant = caller(&request)?.tenant().to_owned();
        let services = self.contract.services();
        Ok(Response::new(audit::export(&self.mesh, services, tenant, request.into_inner())))
    }

    async fn get_open_api(
        &self,
        _request: Request<proto::GetOpenApiRequest>,
    ) -> Result<Response<proto::GetOpenApiResponse>, Status> {
        let document = self.openapi.get_or_init(|| openapi::document(&self.contract).to_string().into());
        Ok(Response::new(proto::GetOpenApiResponse { body: body("application/json", document.clone()) }))
    }

    async fn get_contracts(
        &self,
        _request: Request<proto::GetContractsRequest>,
    ) -> Result<Response<proto::GetContractsResponse>, Status> {
        let data = self.contract.descriptors.clone();
        Ok(Response::new(proto::GetContractsResponse { body: body("application/octet-stream", data) }))
    }
}
