//! The gRPC trait: decode, call, encode.

mod bridge;
mod claim;
mod credential;
mod credentials;
mod device;
mod ensure;
mod profile;
mod sensor;
mod watch;

use prost::Message as _;
use sensormesh_mesh::{Streaming, caller};
use sensormesh_proto::devices::v1 as proto;
use sensormesh_proto::devices::v1::devices_service_server::DevicesService;
use sensormesh_proto::devices::v1::watch_devices_response::Event;
use sensormesh_store::{Entry, Store, Tx};
use sensormesh_types::{Caller, Clock, Error, Result};
use tonic::{Request, Response, Status};

pub(crate) use credentials::Credentials;

/// The contract of devices, sensors and profiles; what the one of credentials needs, too.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
}

type Answer<T> = std::result::Result<Response<T>, Status>;

/// Takes the caller and the message out of a request.
fn open<T>(request: Request<T>) -> Result<(Caller, T)> {
    let caller = caller(&request)?.clone();
    Ok((caller, request.into_inner()))
}

#[tonic::async_trait]
impl DevicesService for Api {
    async fn get_device(&self, request: Request<proto::GetDeviceRequest>) -> Answer<proto::GetDeviceResponse> {
        let (caller, request) = open(request)?;
        let device = self.find_device(&caller, &request.device_id).await?;
        Ok(Response::new(proto::GetDeviceResponse { device: Some(device) }))
    }

    async fn list_devices(&self, request: Request<proto::ListDevicesRequest>) -> Answer<proto::ListDevicesResponse> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.page_of_devices(&caller, &request).await?))
    }

    async fn create_device(&self, request: Request<proto::CreateDeviceRequest>) -> Answer<proto::CreateDeviceResponse> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.register_device(&caller, request).await?))
    }

    async fn update_device(&self, request: Request<proto::UpdateDeviceRequest>) -> Answer<proto::UpdateDeviceResponse> {
        let (caller, request) = open(request)?;
        let device = self.change_device(&caller, request).await?;
        Ok(Response::new(proto::UpdateDeviceResponse { device: Some(device) }))
    }

    async fn delete_device(&self, request: Request<proto::DeleteDeviceRequest>) -> Answer<proto::DeleteDeviceResponse> {
        let (caller, request) = open(request)?;
        self.remove_device(&caller, &request.device_id, request.force).await?;
        Ok(Response::new(proto::DeleteDeviceResponse {}))
    }

    async fn get_sensor(&self, request: Request<proto::GetSensorRequest>) -> Answer<proto::GetSensorResponse> {
        let (caller, request) = open(request)?;
        let sensor = self.find_sensor(&caller, &request.sensor_id).await?;
        Ok(Response::new(proto::GetSensorResponse { sensor: Some(sensor) }))
    }

    async fn list_sensors(&self, request: Request<proto::ListSensorsRequest>) -> Answer<proto::ListSensorsResponse> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.page_of_sensors(&caller, &request).await?))
    }

    async fn create_sensor(&self, request: Request<proto::CreateSensorRequest>) -> Answer<proto::CreateSensorResponse> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.register_sensor(&caller, request).await?))
    }

    async fn ensure_sensors(
        &self,
        request: Request<proto::EnsureSensorsRequest>,
    ) -> Answer<proto::EnsureSensorsResponse> {
        let (caller, request) = open(request)?;
        let sensors = self.ensure(&caller, request).await?;
        Ok(Response::new(proto::EnsureSensorsResponse { sensors }))
    }

    async fn update_sensor(&self, request: Request<proto::UpdateSensorRequest>) -> Answer<proto::UpdateSensorResponse> {
        let (caller, request) = open(request)?;
        let sensor = self.change_sensor(&caller, request).await?;
        Ok(Response::new(proto::UpdateSensorResponse { sensor: Some(sensor) }))
    }

    async fn delete_sensor(&self, request: Request<proto::DeleteSensorRequest>) -> Answer<proto::DeleteSensorResponse> {
        let (caller, request) = open(request)?;
        self.remove_sensor(&caller, &request.sensor_id).await?;
        Ok(Response::new(proto::DeleteSensorResponse {}))
    }

    async fn get_profile(&self, request: Request<proto::GetProfileRequest>) -> Answer<proto::GetProfileResponse> {
        let (caller, request) = open(request)?;
        let profile = self.find_profile(&caller, &request.profile_id).await?;
        Ok(Response::new(proto::GetProfileResponse { profile: Some(profile) }))
    }

    async fn list_profiles(&self, request: Request<proto::ListProfilesRequest>) -> Answer<proto::ListProfilesResponse> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.page_of_profiles(&caller, &request).await?))
    }

    async fn create_profile(
        &self,
        request: Request<proto::CreateProfileRequest>,
    ) -> Answer<proto::CreateProfileResponse> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.make_profile(&caller, request).await?))
    }

    async fn update_profile(
        &self,
        request: Request<proto::UpdateProfileRequest>,
    ) -> Answer<proto::UpdateProfileResponse> {
        let (caller, request) = open(request)?;
        let profile = self.change_profile(&caller, request).await?;
        Ok(Response::new(proto::UpdateProfileResponse { profile: Some(profile) }))
    }

    async fn delete_profile(
        &self,
        request: Request<proto::DeleteProfileRequest>,
    ) -> Answer<proto::DeleteProfileResponse> {
        let (caller, request) = open(request)?;
        self.remove_profile(&caller, &request.profile_id).await?;
        Ok(Response::new(proto::DeleteProfileResponse {}))
    }

    type WatchDevicesStream = Streaming<proto::WatchDevicesResponse>;

    async fn watch_devices(&self, request: Request<proto::WatchDevicesRequest>) -> Answer<Self::WatchDevicesStream> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.watch(&caller, request.cursor)))
    }
}

