//! Who may call what (F63): every method of every contract, asked of the real program by every kind of caller. What is expected
//! is what the contract says; that each method says something is checked when the contracts are built.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use futures::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use sensormesh_mesh::Claims;
use sensormesh_proto::{METHODS, Method};
use sensormesh_testkit::system::{Shape, System, eventually};
use sensormesh_types::{Role, random};
use serde_json::{Value, json};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::operator::{PORTS, channel};
use crate::{both_shapes, builder};

both_shapes!(every_method_admits_exactly_whom_its_contract_names);

/// How long the first message of a stream is waited for; an admitted stream may have none.
const FIRST: Duration = Duration::from_millis(200);

/// Who sends something to the edge.
#[derive(Clone, Copy, Debug, PartialEq)]
enum User {
    Nobody,
    /// With a token that has expired.
    Expired,
    /// With a token that was signed by another.
    Forged,
    /// A device with its credential.
    Device,
    /// A bridge with its credential.
    Bridge,
    /// With a device's credential that nobody gave it.
    MadeUp,
    Of(Role),
}

const USERS: [User; 10] = [
    User::Nobody,
    User::Expired,
    User::Forged,
    User::Device,
    User::Bridge,
    User::MadeUp,
    User::Of(Role::Viewer),
    User::Of(Role::Operator),
    User::Of(Role::Admin),
    User::Of(Role::PlatformAdmin),
];

/// Tokens as `auth` makes them, with its own key.
pub struct Tokens {
    kid: String,
    own: EncodingKey,
    stranger: EncodingKey,
    device: String,
    bridge: String,
}

impl Tokens {
    pub async fn of(system: &System) -> Self {
        let files = std::fs::read_dir(system.data_dir().join("auth")).expect("the keys of auth").flatten();
        let found = files.map(|file| file.path()).find_map(|path| {
            let kid = path.file_name()?.to_str()?.strip_prefix("signing-key-")?.strip_suffix(".pem")?.to_owned();
            Some((kid, std::fs::read(&path).ok()?))
        });
        let (kid, pem) = found.expect("a signing key");
        let admin = system.admin().await.expect("token");
        let made = async |path: &str, body: Value| {
            let (status, answer) = system.post(path, &admin, &body).await.expect("an answer");
            assert_eq!(status, 200, "{path}: {answer}");
            answer["token"].as_str().map(str::to_owned)
        };
        made("/v1/devices", json!({"deviceId": "matrix"})).await;
        made("/v1/bridges", json!({"bridgeId": "matrix"})).await;
        let device = made("/v1/devices/matrix/credentials", json!({})).await.expect("a token");
        let bridge = made("/v1/bridges/matrix/credentials", json!({})).await.expect("a token");
        // who verifies them hears of them a moment later
        for token in [&device, &bridge] {
            let known = eventually(Duration::from_secs(60), || async {
                let (status, _) = system.post("/sensors/matrix.x/data", token, &json!({"value": 1})).await.ok()?;
                (status != 401).then_some(())
            });
            known.await.expect("known");
        }
        let stranger = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        Self {
            kid,
            own: EncodingKey::from_ec_pem(&pem).expect("a key"),
            stranger: EncodingKey::from_ec_pem(stranger.as_bytes()).expect("a key"),
            device,
            bridge,
        }
    }

    /// The token of an administrator of another tenant.
    pub fn of_tenant(&self, tenant: &str) -> String {
        self.signed(Role::Admin, jiff::Timestamp::now().as_second(), tenant, &self.own)
    }

    /// A token of a session of its own, so that none ends another's.
    fn make(&self, user: User) -> Option<String> {
        let now = jiff::Timestamp::now().as_second();
        let (role, issued, key) = match user {
            User::Nobody => return None,
            User::Device => return Some(self.device.clone()),
            User::Bridge => return Some(self.bridge.clone()),
            User::MadeUp => return Some("smd_000000000000_00000000000000000000000000".to_owned()),
            User::Expired => (Role::PlatformAdmin, now - 700, &self.own),
            User::Forged => (Role::PlatformAdmin, now, &self.stranger),
            User::Of(role) => (role, now, &self.own),
        };
        Some(self.signed(role, issued, "default", key))
    }

