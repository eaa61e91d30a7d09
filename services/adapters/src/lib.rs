//! Connections to what the world speaks.
//!
//! An adapter turns one protocol into batches of readings; a [`connection::Connection`] is one source that it serves. What
//! is read waits in the connection's [`queue`] until telemetry has acknowledged it: a batch keeps its id, so it is sent
//! again after every failure and stored once. What has waited for ten seconds, and what waits when the service stops, goes to
//! the disk and is delivered from there, in order. Both are bounded; the oldest readings are given up and counted.
//!
//! The first adapter is [`host`]: the sensors of the machine the program runs on. It is on only where the program asks for
//! it, so that a fresh machine has real readings at once and a pod does not pretend to be a sensor.

mod api;
mod aside;
pub mod connection;
mod db;
mod delivery;
pub mod host;
pub mod queue;
pub mod source;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sensormesh_mesh::{Condition, Mesh, Service};
use sensormesh_proto::adapters::v1::ConnectionState;
use sensormesh_proto::adapters::v1::adapters_service_server::AdaptersServiceServer;
use sensormesh_store::{Migration, Store};
use sensormesh_types::{DEFAULT_TENANT, Result, Scope, random, text};
use serde::{Deserialize, Serialize};

use aside::Aside;
use connection::{Connection, Settings};
use delivery::Delivery;
use host::Host;
use queue::Queue;

/// The tables of this service.
pub const MIGRATIONS: &[Migration] =
    &[Migration { version: 1, name: "adapters", sql: include_str!("../migrations/0001_adapters.sql") }];

/// A silent sensor of the host is not called stale before three times this.
const HOST_REPORTS_EVERY: Duration = Duration::from_secs(10);

/// The `[adapters]` table of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Reads the sensors of the machine the program runs on. `up` switches it on, unless `--no-host-sensors` is given.
    /// Since 0.1.
    pub host: bool,
    /// How often the host's sensors are read until somebody sets it for the connection, from 1 s to 1 h. Since 0.1.
    #[serde(with = "text::duration")]
    pub host_interval: Duration,
    /// How many readings wait in memory; then the oldest are given up and counted. Since 0.1.
    pub queue_readings: usize,
    /// Bytes of readings that wait on the disk while telemetry is away; then the oldest are given up and counted. Since 0.1.
    #[serde(with = "text::size")]
    pub spool_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { host: false, host_interval: Duration::from_secs(2), queue_readings: 10_000, spool_bytes: 64 << 20 }
    }
}

/// Starts the service: its routes, and for each connection a loop that reads and one that delivers.
pub async fn start(config: Config, mesh: &Mesh, store: Store) -> Result<Service> {
    let mut service = Service::new("adapters");
    let aside = Aside::open(&store, mesh, config.spool_bytes).await?;
    let mut connections = Vec::new();
    if config.host {
        let connection = host_connection(&config, mesh, &store).await?;
        let interval = HOST_REPORTS_EVERY.max(config.host_interval);
        let delivery = Delivery::new(
            Arc::clone(&connection),
            aside.clone(),
            mesh,
            store.clone(),
            (host::device(), host::ROOM),
            interval,
        )?;
        let mut host = Host::new();
        let source: tasks::Source = Arc::new(Mutex::new(move || host.read()));
        let (reads, clock) = (Arc::clone(&connection), mesh.clock().clone());
        let checked = (Arc::clone(&connection), aside.clone(), mesh.clock().clone());
        service = service
            .task("read the host", move |shutdown| {
                tasks::read(Arc::clone(&reads), Arc::clone(&source), clock.clone(), shutdown)
            })
            .task("deliver the host's readings", move |shutdown| {
                let delivery = delivery.clone();
                async move { delivery.run(shutdown).await }
            })
            .check("host", move || std::future::ready(condition(&checked.0, &checked.1, checked.2.now_nanos())));
        connections.push(connection);
    }
    let (delivered, waiting) = (connections.clone(), aside.clone());
    service = service.task("deliver what waits on the disk", move |shutdown| {
        let (aside, connections) = (waiting.clone(), delivered.clone());
        async move { aside.run(connections, shutdown).await }
    });
    let api = api::Api { connections, aside, store, clock: mesh.clock().clone() };
    Ok(service.grpc(AdaptersServiceServer::new(api).max_encoding_message_size(sensormesh_mesh::ANSWER)))
}

async fn host_connection(config: &Config, mesh: &Mesh, store: &Store) -> Result<Arc<Connection>> {
    let tenant = DEFAULT_TENANT.to_owned();
    let usual = Settings { enabled: true, interval: config.host_interval };
    usual.check()?;
    let mut read = store.read(&Scope::tenant_of(&*tenant)).await?;
    let settings = db::find_settings(&mut read, &tenant, "host").await?.unwrap_or(usual);
    let known = db::list_registered(&mut read, &tenant, "host").await?;
    let queue = Queue::new(random::id(mesh.clock().now_micros()), config.queue_readings);
    Ok(Arc::new(Connection::new(("host", "host"), tenant, host::DEVICE, settings, known, queue)))
}

fn condition(connection: &Connection, aside: &Aside, now: i64) -> Condition {
    let described = connection.describe(aside.waiting(connection), now);
    match ConnectionState::try_from(described.state) {
        Ok(ConnectionState::Failed) => Condition::Degraded(described.error),
        Ok(ConnectionState::Waiting) if described.dropped > 0 => {
            Condition::Degraded(format!("{} readings wait, {} were given up", described.waiting, described.dropped))
        }
        _ => Condition::Well,
    }
}
