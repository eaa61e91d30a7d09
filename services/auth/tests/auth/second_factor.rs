//! A second factor: codes of an authenticator app.

use std::time::Duration;

use sensormesh_auth::{Config, locked_out, throttle};
use sensormesh_proto::auth::v1 as proto;
use sensormesh_types::{Code, Result};
use totp_rs::{Builder, Secret, Totp};

use crate::system::{Engine, PASSWORD, System, answer, as_user, cheap};

/// The user's app, which reads the secret as a user types it in.
fn app(begun: &proto::BeginTotpResponse) -> Totp {
    let secret = Secret::try_from_base32(&begun.secret).expect("base 32");
    Builder::new().with_secret(secret).build().expect("an app")
}

fn code(app: &Totp, system: &System) -> String {
    app.generate(system.clock.now_seconds().try_into().expect("after 1970")).to_string()
}

async fn log_in(system: &System, otp: &str) -> Result<proto::CreateTokenResponse> {
    let request = proto::CreateTokenRequest {
        username: "ada".into(),
        password: PASSWORD.into(),
        otp: otp.into(),
        ..Default::default()
    };
    answer(system.client().create_token(request).await)
}

async fn begin(system: &System, token: &str, password: &str) -> Result<proto::BeginTotpResponse> {
    let request = proto::BeginTotpRequest { password: password.into() };
    answer(as_user(token, system.client().begin_totp(request)).await)
}

async fn enable(system: &System, token: &str, code: &str) -> Result<proto::EnableTotpResponse> {
    answer(as_user(token, system.client().enable_totp(proto::EnableTotpRequest { code: code.into() })).await)
}

async fn disable(system: &System, token: &str, password: &str, code: &str) -> Result<proto::DisableTotpResponse> {
    let request = proto::DisableTotpRequest { password: password.into(), code: code.into() };
    answer(as_user(token, system.client().disable_totp(request)).await)
}

pub async fn a_log_in_needs_a_code_once_the_app_has_shown_one(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let token = system.log_in("ada", PASSWORD).await.expect("logged in").access_token;
    assert_eq!(enable(&system, &token, "123456").await.expect_err("not begun").reason(), "TOTP_NOT_BEGUN");
    assert_eq!(begin(&system, &token, "not it").await.expect_err("a stranger").reason(), "WRONG_PASSWORD");
    let first = begin(&system, &token, PASSWORD).await.expect("begun");
    let begun = begin(&system, &token, PASSWORD).await.expect("begun again");
    assert_ne!(first.secret, begun.secret);
    assert!(begun.uri.starts_with("otpauth://totp/") && begun.uri.contains(&begun.secret), "{}", begun.uri);
    log_in(&system, "").await.expect("no code is asked for yet");

    let ada = app(&begun);
    let old = enable(&system, &token, &code(&app(&first), &system)).await.expect_err("of the secret before");
    assert_eq!((old.code(), old.fields()[0].field.as_str()), (Code::Invalid, "code"));
    let recovery = enable(&system, &token, &code(&ada, &system)).await.expect("enabled").recovery_codes;
    assert_eq!(recovery.len(), 10);
    assert_eq!(begin(&system, &token, PASSWORD).await.expect_err("there is one").reason(), "TOTP_ENABLED");

    assert_eq!(log_in(&system, "").await.expect_err("no code").reason(), "OTP_REQUIRED");
    let used = log_in(&system, &code(&ada, &system)).await.expect_err("used to enable it");
    assert_eq!((used.code(), used.reason()), (Code::Unauthenticated, "OTP_INVALID"));
    system.advance(Duration::from_secs(30));
    let now = code(&ada, &system);
    let tokens = log_in(&system, &now).await.expect("a new code");
    assert_eq!(log_in(&system, &now).await.expect_err("a code works once").reason(), "OTP_INVALID");
    system.refresh(&tokens.refresh_token).await.expect("a session goes on without a code");

    // a wrong password uses no recovery code up
    let wrong = proto::CreateTokenRequest {
        username: "ada".into(),
        password: "not it".into(),
        otp: recovery[0].clone(),
        ..Default::default()
    };
    let refused = answer(system.client().create_token(wrong).await).expect_err("a wrong password");
    assert_eq!(refused.reason(), "INVALID_CREDENTIALS");
    log_in(&system, &recovery[0]).await.expect("a recovery code");
    assert_eq!(log_in(&system, &recovery[0]).await.expect_err("it works once").reason(), "OTP_INVALID");

    assert_eq!(
        disable(&system, &token, "not it", &recovery[1]).await.expect_err("a stranger").reason(),
        "WRONG_PASSWORD"
    );
    assert_eq!(disable(&system, &token, PASSWORD, "000000").await.expect_err("no code").fields()[0].field, "code");
    disable(&system, &token, PASSWORD, &recovery[1]).await.expect("disabled");
    assert_eq!(disable(&system, &token, PASSWORD, &recovery[2]).await.expect_err("gone").reason(), "TOTP_NOT_ENABLED");
    log_in(&system, "").await.expect("no code is asked for any more");
}

