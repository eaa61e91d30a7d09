//! What verifiers are told: keys and revocations.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt as _;
use sensormesh_mesh::token::{AUDIENCE, Claims, ISSUER, Jwk, TOKEN_TYPE};
use sensormesh_mesh::{Streaming, Verifier};
use sensormesh_proto::auth::v1 as proto;
use sensormesh_proto::auth::v1::revocation::Subject;
use sensormesh_proto::auth::v1::watch_verification_response::Event;
use sensormesh_types::{Code, Error, Role};

use crate::system::{Engine, PASSWORD, System, answer, as_user, cheap};

/// A key of the test's own that the service also believes, for users of tenants that nobody has made yet.
pub struct TestKey {
    private: jsonwebtoken::EncodingKey,
    now: i64,
}

impl TestKey {
    pub async fn beside(system: &System) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
        let point = pair.public_key_raw();
        let own = Jwk {
            kty: "EC".into(),
            crv: "P-256".into(),
            x: URL_SAFE_NO_PAD.encode(&point[1..33]),
            y: Some(URL_SAFE_NO_PAD.encode(&point[33..65])),
            kid: "test".into(),
            alg: "ES256".into(),
        };
        let published = answer(system.client().get_jwks(proto::GetJwksRequest {}).await).expect("keys").keys;
        system.auth.verifier().update_keys(published.into_iter().map(Jwk::from).chain([own]));
        let private = jsonwebtoken::EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("key");
        Self { private, now: system.clock.now_seconds() }
    }

    pub fn token(&self, tenant: &str, role: i32) -> String {
        let claims = Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: "stranger".into(),
            name: "stranger".into(),
            role: Role::from_i32(role).expect("role"),
            tenant: tenant.to_owned(),
            sites: Vec::new(),
            sid: "strange".into(),
            jti: "1".into(),
            iat: self.now,
            exp: self.now + 600,
        };
        let header = jsonwebtoken::Header {
            typ: Some(TOKEN_TYPE.into()),
            kid: Some("test".into()),
            ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
        };
        jsonwebtoken::encode(&header, &claims, &self.private).expect("token")
    }
}

async fn watch(system: &System, cursor: &str) -> Streaming<proto::WatchVerificationResponse> {
    let request = proto::WatchVerificationRequest { cursor: cursor.to_owned() };
    let stream = system.client_of("rooms").watch_verification(request).await.expect("watch");
    stream.into_inner().boxed()
}

async fn next(stream: &mut Streaming<proto::WatchVerificationResponse>) -> proto::WatchVerificationResponse {
    let next = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("in time");
    next.expect("open").expect("message")
}

/// Everything until the stream says that it is live, and the cursor there.
async fn until_live(stream: &mut Streaming<proto::WatchVerificationResponse>) -> (Vec<Event>, String) {
    let mut events = Vec::new();
    loop {
        let message = next(stream).await;
        match message.event.expect("event") {
            Event::Bookmark(bookmark) if bookmark.live => return (events, message.cursor),
            Event::Bookmark(_) => {}
            event => events.push(event),
        }
    }
}

fn session_revoked(event: &Event) -> Option<&str> {
    match event {
        Event::Revocation(proto::Revocation { subject: Some(Subject::SessionId(id)), .. }) => Some(id),
        _ => None,
    }
}

async fn log_out(system: &System, token: &str) -> String {
    let mut client = system.client();
    let session = system.auth.verifier().verify(token).expect("genuine").sid.clone();
    answer(as_user(token, client.logout(proto::LogoutRequest { all_sessions: false })).await).expect("logged out");
    session
}

