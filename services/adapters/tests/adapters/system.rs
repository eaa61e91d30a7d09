//! The service in a process of its own making: in-process mesh, a database of its own, fakes around it, users of the test's
//! own.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sensormesh_adapters::{Config, MIGRATIONS};
use sensormesh_mesh::token::{AUDIENCE, Claims, ISSUER, Jwk, TOKEN_TYPE};
use sensormesh_mesh::{
    Channel, Context, Listeners, LocalRegistry, Mesh, Running, ServerLimits, Service, Shutdown, Transport, serve,
};
use sensormesh_proto::adapters::v1 as proto;
use sensormesh_proto::adapters::v1::adapters_service_client::AdaptersServiceClient;
use sensormesh_proto::devices::v1::devices_service_server::DevicesServiceServer;
use sensormesh_proto::telemetry::v1::telemetry_service_server::TelemetryServiceServer;
use sensormesh_store::Store;
use sensormesh_testkit::given_up::GivenUp;
use sensormesh_types::{AuditQuery, AuditRecord, Clock, Error, Result, Role, Scope, time};
use tempfile::TempDir;

use crate::fakes::{FakeDevices, FakeTelemetry};

/// Which engine a test runs on. Each database is new.
pub enum Engine {
    Sqlite,
    Postgres(String),
}

pub struct System {
    pub telemetry: FakeTelemetry,
    pub devices: FakeDevices,
    config: Config,
    clock: Clock,
    pub given_up: GivenUp,
    registry: LocalRegistry,
    edge: Mesh,
    key: rcgen::KeyPair,
    url: String,
    adapters: Option<(Shutdown, Running)>,
    _fakes: Vec<Running>,
    _dir: TempDir,
    stop: Shutdown,
}

impl Drop for System {
    fn drop(&mut self) {
        self.stop.request();
    }
}

/// The settings of most tests: the host, read as often as it can be.
pub fn host() -> Config {
    Config { host: true, host_interval: Duration::from_secs(1), ..Config::default() }
}

impl System {
    /// What its log has of the tenant `default`.
    pub async fn log(&self) -> Vec<AuditRecord> {
        let config = sensormesh_store::Config::at(&self.url);
        let store = Store::open("adapters", &config, MIGRATIONS, self.clock.clone()).await.expect("store");
        store
            .list_audit(&Scope::tenant_of("default"), &AuditQuery { limit: 10_000, ..Default::default() })
            .await
            .expect("the log")
    }

    /// A system that is not started yet.
    pub async fn new(engine: Engine, config: Config) -> Self {
        let (registry, clock) = (LocalRegistry::new(), Clock::ahead(0));
        let dir = tempfile::tempdir().expect("directory");
        let url = match engine {
            Engine::Sqlite => format!("sqlite:{}", dir.path().join("adapters.db").display()),
            Engine::Postgres(url) => url,
        };
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
        let edge = part(&registry, "edge", &clock, &key);
        let (telemetry, devices) = (FakeTelemetry::default(), FakeDevices::default());
        let stop = Shutdown::new();
        let mut fakes = Vec::new();
        for service in [
            Service::new("telemetry").grpc(TelemetryServiceServer::new(telemetry.clone())),
            Service::new("devices").grpc(DevicesServiceServer::new(devices.clone())),
        ] {
            let mesh = part(&registry, service.name, &clock, &key);
            fakes.push(serve(service, &mesh, Listeners::default(), stop.clone()).await.expect("serve"));
        }
        Self {
            telemetry,
            devices,
            config,
            given_up: GivenUp::default(),
            clock,
            registry,
            edge,
            key,
            url,
            adapters: None,
            _fakes: fakes,
            _dir: dir,
            stop,
        }
    }

    pub async fn started(engine: Engine, config: Config) -> Self {
        let mut system = Self::new(engine, config).await;
        system.start().await;
        system
    }

