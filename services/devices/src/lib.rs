//! What is installed: devices, their sensors, and the profiles that say what a sensor measures.
//!
//! A sensor is one stream of numbers. It comes into being when somebody registers it or when its first reading arrives
//! (`EnsureSensors`), and takes what it does not say itself (unit, range, interval) from its profile. Every change is an
//! entry of this service's log, and `WatchDevices` is how the others follow it: they keep what they need and go on
//! working when this service is down.

mod api;
mod bridge;
mod credential;
mod db;
mod device;
mod profile;
mod quality;
mod rules;
mod sensor;

use sensormesh_mesh::{Mesh, Service};
use sensormesh_proto::devices::v1::credentials_service_server::CredentialsServiceServer;
use sensormesh_proto::devices::v1::devices_service_server::DevicesServiceServer;
use sensormesh_store::{Migration, Store};
use sensormesh_types::Result;
use serde::{Deserialize, Serialize};

/// The tables of this service.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "devices", sql: include_str!("../migrations/0001_devices.sql") },
    Migration { version: 2, name: "quality tests", sql: include_str!("../migrations/0002_quality_tests.sql") },
    Migration { version: 3, name: "retention", sql: include_str!("../migrations/0003_retention.sql") },
    Migration { version: 4, name: "decimals", sql: include_str!("../migrations/0004_decimals.sql") },
    Migration { version: 5, name: "credentials", sql: include_str!("../migrations/0005_credential.sql") },
];

/// This service has nothing to configure yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

/// Makes the service.
pub async fn start(_config: Config, mesh: &Mesh, store: Store) -> Result<Service> {
    let api = api::Api { store: store.clone(), clock: mesh.clock().clone() };
    let credentials = CredentialsServiceServer::new(api::Credentials(api.clone()));
    let devices = DevicesServiceServer::new(api).max_encoding_message_size(sensormesh_mesh::ANSWER);
    Ok(Service::new("devices").grpc(devices).grpc(credentials.max_encoding_message_size(sensormesh_mesh::ANSWER)))
}
