//! The service in a process of its own making: in-process mesh, a database of its own, users of the test's own.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt as _;
use sensormesh_devices::{Config, MIGRATIONS};
use sensormesh_mesh::token::{AUDIENCE, Claims, ISSUER, Jwk, TOKEN_TYPE};
use sensormesh_mesh::{
    Channel, Context, Listeners, LocalRegistry, Mesh, Running, Shutdown, Streaming, Transport, serve,
};
use sensormesh_proto::devices::v1 as proto;
use sensormesh_proto::devices::v1::credentials_service_client::CredentialsServiceClient;
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::devices::v1::watch_devices_response::Event;
use sensormesh_store::Store;
use sensormesh_testkit::given_up::GivenUp;
use sensormesh_types::{Clock, Error, Result, Role};
use tempfile::TempDir;

pub type Client = DevicesServiceClient<Channel>;
pub type Credentials = CredentialsServiceClient<Channel>;

/// Which engine a test runs on. Each database is new.
pub enum Engine {
    Sqlite,
    Postgres(String),
}

pub struct System {
    pub clock: Clock,
    pub given_up: GivenUp,
    pub store: Store,
    registry: LocalRegistry,
    edge: Mesh,
    private: jsonwebtoken::EncodingKey,
    _dir: TempDir,
    _running: Running,
    _stop: StopOnDrop,
}

struct StopOnDrop(Shutdown);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.request();
    }
}

fn part(registry: &LocalRegistry, service: &'static str, clock: &Clock) -> Mesh {
    let config = sensormesh_mesh::Config { transport: Transport::Plaintext, dev: true, ..Default::default() };
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
        let (registry, clock) = (LocalRegistry::new(), Clock::fixed(1_767_225_600_000_000));
        let dir = tempfile::tempdir().expect("directory");
        let url = match engine {
            Engine::Sqlite => format!("sqlite:{}", dir.path().join("devices.db").display()),
            Engine::Postgres(url) => url,
        };
        let store = Store::open("devices", &sensormesh_store::Config::at(url), MIGRATIONS, clock.clone()).await;
        let (store, given_up) = (store.expect("store"), GivenUp::default());
        let mesh = part(&registry, "devices", &clock);
        let service = sensormesh_devices::start(Config::default(), &mesh, store.clone()).await.expect("start");
        let service = service.around(|routes| given_up.around(routes));
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
        let point = pair.public_key_raw();
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
        let running = serve(service, &mesh, Listeners::default(), shutdown.clone()).await.expect("serve");
        let private = jsonwebtoken::EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("key");
        let edge = part(&registry, "edge", &clock);
        Self {
            clock,
            given_up,
            store,
            registry,
            edge,
            private,
            _dir: dir,
            _running: running,
            _stop: StopOnDrop(shutdown),
        }
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
        let token = jsonwebtoken::encode(&header, &claims, &self.private).expect("token");
        User { token: token.into(), edge: self.edge.clone() }
    }

    pub fn operator(&self) -> User {
        self.user("default", Role::Operator, &[])
    }

    /// The way another service takes.
    pub fn client_of(&self, service: &'static str) -> Client {
        part(&self.registry, service, &self.clock).client_as_service().expect("client")
    }

    /// The same way to credentials.
    pub fn credentials_of(&self, service: &'static str) -> Credentials {
        part(&self.registry, service, &self.clock).client_as_service().expect("client")
    }

    /// The way of somebody outside who is nobody.
    pub fn edge_credentials(&self) -> Credentials {
        self.edge.client().expect("client")
    }

    pub async fn watch_as_service(&self, cursor: &str) -> Watch {
        let request = proto::WatchDevicesRequest { cursor: cursor.to_owned() };
        Watch(self.client_of("telemetry").watch_devices(request).await.expect("watch").into_inner().boxed())
    }
}

