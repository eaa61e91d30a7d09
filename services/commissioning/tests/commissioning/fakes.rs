//! Telemetry and `devices` as commissioning sees them: logs in memory, streams that can be cut.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream;
use parking_lot::Mutex;
use sensormesh_mesh::Streaming;
use sensormesh_proto::devices::v1 as devices;
use sensormesh_proto::devices::v1::devices_service_server::DevicesService;
use sensormesh_proto::devices::v1::watch_devices_response::Event;
use sensormesh_proto::telemetry::v1 as telemetry;
use sensormesh_proto::telemetry::v1::telemetry_service_server::TelemetryService;
use sensormesh_proto::types::v1::Bookmark;
use sensormesh_types::{Code, Error, Principal, time};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub tenant: String,
    pub sensor: String,
    pub time: i64,
    pub value: f64,
    pub backfill: bool,
}

/// How often a fake was cut, and whether it is dead.
#[derive(Clone)]
struct Life {
    cuts: Arc<watch::Sender<(u64, bool)>>,
}

impl Default for Life {
    fn default() -> Self {
        Self { cuts: Arc::new(watch::Sender::new((0, false))) }
    }
}

impl Life {
    fn change(&self, dead: bool) {
        self.cuts.send_modify(|(cuts, is_dead)| {
            *cuts += u64::from(dead);
            *is_dead = dead;
        });
    }

    fn check(&self) -> Result<(), Status> {
        if self.cuts.borrow().1 { Err(gone()) } else { Ok(()) }
    }
}

fn gone() -> Status {
    Error::unavailable("DEAD", "dead", Duration::from_millis(50)).into()
}

#[derive(Clone, Default)]
pub struct FakeTelemetry {
    log: Arc<Mutex<Vec<Entry>>>,
    grew: Arc<watch::Sender<usize>>,
    life: Life,
    streams: Arc<AtomicUsize>,
    /// Cursors before this place are gone.
    trimmed: Arc<AtomicUsize>,
}

/// How many entries one message holds: another number in each stream, so that no two streams cut the log alike.
fn batch_size(stream: usize) -> usize {
    1 + stream % 3
}

impl FakeTelemetry {
    pub fn add(&self, tenant: &str, sensor: &str, time: i64, value: f64) {
        self.append(vec![Entry { tenant: tenant.into(), sensor: sensor.into(), time, value, backfill: false }]);
    }

    pub fn append(&self, entries: Vec<Entry>) {
        let mut log = self.log.lock();
        log.extend(entries);
        self.grew.send_replace(log.len());
    }

    pub fn kill(&self) {
        self.life.change(true);
    }

    pub fn revive(&self) {
        self.life.change(false);
    }

    /// Cuts the log: whoever comes with an older cursor is told so.
    pub fn trim(&self) {
        self.trimmed.store(self.log.lock().len(), Ordering::SeqCst);
    }

    /// How many streams were opened.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }
}

fn message(entries: &[Entry], cursor: usize) -> telemetry::WatchReadingsResponse {
    let reading = |entry: &Entry| telemetry::Reading {
        sensor_id: entry.sensor.clone(),
        time: Some(time::from_nanos(entry.time)),
        value: Some(entry.value),
        ..Default::default()
    };
    telemetry::WatchReadingsResponse {
        cursor: format!("t{cursor}"),
        tenant: entries.first().map(|entry| entry.tenant.clone()).unwrap_or_default(),
        backfill: entries.first().is_some_and(|entry| entry.backfill),
        readings: entries.iter().map(reading).collect(),
        ..Default::default()
    }
}

fn bookmark(cursor: usize, live: bool) -> telemetry::WatchReadingsResponse {
    let bookmark = Some(Bookmark { live, as_of: None, reset: false });
    telemetry::WatchReadingsResponse { cursor: format!("t{cursor}"), bookmark, ..Default::default() }
}

