//! The service in a process of its own making: in-process mesh, databases of its own, `devices` faked by its trait.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt as _;
use prost::Message as _;
use sensormesh_mesh::token::{AUDIENCE, Claims, ISSUER, Jwk, TOKEN_TYPE};
use sensormesh_mesh::{
    Channel, Context, Listeners, LocalRegistry, Mesh, Running, Service, Shutdown, Streaming, Transport, serve,
};
use sensormesh_proto::devices::v1::devices_service_server::DevicesServiceServer;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_telemetry::{Config, Databases};
use sensormesh_testkit::given_up::GivenUp;
use sensormesh_types::{Clock, Error, Result, Role, Scope, time};
use tempfile::TempDir;

use crate::buckets;
use crate::devices::Devices;

pub type Client = TelemetryServiceClient<Channel>;

/// 2026-01-01, nanoseconds: what the tests' clock shows.
pub const NOW: i64 = 1_767_225_600_000_000_000;
pub const SECOND: i64 = 1_000_000_000;

/// Which engine a test runs on. Each database is new.
pub enum Engine {
    Sqlite,
    Postgres(String),
}

pub struct System {
    pub clock: Clock,
    pub devices: Devices,
    pub given_up: GivenUp,
    registry: LocalRegistry,
    edge: Mesh,
    pair: rcgen::KeyPair,
    folder: TempDir,
    database: String,
    config: Config,
    telemetry: Option<(Running, Shutdown)>,
    fake: Option<(Running, Shutdown)>,
}

impl Drop for System {
    fn drop(&mut self) {
        for (_, shutdown) in self.telemetry.iter().chain(&self.fake) {
            shutdown.request();
        }
    }
}

fn part(registry: &LocalRegistry, service: &'static str, clock: &Clock) -> Mesh {
    let mut config = sensormesh_mesh::Config { transport: Transport::Plaintext, dev: true, ..Default::default() };
    config.limits = config.limits.prompt();
    Mesh::beside(registry, config, service, clock.clone()).expect("mesh")
}

/// A user of a test: a token with these claims.
#[derive(Clone)]
pub struct User {
    token: Arc<str>,
    edge: Mesh,
}

impl System {
    pub async fn start(engine: Engine) -> Self {
        Self::with(engine, Config::default()).await
    }

    pub async fn with(engine: Engine, config: Config) -> Self {
        let (registry, clock) = (LocalRegistry::new(), Clock::fixed(NOW / 1000));
        let folder = tempfile::tempdir().expect("directory");
        let database = match engine {
            Engine::Sqlite => url_in(folder.path()),
            Engine::Postgres(url) => url,
        };
        Self::of(registry, clock, folder, database, Devices::default(), config).await
    }

    /// Another replica on the same database, with the same `devices`.
    pub async fn replica(&self) -> Self {
        let folder = tempfile::tempdir().expect("directory");
        let (clock, devices) = (self.clock.clone(), self.devices.clone());
        Self::of(LocalRegistry::new(), clock, folder, self.database.clone(), devices, self.config.clone()).await
    }

