//! Which tokens are taken, and what a role may do.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use sensormesh_mesh::token::{Jwk, Revocation, Subject};
use sensormesh_mesh::{Claims, Config, LocalRegistry};
use sensormesh_proto::ValidatingCodec;
use sensormesh_proto::auth::v1::watch_verification_response::Event;
use sensormesh_proto::auth::v1::{
    self as auth, GetJwksResponse, WatchVerificationRequest, WatchVerificationResponse, revocation,
};
use sensormesh_proto::devices::v1::DeleteDeviceRequest;
use sensormesh_proto::types::v1::Bookmark;
use sensormesh_types::{Clock, Role, time};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tonic::body::Body;
use tonic::{Code, Request, Response, Status};
use tower::util::BoxCloneSyncService;

use super::world::*;

struct Signer {
    key: KeyPair,
    algorithm: Algorithm,
    kid: &'static str,
}

impl Signer {
    fn es256(kid: &'static str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        Self { key, algorithm: Algorithm::ES256, kid }
    }

    fn eddsa(kid: &'static str) -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ED25519).expect("a key"), algorithm: Algorithm::EdDSA, kid }
    }

    fn public(&self) -> Jwk {
        let raw = self.key.public_key_raw();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (kty, crv, x, y, alg) = match self.algorithm {
            Algorithm::ES256 => ("EC", "P-256", text(&raw[1..33]), Some(text(&raw[33..])), "ES256"),
            _ => ("OKP", "Ed25519", text(raw), None, "EdDSA"),
        };
        Jwk { kty: kty.into(), crv: crv.into(), x, y, kid: self.kid.into(), alg: alg.into() }
    }

    fn header(&self) -> Header {
        Header { typ: Some("at+jwt".into()), kid: Some(self.kid.into()), ..Header::new(self.algorithm) }
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        let key = match self.algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_der(&self.key.serialize_der()),
            _ => EncodingKey::from_ed_der(&self.key.serialize_der()),
        };
        jsonwebtoken::encode(header, claims, &key).expect("a token")
    }
}

fn claims(role: Role) -> Value {
    let now = Clock::system().now_seconds();
    let claims = Claims {
        iss: "sensormesh".into(),
        aud: "sensormesh".into(),
        sub: "u1".into(),
        name: "ada".into(),
        role,
        tenant: "acme".into(),
        sites: vec![],
        sid: "s1".into(),
        jti: "t1".into(),
        iat: now,
        exp: now + 600,
    };
    serde_json::to_value(claims).expect("json")
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn bearing<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("value"));
    request
}

#[tokio::test]
async fn a_users_token_decides_by_role_whoever_forwards_it() {
    let world = World::start().await;
    for signer in [Signer::es256("k1"), Signer::eddsa("k2")] {
        world.mesh.verifier().update_keys([signer.public()]);
        let viewer = signer.sign(&signer.header(), &claims(Role::Viewer));
        let operator = signer.sign(&signer.header(), &claims(Role::Operator));
        for peer in ["edge", "adapters", "energy", "operator"] {
            let mut client = world.devices(peer);
            let answer = client.get_device(bearing(device("ok"), &viewer)).await.expect("a viewer may read");
            let seen = answer.into_inner().device.expect("device");
            assert_eq!(
                (seen.name.as_str(), seen.manufacturer.as_str(), seen.model.as_str()),
                ("user:ada", "acme", peer)
            );
            let delete = DeleteDeviceRequest { device_id: "d".into(), force: false };
            let denied =
                client.delete_device(bearing(delete.clone(), &viewer)).await.expect_err("a viewer may not delete");
            assert_eq!(denied.code(), Code::PermissionDenied, "{peer}");
            client.delete_device(bearing(delete, &operator)).await.expect("an operator may");
        }
    }
}

