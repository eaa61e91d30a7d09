//! The one table of services. Nothing else asks which there are.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use sensormesh_auth::Registration;
use sensormesh_mesh::{Condition, Mesh, Service};
use sensormesh_observability::metrics;
use sensormesh_proto::mesh::v1::{Breaker, BreakerState};
use sensormesh_store::{self as store, Engine, RoomState, State, Store};
use sensormesh_types::{Result, time};

use crate::config::Config;
use crate::server::ADMIN_PASSWORD_FILE;

/// The operations port of a service is this much above its own.
pub const OPERATIONS_OFFSET: u16 = 1000;

/// How often the room on the disk is noted.
const MEASURE: Duration = Duration::from_secs(1);

/// The service that everybody outside speaks to.
pub const EDGE: &str = "edge";

/// One service: its place in the port range, and how it is started.
pub struct Entry {
    /// Its name: `rooms`.
    pub name: &'static str,
    /// Its port, relative to the base.
    pub offset: u16,
    start: fn(Config, Mesh) -> BoxFuture<'static, Result<Started>>,
}

/// A service that serves nothing yet, and its databases.
pub type Started = (Service, Vec<Store>);

/// Every service, in an order in which each comes after those it calls.
pub const ALL: &[Entry] = &[
    Entry { name: "auth", offset: 1, start: |config, mesh| Box::pin(auth(config, mesh)) },
    Entry { name: "devices", offset: 2, start: |config, mesh| Box::pin(devices(config, mesh)) },
    Entry { name: "telemetry", offset: 3, start: |config, mesh| Box::pin(telemetry(config, mesh)) },
    Entry { name: "adapters", offset: 4, start: |config, mesh| Box::pin(adapters(config, mesh)) },
    Entry { name: "commissioning", offset: 5, start: |config, mesh| Box::pin(commissioning(config, mesh)) },
    Entry { name: "rooms", offset: 6, start: |config, mesh| Box::pin(rooms(config, mesh)) },
    Entry { name: EDGE, offset: 0, start: |config, mesh| Box::pin(edge(config, mesh)) },
];

impl Entry {
    /// Starts the service.
    pub async fn start(&self, config: &Config, mesh: &Mesh) -> Result<Started> {
        (self.start)(config.clone(), mesh.clone()).await
    }

    /// Its port.
    pub fn port(&self, config: &Config) -> u16 {
        config.port_base + self.offset
    }

    /// Its operations port.
    pub fn operations_port(&self, config: &Config) -> u16 {
        self.port(config) + OPERATIONS_OFFSET
    }
}

/// The service with this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ALL.iter().find(|entry| entry.name == name)
}

/// The mesh's configuration with what follows from the data directory and the ports.
pub fn mesh_config(config: &Config) -> sensormesh_mesh::Config {
    let mut mesh = config.mesh.clone();
    // Both are relative to the data directory unless they are absolute.
    mesh.pki_dir = config.data_dir.join(&mesh.pki_dir);
    mesh.state_dir = config.data_dir.join(&mesh.state_dir);
    for entry in ALL {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, entry.port(config)));
        mesh.endpoints.entry(entry.name.to_owned()).or_insert_with(|| vec![address.to_string()]);
    }
    mesh
}

/// The databases, in the order in which a backup copies them: the log of readings before the blocks that they go into.
pub const DATABASES: &[&str] =
    &["auth", "devices", "telemetry-log", "telemetry", "adapters", "commissioning", "rooms", EDGE];

/// The SQLite databases in a directory.
pub fn database_in(folder: &Path) -> store::Config {
    store::Config::at(format!("sqlite:{}", folder.join("{service}.db").display()))
}

/// Where the databases are.
pub fn database(config: &Config) -> store::Config {
    let database = match config.database.url.as_str() {
        "" => database_in(&config.data_dir),
        url => store::Config::at(url),
    };
    store::Config { disk: config.disk.clone(), ..database }
}

/// Measures the disk of a service's databases for the metrics.
async fn measure(store: Store, shutdown: sensormesh_mesh::Shutdown) -> Result<()> {
    let metric = metrics::disk_room(store.service());
    loop {
        let room = store.room();
        metric.record(room.free, room.used, room.state as u64);
        if shutdown.cut(tokio::time::sleep(MEASURE)).await.is_none() {
            return Ok(());
        }
    }
}

/// Whether a directory has, or had, this service's database.
pub fn has_database(folder: &std::path::Path, name: &str) -> bool {
    store::is_known_database(&folder.join(format!("{name}.db"))).unwrap_or(true)
}

