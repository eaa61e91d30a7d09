//! The service in a process of its own making: in-process mesh, a database of its own, fakes around it, users of the test's
//! own.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sensormesh_commissioning::{Config, MIGRATIONS};
use sensormesh_mesh::token::{AUDIENCE, Claims, ISSUER, Jwk, TOKEN_TYPE};
use sensormesh_mesh::{
    Channel, Context, Listeners, LocalRegistry, Mesh, Running, ServerLimits, Service, Shutdown, Transport, serve,
};
use sensormesh_proto::commissioning::v1 as proto;
use sensormesh_proto::commissioning::v1::commissioning_service_client::CommissioningServiceClient;
use sensormesh_proto::devices::v1 as devices;
use sensormesh_proto::devices::v1::devices_service_server::DevicesServiceServer;
use sensormesh_proto::devices::v1::watch_devices_response::Event;
use sensormesh_proto::telemetry::v1::telemetry_service_server::TelemetryServiceServer;
use sensormesh_store::Store;
use sensormesh_testkit::given_up::GivenUp;
use sensormesh_types::{AuditQuery, AuditRecord, Clock, Error, Result, Role, Scope};
use tempfile::TempDir;

use crate::fakes::{FakeDevices, FakeTelemetry};

pub type Client = CommissioningServiceClient<Channel>;

/// The moment at which every scenario begins, seconds since the Unix epoch: 2026-01-01.
pub const START: i64 = 1_767_225_600;

/// Which engine a test runs on. Each database is new.
pub enum Engine {
    Sqlite,
    Postgres(String),
}

pub struct System {
    pub clock: Clock,
    pub telemetry: FakeTelemetry,
    pub devices: FakeDevices,
    pub config: Config,
    pub given_up: GivenUp,
    registry: LocalRegistry,
    edge: Mesh,
    key: rcgen::KeyPair,
    url: String,
    running: Option<(Shutdown, Running)>,
    fakes: Vec<Running>,
    _dir: TempDir,
    stop: Shutdown,
}

impl Drop for System {
    fn drop(&mut self) {
        self.stop.request();
    }
}

/// A user of a test: a token with these claims.
#[derive(Clone)]
pub struct User {
    token: Arc<str>,
    edge: Mesh,
}

impl System {
    /// What its log has of the tenant `default`.
    pub async fn log(&self) -> Vec<AuditRecord> {
        let config = sensormesh_store::Config::at(&self.url);
        let store = Store::open("commissioning", &config, MIGRATIONS, self.clock.clone()).await.expect("store");
        store
            .list_audit(&Scope::tenant_of("default"), &AuditQuery { limit: 10_000, ..Default::default() })
            .await
            .expect("the log")
    }

    pub async fn start(engine: Engine) -> Self {
        Self::with(engine, Config::default()).await
    }

    pub async fn with(engine: Engine, config: Config) -> Self {
        let (registry, clock) = (LocalRegistry::new(), Clock::fixed(START * 1_000_000));
        let dir = tempfile::tempdir().expect("directory");
        let url = match engine {
            Engine::Sqlite => format!("sqlite:{}", dir.path().join("commissioning.db").display()),
            Engine::Postgres(url) => url,
        };
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
        let edge = part(&registry, "edge", &clock, &key);
        let (telemetry, devices) = (FakeTelemetry::default(), FakeDevices::default());
        let stop = Shutdown::new();
        let mut fakes = Vec::new();
        for service in peers(&telemetry, &devices) {
            let mesh = part(&registry, service.name, &clock, &key);
            fakes.push(serve(service, &mesh, Listeners::default(), stop.clone()).await.expect("serve"));
        }
        let mut system = Self {
            clock,
            telemetry,
            devices,
            config,
            given_up: GivenUp::default(),
            registry,
            edge,
            key,
            url,
            running: None,
            fakes,
            _dir: dir,
            stop,
        };
        system.begin().await;
        system
    }

    pub async fn begin(&mut self) {
        self.running = Some(self.serve(&self.registry).await);
    }

    async fn serve(&self, registry: &LocalRegistry) -> (Shutdown, Running) {
        let config = sensormesh_store::Config::at(&self.url);
        let store = Store::open("commissioning", &config, MIGRATIONS, self.clock.clone()).await.expect("store");
        let mesh = part(registry, "commissioning", &self.clock, &self.key);
        let service = sensormesh_commissioning::start(self.config.clone(), &mesh, store).await.expect("start");
        let service = service.around(|routes| self.given_up.around(routes));
        let shutdown = self.stop.child();
        let running = serve(service, &mesh, Listeners::default(), shutdown.clone()).await.expect("serve");
        (shutdown, running)
    }

    /// Starts another replica on the same database, which nobody calls.
    pub async fn replica(&mut self) -> (Shutdown, Running) {
        let registry = LocalRegistry::new();
        for service in peers(&self.telemetry, &self.devices) {
            let mesh = part(&registry, service.name, &self.clock, &self.key);
            self.fakes.push(serve(service, &mesh, Listeners::default(), self.stop.clone()).await.expect("serve"));
        }
        self.serve(&registry).await
    }

    pub async fn end(&mut self) {
        let (shutdown, running) = self.running.take().expect("it runs");
        shutdown.request();
        running.stopped().await;
    }

