//! What rooms asks telemetry.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use sensormesh_mesh::{Channel, Mesh};
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_proto::telemetry::v1::{
    AggregateReadingsRequest, AggregateReadingsResponse, ReadingForm, Statistic, WatchReadingsRequest,
};
use sensormesh_types::{Error, Result, time};

use crate::history::Stretch;
use crate::watch::{Decoder, Incoming, Upstream};

/// The most sensors that telemetry takes in one filter.
const MOST_SENSORS: usize = 1000;

/// Calls to telemetry.
#[derive(Clone)]
pub struct Telemetry {
    as_caller: TelemetryServiceClient<Channel>,
    as_service: TelemetryServiceClient<Channel>,
}

impl Telemetry {
    /// Calls through `mesh`.
    pub fn new(mesh: &Mesh) -> Result<Self> {
        Ok(Self { as_caller: mesh.client()?, as_service: mesh.client_as_service()? })
    }

    /// Every reading from a cursor on, of these sensors; of all where there are none or too many to name.
    pub async fn watch(
        &self,
        cursor: String,
        sensor_ids: Vec<String>,
        mut decoder: Decoder,
    ) -> Result<BoxStream<'static, Result<Incoming>>> {
        let sensor_ids = if sensor_ids.len() > MOST_SENSORS { Vec::new() } else { sensor_ids };
        let form = ReadingForm::Columns as i32;
        let request = WatchReadingsRequest { cursor, sensor_ids, form, ..Default::default() };
        let stream = self.as_service.clone().watch_readings(request).await?.into_inner();
        Ok(stream.map(move |message| decoder.decode(message.map_err(Error::from)?)).boxed())
    }

    /// The same for viewers.
    pub fn upstream(&self) -> Upstream {
        let telemetry = self.clone();
        Arc::new(move |cursor, sensors| {
            let telemetry = telemetry.clone();
            Box::pin(async move { telemetry.watch(cursor, sensors, Decoder::default()).await })
        })
    }

    /// Summarises a stretch of one sensor's readings as the caller may see them, at most `page_size` buckets.
    pub async fn aggregate(
        &self,
        sensor: &str,
        stretch: &Stretch,
        page_size: i32,
    ) -> Result<AggregateReadingsResponse> {
        let nanos = u64::try_from(stretch.interval).map_err(Error::internal)?;
        let request = AggregateReadingsRequest {
            sensor_ids: vec![sensor.to_owned()],
            interval: Some(time::from_duration(std::time::Duration::from_nanos(nanos))),
            start_time: stretch.start.map(time::from_nanos),
            end_time: stretch.end.map(time::from_nanos),
            page_size,
            statistics: [Statistic::Sum, Statistic::Min, Statistic::Max].map(Into::into).to_vec(),
            ..Default::default()
        };
        Ok(self.as_caller.clone().aggregate_readings(request).await?.into_inner())
    }
}