/// Shows a service's database among its checks and breakers, and its log as its audit.
fn with_database(service: Service, name: &'static str, store: &Store) -> Service {
    let (checked, shown, reset, log) = (store.clone(), store.clone(), store.clone(), store.clone());
    let service = if store.engine() == Engine::Sqlite {
        let measured = store.clone();
        service.task("measure the disk", move |shutdown| measure(measured.clone(), shutdown))
    } else {
        service
    };
    service
        .check(name, move || {
            let (health, room) = (checked.health(), checked.room());
            std::future::ready(match health.state {
                _ if checked.is_gone() => {
                    Condition::Failing("the database's file was removed or replaced while in use".to_owned())
                }
                _ if health.ok() && room.state != RoomState::Enough => Condition::Degraded(room.in_words()),
                _ if health.ok() && checked.server_is_full() => {
                    Condition::Degraded("the disk of the database server is full".to_owned())
                }
                _ if health.ok() => Condition::Well,
                State::Open => Condition::Failing("the database does not answer".to_owned()),
                _ => Condition::Degraded("the database failed lately".to_owned()),
            })
        })
        .breaker(move || breaker(name, &shown.health()), move || reset.reset_breaker())
        .audit(move |scope, query| {
            let log = log.clone();
            async move { log.list_audit(&scope, &query).await }
        })
}

fn breaker(name: &str, health: &store::Health) -> Breaker {
    let state = match health.state {
        State::Closed => BreakerState::Closed,
        State::Open => BreakerState::Open,
        State::HalfOpen => BreakerState::HalfOpen,
    };
    Breaker {
        upstream: name.to_owned(),
        state: state.into(),
        failures: health.failures,
        retry_at: health.retry_at.map(time::from_micros),
    }
}

async fn open(config: &Config, mesh: &Mesh, migrations: &'static [store::Migration]) -> Result<Store> {
    Store::open(mesh.service(), &database(config), migrations, mesh.clock().clone()).await
}

/// A service with one database.
fn on(store: Store, service: Service) -> Started {
    (with_database(service, "database", &store), vec![store])
}

async fn auth(config: Config, mesh: Mesh) -> Result<Started> {
    let store = open(&config, &mesh, sensormesh_auth::MIGRATIONS).await?;
    let mut own = config.auth.clone();
    own.bootstrap_password_file.get_or_insert_with(|| config.data_dir.join(ADMIN_PASSWORD_FILE));
    if config.database.url.is_empty() {
        // On a shared database replicas share the keys; here each is a file of its own.
        own.state_dir.get_or_insert_with(|| config.data_dir.join("auth"));
    }
    let only_here = edge_address(&config).ip().is_loopback() && config.edge.behind_proxy.is_empty();
    own.registration.get_or_insert(if only_here { Registration::Open } else { Registration::Invitation });
    Ok(on(store.clone(), sensormesh_auth::start(own, &mesh, store).await?))
}

async fn devices(config: Config, mesh: Mesh) -> Result<Started> {
    let store = open(&config, &mesh, sensormesh_devices::MIGRATIONS).await?;
    Ok(on(store.clone(), sensormesh_devices::start(config.devices, &mesh, store).await?))
}

async fn telemetry(config: Config, mesh: Mesh) -> Result<Started> {
    let databases = sensormesh_telemetry::Databases::open(&database(&config), mesh.clock().clone()).await?;
    let (main, log) = (databases.main.clone(), databases.log.clone());
    let service = sensormesh_telemetry::start(config.telemetry, &mesh, databases).await?;
    Ok((with_database(with_database(service, "log database", &log), "database", &main), vec![main, log]))
}

async fn adapters(config: Config, mesh: Mesh) -> Result<Started> {
    let store = open(&config, &mesh, sensormesh_adapters::MIGRATIONS).await?;
    Ok(on(store.clone(), sensormesh_adapters::start(config.adapters, &mesh, store).await?))
}

async fn commissioning(config: Config, mesh: Mesh) -> Result<Started> {
    let store = open(&config, &mesh, sensormesh_commissioning::MIGRATIONS).await?;
    Ok(on(store.clone(), sensormesh_commissioning::start(config.commissioning, &mesh, store).await?))
}

async fn rooms(config: Config, mesh: Mesh) -> Result<Started> {
    let store = open(&config, &mesh, sensormesh_rooms::MIGRATIONS).await?;
    Ok(on(store.clone(), sensormesh_rooms::start(config.rooms, &mesh, store).await?))
}

async fn edge(config: Config, mesh: Mesh) -> Result<Started> {
    let mut own = config.edge.clone();
    own.listen = Some(edge_address(&config));
    let store = open(&config, &mesh, sensormesh_edge::MIGRATIONS).await?;
    Ok(on(store.clone(), sensormesh_edge::start(own, &mesh, store).await?))
}

/// Where the edge listens.
pub fn edge_address(config: &Config) -> SocketAddr {
    config.edge.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, config.port_base)))
}
