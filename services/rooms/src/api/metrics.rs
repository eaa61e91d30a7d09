//! What rooms show now.

use sensormesh_mesh::Context;
use sensormesh_proto::rooms::v1 as proto;
use sensormesh_types::{Caller, Error, Result, time};

use super::Api;
use super::place::sees;
use crate::db;
use crate::metrics::show;
use crate::model::Filter;
use crate::watch::{Opening, Viewer};

impl Api {
    pub(super) async fn get_room_metrics(
        &self,
        caller: &Caller,
        request: proto::GetRoomMetricsRequest,
    ) -> Result<proto::GetRoomMetricsResponse> {
        let mut read = self.store.read(&caller.scope).await?;
        let room = self.room(caller, &mut read, &request.room_id).await?;
        let mut placements = db::list_current(&mut read, caller.tenant(), &room.id).await?;
        placements.retain(|placement| caller.scope.admits(caller.tenant(), &placement.site));
        let sensors = db::list_placed_sensors(&mut read, caller.tenant(), &room.id).await?;
        let profiles = db::list_profiles(&mut read, caller.tenant()).await?;
        drop(read);
        let view = self.hub.view(caller.tenant(), placements.iter().map(|placement| placement.sensor.as_str()));
        let now = self.mesh.clock().now_nanos();
        let metrics = placements.iter().zip(&view.latest).map(|(placement, latest)| {
            let traits = sensors.get(&placement.sensor).map(|sensor| sensor.completed(&profiles)).unwrap_or_default();
            let latest = latest.filter(|latest| latest.time >= placement.start);
            show(&placement.metric, &placement.sensor, &traits, latest.as_ref(), now, view.followed)
        });
        Ok(proto::GetRoomMetricsResponse {
            metrics: metrics.collect(),
            room_id: room.id,
            as_of: Some(time::from_micros(view.as_of)),
        })
    }

    pub(super) async fn watch_room_metrics(
        &self,
        caller: &Caller,
        request: proto::WatchRoomMetricsRequest,
    ) -> Result<sensormesh_mesh::Streaming<proto::WatchRoomMetricsResponse>> {
        let opening = Opening {
            hub: self.hub.clone(),
            upstream: self.telemetry.upstream(),
            seal: self.store.cursors(),
            clock: self.mesh.clock().clone(),
            scope: caller.scope.clone(),
            filter: Filter { rooms: request.room_ids, ancestor: request.ancestor_id },
            deadline: Context::current().and_then(|context| context.deadline),
        };
        self.check_filter(caller, &opening.filter).await?;
        self.hub.loaded().await;
        let viewer = Viewer::open(opening, &request.cursor).await.map_err(name_the_cursor)?;
        Ok(sensormesh_mesh::stream(viewer.stream()))
    }
}

impl Api {
    /// Fails where the caller names a place that it does not see.
    async fn check_filter(&self, caller: &Caller, filter: &Filter) -> Result<()> {
        self.tree(caller, &filter.ancestor).await.map(|tree| {
            let room = |id: &String| tree.room(id).is_some_and(|room| sees(&caller.scope, room));
            filter.rooms.iter().find(|id| !room(id)).map_or(Ok(()), |id| Err(Error::not_found("room", id)))
        })?
    }
}

/// A cursor that telemetry refuses was given to us inside ours.
fn name_the_cursor(error: Error) -> Error {
    if error.fields().iter().any(|field| field.field == "cursor") {
        return Error::invalid("cursor", "is not a cursor that this service gave out");
    }
    error
}
