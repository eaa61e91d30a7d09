//! Sessions: logging in, staying in, getting out.

use std::time::Duration;

use sensormesh_auth::{Config, throttle};
use sensormesh_proto::auth::v1 as proto;
use sensormesh_types::{Code, Error};

use crate::system::{Engine, PASSWORD, System, answer, as_user, cheap};

pub async fn wrong_names_and_wrong_passwords_get_the_same_answer(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let wrong = system.log_in("ada", "not the password").await.expect_err("wrong password");
    let nobody = system.log_in("nobody", "not the password").await.expect_err("no such user");
    assert_eq!((wrong.code(), wrong.reason()), (Code::Unauthenticated, "INVALID_CREDENTIALS"));
    assert_eq!((nobody.code(), nobody.reason()), (wrong.code(), wrong.reason()));
    assert_eq!(nobody.message(), wrong.message());
    let empty = system.log_in("ada", "").await.expect_err("empty");
    assert_eq!((empty.code(), empty.fields()[0].field.as_str()), (Code::Invalid, "password"));
    let odd = proto::CreateTokenRequest { grant_type: "client_credentials".into(), ..Default::default() };
    let refused = answer(system.client().create_token(odd).await).expect_err("another grant");
    assert_eq!(refused.code(), Code::Invalid);
}

pub async fn guessing_makes_the_account_wait(engine: Engine) {
    let throttle = throttle::Config { account_attempts: 3, ..Default::default() };
    let system = System::start(engine, Config { throttle, ..cheap() }).await;
    system.register("ada", "").await.expect("registered");
    for name in ["ada", "nobody"] {
        for _ in 0..3 {
            let wrong = system.log_in(name, "not the password").await.expect_err("wrong");
            assert_eq!(wrong.reason(), "INVALID_CREDENTIALS");
        }
        let throttled = system.log_in(name, PASSWORD).await.expect_err("even if it were right");
        assert_eq!((throttled.code(), throttled.reason()), (Code::Exhausted, "LOGIN_THROTTLED"));
        assert!(throttled.retry_after().is_some());
    }
    system.advance(Duration::from_secs(2));
    system.log_in("ada", PASSWORD).await.expect("waited, and right");
    for _ in 0..3 {
        system.log_in("ada", "not the password").await.expect_err("wrong, with a clean slate");
    }
}

pub async fn guessing_many_accounts_makes_the_address_wait(engine: Engine) {
    let throttle = throttle::Config { address_attempts: 4, ..Default::default() };
    let system = System::start(engine, Config { throttle, ..cheap() }).await;
    let attempt = |name: String, address: &'static str| {
        let mut client = system.client();
        async move {
            let body =
                proto::CreateTokenRequest { username: name, password: "not the one".into(), ..Default::default() };
            let mut request = tonic::Request::new(body);
            request.metadata_mut().insert("x-forwarded-for", address.parse().expect("address"));
            answer(client.create_token(request).await).expect_err("wrong")
        }
    };
    for n in 0..4 {
        assert_eq!(attempt(format!("user{n}"), "192.0.2.7").await.reason(), "INVALID_CREDENTIALS");
    }
    assert_eq!(attempt("user9".into(), "192.0.2.7").await.reason(), "LOGIN_THROTTLED");
    assert_eq!(attempt("user9".into(), "192.0.2.8").await.reason(), "INVALID_CREDENTIALS");
}

pub async fn a_used_refresh_token_ends_the_session(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let first = system.log_in("ada", PASSWORD).await.expect("logged in");
    let other = system.log_in("ada", PASSWORD).await.expect("a second session");
    let second = system.refresh(&first.refresh_token).await.expect("refreshed");
    assert_ne!(second.refresh_token, first.refresh_token);
    system.verify(&second.access_token).await.expect("genuine");

    let reused = system.refresh(&first.refresh_token).await.expect_err("used");
    assert_eq!((reused.code(), reused.reason()), (Code::Unauthenticated, "INVALID_REFRESH_TOKEN"));
    let ended = system.refresh(&second.refresh_token).await.expect_err("the session has ended");
    assert_eq!(ended.message(), reused.message());
    for token in [&first.access_token, &second.access_token] {
        assert_eq!(system.verify(token).await.expect_err("revoked").reason(), "TOKEN_REVOKED");
    }
    system.verify(&other.access_token).await.expect("another session goes on");
    let unknown = system.refresh("smr_made_up").await.expect_err("unknown");
    assert_eq!((unknown.reason(), unknown.message()), (reused.reason(), reused.message()));
}

