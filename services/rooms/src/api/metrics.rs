//! What rooms show now.

use std::collections::HashSet;
use std::sync::Arc;

use sensormesh_mesh::Context;
use sensormesh_proto::rooms::v1 as proto;
use sensormesh_types::{Caller, Code, Error, Result, time};

use super::Api;
use super::place::sees;
use crate::db;
use crate::metrics::show;
use crate::model::{Filter, Tenant};
use crate::place::Tree;
use crate::placement::Placement;
use crate::watch::{Opening, Viewer};

impl Api {
    pub(super) async fn get_room_metrics(
        &self,
        caller: &Caller,
        request: proto::GetRoomMetricsRequest,
    ) -> Result<proto::GetRoomMetricsResponse> {
        let room = &request.room_id;
        let (placements, known) = match self.placed(caller, room).await {
            Err(error) if error.code() == Code::Unavailable => self.remembered(caller, room).ok_or(error)?,
            placed => placed?,
        };
        let view = self.hub.view(caller.tenant(), placements.iter().map(|placement| placement.sensor.as_str()));
        let now = self.mesh.clock().now_nanos();
        let metrics = placements.iter().zip(&view.latest).map(|(placement, latest)| {
            let latest = latest.filter(|latest| latest.time >= placement.start);
            let traits = known.traits(&placement.sensor);
            show(&placement.metric, &placement.sensor, &traits, latest.as_ref(), now, view.followed)
        });
        Ok(proto::GetRoomMetricsResponse {
            metrics: metrics.collect(),
            room_id: request.room_id.clone(),
            as_of: Some(time::from_micros(view.as_of)),
        })
    }

    /// What is in a room, by metric, and what is known of it, as the database has it: a placement that was just made is
    /// there.
    async fn placed(&self, caller: &Caller, room: &str) -> Result<(Vec<Placement>, Arc<Tenant>)> {
        let mut read = self.store.read(&caller.scope).await?;
        self.room(caller, &mut read, room).await?;
        let mut placements = db::list_current(&mut read, caller.tenant(), room).await?;
        placements.retain(|placement| caller.scope.admits(caller.tenant(), &placement.site));
        let sensors = db::list_placed_sensors(&mut read, caller.tenant(), room).await?;
        let profiles = db::list_profiles(&mut read, caller.tenant()).await?;
        let known = Tenant::new(Tree::default(), placements.clone(), &sensors, &profiles);
        Ok((placements, Arc::new(known)))
    }

    /// The same from memory, while the database cannot be read.
    fn remembered(&self, caller: &Caller, room: &str) -> Option<(Vec<Placement>, Arc<Tenant>)> {
        let known = self.hub.model().tenant(caller.tenant());
        known.tree.room(room).filter(|room| sees(&caller.scope, room))?;
        let filter = Filter { rooms: HashSet::from([room.to_owned()]), ..Filter::default() };
        let mut placements: Vec<Placement> = filter.placements(&known, &caller.scope).cloned().collect();
        placements.sort_by(|a, b| a.metric.cmp(&b.metric));
        Some((placements, known))
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
            filter: Filter { rooms: request.room_ids.into_iter().collect(), ancestor: request.ancestor_id },
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
