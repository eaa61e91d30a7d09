//! An edge on a port of its own, with services behind it in the same process.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt as _};
use http::HeaderMap;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use sensormesh_edge::contract::Contract;
use sensormesh_edge::{Config, Rate, prepare};
use sensormesh_mesh::token::Jwk;
use sensormesh_mesh::{
    Claims, Listeners, LocalRegistry, Mesh, Running, ServerLimits, Service, Shutdown, Transport, serve, stream,
};
use sensormesh_proto::auth::v1 as auth;
use sensormesh_proto::google;
use sensormesh_proto::rooms::v1 as rooms;
use sensormesh_proto::telemetry::v1 as telemetry;
use sensormesh_proto::{Validate, ValidatingCodec};
use sensormesh_types::{Clock, Error, Role};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};

/// What the services received.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<(String, HeaderMap, String)>>>);

impl Seen {
    fn note(&self, path: &str, headers: &HeaderMap, message: &impl std::fmt::Debug) {
        self.0.lock().push((path.to_owned(), headers.clone(), format!("{message:?}")));
    }

    /// How many calls came.
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// The headers of the last call.
    pub fn headers(&self) -> HeaderMap {
        self.0.lock().last().expect("a call").1.clone()
    }

    /// The message of the last call.
    pub fn message(&self) -> String {
        self.0.lock().last().expect("a call").2.clone()
    }
}

/// A service that answers some of its methods.
macro_rules! fake {
    ($name:ident, $full:literal, { $($method:literal => $kind:ident $handler:path),* $(,)? }) => {
        /// A service that does as a test's request says.
        #[derive(Clone)]
        pub struct $name(pub Seen);

        impl NamedService for $name {
            const NAME: &'static str = $full;
        }

        impl tower::Service<http::Request<Body>> for $name {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

            fn poll_ready(&mut self, _: &mut Poller<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<Body>) -> Self::Future {
                let seen = self.0.clone();
                Box::pin(async move {
                    let path = request.uri().path().to_owned();
                    Ok(match path.rsplit('/').next() {
                        $(Some($method) => $kind(seen, request, $handler).await,)*
                        _ => Status::unimplemented("not here").into_http(),
                    })
                })
            }
        }
    };
}

async fn unary<I, O>(
    seen: Seen,
    request: http::Request<Body>,
    handler: fn(&I) -> Result<O, Error>,
) -> http::Response<Body>
where
    I: prost::Message + std::fmt::Debug + Default + Validate + 'static,
    O: prost::Message + Default + Validate + 'static,
{
    let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
    let service = tower::service_fn(move |request: Request<I>| {
        seen.note(&path, &headers, request.get_ref());
        let answer = handler(request.get_ref());
        async move { Ok::<_, Status>(Response::new(answer?)) }
    });
    Grpc::new(ValidatingCodec::<O, I>::default()).unary(service, request).await
}

async fn streamed<I, O, S>(seen: Seen, request: http::Request<Body>, handler: fn(&I) -> S) -> http::Response<Body>
where
    I: prost::Message + std::fmt::Debug + Default + Validate + 'static,
    O: prost::Message + Default + Validate + 'static,
    S: Stream<Item = Result<O, Error>> + Send + 'static,
{
    let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
    let service = tower::service_fn(move |request: Request<I>| {
        seen.note(&path, &headers, request.get_ref());
        let answer = handler(request.get_ref());
        async move { Ok::<_, Status>(Response::new(stream(answer))) }
    });
    Grpc::new(ValidatingCodec::<O, I>::default()).server_streaming(service, request).await
}

fake!(Rooms, "sensormesh.rooms.v1.RoomsService", {
    "GetPlace" => unary get_place,
    "UpdatePlace" => unary update_place,
    "ListPlaces" => unary list_places,
    "GetRoomMetrics" => unary get_room_metrics,
});