pub async fn of_parallel_refreshes_one_succeeds(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let tokens = system.log_in("ada", PASSWORD).await.expect("logged in");
    let tries = (0..20).map(|_| {
        let mut client = system.client();
        let request = proto::CreateTokenRequest {
            grant_type: "refresh_token".into(),
            refresh_token: tokens.refresh_token.clone(),
            ..Default::default()
        };
        tokio::spawn(async move { answer(client.create_token(request).await) })
    });
    let (mut won, mut lost) = (Vec::new(), 0);
    for tried in futures::future::join_all(tries).await {
        match tried.expect("no panic") {
            Ok(tokens) => won.push(tokens),
            Err(error) => {
                assert_eq!(error.reason(), "INVALID_REFRESH_TOKEN", "{error:?}");
                lost += 1;
            }
        }
    }
    assert_eq!((won.len(), lost), (1, 19));
    // the others were second uses of the token, so the session is over for whoever won
    assert_eq!(system.verify(&won[0].access_token).await.expect_err("revoked").reason(), "TOKEN_REVOKED");
    assert!(system.refresh(&won[0].refresh_token).await.is_err());
}

pub async fn a_session_ends_when_it_is_not_refreshed(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let mut tokens = system.log_in("ada", PASSWORD).await.expect("logged in");
    for _ in 0..3 {
        system.advance(Duration::from_secs(29 * 24 * 3600));
        tokens = system.refresh(&tokens.refresh_token).await.expect("refreshed in time");
    }
    system.advance(Duration::from_secs(700));
    assert_eq!(system.verify(&tokens.access_token).await.expect_err("ten minutes").reason(), "TOKEN_EXPIRED");
    system.advance(Duration::from_secs(30 * 24 * 3600));
    assert_eq!(system.refresh(&tokens.refresh_token).await.expect_err("late").reason(), "INVALID_REFRESH_TOKEN");
}

pub async fn logging_out_ends_one_session_or_all(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(system.log_in("ada", PASSWORD).await.expect("logged in"));
    }
    let log_out = async |token: &str, all_sessions: bool| {
        let mut client = system.client();
        answer(as_user(token, client.logout(proto::LogoutRequest { all_sessions })).await)
    };
    log_out(&sessions[0].access_token, false).await.expect("logged out");
    assert_eq!(system.verify(&sessions[0].access_token).await.expect_err("ended").reason(), "TOKEN_REVOKED");
    assert!(system.refresh(&sessions[0].refresh_token).await.is_err());
    system.verify(&sessions[1].access_token).await.expect("the others go on");

    log_out(&sessions[1].access_token, true).await.expect("logged out everywhere");
    for session in &sessions {
        assert_eq!(system.verify(&session.access_token).await.expect_err("ended").reason(), "TOKEN_REVOKED");
        assert!(system.refresh(&session.refresh_token).await.is_err());
    }
    // in the same second
    let again = system.log_in("ada", PASSWORD).await.expect("logged in again");
    system.verify(&again.access_token).await.expect("a new session is not an old one");
}

