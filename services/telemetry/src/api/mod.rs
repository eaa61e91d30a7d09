//! The contract: each RPC decodes, asks the engine, encodes.

mod aggregate;
mod aside;
mod calibration;
mod completeness;
mod deletion;
mod downsample;
mod export;
mod ingest;
mod ingest_stream;
mod quarantine;
mod query;
mod readings_stream;
mod rows;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use sensormesh_mesh::{Context, Mesh, Streaming as Answers};
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::telemetry_service_server::TelemetryService;
use sensormesh_types::{Caller, Code, Error, Result, time};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use self::aside::Aside;
use crate::background::Background;
use crate::catalog::{Known, Series};
use crate::engine::Engine;
use crate::sender::Registry;
use crate::turns::Turns;

/// Readings over the contract.
#[derive(Clone)]
pub struct Api {
    pub(crate) engine: Engine,
    pub(crate) registry: Registry,
    turns: Arc<Turns>,
    background: Arc<Background>,
    aside: Arc<Aside>,
}

impl Api {
    /// The contract over an engine.
    pub fn new(engine: Engine, mesh: &Mesh) -> Result<Self> {
        let turns = Arc::new(Turns::new(engine.config.long_reads));
        let background = Arc::new(Background::new()?);
        Ok(Self { engine, registry: Registry::new(mesh)?, turns, background, aside: Arc::default() })
    }

    /// The series of a sensor as the caller may see it; `None` where the sensor is known and has no readings.
    /// NOT_FOUND where there is no such sensor, or the caller may not know of it.
    fn series(&self, caller: &Caller, sensor_id: &str) -> Result<Option<Arc<Series>>> {
        Ok(self.known(caller, sensor_id)?.series)
    }

    /// What is known of a sensor that the caller may see.
    fn known(&self, caller: &Caller, sensor_id: &str) -> Result<Known> {
        let hidden = || Error::not_found("sensor", sensor_id);
        let known = self.engine.catalog.find(caller.tenant(), sensor_id).ok_or_else(hidden)?;
        let visible = match (&known.sensor, &known.series) {
            (Some(sensor), _) => caller.scope.admits(caller.tenant(), &sensor.site),
            (None, Some(series)) => series.is_visible(&caller.scope),
            (None, None) => false,
        };
        if visible { Ok(known) } else { Err(hidden()) }
    }

    /// Waits until everything up to the cursor can be read, at most until the call's deadline.
    async fn reach(&self, min_seq: &str) -> Result<()> {
        if min_seq.is_empty() {
            return Ok(());
        }
        let positions = self.engine.cursors.decode(min_seq).map_err(|error| match error.code() {
            Code::Invalid => Error::invalid("min_seq", "is not a cursor that this service gave out"),
            code => Error::new(code, error.reason().to_owned(), format!("`min_seq`: {}", error.message())),
        })?;
        let wanted = positions.first().map_or(0, |(_, seq)| *seq);
        let mut head = self.engine.hub.follow_head();
        let until =
            Context::current().and_then(|c| c.deadline).unwrap_or_else(|| Instant::now() + Duration::from_secs(10));
        let until = until.checked_sub(Duration::from_millis(100)).unwrap_or(until);
        match tokio::time::timeout_at(until, head.wait_for(|head| *head >= wanted)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::unavailable(
                "NOT_YET",
                "what `min_seq` stands for cannot be read yet",
                Duration::from_millis(200),
            )),
        }
    }

    /// Whether this replica cannot vouch for the latest readings: others may have written what it could not read.
    fn is_stale(&self) -> bool {
        !self.engine.follows()
    }

    fn now(&self) -> prost_types::Timestamp {
        time::from_micros(self.engine.clock.now_micros())
    }
}

/// The end of a page's range in the contract's terms: absent = the last reading.
fn range(start: Option<&prost_types::Timestamp>, end: Option<&prost_types::Timestamp>) -> Result<(i64, i64)> {
    let start = start.map(|at| time::nanos("start_time", at)).transpose()?.unwrap_or(i64::MIN);
    let end = end.map(|at| time::nanos("end_time", at)).transpose()?.unwrap_or(i64::MAX);
    if start > end {
        return Err(Error::invalid("end_time", "must not be before `start_time`"));
    }
    Ok((start, end))
}

#[tonic::async_trait]
impl TelemetryService for Api {
    type IngestStreamStream = Answers<pb::IngestStreamResponse>;
    type ExportReadingsStream = Answers<pb::ExportReadingsResponse>;
    type ExportAggregatesStream = Answers<pb::ExportAggregatesResponse>;
    type StreamReadingsStream = Answers<pb::StreamReadingsResponse>;
    type WatchReadingsStream = Answers<pb::WatchReadingsResponse>;