/// Calls a method as a user: `call!(user.get_device(request))`.
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

    pub fn credentials(&self) -> Credentials {
        self.edge.client().expect("client")
    }

    pub async fn act<F: Future>(&self, call: F) -> F::Output {
        let context = Context { authorization: Some(format!("Bearer {}", self.token)), ..Context::default() };
        Context::scope(context, call).await
    }

    pub async fn create_sensor(&self, sensor: proto::Sensor) -> Result<proto::Sensor> {
        let request = proto::CreateSensorRequest { sensor: Some(sensor), request_id: String::new() };
        call!(self.create_sensor(request)).map(|response| response.sensor.expect("sensor"))
    }

    pub async fn create_device(&self, device: proto::Device) -> Result<proto::Device> {
        let request = proto::CreateDeviceRequest { device: Some(device), request_id: String::new() };
        call!(self.create_device(request)).map(|response| response.device.expect("device"))
    }

    pub async fn update_sensor(&self, sensor: proto::Sensor, paths: &[&str]) -> Result<proto::Sensor> {
        let request = proto::UpdateSensorRequest { sensor: Some(sensor), update_mask: mask(paths) };
        call!(self.update_sensor(request)).map(|response| response.sensor.expect("sensor"))
    }

    pub async fn update_device(&self, device: proto::Device, paths: &[&str]) -> Result<proto::Device> {
        let request = proto::UpdateDeviceRequest { device: Some(device), update_mask: mask(paths) };
        call!(self.update_device(request)).map(|response| response.device.expect("device"))
    }

    pub async fn sensor(&self, sensor_id: &str) -> Result<proto::Sensor> {
        let request = proto::GetSensorRequest { sensor_id: sensor_id.to_owned() };
        call!(self.get_sensor(request)).map(|response| response.sensor.expect("sensor"))
    }

    pub async fn device(&self, device_id: &str) -> Result<proto::Device> {
        let request = proto::GetDeviceRequest { device_id: device_id.to_owned() };
        call!(self.get_device(request)).map(|response| response.device.expect("device"))
    }

    pub async fn sensor_ids(&self) -> Vec<String> {
        let listed = call!(self.list_sensors(proto::ListSensorsRequest::default())).expect("list");
        listed.sensors.into_iter().map(|sensor| sensor.sensor_id).collect()
    }

    pub async fn watch(&self, cursor: &str) -> Watch {
        let request = proto::WatchDevicesRequest { cursor: cursor.to_owned() };
        let mut client = self.client();
        Watch(self.act(client.watch_devices(request)).await.expect("watch").into_inner().boxed())
    }
}

/// A watch stream that is read in a test.
pub struct Watch(Streaming<proto::WatchDevicesResponse>);

impl Watch {
    /// The next message that is no bookmark.
    pub async fn next(&mut self) -> proto::WatchDevicesResponse {
        loop {
            let message = self.message().await.expect("open");
            if !matches!(message.event, Some(Event::Bookmark(_))) {
                return message;
            }
        }
    }

    /// The next message, or what ended the stream.
    pub async fn message(&mut self) -> Result<proto::WatchDevicesResponse> {
        let next = tokio::time::timeout(Duration::from_secs(20), self.0.next()).await.expect("in time");
        next.expect("an end is an error here").map_err(Error::from)
    }

    /// Everything until the stream says that it is live, and the cursor there.
    pub async fn until_live(&mut self) -> (Vec<proto::WatchDevicesResponse>, String) {
        let mut messages = Vec::new();
        loop {
            let message = self.message().await.expect("open");
            match &message.event {
                Some(Event::Bookmark(bookmark)) if bookmark.live => return (messages, message.cursor),
                Some(Event::Bookmark(_)) => {}
                _ => messages.push(message),
            }
        }
    }
}

pub fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    (!paths.is_empty()).then(|| prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

pub fn answer<T>(response: Result<tonic::Response<T>, tonic::Status>) -> Result<T> {
    response.map(tonic::Response::into_inner).map_err(Error::from)
}

pub fn sensor(sensor_id: &str) -> proto::Sensor {
    proto::Sensor { sensor_id: sensor_id.to_owned(), ..Default::default() }
}

pub fn device(device_id: &str) -> proto::Device {
    proto::Device { device_id: device_id.to_owned(), ..Default::default() }
}