fake!(Telemetry, "sensormesh.telemetry.v1.TelemetryService", {
    "IngestReadings" => unary ingest_readings,
    "IngestReading" => unary ingest_reading,
    "ListReadings" => unary list_readings,
    "ExportReadings" => streamed export_readings,
    "WatchReadings" => streamed watch_readings,
});

fake!(Auth, "sensormesh.auth.v1.AuthService", {
    "CreateToken" => unary create_token,
});

fn get_place(request: &rooms::GetPlaceRequest) -> Result<rooms::GetPlaceResponse, Error> {
    match request.place_id.as_str() {
        "missing" => Err(Error::not_found("place", "missing")),
        "down" => Err(Error::unavailable("DOWN", "down for a moment", Duration::from_millis(2500))),
        "broken" => Err(Error::internal("SELECT secret")),
        id => {
            let place = rooms::Place { place_id: id.to_owned(), kind: 4, ..Default::default() };
            Ok(rooms::GetPlaceResponse { place: Some(place) })
        }
    }
}

fn update_place(request: &rooms::UpdatePlaceRequest) -> Result<rooms::UpdatePlaceResponse, Error> {
    let mut place = request.place.clone().unwrap_or_default();
    place.parent_id = request.update_mask.as_ref().map(|mask| mask.paths.join("+")).unwrap_or_default();
    Ok(rooms::UpdatePlaceResponse { place: Some(place) })
}

fn list_places(request: &rooms::ListPlacesRequest) -> Result<rooms::ListPlacesResponse, Error> {
    let next_page_token = format!("{}/{}/{}", request.ancestor_id, request.page_size, request.page_token);
    Ok(rooms::ListPlacesResponse { places: vec![], next_page_token })
}

fn get_room_metrics(request: &rooms::GetRoomMetricsRequest) -> Result<rooms::GetRoomMetricsResponse, Error> {
    let time = Some(prost_types::Timestamp { seconds: 1_769_851_800, nanos: 500_000_000 });
    let metric = |metric: &str, value| rooms::RoomMetric {
        metric: metric.to_owned(),
        sensor_id: format!("lab.{metric}"),
        value,
        time,
        ..Default::default()
    };
    let metrics = vec![metric("co2", Some(612.0)), metric("temperature", None)];
    Ok(rooms::GetRoomMetricsResponse { room_id: request.room_id.clone(), metrics, as_of: time })
}

fn ingest_readings(request: &telemetry::IngestReadingsRequest) -> Result<telemetry::IngestReadingsResponse, Error> {
    let accepted = u32::try_from(request.readings.len()).expect("few");
    Ok(telemetry::IngestReadingsResponse { accepted, cursor: "c1".to_owned(), ..Default::default() })
}

fn ingest_reading(request: &telemetry::IngestReadingRequest) -> Result<telemetry::IngestReadingResponse, Error> {
    match request.value {
        Some(_) => Ok(telemetry::IngestReadingResponse { verdict: 1, cursor: request.sensor_id.clone() }),
        None => Err(Error::invalid("value", "is missing")),
    }
}

fn list_readings(request: &telemetry::ListReadingsRequest) -> Result<telemetry::ListReadingsResponse, Error> {
    Ok(telemetry::ListReadingsResponse { unit: format!("{:?}", request.start_time), ..Default::default() })
}

/// How many tables of the sensor `endless` are being written.
pub static ENDLESS: AtomicUsize = AtomicUsize::new(0);

struct Writing;