    async fn ingest_stream(
        &self,
        request: Request<Streaming<pb::IngestStreamRequest>>,
    ) -> Result<Response<Self::IngestStreamStream>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.take_stream(&caller, request.into_inner())))
    }

    async fn ingest_readings(
        &self,
        request: Request<pb::IngestReadingsRequest>,
    ) -> Result<Response<pb::IngestReadingsResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.take_rows(&caller, request.into_inner()).await?))
    }

    async fn ingest_reading(
        &self,
        request: Request<pb::IngestReadingRequest>,
    ) -> Result<Response<pb::IngestReadingResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.take_row(&caller, request.into_inner()).await?))
    }

    async fn list_readings(
        &self,
        request: Request<pb::ListReadingsRequest>,
    ) -> Result<Response<pb::ListReadingsResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.list(&caller, request.into_inner()).await?))
    }

    async fn stream_readings(
        &self,
        request: Request<pb::StreamReadingsRequest>,
    ) -> Result<Response<Self::StreamReadingsStream>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.stream(&caller, request.into_inner()).await?))
    }

    async fn aggregate_readings(
        &self,
        request: Request<pb::AggregateReadingsRequest>,
    ) -> Result<Response<pb::AggregateReadingsResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.aggregate(&caller, request.into_inner()).await?))
    }

    async fn downsample_readings(
        &self,
        request: Request<pb::DownsampleReadingsRequest>,
    ) -> Result<Response<pb::DownsampleReadingsResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.downsample(&caller, request.into_inner()).await?))
    }

    async fn export_readings(
        &self,
        request: Request<pb::ExportReadingsRequest>,
    ) -> Result<Response<Self::ExportReadingsStream>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.export(&caller, request.into_inner()).await?))
    }

    async fn export_aggregates(
        &self,
        request: Request<pb::ExportAggregatesRequest>,
    ) -> Result<Response<Self::ExportAggregatesStream>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.export_summaries(&caller, request.into_inner()).await?))
    }

    async fn list_latest_readings(
        &self,
        request: Request<pb::ListLatestReadingsRequest>,
    ) -> Result<Response<pb::ListLatestReadingsResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.latest(&caller, &request.into_inner())?))
    }

    async fn watch_readings(
        &self,
        request: Request<pb::WatchReadingsRequest>,
    ) -> Result<Response<Self::WatchReadingsStream>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.watch(&caller, request.into_inner()).await?))
    }

    async fn measure_completeness(
        &self,
        request: Request<pb::MeasureCompletenessRequest>,
    ) -> Result<Response<pb::MeasureCompletenessResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.completeness(&caller, request.into_inner()).await?))
    }

    async fn delete_readings(
        &self,
        request: Request<pb::DeleteReadingsRequest>,
    ) -> Result<Response<pb::DeleteReadingsResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.delete(&caller, &request.into_inner()).await?))
    }

    async fn create_calibration(
        &self,
        request: Request<pb::CreateCalibrationRequest>,
    ) -> Result<Response<pb::CreateCalibrationResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.make_calibration(&caller, request.into_inner()).await?))
    }

    async fn list_calibrations(
        &self,
        request: Request<pb::ListCalibrationsRequest>,
    ) -> Result<Response<pb::ListCalibrationsResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.page_of_calibrations(&caller, &request.into_inner()).await?))
    }

    async fn delete_calibration(
        &self,
        request: Request<pb::DeleteCalibrationRequest>,
    ) -> Result<Response<pb::DeleteCalibrationResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.remove_calibration(&caller, &request.into_inner()).await?))
    }

    async fn release_quarantine(
        &self,
        request: Request<pb::ReleaseQuarantineRequest>,
    ) -> Result<Response<pb::ReleaseQuarantineResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.release(&caller, &request.into_inner()).await?))
    }

    async fn drop_quarantine(
        &self,
        request: Request<pb::DropQuarantineRequest>,
    ) -> Result<Response<pb::DropQuarantineResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.drop_kept(&caller, &request.into_inner()).await?))
    }

    async fn list_quarantine(
        &self,
        request: Request<pb::ListQuarantineRequest>,
    ) -> Result<Response<pb::ListQuarantineResponse>, Status> {
        let caller = sensormesh_mesh::caller(&request)?.clone();
        Ok(Response::new(self.page_of_quarantine(&caller, &request.into_inner()).await?))
    }
}