#[tokio::test]
async fn a_token_that_is_not_exactly_ours_is_refused() {
    let world = World::start().await;
    let (ours, theirs, other) = (Signer::es256("k1"), Signer::es256("k1"), Signer::es256("k9"));
    let edwards = Signer::eddsa("k2");
    world.mesh.verifier().update_keys([ours.public(), edwards.public()]);
    let good = claims(Role::Viewer);
    let now = good["iat"].as_i64().expect("a number");
    let sign = |claims: &Value| ours.sign(&ours.header(), claims);
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = |alg: &str| format!("{}.{}.", part(&json!({"alg": alg, "typ": "at+jwt", "kid": "k1"})), part(&good));
    // the public key as the secret of an HMAC: the oldest trick
    let hmac = {
        let header = Header { alg: Algorithm::HS256, ..ours.header() };
        jsonwebtoken::encode(&header, &good, &EncodingKey::from_secret(ours.key.public_key_raw())).expect("a token")
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().expect("an object").remove(name);
        sign(&claims)
    };
    let mut cases = vec![
        ("no algorithm", unsigned("none")),
        ("no signature", unsigned("ES256")),
        ("an HMAC with the public key", hmac),
        ("a foreign key under our id", theirs.sign(&theirs.header(), &good)),
        ("an unknown key", other.sign(&other.header(), &good)),
        (
            "our key under the id of another algorithm's",
            ours.sign(&Header { kid: Some("k2".into()), ..ours.header() }, &good),
        ),
        ("no key id", ours.sign(&Header { kid: None, ..ours.header() }, &good)),
        ("another type", ours.sign(&Header { typ: Some("JWT".into()), ..ours.header() }, &good)),
        ("no type", ours.sign(&Header { typ: None, ..ours.header() }, &good)),
        ("expired", sign(&with(with(good.clone(), "iat", json!(now - 700)), "exp", json!(now - 100)))),
        ("from the future", sign(&with(with(good.clone(), "iat", json!(now + 100)), "exp", json!(now + 300)))),
        ("valid for too long", sign(&with(good.clone(), "exp", json!(now + 86_400)))),
        ("an expiry that is text", sign(&with(good.clone(), "exp", json!((now + 60).to_string())))),
        ("an expiry that is null", sign(&with(good.clone(), "exp", Value::Null))),
        ("another issuer", sign(&with(good.clone(), "iss", json!("evil")))),
        ("another audience", sign(&with(good.clone(), "aud", json!("evil")))),
        ("an unknown role", sign(&with(good.clone(), "role", json!("root")))),
        ("no session", sign(&with(good.clone(), "sid", json!("")))),
        ("rubbish", "a.b.c".to_owned()),
        ("a changed claim", {
            let token = sign(&good);
            let parts: Vec<&str> = token.split('.').collect();
            let forged = part(&with(good.clone(), "role", json!("platform_admin")));
            format!("{}.{forged}.{}", parts[0], parts[2])
        }),
    ];
    for name in ["iss", "aud", "sub", "name", "role", "tenant", "sites", "sid", "jti", "iat", "exp"] {
        cases.push((name, without(name)));
    }
    let mut client = world.devices("edge");
    client.get_device(bearing(device("ok"), &sign(&good))).await.expect("the good one");
    for (what, token) in cases {
        let refused = client.get_device(bearing(device("ok"), &token)).await.expect_err(what);
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}: {refused}");
    }
}

#[tokio::test]
async fn a_revoked_token_is_refused_also_where_it_was_verified_before() {
    let world = World::start().await;
    let signer = Signer::es256("k1");
    world.mesh.verifier().update_keys([signer.public()]);
    let claims = claims(Role::Viewer);
    let issued = claims["iat"].as_i64().expect("a number");
    let token = signer.sign(&signer.header(), &claims);
    let mut client = world.devices("edge");
    client.get_device(bearing(device("ok"), &token)).await.expect("before");
    let revoke = |subject, revoked_at| {
        world.mesh.verifier().revoke(Revocation { subject, revoked_at, expires_at: issued + 600 });
    };
    revoke(Subject::Session("another".into()), issued);
    revoke(Subject::User("u1".into()), issued - 1);
    client.get_device(bearing(device("ok"), &token)).await.expect("others were meant");
    revoke(Subject::Session("s1".into()), issued);
    let refused = client.get_device(bearing(device("ok"), &token)).await.expect_err("after");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("log in again"), "{refused}");
}