impl Drop for Writing {
    fn drop(&mut self) {
        ENDLESS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A table in three parts. The sensor `fail` fails after two of them, `refused` at once, `endless` does not end.
fn export_readings(
    request: &telemetry::ExportReadingsRequest,
) -> impl Stream<Item = Result<telemetry::ExportReadingsResponse, Error>> + Send + use<> {
    let parts = [format!("time,{}\r\n", request.time_zone), "1,a\r\n".to_owned(), "2,b\r\n".to_owned()];
    let body = |data: String| google::api::HttpBody {
        content_type: "text/csv; charset=utf-8".to_owned(),
        data: data.into(),
        extensions: Vec::new(),
    };
    let parts = parts.map(|part| Ok(telemetry::ExportReadingsResponse { body: Some(body(part)) }));
    let failed = Error::invalid("time_zone", "is no time zone");
    match request.sensor_id.as_str() {
        "fail" => futures::stream::iter(parts).take(2).chain(futures::stream::iter([Err(failed)])).boxed(),
        "refused" => futures::stream::iter([Err(failed)]).boxed(),
        "endless" => {
            ENDLESS.fetch_add(1, Ordering::SeqCst);
            let writing = Writing;
            let rest = futures::stream::pending().inspect(move |_: &Result<_, Error>| _ = &writing);
            futures::stream::iter(parts).chain(rest).boxed()
        }
        _ => futures::stream::iter(parts).boxed(),
    }
}

/// Numbers as cursors, from the one after the request's up to 3. The sensor `fail` fails after two messages, `refused` at
/// once, `quiet` says nothing and does not end.
fn watch_readings(
    request: &telemetry::WatchReadingsRequest,
) -> impl Stream<Item = Result<telemetry::WatchReadingsResponse, Error>> + Send + use<> {
    let what = request.sensor_ids.first().cloned().unwrap_or_default();
    let start: u32 = request.cursor.parse().unwrap_or_default();
    let message = |n: u32| telemetry::WatchReadingsResponse { cursor: n.to_string(), ..Default::default() };
    let numbers = futures::stream::iter((start + 1)..=3).map(move |n| Ok(message(n)));
    let gone = Error::new(sensormesh_types::Code::Gone, "CURSOR_GONE", "the cursor is too old");
    match what.as_str() {
        "fail" => numbers.take(2).chain(futures::stream::iter([Err(gone)])).boxed(),
        "refused" => futures::stream::iter([Err(gone)]).boxed(),
        "quiet" => numbers.take(1).chain(futures::stream::pending()).boxed(),
        _ => numbers.boxed(),
    }
}

fn create_token(request: &auth::CreateTokenRequest) -> Result<auth::CreateTokenResponse, Error> {
    if request.grant_type == "personal_token" {
        return match request.personal_token.as_str() {
            "smp_good" => Ok(auth::CreateTokenResponse {
                access_token: token_of("program", Role::Viewer),
                expires_in: 600,
                ..Default::default()
            }),
            "smp_early" => Err(Error::unavailable("DOWN", "down for a moment", Duration::from_millis(2500))),
            _ => Err(Error::unauthenticated("no such token")),
        };
    }
    if request.password != "secret" {
        return Err(Error::unauthenticated("wrong name or password"));
    }
    Ok(auth::CreateTokenResponse {
        access_token: format!("for {}", request.username),
        refresh_token: request.grant_type.clone(),
        token_type: "Bearer".to_owned(),
        expires_in: 600,
    })
}

static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"));

/// A token of a user with this role; the name is the role's.
pub fn token(role: Role) -> String {
    token_of(role.as_str(), role)
}

/// A token of a user with this name and role.
pub fn token_of(name: &str, role: Role) -> String {
    let now = Clock::system().now_seconds();
    let claims = Claims {
        iss: "sensormesh".into(),
        aud: "sensormesh".into(),
        sub: format!("id-{name}"),
        name: name.into(),
        role,
        tenant: "default".into(),
        sites: vec![],
        sid: "s1".into(),
        jti: "t1".into(),
        iat: now,
        exp: now + 600,
    };
    let header = Header { typ: Some("at+jwt".into()), kid: Some("k1".into()), ..Header::new(Algorithm::ES256) };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(&KEY.serialize_der())).expect("a token")
}

fn knows_the_key(mesh: &Mesh) {
    let raw = KEY.public_key_raw();
    let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let (kty, crv) = ("EC".to_owned(), "P-256".to_owned());
    let (x, y) = (text(&raw[1..33]), Some(text(&raw[33..])));
    mesh.verifier().update_keys([Jwk { kty, crv, x, y, kid: "k1".into(), alg: "ES256".into() }]);
    mesh.verifier().feeds_itself();
}

/// An edge and what is behind it.
pub struct World {
    pub address: SocketAddr,
    pub registry: LocalRegistry,
    pub seen: Seen,
    pub shutdown: Shutdown,
    pub http: reqwest::Client,
    pub running: Vec<Running>,
}

impl World {
    /// The built-in contracts, every limit high.
    pub async fn start() -> World {
        World::with(|_| {}, Contract::built_in().expect("the contracts")).await
    }