/// What watchers get, without a cursor yet.
fn message(tenant: &str, event: Event) -> proto::WatchDevicesResponse {
    proto::WatchDevicesResponse { cursor: String::new(), tenant: tenant.to_owned(), event: Some(event) }
}

/// Appends what watchers are told, and the audit is kept of, to the log: one entry in the transaction of the change.
fn append(tx: &mut Tx, caller: &Caller, site: &str, kind: &str, subject: &str, event: Event) {
    append_changed(tx, caller, site, kind, subject, (event, String::new()));
}

/// The same of something that was there before, and what of it changed.
fn append_changed(
    tx: &mut Tx,
    caller: &Caller,
    site: &str,
    kind: &str,
    subject: &str,
    (event, changes): (Event, String),
) {
    let payload = message(&tx.tenant(), event).encode_to_vec();
    tx.append(Entry {
        site: site.to_owned(),
        kind: kind.to_owned(),
        subject: subject.to_owned(),
        author: caller.author(),
        changes,
        payload,
    });
}

/// The size of a page, and one more to know whether another follows.
fn page_size(requested: i32) -> Result<usize> {
    Ok(sensormesh_types::page::size(requested, 100, 1000)? as usize)
}

fn required<T>(value: Option<T>, field: &str) -> Result<T> {
    value.ok_or_else(|| Error::invalid(field, "is required"))
}

/// What makes two requests the same. Not their bytes: the order of labels on the wire is any.
fn body_of(wanted: &impl std::fmt::Debug) -> Vec<u8> {
    format!("{wanted:?}").into_bytes()
}

/// The answer that a request with this id got before.
async fn recall<T: prost::Message + Default>(
    tx: &mut Tx,
    method: &str,
    request_id: &str,
    body: &[u8],
) -> Result<Option<T>> {
    let answer = tx.recall_request(method, request_id, body).await?;
    answer.map(|answer| T::decode(answer.as_slice()).map_err(Error::internal)).transpose()
}