#[tokio::test]
async fn a_stream_ends_when_its_users_session_is_ended() {
    let world = World::start().await;
    let signer = Signer::es256("k1");
    world.mesh.verifier().update_keys([signer.public()]);
    let claims = claims(Role::Viewer);
    let issued = claims["iat"].as_i64().expect("a number");
    let token = signer.sign(&signer.header(), &claims);
    let mut client = world.devices("edge");
    let stream = client.watch_devices(bearing(watch("on"), &token)).await.expect("a stream").into_inner();
    let reading = tokio::spawn(whole(stream));
    let revoke = |session: &str| Revocation {
        subject: Subject::Session(session.into()),
        revoked_at: issued,
        expires_at: issued + 600,
    };
    world.mesh.verifier().revoke(revoke("another"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!reading.is_finished(), "another was meant");
    world.mesh.verifier().revoke(revoke("s1"));
    let (seen, ended) =
        tokio::time::timeout(Duration::from_secs(5), reading).await.expect("in time").expect("no panic");
    let error = sensormesh_types::Error::from(ended.expect_err("not a clean end"));
    assert_eq!((error.code(), error.reason()), (sensormesh_types::Code::Unauthenticated, "TOKEN_REVOKED"));
    assert!(seen > 0);
}

#[tokio::test]
async fn a_key_that_was_taken_back_verifies_nothing_any_more() {
    let world = World::start().await;
    let (old, new) = (Signer::es256("old"), Signer::es256("new"));
    world.mesh.verifier().update_keys([old.public(), new.public()]);
    let token = old.sign(&old.header(), &claims(Role::Viewer));
    let mut client = world.devices("edge");
    client.get_device(bearing(device("ok"), &token)).await.expect("before");
    world.mesh.verifier().update_keys([new.public()]);
    let refused = client.get_device(bearing(device("ok"), &token)).await.expect_err("after");
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn without_any_key_a_token_is_not_refused_but_put_off() {
    let world = World::start().await;
    let signer = Signer::es256("k1");
    let token = signer.sign(&signer.header(), &claims(Role::Viewer));
    let put_off = world.devices("edge").get_device(bearing(device("ok"), &token)).await.expect_err("no keys yet");
    assert_eq!(put_off.code(), Code::Unavailable);
}

#[test]
fn f38_a_token_expires_with_the_clock_also_in_the_cache() {
    let clock = Clock::fixed(Clock::system().now_micros());
    let verifier = sensormesh_mesh::Verifier::new(clock.clone());
    let signer = Signer::es256("k1");
    verifier.update_keys([signer.public()]);
    let token = signer.sign(&signer.header(), &claims(Role::Viewer));
    let first = verifier.verify(&token).expect("valid");
    assert!(Arc::ptr_eq(&first, &verifier.verify(&token).expect("valid")), "the second time it is remembered");
    clock.advance(std::time::Duration::from_secs(620));
    verifier.verify(&token).expect("within the leeway");
    clock.advance(std::time::Duration::from_secs(20));
    assert_eq!(verifier.verify(&token).expect_err("expired").reason(), "TOKEN_EXPIRED");
}

#[test]
fn a_token_is_good_as_of_when_it_was_presented_unless_it_was_revoked_since() {
    let clock = Clock::fixed(Clock::system().now_micros());
    let verifier = sensormesh_mesh::Verifier::new(clock.clone());
    let signer = Signer::es256("k1");
    verifier.update_keys([signer.public()]);
    let claims = claims(Role::Operator);
    let (token, presented) = (signer.sign(&signer.header(), &claims), clock.now_seconds());
    clock.advance(std::time::Duration::from_secs(3600));
    assert_eq!(verifier.verify(&token).expect_err("expired").reason(), "TOKEN_EXPIRED");
    verifier.verify_as_of(&token, presented).expect("good then");
    assert_eq!(verifier.verify_as_of(&token, presented + 700).expect_err("too late").reason(), "TOKEN_EXPIRED");
    let subject = sensormesh_mesh::token::Subject::User(claims["sub"].as_str().expect("a subject").to_owned());
    let (revoked_at, expires_at) = (clock.now_seconds(), i64::MAX);
    verifier.revoke(sensormesh_mesh::token::Revocation { subject, revoked_at, expires_at });
    assert_eq!(verifier.verify_as_of(&token, presented).expect_err("revoked").reason(), "TOKEN_REVOKED");
}

/// An `auth` that streams the events it is given, each to whoever watches, the first ones again to everybody.
fn serve_auth(registry: &LocalRegistry, first: Vec<Event>) -> broadcast::Sender<Event> {
    let (events, _) = broadcast::channel::<Event>(16);
    let source = events.clone();
    let watch = move |_: Request<WatchVerificationRequest>| {
        let live = BroadcastStream::new(source.subscribe()).filter_map(|event| async { event.ok() });
        let all = futures::stream::iter(first.clone()).chain(live);
        let messages = all.map(|event| Ok(WatchVerificationResponse { cursor: "c".into(), event: Some(event) }));
        async move { Ok::<_, Status>(Response::new(messages.boxed())) }
    };
    let stack = tower::service_fn(move |request: http::Request<Body>| {
        let watch = watch.clone();
        async move {
            let codec = ValidatingCodec::<WatchVerificationResponse, WatchVerificationRequest>::default();
            Ok::<_, Infallible>(
                tonic::server::Grpc::new(codec).server_streaming(tower::service_fn(watch), request).await,
            )
        }
    });
    registry.register("auth", BoxCloneSyncService::new(stack));
    events
}

fn key_set(signer: &Signer) -> Event {
    let Jwk { kty, crv, x, y, kid, alg } = signer.public();
    Event::Keys(GetJwksResponse { keys: vec![auth::Jwk { kty, crv, x, y, kid, alg, r#use: "sig".into() }] })
}

#[tokio::test]
async fn keys_and_revocations_are_followed_and_survive_a_restart_without_auth() {
    let state = tempfile::tempdir().expect("a directory");
    let keep = |config: &mut Config| config.state_dir = state.path().to_owned();
    let signer = Signer::es256("k1");
    let mut other = claims(Role::Admin);
    other["sid"] = json!("s2");
    let (ended, alive) = (signer.sign(&signer.header(), &claims(Role::Admin)), signer.sign(&signer.header(), &other));
    let get = async |world: &World, token: &str| {
        world
            .devices_here("edge")
            .get_device(bearing(device("ok"), token))
            .await
            .map_or_else(|status| status.code(), |_| Code::Ok)
    };

    let registry = LocalRegistry::new();
    let live = Event::Bookmark(Bookmark { live: true, ..Default::default() });
    let events = serve_auth(&registry, vec![key_set(&signer), live]);
    let world = World::beside(&registry, keep).await;
    until("the keys", || async { get(&world, &ended).await == Code::Ok }).await;
    let now = Clock::system().now_micros();
    let revocation = auth::Revocation {
        subject: Some(revocation::Subject::SessionId("s1".into())),
        revoke_time: Some(time::from_micros(now + 1_000_000)),
        expire_time: Some(time::from_micros(now + 600_000_000)),
    };
    events.send(Event::Revocation(revocation)).expect("watched");
    until("the revocation", || async { get(&world, &ended).await == Code::Unauthenticated }).await;
    let file = state.path().join("verification-devices.json");
    until("the copy on disk", || async { saved(&file).is_some_and(|text| text.contains("s1")) }).await;
    world.shutdown.request();
    world.running.stopped().await;

    let world = World::beside(&LocalRegistry::new(), keep).await;
    until("the saved keys", || async { get(&world, &alive).await == Code::Ok }).await;
    assert_eq!(get(&world, &ended).await, Code::Unauthenticated);
    let age = world.mesh.verifier().age().expect("known");
    assert!(age < 60, "{age}");
}

fn saved(file: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(file).ok()?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::read_to_string(file).ok()
}

#[tokio::test]
async fn what_only_an_admin_may_do_is_refused_when_revocations_are_old() {
    let clock = Clock::fixed(Clock::system().now_micros());
    let registry = LocalRegistry::new();
    let signer = Signer::es256("k1");
    let live = Event::Bookmark(Bookmark { live: true, ..Default::default() });
    let _events = serve_auth(&registry, vec![key_set(&signer), live]);
    let world = World::at(&registry, clock.clone(), |_| {}).await;
    let mut mesh = sensormesh_proto::mesh::v1::mesh_service_client::MeshServiceClient::new(world.here("edge"));
    let sign = || {
        let now = clock.now_seconds();
        signer.sign(&signer.header(), &with(with(claims(Role::Admin), "iat", json!(now)), "exp", json!(now + 300)))
    };
    let token = sign();
    until("the keys", || async { world.mesh.verifier().age() == Some(0) }).await;
    mesh.reset_breaker(bearing(Default::default(), &token)).await.expect("fresh");
    clock.advance(Duration::from_secs(16 * 60));
    let token = sign();
    let refused = mesh.reset_breaker(bearing(Default::default(), &token)).await.expect_err("stale");
    assert_eq!(refused.code(), Code::Unavailable);
    world.devices_here("edge").get_device(bearing(device("ok"), &token)).await.expect("reading goes on");
}