    pub async fn configured(change: impl FnOnce(&mut Config)) -> World {
        World::with(change, Contract::built_in().expect("the contracts")).await
    }

    pub async fn with(change: impl FnOnce(&mut Config), contract: Contract) -> World {
        let registry = LocalRegistry::new();
        let (seen, shutdown) = (Seen::default(), Shutdown::new());
        let mesh_config = sensormesh_mesh::Config {
            transport: Transport::Plaintext,
            dev: true,
            limits: ServerLimits::mesh().prompt(),
            ..sensormesh_mesh::Config::default()
        };
        let join = |name| {
            let mesh = Mesh::beside(&registry, mesh_config.clone(), name, Clock::system()).expect("a mesh");
            knows_the_key(&mesh);
            mesh
        };
        let mut running = Vec::new();
        let services = [
            ("auth", Service::new("auth").grpc(Auth(seen.clone()))),
            ("rooms", Service::new("rooms").grpc(Rooms(seen.clone()))),
            ("telemetry", Service::new("telemetry").grpc(Telemetry(seen.clone()))),
        ];
        for (name, service) in services {
            let served = serve(service, &join(name), Listeners::default(), shutdown.clone()).await;
            running.push(served.expect("served"));
        }
        let mut config = Config {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            user_rate: Rate { per_second: 10_000, burst: 10_000 },
            address_rate: Rate { per_second: 10_000, burst: 10_000 },
            health_interval: Duration::from_millis(50),
            ..Config::default()
        };
        change(&mut config);
        let mesh = join("edge");
        let edge = prepare(config, &mesh, contract, None).await.expect("an edge");
        let address = edge.address;
        running.push(serve(edge.service, &mesh, Listeners::default(), shutdown.clone()).await.expect("served"));
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
        World { address, registry, seen, shutdown, http: http.expect("a client"), running }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request with a viewer's token.
    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(self.url(path)).bearer_auth(token(Role::Viewer))
    }

    /// A request with an operator's token.
    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.post(self.url(path)).bearer_auth(token(Role::Operator))
    }
}

/// An answer: status, headers, JSON.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub json: serde_json::Value,
}

/// Sends a request and reads the answer as JSON.
pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.expect("a body");
    let json = serde_json::from_slice(&bytes)
        .unwrap_or_else(|error| panic!("{error}: {status} {}", String::from_utf8_lossy(&bytes)));
    Answer { status, headers, json }
}

impl Answer {
    /// The fields that the error names.
    pub fn violations(&self) -> HashMap<String, String> {
        let details = self.json["details"].as_array().cloned().unwrap_or_default();
        details
            .iter()
            .flat_map(|detail| detail["fieldViolations"].as_array().cloned().unwrap_or_default())
            .map(|v| {
                (
                    v["field"].as_str().unwrap_or_default().to_owned(),
                    v["description"].as_str().unwrap_or_default().to_owned(),
                )
            })
            .collect()
    }

    /// The reason that programs branch on.
    pub fn reason(&self) -> String {
        let details = self.json["details"].as_array().cloned().unwrap_or_default();
        details.iter().find_map(|detail| detail["reason"].as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// Waits until something is so, at most five seconds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A header as text; empty where it is absent.
pub fn header(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}