    fn signed(&self, role: Role, issued: i64, tenant: &str, key: &EncodingKey) -> String {
        let claims = Claims {
            iss: "sensormesh".into(),
            aud: "sensormesh".into(),
            sub: "of-the-matrix".into(),
            name: "matrix".into(),
            role,
            tenant: tenant.into(),
            sites: Vec::new(),
            sid: random::id(issued),
            jti: random::id(issued),
            iat: issued,
            exp: issued + 600,
        };
        let header =
            Header { typ: Some("at+jwt".into()), kid: Some(self.kid.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, key).expect("a token")
    }
}

/// Messages as they are on the wire.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

/// The outcome of a call with an empty message, which most methods find wrong: after they have admitted the caller.
async fn outcome(channel: &Channel, method: &Method, token: Option<String>) -> Code {
    answer(channel, method, token, Vec::new()).await.err().map_or(Code::Ok, |status| status.code())
}

/// The first message of the answer to this one; `None` where a stream says nothing at first.
pub async fn answer(
    channel: &Channel,
    method: &Method,
    token: Option<String>,
    message: Vec<u8>,
) -> Result<Option<Vec<u8>>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("connected");
    let mut request = Request::new(tokio_stream::once(message));
    request.set_timeout(Duration::from_secs(20));
    // one of those that each mount the mesh's own service
    request.metadata_mut().insert("sensormesh-service", "rooms".parse().expect("a header"));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    }
    let path = http::uri::PathAndQuery::from_static(method.path);
    let mut answer = client.streaming(request, path, Raw).await?;
    tokio::time::timeout(FIRST, answer.get_mut().message()).await.unwrap_or(Ok(None))
}

/// The exact code of a refusal; `None` where the caller is admitted, whatever comes of it.
fn refusal(method: &Method, user: User) -> Option<Code> {
    match user {
        _ if method.policy.public => None,
        User::Of(role) if method.policy.admits_role(role) => None,
        User::Of(_) => Some(Code::PermissionDenied),
        User::Device | User::Bridge if method.policy.devices => None,
        // of another method's it is not looked at
        User::MadeUp if method.policy.devices => Some(Code::Unauthenticated),
        User::Device | User::Bridge | User::MadeUp => Some(Code::PermissionDenied),
        User::Nobody | User::Expired | User::Forged => Some(Code::Unauthenticated),
    }
}

/// The same of a service that calls for itself.
fn refusal_of_service(method: &Method, service: &str) -> Option<Code> {
    match service {
        _ if method.policy.public => None,
        // a person, who is no service
        "operator" if method.policy.admits_role(Role::PlatformAdmin) => None,
        "operator" => Some(Code::PermissionDenied),
        _ if method.policy.admits_service(service) => None,
        // somebody behind it has to log in
        "edge" if method.policy.min_role.is_some() => Some(Code::Unauthenticated),
        _ => Some(Code::PermissionDenied),
    }
}

fn is_as(refusal: Option<Code>, code: Code) -> bool {
    match refusal {
        Some(expected) => code == expected,
        None => !matches!(code, Code::Unauthenticated | Code::PermissionDenied),
    }
}

async fn every_method_admits_exactly_whom_its_contract_names(shape: Shape) {
    let unlimited = builder(shape)
        .setting("SENSORMESH_EDGE__USER_RATE__PER_SECOND", "0")
        .setting("SENSORMESH_EDGE__ADDRESS_RATE__PER_SECOND", "0");
    let system = unlimited.start().await.expect("starts");
    let tokens = Tokens::of(&system).await;
    let edge = Endpoint::from_shared(system.url("")).expect("an address").connect().await.expect("the edge");
    let services: Vec<&str> = PORTS.iter().map(|(service, _)| *service).chain(["edge", "operator"]).collect();
    let mut wrong = Vec::new();
    for method in METHODS {
        let asked = USERS.map(|user| outcome(&edge, method, tokens.make(user)));
        for (user, code) in USERS.into_iter().zip(join_all(asked).await) {
            if !is_as(refusal(method, user), code) {
                wrong.push(format!("{} at the edge by {user:?}: {code:?}", method.path));
            }
        }
        let Some((_, port)) = PORTS.iter().find(|(service, _)| *service == method.service) else { continue };
        let asked = services.iter().map(async |service| {
            // a user's token decides, whoever brings it; here there is none
            outcome(&channel(&system, *port, Some(service)), method, None).await
        });
        for (service, code) in services.iter().zip(join_all(asked).await) {
            if !is_as(refusal_of_service(method, service), code) {
                wrong.push(format!("{} by the service {service}: {code:?}", method.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
