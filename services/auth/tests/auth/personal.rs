//! Personal access tokens: programs that act for a user.

use std::time::Duration;

use sensormesh_proto::auth::v1 as proto;
use sensormesh_types::{Code, Result};

use crate::system::{Engine, PASSWORD, System, answer, as_user, cheap};

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn create(
    system: &System,
    token: &str,
    request: proto::CreatePersonalTokenRequest,
) -> Result<proto::CreatePersonalTokenResponse> {
    let mut client = system.client();
    answer(as_user(token, client.create_personal_token(request)).await)
}

async fn list(system: &System, token: &str) -> Vec<proto::PersonalToken> {
    let mut client = system.client();
    answer(as_user(token, client.list_personal_tokens(proto::ListPersonalTokensRequest {})).await)
        .expect("listed")
        .tokens
}

async fn delete(system: &System, token: &str, token_id: &str) -> Result<proto::DeletePersonalTokenResponse> {
    let mut client = system.client();
    let request = proto::DeletePersonalTokenRequest { token_id: token_id.to_owned() };
    answer(as_user(token, client.delete_personal_token(request)).await)
}

async fn exchange(system: &System, secret: &str) -> Result<proto::CreateTokenResponse> {
    let request = proto::CreateTokenRequest {
        grant_type: "personal_token".to_owned(),
        personal_token: secret.to_owned(),
        ..Default::default()
    };
    answer(system.client().create_token(request).await)
}

fn named(name: &str) -> proto::CreatePersonalTokenRequest {
    proto::CreatePersonalTokenRequest { name: name.to_owned(), password: PASSWORD.to_owned(), ..Default::default() }
}

pub async fn a_program_acts_for_a_user_until_its_token_ends(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    system.register("bob", "").await.expect("registered");
    let ada = system.log_in("ada", PASSWORD).await.expect("logged in").access_token;
    let made = create(&system, &ada, proto::CreatePersonalTokenRequest { days: 2, ..named("nightly") }).await;
    let made = made.expect("made");
    let token = made.token.expect("a token");
    assert!(made.secret.starts_with("smp_") && made.secret.len() == 47, "{}", made.secret);
    assert_eq!((token.name.as_str(), token.role, token.last_use_time), ("nightly", 1, None));

    let given = exchange(&system, &made.secret).await.expect("exchanged");
    assert_eq!((given.refresh_token.as_str(), given.expires_in), ("", 600));
    let who = system.verify(&given.access_token).await.expect("genuine");
    assert_eq!((who.username.as_str(), who.role), ("ada", 1));
    exchange(&system, &made.secret).await.expect("it works again");
    let shown = list(&system, &ada).await;
    assert!(shown.len() == 1 && shown[0].last_use_time.is_some(), "{shown:?}");
    let unknown = exchange(&system, "smp_made_up").await.expect_err("unknown");
    assert_eq!((unknown.code(), unknown.reason()), (Code::Unauthenticated, "INVALID_PERSONAL_TOKEN"));

    // another's is none
    let bob = system.log_in("bob", PASSWORD).await.expect("logged in").access_token;
    assert!(list(&system, &bob).await.is_empty());
    assert_eq!(delete(&system, &bob, &token.token_id).await.expect_err("hidden").code(), Code::NotFound);
    system.verify(&given.access_token).await.expect("not ended by another");

    delete(&system, &ada, &token.token_id).await.expect("ended");
    assert_eq!(system.verify(&given.access_token).await.expect_err("ended").reason(), "TOKEN_REVOKED");
    let ended = exchange(&system, &made.secret).await.expect_err("ended");
    assert_eq!((ended.reason(), ended.message()), (unknown.reason(), unknown.message()));
    assert_eq!(delete(&system, &ada, &token.token_id).await.expect_err("gone").code(), Code::NotFound);

    let short = create(&system, &ada, proto::CreatePersonalTokenRequest { days: 1, ..named("short") }).await;
    let short = short.expect("made").secret;
    system.advance(DAY - Duration::from_secs(1));
    let last = exchange(&system, &short).await.expect("the last second");
    assert_eq!(last.expires_in, 1, "no longer than what it was made from");
    system.advance(Duration::from_secs(1));
    assert_eq!(exchange(&system, &short).await.expect_err("over").message(), unknown.message());
    // the log has each step, and no secret
    let log = system.log().await;
    for kind in ["personal_token.created", "personal_token.used", "personal_token.deleted"] {
        assert!(log.iter().any(|entry| entry.kind == kind), "{kind}");
    }
    assert!(!format!("{log:?}").contains("smp_"));
}

