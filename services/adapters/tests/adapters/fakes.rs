//! Telemetry and `devices` as adapters sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use prost::Message as _;
use sensormesh_mesh::Streaming;
use sensormesh_proto::devices::v1 as devices;
use sensormesh_proto::devices::v1::devices_service_server::DevicesService;
use sensormesh_proto::telemetry::v1 as telemetry;
use sensormesh_proto::telemetry::v1::ingest_stream_request::Message;
use sensormesh_proto::telemetry::v1::telemetry_service_server::TelemetryService;
use sensormesh_types::{Error, Principal};
use tonic::{Request, Response, Status};

/// A batch as it was stored: its id, its time, and how many readings it has.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub number: u64,
    pub id: String,
    pub time: i64,
    pub readings: Vec<(String, f64)>,
}

#[derive(Default)]
struct State {
    series: BTreeMap<String, u32>,
    names: BTreeMap<u32, String>,
    stored: Vec<Stored>,
    seen: BTreeSet<String>,
}

/// Takes batches; dies before or after it has stored one, as it is told.
#[derive(Clone, Default)]
pub struct FakeTelemetry {
    state: Arc<Mutex<State>>,
    pub dead: Arc<AtomicBool>,
    /// After how many stored batches it cuts the stream; 0 = never.
    pub cut_after: Arc<AtomicUsize>,
    /// Sent again after they were stored.
    pub repeated: Arc<AtomicUsize>,
}

fn gone() -> Status {
    Error::unavailable("DEAD", "dead", Duration::from_millis(50)).into()
}

impl FakeTelemetry {
    pub fn stored(&self) -> Vec<Stored> {
        self.state.lock().stored.clone()
    }

    /// Rows, in one call: they are stored as batches without a number, one for each time.
    fn take_rows(
        &self,
        request: telemetry::IngestReadingsRequest,
    ) -> Result<telemetry::IngestReadingsResponse, Status> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(gone());
        }
        let mut state = self.state.lock();
        let accepted = request.readings.len() as u32;
        for reading in request.readings {
            let time = sensormesh_types::time::to_nanos(&reading.time.expect("a time")).expect("in range");
            let value = (reading.sensor_id, reading.value.expect("a value"));
            match state.stored.last_mut() {
                Some(last) if last.time == time => last.readings.push(value),
                _ => {
                    let id = request.batch_id.clone();
                    state.stored.push(Stored { number: 0, id, time, readings: vec![value] });
                }
            }
        }
        Ok(telemetry::IngestReadingsResponse { accepted, ..Default::default() })
    }

    fn take(&self, message: Message, taken: &mut usize) -> Result<Option<telemetry::IngestStreamResponse>, Status> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(gone());
        }
        let mut state = self.state.lock();
        match message {
            Message::Announce(announce) => {
                let mut answer = telemetry::IngestStreamResponse::default();
                for sensor_id in announce.sensors {
                    let next = state.series.len() as u32 + 1;
                    let series = *state.series.entry(sensor_id.clone()).or_insert(next);
                    state.names.insert(series, sensor_id.clone());
                    let outcome = Some(telemetry::announced::Outcome::Series(series));
                    answer.announced.push(telemetry::Announced { sensor_id, outcome, ..Default::default() });
                }
                Ok(Some(answer))
            }
            Message::Batch(batch) => {
                *taken += 1;
                if batch.batch_id.is_empty() || state.seen.insert(batch.batch_id.clone()) {
                    let group = telemetry::Group::decode(&*batch.groups[0]).expect("a group");
                    let value = |channel: &telemetry::Channel| match &channel.values {
                        Some(telemetry::channel::Values::Doubles(doubles)) => doubles.values[0],
                        _ => f64::NAN,
                    };
                    let readings = group
                        .channels
                        .iter()
                        .map(|channel| (state.names[&channel.series].clone(), value(channel)))
                        .collect();
                    let stored = Stored { number: batch.number, id: batch.batch_id, time: group.start_ns, readings };
                    state.stored.push(stored);
                } else {
                    self.repeated.fetch_add(1, Ordering::SeqCst);
                }
                // it is stored, and the sender will not hear of it
                if *taken == self.cut_after.load(Ordering::SeqCst) {
                    return Err(gone());
                }
                Ok(Some(telemetry::IngestStreamResponse { through: batch.number, ..Default::default() }))
            }
        }
    }
}