    async fn of(
        registry: LocalRegistry,
        clock: Clock,
        folder: TempDir,
        database: String,
        devices: Devices,
        config: Config,
    ) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
        let edge = part(&registry, "edge", &clock);
        let (telemetry, fake) = (None, None);
        let mut system = Self {
            clock,
            devices,
            given_up: GivenUp::default(),
            registry,
            edge,
            pair,
            folder,
            database,
            config,
            telemetry,
            fake,
        };
        system.start_devices().await;
        system.start_telemetry().await;
        system
    }

    /// Stops the service cleanly.
    pub async fn stop(&mut self) {
        let (running, shutdown) = self.telemetry.take().expect("telemetry runs");
        shutdown.request();
        running.stopped().await;
    }

    async fn serve(&self, service: Service, mesh: &Mesh) -> (Running, Shutdown) {
        let point = self.pair.public_key_raw();
        mesh.verifier().update_keys([Jwk {
            kty: "EC".into(),
            crv: "P-256".into(),
            x: URL_SAFE_NO_PAD.encode(&point[1..33]),
            y: Some(URL_SAFE_NO_PAD.encode(&point[33..65])),
            kid: "test".into(),
            alg: "ES256".into(),
        }]);
        mesh.verifier().feeds_itself();
        let shutdown = Shutdown::new();
        let running = serve(service, mesh, Listeners::default(), shutdown.clone()).await.expect("serve");
        (running, shutdown)
    }

    pub async fn start_devices(&mut self) {
        let mesh = part(&self.registry, "devices", &self.clock);
        let service = Service::new("devices").grpc(DevicesServiceServer::new(self.devices.clone()));
        self.fake = Some(self.serve(service, &mesh).await);
    }

    pub async fn stop_devices(&mut self) {
        let (running, shutdown) = self.fake.take().expect("devices run");
        shutdown.request();
        running.stopped().await;
        self.registry.remove("devices");
    }

    async fn start_telemetry(&mut self) {
        let mesh = part(&self.registry, "telemetry", &self.clock);
        let databases = self.databases().await;
        let service = sensormesh_telemetry::start(self.config.clone(), &mesh, databases).await.expect("start");
        let service = service.around(|routes| self.given_up.around(routes));
        self.telemetry = Some(self.serve(service, &mesh).await);
    }

    /// Stops the service cleanly and starts it again on the same databases.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_telemetry().await;
    }

    /// Starts the service again on what is on the disk now, as after a power cut: the files are copied while they are open.
    /// On PostgreSQL, whose server is not ours to kill, it is a clean restart.
    pub async fn crash(&mut self) {
        if self.database.starts_with("postgres") {
            return self.restart().await;
        }
        let copy = self.folder.path().join(format!("copy-{}", sensormesh_types::random::secret()));
        std::fs::create_dir(&copy).expect("folder");
        for file in std::fs::read_dir(self.files()).expect("files").map(|file| file.expect("file").path()) {
            if file.is_file() {
                std::fs::copy(&file, copy.join(file.file_name().expect("name"))).expect("copied");
            }
        }
        self.stop().await;
        self.database = url_in(&copy);
        self.start_telemetry().await;
    }

    /// How many blocks of readings there are.
    pub async fn count_blocks(&self) -> u64 {
        let databases = self.databases().await;
        let mut read = databases.main.read(&Scope::system()).await.expect("read");
        let row = read.query("SELECT COUNT(*) AS n FROM block WHERE level = 0").fetch_one().await.expect("row");
        row.get("n").expect("count")
    }

    /// The service's databases, beside it.
    pub async fn databases(&self) -> Databases {
        let config = sensormesh_store::Config::at(&self.database);
        Databases::open(&config, self.clock.clone()).await.expect("databases")
    }

    /// Stops the service, lets `change` do something to the files of its log, and starts it again. On SQLite.
    pub async fn with_log_files(&mut self, change: impl FnOnce(&[PathBuf])) {
        let (running, shutdown) = self.telemetry.take().expect("telemetry runs");
        shutdown.request();
        running.stopped().await;
        crate::history::settle().await; // until the files are closed
        let files = std::fs::read_dir(self.files()).expect("files").map(|file| file.expect("file").path());
        let of_log =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains("telemetry-log.db"));
        change(&files.filter(of_log).collect::<Vec<_>>());
        self.start_telemetry().await;
    }

    fn files(&self) -> PathBuf {
        let path = self.database.strip_prefix("sqlite:").expect("on SQLite");
        Path::new(path).parent().expect("folder").to_owned()
    }

    /// A user of a tenant, narrowed to sites unless there are none.
    pub fn user(&self, tenant: &str, role: Role, sites: &[&str]) -> User {
        self.named("ada", tenant, role, sites)
    }

    pub fn named(&self, name: &str, tenant: &str, role: Role, sites: &[&str]) -> User {
        let now = self.clock.now_seconds();
        let claims = Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: format!("{tenant}-user"),
            name: name.into(),
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
        let key = jsonwebtoken::EncodingKey::from_ec_pem(self.pair.serialize_pem().as_bytes()).expect("key");
        let token = jsonwebtoken::encode(&header, &claims, &key).expect("token");
        User { token: token.into(), edge: self.edge.clone() }
    }

    pub fn operator(&self) -> User {
        self.user("default", Role::Operator, &[])
    }

    pub fn viewer(&self) -> User {
        self.user("default", Role::Viewer, &[])
    }

    /// The way another service takes.
    pub fn client_of(&self, service: &'static str) -> Client {
        part(&self.registry, service, &self.clock).client_as_service().expect("client")
    }
}

