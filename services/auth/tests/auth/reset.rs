//! Passwords that were forgotten (F60): mail, and what it allows once.

use std::time::Duration;

use sensormesh_auth::{Config, mail};
use sensormesh_proto::auth::v1 as proto;
use sensormesh_testkit::mail::Sink;
use sensormesh_testkit::system::eventually;
use sensormesh_types::{Code, Result};

use crate::system::{Engine, PASSWORD, System, answer, as_user, cheap};

/// A system that sends mail to `sink`.
async fn mailing(engine: Engine, sink: &Sink, dir: &tempfile::TempDir) -> System {
    let file = dir.path().join("smtp");
    std::fs::write(&file, format!("smtp://127.0.0.1:{}\n", sink.port)).expect("written");
    let mail = mail::Config {
        smtp_url_file: Some(file),
        from: "sensormesh <noreply@example.org>".into(),
        public_url: "https://sensors.example.org".into(),
    };
    System::start(engine, Config { mail, ..cheap() }).await
}

async fn register(system: &System, username: &str, email: &str) {
    let request = proto::RegisterRequest {
        username: username.into(),
        password: PASSWORD.into(),
        email: email.into(),
        ..Default::default()
    };
    answer(system.client().register(request).await).expect("registered");
}

async fn ask(system: &System, username: &str) -> Result<proto::RequestPasswordResetResponse> {
    let request = proto::RequestPasswordResetRequest { username: username.into() };
    answer(system.client().request_password_reset(request).await)
}

async fn reset(system: &System, secret: &str, new_password: &str) -> Result<proto::ResetPasswordResponse> {
    let request = proto::ResetPasswordRequest { secret: secret.into(), new_password: new_password.into() };
    answer(system.client().reset_password(request).await)
}

/// The secrets that were mailed to somebody so far.
fn mailed(sink: &Sink, to: &str) -> Vec<String> {
    let to = format!("To: {to}");
    let mails = sink.mails().into_iter().filter(|mail| mail.contains(&to));
    // long lines are cut in two (RFC 2045, section 6.7)
    let whole = mails.map(|mail| mail.replace("=\r\n", "").replace("=\n", ""));
    whole.filter_map(|mail| Some(mail.split("/#/reset/").nth(1)?.split_whitespace().next()?.to_owned())).collect()
}

async fn next(sink: &Sink, to: &str, known: &[String]) -> String {
    let new = || async { mailed(sink, to).into_iter().find(|secret| !known.contains(secret)) };
    eventually(Duration::from_secs(20), new).await.expect("mail")
}

pub async fn what_was_mailed_sets_another_password_once(engine: Engine) {
    let Some(sink) = Sink::start().await else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let system = mailing(engine, &sink, &dir).await;
    register(&system, "ada", "ada@example.org").await;
    register(&system, "bob", "").await;
    let before = system.log_in("ada", PASSWORD).await.expect("logged in");
    let mut client = system.client();
    let program =
        proto::CreatePersonalTokenRequest { name: "a program".into(), password: PASSWORD.into(), ..Default::default() };
    let program =
        answer(as_user(&before.access_token, client.create_personal_token(program)).await).expect("made").secret;

    // who has no address, and who is nobody, hear the same
    for name in ["bob", "nobody", "ada"] {
        ask(&system, name).await.expect("the same for all");
    }
    let secret = next(&sink, "ada@example.org", &[]).await;
    assert_eq!(sink.mails().len(), 1);
    assert!(sink.mails()[0].contains("https://sensors.example.org/#/reset/"), "{}", sink.mails()[0]);

    let unknown = reset(&system, "smx_made_up", "another password").await.expect_err("unknown");
    assert_eq!((unknown.code(), unknown.reason()), (Code::Forbidden, "RESET_INVALID"));
    let weak = reset(&system, &secret, "password123").await.expect_err("easily guessed");
    assert_eq!(weak.fields().first().map(|field| field.field.as_str()), Some("new_password"), "{weak:?}");
    reset(&system, &secret, "another password").await.expect("the secret was left for a better one");
    let used = reset(&system, &secret, "yet another password").await.expect_err("used");
    assert_eq!((used.reason(), used.message()), (unknown.reason(), unknown.message()));

    assert_eq!(system.verify(&before.access_token).await.expect_err("ended").reason(), "TOKEN_REVOKED");
    assert!(system.refresh(&before.refresh_token).await.is_err());
    let exchanged = proto::CreateTokenRequest {
        grant_type: "personal_token".into(),
        personal_token: program,
        ..Default::default()
    };
    assert!(
        answer(system.client().create_token(exchanged).await).is_err(),
        "whoever knew the password may have made it"
    );
    assert!(system.log_in("ada", PASSWORD).await.is_err());
    system.log_in("ada", "another password").await.expect("the new one");
    let log = system.log().await;
    for kind in ["user.password_reset_requested", "user.password_reset"] {
        assert_eq!(log.iter().filter(|entry| entry.kind == kind).count(), 1, "{kind}");
    }
    assert!(!format!("{log:?}").contains("smx_"));
}

pub async fn a_mailed_secret_ends_by_itself_and_by_a_newer_one(engine: Engine) {
    let Some(sink) = Sink::start().await else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let system = mailing(engine, &sink, &dir).await;
    register(&system, "ada", "ada@example.org").await;
    ask(&system, "ada").await.expect("asked");
    let first = next(&sink, "ada@example.org", &[]).await;
    ask(&system, "ADA").await.expect("asked again");
    let second = next(&sink, "ada@example.org", std::slice::from_ref(&first)).await;
    assert_eq!(reset(&system, &first, "another password").await.expect_err("older").reason(), "RESET_INVALID");
    system.advance(Duration::from_secs(15 * 60));
    assert_eq!(reset(&system, &second, "another password").await.expect_err("late").reason(), "RESET_INVALID");
    system.log_in("ada", PASSWORD).await.expect("nothing has changed");

    // and nobody fills a mailbox
    let mut refused = 0;
    for _ in 0..5 {
        refused += usize::from(ask(&system, "ada").await.is_err_and(|error| error.code() == Code::Exhausted));
    }
    assert!(refused >= 3, "{refused}");
}

pub async fn without_mail_nobody_is_told_that_it_comes(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    let refused = ask(&system, "ada").await.expect_err("no mail");
    assert_eq!((refused.code(), refused.reason()), (Code::Precondition, "MAIL_NOT_CONFIGURED"));
}