macro_rules! unimplemented_telemetry {
    ($($name:ident($request:ident) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl TelemetryService for FakeTelemetry {
            type IngestStreamStream = Streaming<telemetry::IngestStreamResponse>;
            type ExportReadingsStream = Streaming<telemetry::ExportReadingsResponse>;
            type ExportAggregatesStream = Streaming<telemetry::ExportAggregatesResponse>;
            type StreamReadingsStream = Streaming<telemetry::StreamReadingsResponse>;
            type WatchReadingsStream = Streaming<telemetry::WatchReadingsResponse>;

            $(async fn $name(&self, _: Request<telemetry::$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("not faked"))
            })*

            async fn ingest_readings(
                &self,
                request: Request<telemetry::IngestReadingsRequest>,
            ) -> Result<Response<telemetry::IngestReadingsResponse>, Status> {
                Ok(Response::new(self.take_rows(request.into_inner())?))
            }

            async fn ingest_stream(
                &self,
                request: Request<tonic::Streaming<telemetry::IngestStreamRequest>>,
            ) -> Result<Response<Self::IngestStreamStream>, Status> {
                let principal = &sensormesh_mesh::caller(&request)?.principal;
                assert!(matches!(principal, Principal::Service { name } if name == "adapters"), "{principal:?}");
                if self.dead.load(Ordering::SeqCst) {
                    return Err(gone());
                }
                let state = (self.clone(), request.into_inner(), 0usize, false);
                let answers = stream::unfold(state, |(fake, mut requests, mut taken, over)| async move {
                    if over {
                        return None;
                    }
                    loop {
                        let request = requests.next().await?;
                        let answer = match request {
                            Ok(request) => fake.take(request.message.expect("a message"), &mut taken),
                            Err(status) => Err(status),
                        };
                        match answer {
                            Ok(Some(answer)) => return Some((Ok(answer), (fake, requests, taken, false))),
                            Ok(None) => {}
                            Err(status) => return Some((Err(status), (fake, requests, taken, true))),
                        }
                    }
                });
                Ok(Response::new(answers.boxed()))
            }
        }
    };
}

unimplemented_telemetry! {
    delete_readings(DeleteReadingsRequest) -> telemetry::DeleteReadingsResponse;
    ingest_reading(IngestReadingRequest) -> telemetry::IngestReadingResponse;
    list_readings(ListReadingsRequest) -> telemetry::ListReadingsResponse;
    stream_readings(StreamReadingsRequest) -> Self::StreamReadingsStream;
    aggregate_readings(AggregateReadingsRequest) -> telemetry::AggregateReadingsResponse;
    export_readings(ExportReadingsRequest) -> Self::ExportReadingsStream;
    export_aggregates(ExportAggregatesRequest) -> Self::ExportAggregatesStream;
    downsample_readings(DownsampleReadingsRequest) -> telemetry::DownsampleReadingsResponse;
    list_latest_readings(ListLatestReadingsRequest) -> telemetry::ListLatestReadingsResponse;
    watch_readings(WatchReadingsRequest) -> Self::WatchReadingsStream;
    list_quarantine(ListQuarantineRequest) -> telemetry::ListQuarantineResponse;
    release_quarantine(ReleaseQuarantineRequest) -> telemetry::ReleaseQuarantineResponse;
    drop_quarantine(DropQuarantineRequest) -> telemetry::DropQuarantineResponse;
    measure_completeness(MeasureCompletenessRequest) -> telemetry::MeasureCompletenessResponse;
    create_calibration(CreateCalibrationRequest) -> telemetry::CreateCalibrationResponse;
    list_calibrations(ListCalibrationsRequest) -> telemetry::ListCalibrationsResponse;
    delete_calibration(DeleteCalibrationRequest) -> telemetry::DeleteCalibrationResponse;
}

/// Registers whatever it is asked to, unless it is dead.
#[derive(Clone, Default)]
pub struct FakeDevices {
    pub asked: Arc<Mutex<Vec<devices::EnsureSensorsRequest>>>,
    pub dead: Arc<AtomicBool>,
}

macro_rules! unimplemented_devices {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl DevicesService for FakeDevices {
            type WatchDevicesStream = Streaming<devices::WatchDevicesResponse>;

            $(async fn $name(&self, _: Request<devices::$request>) -> Result<Response<devices::$response>, Status> {
                Err(Status::unimplemented("not faked"))
            })*

            async fn ensure_sensors(
                &self,
                request: Request<devices::EnsureSensorsRequest>,
            ) -> Result<Response<devices::EnsureSensorsResponse>, Status> {
                if self.dead.load(Ordering::SeqCst) {
                    return Err(gone());
                }
                let request = request.into_inner();
                let sensors = request.sensors.clone();
                self.asked.lock().push(request);
                Ok(Response::new(devices::EnsureSensorsResponse { sensors }))
            }

            async fn watch_devices(
                &self,
                _: Request<devices::WatchDevicesRequest>,
            ) -> Result<Response<Self::WatchDevicesStream>, Status> {
                Err(Status::unimplemented("not faked"))
            }
        }
    };
}

unimplemented_devices! {
    get_device(GetDeviceRequest) -> GetDeviceResponse;
    list_devices(ListDevicesRequest) -> ListDevicesResponse;
    create_device(CreateDeviceRequest) -> CreateDeviceResponse;
    update_device(UpdateDeviceRequest) -> UpdateDeviceResponse;
    delete_device(DeleteDeviceRequest) -> DeleteDeviceResponse;
    get_sensor(GetSensorRequest) -> GetSensorResponse;
    list_sensors(ListSensorsRequest) -> ListSensorsResponse;
    create_sensor(CreateSensorRequest) -> CreateSensorResponse;
    update_sensor(UpdateSensorRequest) -> UpdateSensorResponse;
    delete_sensor(DeleteSensorRequest) -> DeleteSensorResponse;
    get_profile(GetProfileRequest) -> GetProfileResponse;
    list_profiles(ListProfilesRequest) -> ListProfilesResponse;
    create_profile(CreateProfileRequest) -> CreateProfileResponse;
    update_profile(UpdateProfileRequest) -> UpdateProfileResponse;
    delete_profile(DeleteProfileRequest) -> DeleteProfileResponse;
}