fn url_in(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("{service}.db").display())
}

/// Calls a method as a user: `call!(user.list_readings(request))`.
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

    /// Sends rows.
    pub async fn send(&self, readings: Vec<pb::Reading>) -> Result<pb::IngestReadingsResponse> {
        call!(self.ingest_readings(pb::IngestReadingsRequest { readings, ..Default::default() }))
    }

    /// Every reading of a sensor, over as many pages as it takes.
    pub async fn readings(&self, sensor_id: &str) -> Vec<(i64, f64)> {
        let request = pb::ListReadingsRequest { sensor_id: sensor_id.to_owned(), ..Default::default() };
        self.list(request).await.expect("list").iter().map(plain).collect()
    }

    /// Every page of a list.
    pub async fn list(&self, mut request: pb::ListReadingsRequest) -> Result<Vec<pb::Reading>> {
        let mut readings = Vec::new();
        loop {
            let page = call!(self.list_readings(request.clone()))?;
            readings.extend(page.readings);
            if page.next_page_token.is_empty() {
                return Ok(readings);
            }
            request.page_token = page.next_page_token;
        }
    }

    pub async fn latest(&self) -> Vec<(String, i64, f64)> {
        let latest = call!(self.list_latest_readings(pb::ListLatestReadingsRequest::default())).expect("latest");
        latest.readings.iter().map(|r| (r.sensor_id.clone(), plain(r).0, plain(r).1)).collect()
    }

    /// Every page of the buckets of one sensor, which are the same in rows and in columns.
    pub async fn buckets(&self, request: pb::AggregateReadingsRequest) -> Vec<pb::Bucket> {
        let rows: Vec<_> = self.aggregates(request.clone()).await.into_iter().flat_map(|page| page.buckets).collect();
        let in_columns = self.aggregates(pb::AggregateReadingsRequest { columns: true, ..request.clone() }).await;
        let unrolled: Vec<_> = in_columns.into_iter().flat_map(|page| buckets::unroll(page.columns)).collect();
        // what is sealed in between is added up in another order
        assert!(
            unrolled.len() == rows.len() && unrolled.iter().zip(&rows).all(buckets::alike),
            "{request:?}\n{unrolled:?}\n{rows:?}"
        );
        rows
    }

    async fn aggregates(&self, mut request: pb::AggregateReadingsRequest) -> Vec<pb::SensorAggregates> {
        let mut pages = Vec::new();
        loop {
            let page = call!(self.aggregate_readings(request.clone())).expect("aggregates");
            pages.push(page.sensors[0].clone());
            if page.next_page_token.is_empty() {
                return pages;
            }
            request.page_token = page.next_page_token;
        }
    }

    pub async fn watch(&self, request: pb::WatchReadingsRequest) -> Watch {
        let mut client = self.client();
        Watch(self.act(client.watch_readings(request)).await.expect("watch").into_inner().boxed())
    }

    pub async fn open(&self) -> Ingest {
        let (requests, outgoing) = tokio::sync::mpsc::channel(16);
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let mut client = self.client();
        let answers = self.act(client.ingest_stream(outgoing)).await.expect("stream").into_inner().boxed();
        Ingest { requests, answers }
    }
}

/// A stream of batches in a test.
pub struct Ingest {
    pub requests: tokio::sync::mpsc::Sender<pb::IngestStreamRequest>,
    pub answers: Streaming<pb::IngestStreamResponse>,
}

impl Ingest {
    pub async fn announce(&mut self, sensors: &[&str], backfill: bool) -> Vec<pb::Announced> {
        let sensors = sensors.iter().map(|id| (*id).to_owned()).collect();
        let announce = pb::ingest_stream_request::Message::Announce(pb::Announce { sensors, backfill });
        self.requests.send(pb::IngestStreamRequest { message: Some(announce) }).await.expect("open");
        self.next().await.expect("announced").announced
    }