pub async fn tokens_are_verified_with_the_published_keys(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let token = system.log_in("ada", PASSWORD).await.expect("logged in").access_token;
    let keys = answer(system.client().get_jwks(proto::GetJwksRequest {}).await).expect("keys").keys;
    assert_eq!(keys.len(), 1);
    assert_eq!((keys[0].kty.as_str(), keys[0].alg.as_str(), keys[0].r#use.as_str()), ("EC", "ES256", "sig"));
    let verifier = Verifier::new(system.clock.clone());
    verifier.update_keys(keys.into_iter().map(Jwk::from));
    let claims = verifier.verify(&token).expect("genuine");
    assert_eq!((claims.name.as_str(), claims.role, claims.tenant.as_str()), ("ada", Role::Viewer, "default"));
    assert_eq!(claims.exp - claims.iat, 600);
}

pub async fn the_next_key_is_published_before_the_last_one_ends(engine: Engine) {
    let mut system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let kid = |token: &str| jsonwebtoken::decode_header(token).expect("header").kid.expect("kid");
    let keys = async |system: &System| -> Vec<String> {
        let keys = answer(system.client().get_jwks(proto::GetJwksRequest {}).await).expect("keys").keys;
        keys.into_iter().map(|key| key.kid).collect()
    };
    let first = keys(&system).await;
    system.restart().await;
    assert_eq!(keys(&system).await, first, "a restart keeps the key");

    system.advance(Duration::from_secs(30 * 24 * 3600 - 600));
    system.restart().await;
    let both = keys(&system).await;
    assert_eq!((both.len(), &both[1]), (2, &first[0]));
    let token = system.log_in("ada", PASSWORD).await.expect("logged in").access_token;
    assert_eq!(kid(&token), first[0], "the next key only waits");
    system.advance(Duration::from_secs(900));
    let token = system.log_in("ada", PASSWORD).await.expect("logged in").access_token;
    assert_eq!(kid(&token), both[0], "the next key signs");
    system.verify(&token).await.expect("genuine");
    system.advance(Duration::from_secs(25 * 3600));
    system.restart().await;
    assert_eq!(keys(&system).await, [both[0].clone()], "the old key is gone when nothing of it can be left");
}

pub async fn a_verifier_resumes_without_a_gap(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let mut tokens = Vec::new();
    for _ in 0..4 {
        tokens.push(system.log_in("ada", PASSWORD).await.expect("logged in").access_token);
    }
    let before = log_out(&system, &tokens[0]).await;
    let mut stream = watch(&system, "").await;
    let (snapshot, _) = until_live(&mut stream).await;
    assert!(snapshot.iter().any(|event| matches!(event, Event::Keys(keys) if keys.keys.len() == 1)));
    let known: Vec<_> = snapshot.iter().filter_map(session_revoked).collect();
    assert_eq!(known, [before.as_str()], "what is in force is in the snapshot");

    let live = log_out(&system, &tokens[1]).await;
    let cursor = loop {
        let message = next(&mut stream).await;
        if let Some(Event::Bookmark(_)) = message.event {
            continue;
        }
        assert_eq!(session_revoked(&message.event.expect("event")), Some(live.as_str()));
        break message.cursor;
    };
    drop(stream);
    let missed = [log_out(&system, &tokens[2]).await, log_out(&system, &tokens[3]).await];
    let (replayed, _) = until_live(&mut watch(&system, &cursor).await).await;
    let replayed: Vec<_> = replayed.iter().map(|event| session_revoked(event).expect("a revocation")).collect();
    assert_eq!(replayed, missed, "exactly what was missed, in order");

    let forged = proto::WatchVerificationRequest { cursor: "Zm9yZ2Vk".into() };
    let refused = match system.client_of("rooms").watch_verification(forged).await {
        Err(status) => Error::from(status),
        Ok(stream) => Error::from(stream.into_inner().next().await.expect("an end").expect_err("forged")),
    };
    assert_eq!(refused.code(), Code::Invalid);
}

pub async fn revocations_survive_a_restart(engine: Engine) {
    let mut system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let token = system.log_in("ada", PASSWORD).await.expect("logged in").access_token;
    log_out(&system, &token).await;
    system.restart().await;
    assert_eq!(system.verify(&token).await.expect_err("still revoked").reason(), "TOKEN_REVOKED");
}

pub async fn users_may_not_watch(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    let root = system.log_in("admin", &system.admin_password()).await.expect("admin").access_token;
    let mut client = system.client();
    let request = proto::WatchVerificationRequest::default();
    let refused = as_user(&root, client.watch_verification(request)).await.expect_err("for services only");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
}