pub async fn codes_cannot_be_tried_without_end(engine: Engine) {
    let throttle = throttle::Config { account_attempts: 3, ..Default::default() };
    let system = System::start(engine, Config { throttle, ..cheap() }).await;
    system.register("ada", "").await.expect("registered");
    let token = system.log_in("ada", PASSWORD).await.expect("logged in").access_token;
    let ada = app(&begin(&system, &token, PASSWORD).await.expect("begun"));
    enable(&system, &token, &code(&ada, &system)).await.expect("enabled");
    system.advance(Duration::from_secs(60));
    for _ in 0..10 {
        assert_eq!(log_in(&system, "").await.expect_err("asked for the code").reason(), "OTP_REQUIRED");
    }
    for _ in 0..3 {
        assert_eq!(log_in(&system, "000000").await.expect_err("a guess").reason(), "OTP_INVALID");
    }
    assert_eq!(log_in(&system, "000000").await.expect_err("too many").reason(), "LOGIN_THROTTLED");
    let through = disable(&system, &token, PASSWORD, "000000").await.expect_err("no other way");
    assert_eq!(through.reason(), "LOGIN_THROTTLED");
    system.advance(Duration::from_secs(2));
    log_in(&system, &code(&ada, &system)).await.expect("waited, and right");
    for _ in 0..3 {
        disable(&system, &token, PASSWORD, "000000").await.expect_err("a guess");
    }
    let through = disable(&system, &token, PASSWORD, "000000").await.expect_err("too many");
    assert_eq!(through.reason(), "LOGIN_THROTTLED");
}

pub async fn a_right_password_makes_wrong_codes_not_forgotten(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let token = system.log_in("ada", PASSWORD).await.expect("logged in").access_token;
    let ada = app(&begin(&system, &token, PASSWORD).await.expect("begun"));
    enable(&system, &token, &code(&ada, &system)).await.expect("enabled");
    system.advance(Duration::from_secs(60));
    let weak = || proto::ChangePasswordRequest { old_password: PASSWORD.into(), new_password: "ada12345".into() };
    for _ in 0..5 {
        assert_eq!(log_in(&system, "000000").await.expect_err("a guess").reason(), "OTP_INVALID");
        let refused = answer(as_user(&token, system.client().change_password(weak())).await);
        assert_eq!(refused.expect_err("weak").code(), Code::Invalid, "the old one was right");
        assert_eq!(begin(&system, &token, PASSWORD).await.expect_err("there is one").reason(), "TOTP_ENABLED");
    }
    assert_eq!(log_in(&system, "000000").await.expect_err("too many").reason(), "LOGIN_THROTTLED");
    system.advance(Duration::from_secs(30));
    log_in(&system, &code(&ada, &system)).await.expect("waited, and right");
}

pub async fn the_operator_helps_who_is_locked_out(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let tokens = system.log_in("ada", PASSWORD).await.expect("logged in");
    let ada = app(&begin(&system, &tokens.access_token, PASSWORD).await.expect("begun"));
    let recovery = enable(&system, &tokens.access_token, &code(&ada, &system)).await.expect("enabled").recovery_codes;
    let store = system.store().await;
    let unknown = locked_out::disable_totp(&store, "nobody").await.expect_err("no such user");
    assert_eq!(unknown.code(), Code::NotFound);

    let reset = locked_out::reset_password(&store, &system.clock, system.config(), "ADA").await.expect("reset");
    assert_eq!(log_in(&system, &recovery[0]).await.expect_err("the old password").reason(), "INVALID_CREDENTIALS");
    assert!(system.refresh(&tokens.refresh_token).await.is_err(), "its sessions have ended");
    let asked = system.log_in("ada", reset.reveal()).await.expect_err("the second factor stays");
    assert_eq!(asked.reason(), "OTP_REQUIRED");
    locked_out::disable_totp(&store, "ada").await.expect("disabled");
    assert_eq!(locked_out::disable_totp(&store, "ada").await.expect_err("gone").reason(), "TOTP_NOT_ENABLED");
    system.log_in("ada", reset.reveal()).await.expect("the new password");
    for _ in 0..100 {
        if system.verify(&tokens.access_token).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(system.verify(&tokens.access_token).await.expect_err("revoked").reason(), "TOKEN_REVOKED");
    let log = system.log().await;
    for kind in ["user.password_reset", "user.totp_disabled"] {
        let entry = log.iter().find(|entry| entry.kind == kind).expect(kind);
        assert_eq!(entry.actor, "service:operator");
    }
}