    /// The numbers of sensors that are all taken.
    pub async fn numbers(&mut self, sensors: &[&str]) -> Vec<u32> {
        let number = |announced: pb::Announced| match announced.outcome {
            Some(pb::announced::Outcome::Series(number)) => number,
            other => panic!("{} was not taken: {other:?}", announced.sensor_id),
        };
        self.announce(sensors, false).await.into_iter().map(number).collect()
    }

    pub async fn send(&self, batch: pb::ReadingBatch) {
        let batch = pb::ingest_stream_request::Message::Batch(batch);
        self.requests.send(pb::IngestStreamRequest { message: Some(batch) }).await.expect("open");
    }

    pub async fn next(&mut self) -> Result<pb::IngestStreamResponse> {
        let next = tokio::time::timeout(Duration::from_secs(30), self.answers.next()).await.expect("in time");
        next.expect("an answer").map_err(Error::from)
    }

    /// Waits until everything up to a batch is acknowledged.
    pub async fn through(&mut self, number: u64) -> Vec<pb::IngestStreamResponse> {
        let mut answers = Vec::new();
        loop {
            let answer = self.next().await.expect("acknowledged");
            let through = answer.through;
            answers.push(answer);
            if through >= number {
                return answers;
            }
        }
    }
}

/// A watch stream in a test.
pub struct Watch(Streaming<pb::WatchReadingsResponse>);

impl Watch {
    /// The next message, or what ended the stream; `None` at a clean end.
    pub async fn message(&mut self) -> Option<Result<pb::WatchReadingsResponse>> {
        let next = tokio::time::timeout(Duration::from_secs(30), self.0.next()).await.expect("in time");
        next.map(|next| next.map_err(Error::from))
    }

    /// The next message that is no bookmark.
    pub async fn next(&mut self) -> pb::WatchReadingsResponse {
        loop {
            let message = self.message().await.expect("open").expect("no error");
            if message.bookmark.is_none() {
                return message;
            }
        }
    }

    /// Everything until the stream says that it is live, and the cursor there.
    pub async fn until_live(&mut self) -> (Vec<pb::WatchReadingsResponse>, String) {
        let mut messages = Vec::new();
        loop {
            let message = self.message().await.expect("open").expect("no error");
            match &message.bookmark {
                Some(bookmark) if bookmark.live => return (messages, message.cursor),
                _ => messages.push(message),
            }
        }
    }
}

pub fn answer<T>(response: Result<tonic::Response<T>, tonic::Status>) -> Result<T> {
    response.map(tonic::Response::into_inner).map_err(Error::from)
}

pub fn reading(sensor_id: &str, nanos: i64, value: f64) -> pb::Reading {
    pb::Reading {
        sensor_id: sensor_id.to_owned(),
        time: Some(time::from_nanos(nanos)),
        value: Some(value),
        ..Default::default()
    }
}

pub fn plain(reading: &pb::Reading) -> (i64, f64) {
    let nanos = time::to_nanos(reading.time.as_ref().expect("time")).expect("in range");
    (nanos, reading.value.expect("value"))
}

/// A group of one series at regular times.
pub fn group(series: u32, start: i64, step: i64, values: &[f64]) -> pb::Group {
    let doubles = pb::channel::Values::Doubles(pb::Doubles { values: values.to_vec() });
    pb::Group {
        start_ns: start,
        tick_ns: step as u64,
        steps: vec![1; values.len() - 1],
        channels: vec![pb::Channel { series, values: Some(doubles), exceptions: Vec::new() }],
    }
}

pub fn batch(number: u64, groups: impl IntoIterator<Item = pb::Group>) -> pb::ReadingBatch {
    let groups = groups.into_iter().map(|group| group.encode_to_vec().into()).collect();
    pb::ReadingBatch { number, batch_id: String::new(), groups }
}

/// The columns of a message.
pub fn groups(message: &pb::WatchReadingsResponse) -> Vec<pb::Group> {
    message.groups.iter().map(|group| pb::Group::decode(&**group).expect("a group")).collect()
}

/// Polls until it is so.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let began = tokio::time::Instant::now();
    while !so().await {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