pub async fn a_user_sees_the_own_sessions_and_ends_one(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    system.register("bob", "").await.expect("registered");
    let laptop = system.log_in_with("ada", "Firefox/144.0", "192.0.2.7").await.access_token;
    let others = system.log_in("bob", PASSWORD).await.expect("logged in").access_token;
    system.advance(Duration::from_secs(60));
    let phone = system.log_in_with("ada", "Firefox for Android", "198.51.100.9").await;

    let list = async |token: &str| {
        let mut client = system.client();
        let answered = as_user(token, client.list_sessions(proto::ListSessionsRequest {})).await;
        answer(answered).expect("listed").sessions
    };
    let seen = list(&laptop).await;
    let told: Vec<_> = seen.iter().map(|s| (s.user_agent.as_str(), s.address.as_str(), s.current)).collect();
    assert_eq!(told, [("Firefox for Android", "198.51.100.9", false), ("Firefox/144.0", "192.0.2.7", true)]);
    let (first, second) = (seen[1].last_use_time.expect("used"), seen[0].last_use_time.expect("used"));
    assert_eq!(second.seconds - first.seconds, 60);

    let end = async |token: &str, session_id: &str| {
        let request = proto::DeleteSessionRequest { session_id: session_id.to_owned() };
        let mut client = system.client();
        answer(as_user(token, client.delete_session(request)).await)
    };
    let hidden = end(&others, &seen[0].session_id).await.expect_err("another user's");
    let unknown = end(&others, "nothing").await.expect_err("of nobody");
    assert_eq!((hidden.code(), unknown.code()), (Code::NotFound, Code::NotFound));
    system.verify(&phone.access_token).await.expect("not ended by another");

    end(&laptop, &seen[0].session_id).await.expect("ended");
    assert_eq!(system.verify(&phone.access_token).await.expect_err("ended").reason(), "TOKEN_REVOKED");
    assert_eq!(system.refresh(&phone.refresh_token).await.expect_err("ended").reason(), "INVALID_REFRESH_TOKEN");
    assert_eq!(end(&laptop, &seen[0].session_id).await.expect_err("gone").code(), Code::NotFound);
    assert_eq!(list(&laptop).await.len(), 1);

    // a session that is over by itself is none
    system.advance(Duration::from_secs(20 * 24 * 3600));
    let fresh = system.log_in("ada", PASSWORD).await.expect("logged in").access_token;
    system.advance(Duration::from_secs(11 * 24 * 3600));
    let fresh = system.log_in("ada", PASSWORD).await.map_or(fresh, |tokens| tokens.access_token);
    assert_eq!(list(&fresh).await.len(), 2);
}

pub async fn a_new_password_ends_the_other_sessions(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let own = system.log_in("ada", PASSWORD).await.expect("logged in");
    let other = system.log_in("ada", PASSWORD).await.expect("logged in");
    let mut client = system.client();
    let request = |new: &str| proto::ChangePasswordRequest { old_password: PASSWORD.into(), new_password: new.into() };
    let refused = as_user(&own.access_token, client.change_password(request("password123"))).await;
    assert_eq!(answer(refused).expect_err("guessed").fields()[0].field, "new_password");
    answer(as_user(&own.access_token, client.change_password(request("another password"))).await).expect("changed");

    system.verify(&own.access_token).await.expect("the own session goes on");
    system.refresh(&own.refresh_token).await.expect("the own session goes on");
    assert_eq!(system.verify(&other.access_token).await.expect_err("ended").reason(), "TOKEN_REVOKED");
    assert!(system.refresh(&other.refresh_token).await.is_err());
    assert!(system.log_in("ada", PASSWORD).await.is_err());
    system.log_in("ada", "another password").await.expect("the new one");
}

pub async fn a_smaller_role_and_a_disabled_account_take_effect_at_once(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    let root = system.log_in("admin", &system.admin_password()).await.expect("admin").access_token;
    let ada = system.invited(&root, "ada", 2).await;
    let tokens = system.log_in("ada", PASSWORD).await.expect("logged in");

    system.update(&root, proto::User { role: 1, ..ada.clone() }, &["role"]).await.expect("smaller role");
    let revoked: Error = system.verify(&tokens.access_token).await.expect_err("too much in it");
    assert_eq!(revoked.reason(), "TOKEN_REVOKED");
    let tokens = system.refresh(&tokens.refresh_token).await.expect("the session goes on");
    assert_eq!(system.verify(&tokens.access_token).await.expect("genuine").role, 1);

    system.update(&root, proto::User { disabled: true, ..ada.clone() }, &["disabled"]).await.expect("disabled");
    assert_eq!(system.verify(&tokens.access_token).await.expect_err("disabled").reason(), "TOKEN_REVOKED");
    assert!(system.refresh(&tokens.refresh_token).await.is_err());
    assert_eq!(system.log_in("ada", PASSWORD).await.expect_err("disabled").reason(), "INVALID_CREDENTIALS");

    system.update(&root, proto::User { disabled: false, ..ada }, &["disabled"]).await.expect("enabled");
    let tokens = system.log_in("ada", PASSWORD).await.expect("enabled");
    system.verify(&tokens.access_token).await.expect("genuine");
}