    pub async fn restart(&mut self) {
        self.end().await;
        self.begin().await;
    }

    /// A user of a tenant, narrowed to sites unless there are none.
    pub fn user(&self, tenant: &str, role: Role, sites: &[&str]) -> User {
        let now = self.clock.now_seconds();
        let claims = Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: format!("{tenant}-user"),
            name: "ada".into(),
            role,
            tenant: tenant.to_owned(),
            sites: sites.iter().map(|site| (*site).to_owned()).collect(),
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
        User { token: token.into(), edge: self.edge.clone() }
    }

    pub fn operator(&self) -> User {
        self.user("default", Role::Operator, &[])
    }

    /// Adds a reading of the default tenant, measured now.
    pub fn read(&self, sensor: &str, value: f64) {
        self.telemetry.add("default", sensor, self.clock.now_nanos(), value);
    }

    /// So many readings, as [`Self::read_well`] makes them, each few of them heard before the next.
    pub async fn feed(&self, user: &User, id: &str, sensor: &str, count: u32) {
        let readings = || async { user.test(id).await.expect("a test").sensors.swap_remove(0).readings };
        let before = readings().await;
        let mut fed = 0;
        while fed < count {
            let few = (count - fed).min(5);
            self.read_well(sensor, few);
            fed += few;
            user.counts(id, before + u64::from(fed)).await;
        }
    }

    /// So many readings, one a second, a little up and down; the clock moves with them.
    pub fn read_well(&self, sensor: &str, count: u32) {
        for i in 0..count {
            self.clock.advance(Duration::from_secs(1));
            self.read(sensor, 21.0 + f64::from(i % 3) * 0.1);
        }
    }

    /// Registers a sensor and waits until it was heard of.
    pub async fn register(&self, tenant: &str, sensor: devices::Sensor) {
        let id = sensor.sensor_id.clone();
        self.devices.tell(tenant, Event::Sensor(sensor));
        let user = self.user(tenant, Role::Operator, &[]);
        // a test of nothing, unless the sensor is not known
        let probe = || proto::StartTestRequest {
            sensor_ids: vec![id.clone()],
            sensor_type: "nothing.like.this".into(),
            ..Default::default()
        };
        until(&id, || async { user.start(probe()).await.is_ok() }).await;
    }
}

fn peers(telemetry: &FakeTelemetry, devices: &FakeDevices) -> [Service; 2] {
    [
        Service::new("telemetry").grpc(TelemetryServiceServer::new(telemetry.clone())),
        Service::new("devices").grpc(DevicesServiceServer::new(devices.clone())),
    ]
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

/// Calls a method as a user: `call!(user.get_test(request))`.
macro_rules! call {
    ($user:ident.$method:ident($request:expr)) => {{
        let user = $user.clone();
        let mut client = user.client();
        crate::system::answer(user.act(client.$method($request)).await)
    }};
}
pub(crate) use call;

impl User {
    pub fn client(&self) -> Client {
        self.edge.client().expect("client")
    }

    pub async fn act<F: Future>(&self, call: F) -> F::Output {
        let context = Context { authorization: Some(format!("Bearer {}", self.token)), ..Context::default() };
        Context::scope(context, call).await
    }

    pub async fn start(&self, request: proto::StartTestRequest) -> Result<proto::Test> {
        call!(self.start_test(request)).map(|response| response.test.expect("test"))
    }

    /// Starts a test of a type and returns its id.
    pub async fn start_type(&self, sensor_type: &str) -> String {
        self.start(of_type(sensor_type)).await.expect("started").test_id
    }

    pub async fn test(&self, id: &str) -> Result<proto::Test> {
        call!(self.get_test(proto::GetTestRequest { test_id: id.to_owned() }))
            .map(|response| response.test.expect("test"))
    }

    pub async fn cancel(&self, id: &str) -> Result<proto::Test> {
        call!(self.cancel_test(proto::CancelTestRequest { test_id: id.to_owned() }))
            .map(|response| response.test.expect("test"))
    }

    pub async fn tests(&self, request: proto::ListTestsRequest) -> Vec<String> {
        let listed = call!(self.list_tests(request)).expect("list").tests;
        listed.into_iter().map(|test| test.test_id).collect()
    }

    /// The test once it is in this state.
    pub async fn reaches(&self, id: &str, state: proto::TestState) -> proto::Test {
        let what = format!("{state:?}");
        until(&what, || async { self.test(id).await.expect("a test").state() == state }).await;
        self.test(id).await.expect("a test")
    }

    /// The first sensor of a test once it has so many readings.
    pub async fn counts(&self, id: &str, readings: u64) -> proto::TestedSensor {
        let first = || async { self.test(id).await.expect("a test").sensors.swap_remove(0) };
        until(&format!("{readings} readings"), || async { first().await.readings >= readings }).await;
        first().await
    }
}

pub fn of_type(sensor_type: &str) -> proto::StartTestRequest {
    proto::StartTestRequest { sensor_type: sensor_type.to_owned(), ..Default::default() }
}

pub fn answer<T>(response: Result<tonic::Response<T>, tonic::Status>) -> Result<T> {
    response.map(tonic::Response::into_inner).map_err(Error::from)
}

/// Waits until something is so; fails the test when it is not within 20 s.
pub async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !so().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