pub async fn a_token_allows_no_more_than_its_user_may(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    let root = system.log_in("admin", &system.admin_password()).await.expect("admin").access_token;
    let ada = system.invited(&root, "ada", 2).await;
    let own = system.log_in("ada", PASSWORD).await.expect("logged in").access_token;
    let more = create(&system, &own, proto::CreatePersonalTokenRequest { role: 3, ..named("more") }).await;
    assert_eq!(more.expect_err("more than the own").fields()[0].field, "role");
    let request = proto::CreatePersonalTokenRequest { role: 2, site_ids: vec!["north".into()], ..named("writer") };
    let secret = create(&system, &own, request).await.expect("made").secret;
    let writer = exchange(&system, &secret).await.expect("exchanged").access_token;
    assert_eq!(system.verify(&writer).await.expect("genuine").role, 2);
    let claims = system.auth.verifier().verify(&writer).expect("genuine");
    assert_eq!(claims.sites, ["north"], "narrower than its user");

    // what the user loses, the token loses
    system.update(&root, proto::User { role: 1, ..ada.clone() }, &["role"]).await.expect("smaller role");
    assert_eq!(system.verify(&writer).await.expect_err("too much in it").reason(), "TOKEN_REVOKED");
    let reader = exchange(&system, &secret).await.expect("exchanged").access_token;
    assert_eq!(system.verify(&reader).await.expect("genuine").role, 1);
    let elsewhere = proto::User { site_ids: vec!["south".into()], ..ada.clone() };
    system.update(&root, elsewhere, &["site_ids"]).await.expect("moved");
    assert_eq!(exchange(&system, &secret).await.expect_err("nothing is left").reason(), "INVALID_PERSONAL_TOKEN");
    let back = proto::User { site_ids: vec![], disabled: true, ..ada };
    system.update(&root, back, &["site_ids", "disabled"]).await.expect("disabled");
    assert_eq!(exchange(&system, &secret).await.expect_err("disabled").reason(), "INVALID_PERSONAL_TOKEN");
}

pub async fn a_token_does_not_change_the_account(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    system.register("ada", "").await.expect("registered");
    let ada = system.log_in("ada", PASSWORD).await.expect("logged in").access_token;
    let secret = create(&system, &ada, named("a program")).await.expect("made").secret;
    let program = exchange(&system, &secret).await.expect("exchanged").access_token;
    let stolen = proto::CreatePersonalTokenRequest { password: "not it".into(), ..named("stolen") };
    let refused = create(&system, &ada, stolen).await.expect_err("an access token alone is not enough");
    assert_eq!(refused.reason(), "WRONG_PASSWORD");
    let refused = create(&system, &program, named("another")).await.expect_err("not by itself");
    assert_eq!((refused.code(), refused.reason()), (Code::Precondition, "LOG_IN"));
    let mut client = system.client();
    let request =
        proto::ChangePasswordRequest { old_password: PASSWORD.into(), new_password: "another password".into() };
    let refused = answer(as_user(&program, client.change_password(request)).await).expect_err("nor the password");
    assert_eq!(refused.reason(), "LOG_IN");
    let request = proto::LogoutRequest { all_sessions: true };
    let refused = answer(as_user(&program, client.logout(request)).await).expect_err("nor ends sessions");
    assert_eq!(refused.reason(), "LOG_IN");
    // an administrator's neither: what it did to accounts would outlive it
    let password = system.admin_password();
    let root = system.log_in("admin", &password).await.expect("admin").access_token;
    let request = proto::CreatePersonalTokenRequest { role: 3, password, ..named("robot") };
    let secret = create(&system, &root, request).await.expect("made").secret;
    let robot = exchange(&system, &secret).await.expect("exchanged").access_token;
    let user_id = system.verify(&ada).await.expect("genuine").user_id;
    let other = proto::User { user_id: user_id.clone(), email: "mallory@example.org".into(), ..Default::default() };
    let refused = system.update(&robot, other, &["email"]).await.expect_err("no address");
    assert_eq!(refused.reason(), "LOG_IN");
    let request = proto::DeleteUserRequest { user_id };
    let refused = answer(as_user(&robot, client.delete_user(request)).await).expect_err("no deletion");
    assert_eq!(refused.reason(), "LOG_IN");
    let request = proto::CreateInvitationRequest { role: 3, ..Default::default() };
    let refused = answer(as_user(&robot, client.create_invitation(request)).await).expect_err("no invitation");
    assert_eq!(refused.reason(), "LOG_IN");
    for number in 1..100 {
        create(&system, &ada, named(&format!("n{number}"))).await.expect("a hundred in all");
    }
    assert_eq!(create(&system, &ada, named("one more")).await.expect_err("enough").reason(), "TOO_MANY_TOKENS");
}
