//! Calls that are given up while they wait.

use sensormesh_proto::auth::v1 as proto;
use sensormesh_testkit::given_up::{happened_once, or_done};
use sensormesh_types::Code;

use crate::system::{Engine, PASSWORD, System, answer, as_user, cheap};

/// More than any call waits.
const MANY: usize = 60;
const VIEWER: i32 = 1;

pub async fn f05_a_change_given_up_at_any_wait_is_whole_or_not_at_all(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    let given_up = &system.given_up;
    let admin = system.log_in("admin", &system.admin_password()).await.expect("admin").access_token;
    let name = |n: usize| format!("user{n}");
    let register = async |n: usize| or_done(system.register(&name(n), "").await, Code::Exists);
    let registered = given_up.at_every_wait("Register", register).await;
    for n in registered + 1..=MANY {
        register(n).await.expect("registered");
    }
    let list = proto::ListUsersRequest { page_size: 1000, ..Default::default() };
    let mut client = system.client();
    let users = answer(as_user(&admin, client.list_users(list)).await).expect("list").users;
    let user = |n: usize| users.iter().find(|user| user.username == name(n)).expect("registered").clone();
    happened_once(&system.log().await, "user.created", users.iter().map(|user| user.user_id.clone()));

    let log_in = async |n: usize| system.log_in(&name(n), PASSWORD).await;
    let logged_in = given_up.at_every_wait("CreateToken", log_in).await;

    let new = "another good password";
    let mut held = Vec::new();
    for n in 1..=MANY {
        held.push(log_in(n).await.expect("logged in").access_token);
    }
    let change = async |n: usize| {
        let request = proto::ChangePasswordRequest { old_password: PASSWORD.into(), new_password: new.into() };
        let mut client = system.client();
        or_done(answer(as_user(&held[n - 1], client.change_password(request)).await), Code::Forbidden)
    };
    let changed = given_up.at_every_wait("ChangePassword", change).await;
    for n in 1..=changed {
        system.log_in(&name(n), new).await.expect("the new password");
        assert_eq!(system.log_in(&name(n), PASSWORD).await.expect_err("the old one").reason(), "INVALID_CREDENTIALS");
    }
    happened_once(&system.log().await, "user.password_changed", (1..=changed).map(|n| user(n).user_id));

    let log_out = async |n: usize| {
        let mut client = system.client();
        let call = client.logout(proto::LogoutRequest::default());
        or_done(answer(as_user(&held[MANY - n], call).await), Code::Unauthenticated)
    };
    let logged_out = given_up.at_every_wait("Logout", log_out).await;
    for n in 1..=logged_out {
        let error = system.verify(&held[MANY - n]).await.expect_err("revoked");
        assert_eq!(error.code(), Code::Unauthenticated);
    }

    let update = async |n: usize| {
        let changed = proto::User { display_name: "Ada".into(), role: VIEWER, ..user(n) };
        system.update(&admin, changed, &["display_name"]).await
    };
    let updated = given_up.at_every_wait("UpdateUser", update).await;
    let invite = async |_| {
        let mut client = system.client();
        let request = proto::CreateInvitationRequest { role: VIEWER, ..Default::default() };
        answer(as_user(&admin, client.create_invitation(request)).await)
    };
    let invited = given_up.at_every_wait("CreateInvitation", invite).await;
    let delete = async |n: usize| {
        let mut client = system.client();
        let request = proto::DeleteUserRequest { user_id: user(n).user_id };
        or_done(answer(as_user(&admin, client.delete_user(request)).await), Code::NotFound)
    };
    let deleted = given_up.at_every_wait("DeleteUser", delete).await;
    let waits = [registered, logged_in, changed, logged_out, updated, invited, deleted];
    eprintln!("waits: {waits:?}");
    assert!(waits.iter().all(|waits| *waits < MANY));
    let log = system.log().await;
    happened_once(&log, "user.updated", (1..=updated).map(|n| user(n).user_id));
    happened_once(&log, "user.deleted", (1..=deleted).map(|n| user(n).user_id));
    for n in 1..=deleted {
        system.log_in(&name(n), new).await.expect_err("gone");
    }
}
