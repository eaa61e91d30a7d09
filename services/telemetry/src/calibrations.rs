//! The calibrations of all sensors in memory, kept up to date with what any replica makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _};
use sensormesh_mesh::Shutdown;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_store::{EventKind, Read, WatchRequest};
use sensormesh_types::{Result, Scope};

use crate::calibration::{Calibration, Version};
use crate::db;
use crate::engine::State;

/// What the log calls a version: the sensor's id, a slash, the number.
pub fn subject(sensor_id: &str, version: u32) -> String {
    format!("{sensor_id}/{version}")
}

/// Takes over every sensor's calibration.
pub async fn load(state: &State, read: &mut Read) -> Result<()> {
    let mut sensors: BTreeMap<(String, String), Vec<pb::Calibration>> = BTreeMap::new();
    for (tenant, calibration) in db::calibration::all(read).await? {
        sensors.entry((tenant, calibration.sensor_id.clone())).or_default().push(calibration);
    }
    for ((tenant, sensor_id), versions) in sensors {
        put(state, &tenant, &sensor_id, &versions)?;
    }
    Ok(())
}

/// Takes over what holds of one sensor's versions now.
pub async fn refresh(state: &State, tenant: &str, sensor_id: &str) -> Result<()> {
    let mut read = state.databases.main.read(&Scope::system()).await?;
    let versions = db::calibration::of_sensor(&mut read, tenant, sensor_id).await?;
    drop(read);
    put(state, tenant, sensor_id, &versions)
}

fn put(state: &State, tenant: &str, sensor_id: &str, versions: &[pb::Calibration]) -> Result<()> {
    let versions = versions.iter().map(|version| Version::from_proto(version, "calibration"));
    let calibration = Calibration::of(versions.collect::<Result<_>>()?);
    state.catalog.put_calibration(tenant, sensor_id, calibration);
    Ok(())
}

/// Follows the log of this service for what other replicas change.
pub async fn follow(state: Arc<State>, shutdown: Shutdown) -> Result<()> {
    // what changed while nobody followed stands in the snapshot
    let request = WatchRequest::new("", Scope::system());
    let mut events = state.databases.main.watch(request, |read| db::calibration::sensors(read).boxed());
    while let Some(Some(event)) = shutdown.cut(events.next()).await {
        match event?.kind {
            EventKind::Snapshot((tenant, sensor_id)) => refresh(&state, &tenant, &sensor_id).await?,
            EventKind::Entry(entry) if entry.kind.starts_with("calibration.") => {
                if let Some((sensor_id, _)) = entry.subject.rsplit_once('/') {
                    refresh(&state, &entry.tenant, sensor_id).await?;
                }
            }
            EventKind::Entry(_) | EventKind::Bookmark { .. } => {}
        }
    }
    Ok(())
}