struct Watching {
    fake: FakeTelemetry,
    wanted: Vec<String>,
    at: usize,
    size: usize,
    ready: Vec<telemetry::WatchReadingsResponse>,
    live: bool,
    over: bool,
    cuts: watch::Receiver<(u64, bool)>,
    grew: watch::Receiver<usize>,
}

impl Watching {
    /// The wanted ones of the next few entries; `None` at the end of the log.
    fn part(&mut self) -> Option<Vec<Entry>> {
        let log = self.fake.log.lock();
        let like = log.get(self.at)?;
        let same = |entry: &&Entry| entry.tenant == like.tenant && entry.backfill == like.backfill;
        let part: Vec<Entry> = log[self.at..].iter().take(self.size).take_while(same).cloned().collect();
        self.at += part.len();
        let wanted = |entry: &Entry| self.wanted.is_empty() || self.wanted.contains(&entry.sensor);
        Some(part.into_iter().filter(wanted).collect())
    }

    async fn next(&mut self) -> Result<telemetry::WatchReadingsResponse, Status> {
        loop {
            if self.cuts.has_changed().unwrap_or(true) {
                return Err(gone());
            }
            if !self.ready.is_empty() {
                return Ok(self.ready.remove(0));
            }
            self.grew.mark_unchanged();
            if let Some(part) = self.part() {
                if !part.is_empty() {
                    return Ok(message(&part, self.at));
                }
                continue;
            }
            if !self.live {
                self.live = true;
                return Ok(bookmark(self.at, true));
            }
            tokio::select! {
                _ = self.cuts.changed() => return Err(gone()),
                _ = self.grew.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => return Ok(bookmark(self.at, true)),
            }
        }
    }
}

macro_rules! unimplemented_methods {
    ($($name:ident($request:ty) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl TelemetryService for FakeTelemetry {
            type IngestStreamStream = Streaming<telemetry::IngestStreamResponse>;
            type ExportReadingsStream = Streaming<telemetry::ExportReadingsResponse>;
            type ExportAggregatesStream = Streaming<telemetry::ExportAggregatesResponse>;
            type StreamReadingsStream = Streaming<telemetry::StreamReadingsResponse>;
            type WatchReadingsStream = Streaming<telemetry::WatchReadingsResponse>;

            $(async fn $name(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("not faked"))
            })*

            async fn watch_readings(
                &self,
                request: Request<telemetry::WatchReadingsRequest>,
            ) -> Result<Response<Self::WatchReadingsStream>, Status> {
                self.life.check()?;
                assert!(matches!(sensormesh_mesh::caller(&request)?.principal, Principal::Service { .. }));
                self.watch(&request.into_inner())
            }
        }
    };
}

unimplemented_methods! {
    ingest_stream(tonic::Streaming<telemetry::IngestStreamRequest>) -> Streaming<telemetry::IngestStreamResponse>;
    delete_readings(telemetry::DeleteReadingsRequest) -> telemetry::DeleteReadingsResponse;
    ingest_readings(telemetry::IngestReadingsRequest) -> telemetry::IngestReadingsResponse;
    ingest_reading(telemetry::IngestReadingRequest) -> telemetry::IngestReadingResponse;
    list_readings(telemetry::ListReadingsRequest) -> telemetry::ListReadingsResponse;
    stream_readings(telemetry::StreamReadingsRequest) -> Streaming<telemetry::StreamReadingsResponse>;
    export_readings(telemetry::ExportReadingsRequest) -> Streaming<telemetry::ExportReadingsResponse>;
    export_aggregates(telemetry::ExportAggregatesRequest) -> Streaming<telemetry::ExportAggregatesResponse>;
    aggregate_readings(telemetry::AggregateReadingsRequest) -> telemetry::AggregateReadingsResponse;
    downsample_readings(telemetry::DownsampleReadingsRequest) -> telemetry::DownsampleReadingsResponse;
    list_latest_readings(telemetry::ListLatestReadingsRequest) -> telemetry::ListLatestReadingsResponse;
    list_quarantine(telemetry::ListQuarantineRequest) -> telemetry::ListQuarantineResponse;
    release_quarantine(telemetry::ReleaseQuarantineRequest) -> telemetry::ReleaseQuarantineResponse;
    drop_quarantine(telemetry::DropQuarantineRequest) -> telemetry::DropQuarantineResponse;
    measure_completeness(telemetry::MeasureCompletenessRequest) -> telemetry::MeasureCompletenessResponse;
    create_calibration(telemetry::CreateCalibrationRequest) -> telemetry::CreateCalibrationResponse;
    list_calibrations(telemetry::ListCalibrationsRequest) -> telemetry::ListCalibrationsResponse;
    delete_calibration(telemetry::DeleteCalibrationRequest) -> telemetry::DeleteCalibrationResponse;
}

