//! Bridges through the contract.

use prost::Message as _;
use sensormesh_proto::devices::v1 as proto;
use sensormesh_store::{Entry, Tx};
use sensormesh_types::{Caller, Error, Result, page};

use super::credential::{holder_changed, holder_gone};
use super::{Api, page_size, required};
use crate::bridge::{self, Bridge, visible};
use crate::db;

fn append(tx: &mut Tx, caller: &Caller, what: &str, bridge: &Bridge, changes: String) {
    tx.append(Entry {
        site: bridge.site.clone(),
        kind: format!("bridge.{what}"),
        subject: bridge.bridge_id.clone(),
        author: caller.author(),
        changes,
        payload: bridge.to_proto().encode_to_vec(),
    });
}

impl Api {
    pub(super) async fn make_bridge(
        &self,
        caller: &Caller,
        request: proto::CreateBridgeRequest,
    ) -> Result<proto::Bridge> {
        let brought = required(request.bridge, "bridge")?;
        let bridge = Bridge::from_proto(brought, &caller.scope, self.clock.now_micros())?;
        let mut tx = self.store.tx(&caller.scope).await?;
        if !db::bridge::insert(&mut tx, &bridge).await? {
            return Err(Error::exists("bridge", &bridge.bridge_id));
        }
        append(&mut tx, caller, "created", &bridge, String::new());
        tx.commit().await?;
        Ok(bridge.to_proto())
    }

    pub(super) async fn find_bridge(&self, caller: &Caller, bridge_id: &str) -> Result<proto::Bridge> {
        let mut read = self.store.read(&caller.scope).await?;
        let found = db::bridge::find(&mut read, bridge_id).await?;
        Ok(visible(&caller.scope, found, bridge_id)?.to_proto())
    }

    pub(super) async fn page_of_bridges(
        &self,
        caller: &Caller,
        request: &proto::ListBridgesRequest,
    ) -> Result<proto::ListBridgesResponse> {
        let size = page_size(request.page_size)?;
        let query = format!("bridges/{}", caller.tenant());
        let after = page::after(&query, &request.page_token)?.unwrap_or_default();
        let mut read = self.store.read(&caller.scope).await?;
        let mut bridges = db::bridge::list(&mut read, &after, size as u32 + 1).await?;
        let more = bridges.len() > size;
        bridges.truncate(size);
        let last = bridges.last().filter(|_| more);
        let next_page_token = last.map(|bridge| page::token(&query, &bridge.bridge_id)).unwrap_or_default();
        Ok(proto::ListBridgesResponse { bridges: bridges.iter().map(Bridge::to_proto).collect(), next_page_token })
    }

    pub(super) async fn change_bridge(
        &self,
        caller: &Caller,
        request: proto::UpdateBridgeRequest,
    ) -> Result<proto::Bridge> {
        let brought = required(request.bridge, "bridge")?;
        let fields = bridge::fields(request.update_mask.as_ref(), &brought)?;
        let mut tx = self.store.tx(&caller.scope).await?;
        let found = db::bridge::lock(&mut tx, &brought.bridge_id).await?;
        let bridge = visible(&caller.scope, found, &brought.bridge_id)?;
        bridge.stamp.check("bridge", &bridge.bridge_id, &brought.etag)?;
        let mut changed = bridge.updated(&brought, &fields, &caller.scope)?;
        if changed == bridge {
            return Ok(bridge.to_proto());
        }
        let now = self.clock.now_micros();
        changed.stamp = bridge.stamp.changed(now);
        db::bridge::update(&mut tx, &changed).await?;
        append(&mut tx, caller, "updated", &changed, bridge.changes(&changed));
        if changed.holder() != bridge.holder() {
            holder_changed(&mut tx, caller, &changed.holder(), now).await?;
        }
        tx.commit().await?;
        Ok(changed.to_proto())
    }

    pub(super) async fn remove_bridge(&self, caller: &Caller, bridge_id: &str) -> Result<()> {
        let mut tx = self.store.tx(&caller.scope).await?;
        let found = db::bridge::lock(&mut tx, bridge_id).await?;
        let bridge = visible(&caller.scope, found, bridge_id)?;
        holder_gone(&mut tx, caller, &bridge.holder(), self.clock.now_micros()).await?;
        db::bridge::delete(&mut tx, bridge_id).await?;
        append(&mut tx, caller, "deleted", &bridge, String::new());
        tx.commit().await?;
        Ok(())
    }
}