    pub async fn start(&mut self) {
        let config = sensormesh_store::Config::at(&self.url);
        let store = Store::open("adapters", &config, MIGRATIONS, self.clock.clone()).await.expect("store");
        let mesh = part(&self.registry, "adapters", &self.clock, &self.key);
        let service = sensormesh_adapters::start(self.config.clone(), &mesh, store).await.expect("start");
        let service = service.around(|routes| self.given_up.around(routes));
        let shutdown = self.stop.child();
        let running = serve(service, &mesh, Listeners::default(), shutdown.clone()).await.expect("serve");
        self.adapters = Some((shutdown, running));
    }

    pub async fn stop(&mut self) {
        let (shutdown, running) = self.adapters.take().expect("it runs");
        shutdown.request();
        running.stopped().await;
    }

    /// Lets time pass on everybody's clock.
    pub fn ahead(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// A client that calls as a user.
    pub fn user(&self, role: Role) -> User {
        let now = self.clock.now_seconds();
        let claims = Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: "u".into(),
            name: "ada".into(),
            role,
            tenant: "default".into(),
            sites: Vec::new(),
            sid: "s".into(),
            jti: "j".into(),
            iat: now,
            exp: now + 600,
        };
        let header = jsonwebtoken::Header {
            typ: Some(TOKEN_TYPE.into()),
            kid: Some("test".into()),
            ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
        };
        let private = jsonwebtoken::EncodingKey::from_ec_pem(self.key.serialize_pem().as_bytes()).expect("key");
        let token = jsonwebtoken::encode(&header, &claims, &private).expect("token");
        User { token: token.into(), client: self.edge.client().expect("client") }
    }
}

fn part(registry: &LocalRegistry, service: &'static str, clock: &Clock, key: &rcgen::KeyPair) -> Mesh {
    let mut config = sensormesh_mesh::Config { transport: Transport::Plaintext, dev: true, ..Default::default() };
    config.limits = ServerLimits::mesh().prompt();
    let mesh = Mesh::beside(registry, config, service, clock.clone()).expect("mesh");
    let point = key.public_key_raw();
    mesh.verifier().update_keys([Jwk {
        kty: "EC".into(),
        crv: "P-256".into(),
        x: URL_SAFE_NO_PAD.encode(&point[1..33]),
        y: Some(URL_SAFE_NO_PAD.encode(&point[33..65])),
        kid: "test".into(),
        alg: "ES256".into(),
    }]);
    mesh.verifier().feeds_itself();
    mesh
}

/// A user of a test.
#[derive(Clone)]
pub struct User {
    token: Arc<str>,
    client: AdaptersServiceClient<Channel>,
}

impl User {
    async fn act<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T> {
        let context = Context { authorization: Some(format!("Bearer {}", self.token)), ..Context::default() };
        Context::scope(context, call).await.map(tonic::Response::into_inner).map_err(Error::from)
    }

    pub async fn connections(&self) -> Vec<proto::Connection> {
        let mut client = self.client.clone();
        self.act(client.list_connections(proto::ListConnectionsRequest::default())).await.expect("list").connections
    }

    pub async fn host(&self) -> proto::Connection {
        let mut client = self.client.clone();
        let request = proto::GetConnectionRequest { connection_id: "host".into() };
        self.act(client.get_connection(request)).await.expect("get").connection.expect("a connection")
    }

    pub async fn set(&self, enabled: bool, seconds: u64, paths: &[&str]) -> Result<proto::Connection> {
        let mut client = self.client.clone();
        let connection = proto::Connection {
            connection_id: "host".into(),
            enabled,
            interval: Some(time::from_duration(Duration::from_secs(seconds))),
            ..Default::default()
        };
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = (!paths.is_empty()).then_some(prost_types::FieldMask { paths });
        let request = proto::UpdateConnectionRequest { connection: Some(connection), update_mask };
        Ok(self.act(client.update_connection(request)).await?.connection.expect("a connection"))
    }
}

/// Waits until something is so; fails the test when it is not within 30 s.
pub async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !so().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