impl FakeTelemetry {
    fn watch(
        &self,
        request: &telemetry::WatchReadingsRequest,
    ) -> Result<Response<Streaming<telemetry::WatchReadingsResponse>>, Status> {
        let stream = self.streams.fetch_add(1, Ordering::SeqCst);
        let log = self.log.lock();
        let mut watching = Watching {
            fake: self.clone(),
            wanted: request.sensor_ids.clone(),
            at: log.len(),
            size: batch_size(stream),
            ready: Vec::new(),
            live: false,
            over: false,
            cuts: self.life.cuts.subscribe(),
            grew: self.grew.subscribe(),
        };
        if let Some(cursor) = request.cursor.strip_prefix('t') {
            watching.at = cursor.parse().map_err(|_| Error::invalid("cursor", "is not ours"))?;
            if watching.at < self.trimmed.load(Ordering::SeqCst) {
                return Err(Error::new(Code::Gone, "CURSOR_EXPIRED", "the log was cut").into());
            }
        } else if !request.cursor.is_empty() {
            return Err(Error::invalid("cursor", "is not ours").into());
        } else {
            let mut latest: BTreeMap<(&str, &str), &Entry> = BTreeMap::new();
            for entry in log.iter() {
                let known = latest.entry((&entry.tenant, &entry.sensor)).or_insert(entry);
                if entry.time >= known.time {
                    *known = entry;
                }
            }
            for entry in latest.into_values() {
                let mut message = message(std::slice::from_ref(entry), 0);
                message.cursor.clear();
                watching.ready.push(message);
            }
            watching.ready.push(bookmark(watching.at, true));
            watching.live = true;
        }
        drop(log);
        let stream = stream::unfold(watching, |mut watching| async move {
            if watching.over {
                return None;
            }
            let next = watching.next().await;
            watching.over = next.is_err();
            Some((next.map_err(Error::from), watching))
        });
        Ok(Response::new(sensormesh_mesh::stream(stream)))
    }
}

/// The registry of `devices`: what its stream says, in order.
#[derive(Clone, Default)]
pub struct FakeDevices {
    log: Arc<Mutex<Vec<devices::WatchDevicesResponse>>>,
    /// Sensors that GetSensor knows and the stream does not tell of.
    silent: Arc<Mutex<Vec<devices::Sensor>>>,
    grew: Arc<watch::Sender<usize>>,
    life: Life,
}

impl FakeDevices {
    pub fn tell(&self, tenant: &str, event: Event) {
        let mut log = self.log.lock();
        let cursor = format!("d{}", log.len() + 1);
        log.push(devices::WatchDevicesResponse { cursor, tenant: tenant.into(), event: Some(event) });
        self.grew.send_replace(log.len());
    }

    pub fn kill(&self) {
        self.life.change(true);
    }

    pub fn know_silently(&self, sensor: devices::Sensor) {
        self.silent.lock().push(sensor);
    }
}

/// A thermometer that reports every second, from 0 to 50 °C.
pub fn sensor(id: &str) -> devices::Sensor {
    let device = id.split('.').next().unwrap_or(id);
    devices::Sensor {
        sensor_id: id.into(),
        device_id: device.into(),
        unit: "Cel".into(),
        quantity: "temperature".into(),
        range_min: Some(0.0),
        range_max: Some(50.0),
        expected_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    }
}

