//! The service in a process of its own making: in-process mesh, a database of its own, fakes around it, users of the test's
//! own.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sensormesh_mesh::token::{AUDIENCE, Claims, ISSUER, Jwk, TOKEN_TYPE};
use sensormesh_mesh::{
    Channel, Context, Listeners, LocalRegistry, Mesh, Running, ServerLimits, Service, Shutdown, Transport, serve,
};
use sensormesh_proto::devices::v1::devices_service_server::DevicesServiceServer;
use sensormesh_proto::rooms::v1 as proto;
use sensormesh_proto::rooms::v1::rooms_service_client::RoomsServiceClient;
use sensormesh_proto::telemetry::v1::telemetry_service_server::TelemetryServiceServer;
use sensormesh_rooms::{Config, MIGRATIONS};
use sensormesh_store::Store;
use sensormesh_testkit::given_up::GivenUp;
use sensormesh_types::{AuditQuery, AuditRecord, Clock, Error, Result, Role, Scope};
use tempfile::TempDir;

use crate::fakes::{FakeDevices, FakeTelemetry};

pub type Client = RoomsServiceClient<Channel>;

/// The moment at which every test begins, seconds since the Unix epoch: 2026-01-01.
pub const START: i64 = 1_767_225_600;
/// Nanoseconds in a second.
pub const SECOND: i64 = 1_000_000_000;

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
    rooms: Option<(Shutdown, Running)>,
    _fakes: Vec<Running>,
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
        let store = Store::open("rooms", &config, MIGRATIONS, self.clock.clone()).await.expect("store");
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
            Engine::Sqlite => format!("sqlite:{}", dir.path().join("rooms.db").display()),
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
            rooms: None,
            _fakes: fakes,
            _dir: dir,
            stop,
        };
        system.start_rooms().await;
        system
    }

    pub async fn start_rooms(&mut self) {
        let config = sensormesh_store::Config::at(&self.url);
        let store = Store::open("rooms", &config, MIGRATIONS, self.clock.clone()).await.expect("store");
        let mesh = part(&self.registry, "rooms", &self.clock, &self.key);
        let service = sensormesh_rooms::start(self.config.clone(), &mesh, store).await.expect("start");
        let service = service.around(|routes| self.given_up.around(routes));
        let shutdown = self.stop.child();
        let running = serve(service, &mesh, Listeners::default(), shutdown.clone()).await.expect("serve");
        self.rooms = Some((shutdown, running));
    }

    pub async fn stop_rooms(&mut self) {
        let (shutdown, running) = self.rooms.take().expect("it runs");
        shutdown.request();
        running.stopped().await;
    }

    pub async fn restart_rooms(&mut self) {
        self.stop_rooms().await;
        self.start_rooms().await;
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

    /// Adds a reading of the default tenant, so many seconds after the start.
    pub fn read(&self, sensor: &str, seconds: i64, value: f64) {
        self.telemetry.add("default", sensor, (START + seconds) * SECOND, value);
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

/// Calls a method as a user: `call!(user.get_place(request))`.
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

    pub async fn create_place(&self, kind: proto::PlaceKind, id: &str, parent: &str) -> Result<proto::Place> {
        let place = proto::Place { name: id.to_uppercase(), ..place(kind, id, parent) };
        let request = proto::CreatePlaceRequest { place: Some(place), request_id: String::new() };
        call!(self.create_place(request)).map(|response| response.place.expect("place"))
    }

    pub async fn create_room(&self, id: &str) -> proto::Place {
        self.create_place(proto::PlaceKind::Room, id, "").await.expect("a room")
    }

    pub async fn place(&self, sensor: &str, room: &str, metric: &str) -> Result<proto::Placement> {
        self.place_since(sensor, room, metric, None).await
    }

    pub async fn place_since(
        &self,
        sensor: &str,
        room: &str,
        metric: &str,
        start_time: Option<prost_types::Timestamp>,
    ) -> Result<proto::Placement> {
        let placement = proto::Placement {
            sensor_id: sensor.to_owned(),
            room_id: room.to_owned(),
            metric: metric.to_owned(),
            start_time,
            end_time: None,
        };
        let request = proto::CreatePlacementRequest { placement: Some(placement), request_id: String::new() };
        call!(self.create_placement(request)).map(|response| response.placement.expect("placement"))
    }

    pub async fn metrics(&self, room: &str) -> Result<proto::GetRoomMetricsResponse> {
        call!(self.get_room_metrics(proto::GetRoomMetricsRequest { room_id: room.to_owned() }))
    }

    /// The placements of a sensor as `room/metric from-to`, seconds after the start.
    pub async fn placements(&self, sensor: &str) -> Vec<String> {
        let request =
            proto::ListPlacementsRequest { sensor_id: sensor.to_owned(), include_ended: true, ..Default::default() };
        let since = |time: Option<prost_types::Timestamp>| time.map(|time| (time.seconds - START).to_string());
        let listed = call!(self.list_placements(request)).expect("list").placements;
        let mut listed: Vec<_> = listed.into_iter().map(|p| (p.start_time.map(|time| time.seconds), p)).collect();
        listed.sort_by_key(|(start, _)| *start);
        let short = |p: proto::Placement| {
            let (from, to) = (since(p.start_time).unwrap_or_default(), since(p.end_time).unwrap_or_default());
            format!("{}/{} {from}-{to}", p.room_id, p.metric)
        };
        listed.into_iter().map(|(_, placement)| short(placement)).collect()
    }

    pub async fn unplaced(&self) -> Vec<String> {
        let listed = call!(self.list_unplaced_sensors(proto::ListUnplacedSensorsRequest::default())).expect("list");
        listed.sensors.into_iter().map(|sensor| sensor.sensor_id).collect()
    }
}

pub fn place(kind: proto::PlaceKind, id: &str, parent: &str) -> proto::Place {
    proto::Place {
        place_id: id.to_owned(),
        kind: kind as i32,
        name: String::new(),
        parent_id: parent.to_owned(),
        ..Default::default()
    }
}

pub fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    (!paths.is_empty()).then(|| prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
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
