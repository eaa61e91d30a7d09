//! Places, and which sensor is which metric of which room, from when to when.
//!
//! The service owns the tree of sites, buildings, floors and rooms ([`place`]) and the placements of sensors in it
//! ([`placement`]). What sensors there are it takes over from `devices` (`projection`), and a sensor that says where it is
//! is placed there, once. What rooms show now it keeps in memory from telemetry's live stream ([`watch`]): the latest
//! reading of each sensor, and a ring of the last ones for those who watch. What they showed it asks telemetry
//! ([`history`]).
//!
//! Without telemetry, rooms show what they last showed, marked stale. Without `devices`, nothing changes but that new
//! sensors are not heard of.

mod api;
mod db;
pub mod history;
pub mod metrics;
pub mod model;
pub mod place;
pub mod placement;
mod projection;
mod record;
mod tasks;
mod telemetry;
pub mod watch;

use sensormesh_mesh::{Condition, Mesh, Service};
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::rooms::v1::rooms_service_server::RoomsServiceServer;
use sensormesh_store::{Migration, Store};
use sensormesh_types::Result;
use serde::{Deserialize, Serialize};

use telemetry::Telemetry;
use watch::Hub;

/// The tables of this service.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "rooms", sql: include_str!("../migrations/0001_rooms.sql") },
    Migration { version: 2, name: "one writer", sql: include_str!("../migrations/0002_one_writer.sql") },
];

/// The `[rooms]` table of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many of the last readings are kept in memory for those who watch rooms; one who falls further behind resumes
    /// from telemetry. A reading takes about 40 bytes. Since 0.1.
    pub ring_readings: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { ring_readings: 65_536 }
    }
}

/// Starts the service: its routes, and the loops that follow `devices`, telemetry and its own log.
pub async fn start(config: Config, mesh: &Mesh, store: Store) -> Result<Service> {
    let hub = Hub::new(config.ring_readings, mesh.clock().clone());
    let telemetry = Telemetry::new(mesh)?;
    let devices: DevicesServiceClient<_> = mesh.client()?;
    let api = api::Api { mesh: mesh.clone(), store: store.clone(), hub: hub.clone(), telemetry: telemetry.clone() };
    let readings = (telemetry, hub.clone());
    let model = (store.clone(), hub.clone());
    let registry = (devices, store.clone(), mesh.clock().clone());
    let (seen, consumer) = (hub, store);
    Ok(Service::new("rooms")
        .grpc(RoomsServiceServer::new(api).max_encoding_message_size(sensormesh_mesh::ANSWER))
        .task("follow readings", move |shutdown| {
            tasks::follow_readings(readings.0.clone(), readings.1.clone(), shutdown)
        })
        .task("follow devices", move |shutdown| {
            tasks::follow_devices(registry.0.clone(), registry.1.clone(), registry.2.clone(), shutdown)
        })
        .task("follow own log", move |shutdown| tasks::follow_own_log(model.0.clone(), model.1.clone(), shutdown))
        .check("devices", move || {
            let heard = consumer.consumers().get("devices").is_some_and(|consumer| consumer.connected);
            std::future::ready(if heard {
                Condition::Well
            } else {
                Condition::Degraded("devices is out of reach; new sensors are not heard of".to_owned())
            })
        })
        .check("readings", move || {
            let followed = seen.view("", []).followed;
            std::future::ready(if followed {
                Condition::Well
            } else {
                Condition::Degraded("telemetry is out of reach; what rooms show is stale".to_owned())
            })
        }))
}