macro_rules! unimplemented_devices {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl DevicesService for FakeDevices {
            type WatchDevicesStream = Streaming<devices::WatchDevicesResponse>;

            $(async fn $name(&self, _: Request<devices::$request>) -> Result<Response<devices::$response>, Status> {
                Err(Status::unimplemented("not faked"))
            })*

            async fn get_sensor(
                &self,
                request: Request<devices::GetSensorRequest>,
            ) -> Result<Response<devices::GetSensorResponse>, Status> {
                self.life.check()?;
                let id = request.into_inner().sensor_id;
                let sensor = self.silent.lock().iter().find(|sensor| sensor.sensor_id == id).cloned();
                let sensor = Some(sensor.ok_or_else(|| Error::not_found("sensor", &id))?);
                Ok(Response::new(devices::GetSensorResponse { sensor }))
            }

            async fn list_sensors(
                &self,
                _: Request<devices::ListSensorsRequest>,
            ) -> Result<Response<devices::ListSensorsResponse>, Status> {
                self.life.check()?;
                let sensors = self.silent.lock().clone();
                Ok(Response::new(devices::ListSensorsResponse { sensors, next_page_token: String::new() }))
            }

            async fn watch_devices(
                &self,
                request: Request<devices::WatchDevicesRequest>,
            ) -> Result<Response<Self::WatchDevicesStream>, Status> {
                self.life.check()?;
                let cursor = request.into_inner().cursor;
                let at: usize = cursor.strip_prefix('d').map_or(Ok(0), str::parse).map_err(|_| gone())?;
                Ok(Response::new(self.watch(at, cursor.is_empty())))
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
    create_sensor(CreateSensorRequest) -> CreateSensorResponse;
    ensure_sensors(EnsureSensorsRequest) -> EnsureSensorsResponse;
    update_sensor(UpdateSensorRequest) -> UpdateSensorResponse;
    delete_sensor(DeleteSensorRequest) -> DeleteSensorResponse;
    get_profile(GetProfileRequest) -> GetProfileResponse;
    list_profiles(ListProfilesRequest) -> ListProfilesResponse;
    create_profile(CreateProfileRequest) -> CreateProfileResponse;
    update_profile(UpdateProfileRequest) -> UpdateProfileResponse;
    delete_profile(DeleteProfileRequest) -> DeleteProfileResponse;
}

impl FakeDevices {
    fn watch(&self, at: usize, snapshot: bool) -> Streaming<devices::WatchDevicesResponse> {
        let mut ready: Vec<devices::WatchDevicesResponse> = Vec::new();
        let mut at = at;
        if snapshot {
            let log = self.log.lock();
            ready.extend(
                log.iter().map(|message| devices::WatchDevicesResponse { cursor: String::new(), ..message.clone() }),
            );
            at = log.len();
            ready.push(mark(at));
        }
        ready.reverse();
        let state = (self.clone(), self.grew.subscribe(), at, ready);
        sensormesh_mesh::stream(stream::unfold(state, |(fake, mut grew, mut at, mut ready)| async move {
            loop {
                if let Some(message) = ready.pop() {
                    return Some((Ok(message), (fake, grew, at, ready)));
                }
                grew.mark_unchanged();
                let next = fake.log.lock().get(at).cloned();
                match next {
                    Some(message) => {
                        at += 1;
                        ready.push(message);
                    }
                    None => match tokio::time::timeout(Duration::from_secs(2), grew.changed()).await {
                        Ok(_) => {}
                        Err(_) => ready.push(mark(at)),
                    },
                }
            }
        }))
    }
}

fn mark(at: usize) -> devices::WatchDevicesResponse {
    let event = Some(Event::Bookmark(Bookmark { live: true, as_of: None, reset: false }));
    devices::WatchDevicesResponse { cursor: format!("d{at}"), tenant: String::new(), event }
}
