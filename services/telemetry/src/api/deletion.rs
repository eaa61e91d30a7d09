//! Deleting readings.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_store::Entry;
use sensormesh_types::{Caller, Error, Result};

use super::quarantine::entry;
use super::{Api, range};
use crate::deletion;
use crate::writer::Request;

impl Api {
    pub(super) async fn delete(
        &self,
        caller: &Caller,
        request: &pb::DeleteReadingsRequest,
    ) -> Result<pb::DeleteReadingsResponse> {
        let without_times = request.start_time.is_none() && request.end_time.is_none();
        if request.all != without_times {
            let problem = match request.all {
                true => "must not be set where a time is: it deletes every reading",
                false => "must be set, or `start_time` or `end_time` given: without a range every reading is deleted",
            };
            return Err(Error::invalid("all", problem));
        }
        let (start, end) = range(request.start_time.as_ref(), request.end_time.as_ref())?;
        if self.engine.is_shared() {
            self.engine.catch_up().await?; // what other replicas took is deleted too
        }
        let known = self.known(caller, &request.sensor_id)?;
        let Some(series) = known.series else { return Ok(pb::DeleteReadingsResponse::default()) };
        let site = known.sensor.map(|sensor| sensor.site.clone()).unwrap_or_default();
        let entry = |readings| {
            let entry = entry(caller, "readings.deleted", &request.sensor_id, readings);
            Entry { site: site.clone(), ..entry }
        };
        let deleted = deletion::delete(self.engine.state(), &series, start..end, entry).await;
        let readings = deleted.map_err(Error::in_part)?;
        // always: who asks again after a failure may find nothing left to delete and nobody told
        let (told, outcome) = Request::of_deletion(&series);
        self.engine.submit(told, outcome).await.map_err(Error::in_part)?;
        Ok(pb::DeleteReadingsResponse { readings })
    }
}
