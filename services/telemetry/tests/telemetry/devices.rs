//! `devices` as telemetry sees it: it registers what it is asked to, and tells of every change.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use sensormesh_proto::devices::v1::devices_service_server::DevicesService;
use sensormesh_proto::devices::v1::watch_devices_response::Event;
use sensormesh_proto::devices::v1::*;
use sensormesh_proto::types::v1::Bookmark;
use sensormesh_types::{DEFAULT_TENANT, Error};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

type Key = (String, String);
/// What happened to a sensor: what it is now, or that it is no more.
type Change = (Key, Option<Sensor>);

/// A registry in memory.
#[derive(Clone)]
pub struct Devices {
    changes: Arc<Mutex<Vec<Change>>>,
    count: Arc<tokio::sync::watch::Sender<usize>>,
}

impl Default for Devices {
    fn default() -> Self {
        Self { changes: Arc::default(), count: Arc::new(tokio::sync::watch::Sender::new(0)) }
    }
}

impl Devices {
    /// Registers a sensor, or changes it.
    pub fn put(&self, tenant: &str, sensor: Sensor) {
        self.change((tenant.to_owned(), sensor.sensor_id.clone()), Some(sensor));
    }

    /// Deletes a sensor.
    pub fn delete(&self, tenant: &str, sensor_id: &str) {
        self.change((tenant.to_owned(), sensor_id.to_owned()), None);
    }

    /// What is registered.
    pub fn sensors(&self) -> BTreeMap<Key, Sensor> {
        let mut sensors = BTreeMap::new();
        for (key, sensor) in self.changes.lock().iter().cloned() {
            match sensor {
                Some(sensor) => drop(sensors.insert(key, sensor)),
                None => drop(sensors.remove(&key)),
            }
        }
        sensors
    }

    fn change(&self, key: Key, sensor: Option<Sensor>) {
        let mut changes = self.changes.lock();
        changes.push((key, sensor));
        self.count.send_replace(changes.len());
    }

    fn message(cursor: usize, tenant: &str, event: Event) -> WatchDevicesResponse {
        WatchDevicesResponse { cursor: cursor.to_string(), tenant: tenant.to_owned(), event: Some(event) }
    }
}

/// A sensor of a site with a range.
pub fn sensor(sensor_id: &str, site_id: &str, range: Option<(f64, f64)>) -> Sensor {
    Sensor {
        sensor_id: sensor_id.to_owned(),
        device_id: sensor_id.split('.').next().unwrap_or_default().to_owned(),
        site_id: site_id.to_owned(),
        unit: "[ppm]".to_owned(),
        range_min: range.map(|r| r.0),
        range_max: range.map(|r| r.1),
        ..Sensor::default()
    }
}

macro_rules! devices {
    ($($method:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl DevicesService for Devices {
            type WatchDevicesStream = BoxStream<'static, Result<WatchDevicesResponse, Status>>;

            $(async fn $method(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("telemetry does not call it"))
            })*

            async fn ensure_sensors(
                &self,
                request: Request<EnsureSensorsRequest>,
            ) -> Result<Response<EnsureSensorsResponse>, Status> {
                let request = request.into_inner();
                if request.sensors.iter().any(|asked| asked.sensor_id.starts_with("no-such")) {
                    return Err(Error::invalid("sensors[0].sensor_id", "is not wanted here").into());
                }
                let tenant = if request.tenant.is_empty() { DEFAULT_TENANT.to_owned() } else { request.tenant };
                let mut sensors = Vec::new();
                for asked in request.sensors {
                    let known = self.sensors().remove(&(tenant.clone(), asked.sensor_id.clone()));
                    let ensured = known.unwrap_or_else(|| sensor(&asked.sensor_id, "", None));
                    if !self.sensors().contains_key(&(tenant.clone(), asked.sensor_id)) {
                        self.put(&tenant, ensured.clone());
                    }
                    sensors.push(ensured);
                }
                Ok(Response::new(EnsureSensorsResponse { sensors }))
            }

            async fn watch_devices(
                &self,
                request: Request<WatchDevicesRequest>,
            ) -> Result<Response<Self::WatchDevicesStream>, Status> {
                let cursor = request.into_inner().cursor;
                let mut snapshot = Vec::new();
                let mut at = cursor.parse::<usize>().unwrap_or_default();
                if cursor.is_empty() {
                    at = self.changes.lock().len();
                    for ((tenant, _), sensor) in self.sensors() {
                        let told = Self::message(at, &tenant, Event::Sensor(sensor));
                        snapshot.push(WatchDevicesResponse { cursor: String::new(), ..told });
                    }
                    let bookmark = Bookmark { live: true, ..Bookmark::default() };
                    snapshot.push(Self::message(at, "", Event::Bookmark(bookmark)));
                }
                let changes = Arc::clone(&self.changes);
                let live = WatchStream::new(self.count.subscribe()).flat_map(move |count| {
                    let news: Vec<_> = changes.lock()[at.min(count)..count].to_vec();
                    let from = at;
                    at = at.max(count);
                    let told = news.into_iter().enumerate().map(move |(i, ((tenant, id), sensor))| {
                        let event = sensor.map_or(Event::DeletedSensorId(id), Event::Sensor);
                        Ok(Self::message(from + i + 1, &tenant, event))
                    });
                    futures::stream::iter(told)
                });
                Ok(Response::new(futures::stream::iter(snapshot.into_iter().map(Ok)).chain(live).boxed()))
            }
        }
    };
}

devices! {
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
