//! Tests of sensors that are being put into operation, on readings that really arrive.
//!
//! A [`test`] is asked for by type, device or name of its sensors and answers at once with an id. In the background the service
//! follows telemetry's stream of the sensors that are under test, from where it left off whatever happened in between ([`run`]), and
//! counts: a [`tally`] for each sensor, in the transaction of the cursor. When every sensor has sent enough, or time is up, the
//! tally is held to the sensor's [`limits`] ([`checks`]) and what came of it is kept. What sensors there are it takes over from
//! `devices` ([`projection`]).
//!
//! Without telemetry, tests wait and say so; the time does not count. Without `devices`, new sensors are not heard of. Nothing else
//! is needed.

mod api;
pub mod checks;
mod db;
pub mod limits;
mod projection;
mod record;
mod run;
pub mod sensor;
pub mod tally;
mod tasks;
mod telemetry;
pub mod test;
mod words;

use sensormesh_mesh::{Condition, Mesh, Service};
use sensormesh_proto::commissioning::v1::commissioning_service_server::CommissioningServiceServer;
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_store::{Migration, Store};
use sensormesh_types::Result;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use telemetry::{Telemetry, Unfinished};

/// The tables of this service.
pub const MIGRATIONS: &[Migration] =
    &[Migration { version: 1, name: "commissioning", sql: include_str!("../migrations/0001_commissioning.sql") }];

/// The `[commissioning]` table of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Tests that run at once; further ones take their turn. Since 0.1.
    pub tests_at_once: u32,
    /// Tests of one tenant that wait or run; one more is refused. Since 0.1.
    pub unfinished_tests: u32,
    /// Tests are deleted this many days after they were over. 0 = never. Since 0.1.
    pub retention_days: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { tests_at_once: 16, unfinished_tests: 100, retention_days: 365 }
    }
}

/// Starts the service: its routes, and the loops that follow telemetry, `devices` and its own log.
pub async fn start(config: Config, mesh: &Mesh, store: Store) -> Result<Service> {
    let devices: DevicesServiceClient<_> = mesh.client_as_service()?;
    let unfinished = watch::Sender::new(Unfinished::new());
    let at_once = config.tests_at_once.max(1);
    let telemetry = Telemetry::new(mesh, &store, &unfinished, at_once)?;
    let api = api::Api { mesh: mesh.clone(), store: store.clone(), config: config.clone() };
    let readings = (store.clone(), telemetry);
    let registry = (devices, store.clone(), mesh.clock().clone());
    let own = (store.clone(), unfinished.clone());
    let old = (store.clone(), config.retention_days);
    let (heard, consumer, waiting) = (store.clone(), store, unfinished);
    Ok(Service::new("commissioning")
        .grpc(CommissioningServiceServer::new(api).max_encoding_message_size(sensormesh_mesh::ANSWER))
        .task("follow readings", move |shutdown| {
            let (store, telemetry) = readings.clone();
            async move { shutdown.cut(store.follow(telemetry::CONSUMER, telemetry)).await.unwrap_or(Ok(())) }
        })
        .task("follow devices", move |shutdown| {
            tasks::follow_devices(registry.0.clone(), registry.1.clone(), registry.2.clone(), shutdown)
        })
        .task("follow own log", move |shutdown| tasks::follow_own_log(own.0.clone(), own.1.clone(), shutdown))
        .task("delete old tests", move |shutdown| tasks::delete_old(old.0.clone(), old.1, shutdown))
        .check("devices", move || {
            let heard = heard.consumers().get("devices").is_some_and(|consumer| consumer.connected);
            std::future::ready(if heard {
                Condition::Well
            } else {
                Condition::Degraded("devices is out of reach; new sensors are not heard of".to_owned())
            })
        })
        .check("readings", move || {
            let waits = !waiting.borrow().is_empty() && telemetry::is_lost(&consumer);
            std::future::ready(if waits {
                Condition::Degraded("telemetry is out of reach; tests wait for it".to_owned())
            } else {
                Condition::Well
            })
        }))
}
