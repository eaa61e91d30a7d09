//! Accounts: registering, inviting, changing.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use sensormesh_auth::{Config, Registration};
use sensormesh_proto::auth::v1 as proto;
use sensormesh_types::Code;

use crate::system::{Engine, PASSWORD, System, answer, as_user, cheap};
use crate::verification::TestKey;

const VIEWER: i32 = 1;
const OPERATOR: i32 = 2;
const ADMIN: i32 = 3;
const PLATFORM_ADMIN: i32 = 4;

pub async fn somebody_registers_and_logs_in(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    let user = system.register("Ada.Lovelace", "").await.expect("registered");
    assert_eq!((user.username.as_str(), user.role, user.disabled), ("Ada.Lovelace", VIEWER, false));
    assert_eq!(user.display_name, "Ada.Lovelace");

    let taken = system.register("ada.lovelace", "").await.expect_err("the name is taken");
    assert_eq!(taken.code(), Code::Exists);

    let tokens = system.log_in("ADA.LOVELACE", PASSWORD).await.expect("logged in");
    assert_eq!((tokens.token_type.as_str(), tokens.expires_in), ("Bearer", 600));
    let verified = system.verify(&tokens.access_token).await.expect("genuine");
    assert!(verified.valid);
    assert_eq!((verified.user_id, verified.username, verified.role), (user.user_id, user.username, VIEWER));
    let expires = verified.expire_time.expect("expires").seconds;
    assert_eq!(expires, system.clock.now_seconds() + 600);

    let short = proto::RegisterRequest { username: "bob".into(), password: "short".into(), ..Default::default() };
    let refused = answer(system.client().register(short).await).expect_err("too short");
    assert_eq!((refused.code(), refused.fields()[0].field.as_str()), (Code::Invalid, "password"));
    let guessed = proto::RegisterRequest { username: "bob".into(), password: "Password1".into(), ..Default::default() };
    assert_eq!(answer(system.client().register(guessed).await).expect_err("guessed").code(), Code::Invalid);
}

pub async fn registering_needs_an_invitation_where_it_is_not_open(engine: Engine) {
    let system = System::start(engine, Config { registration: None, ..cheap() }).await;
    let refused = system.register("ada", "").await.expect_err("closed");
    assert_eq!((refused.code(), refused.reason()), (Code::Forbidden, "INVITATION_REQUIRED"));
    let refused = system.register("ada", "smi_made_up").await.expect_err("no such invitation");
    assert_eq!((refused.code(), refused.reason()), (Code::Forbidden, "INVITATION_INVALID"));
}

pub async fn nobody_registers_where_registration_is_closed(engine: Engine) {
    let closed = Config { registration: Some(Registration::Closed), ..cheap() };
    let system = System::start(engine, closed).await;
    let refused = system.register("ada", "").await.expect_err("closed");
    assert_eq!((refused.code(), refused.reason()), (Code::Forbidden, "REGISTRATION_CLOSED"));
    let admin = system.log_in("admin", &system.admin_password()).await.expect("admin").access_token;
    let request = proto::CreateInvitationRequest { role: OPERATOR, ..Default::default() };
    let mut client = system.client();
    let refused = answer(as_user(&admin, client.create_invitation(request)).await).expect_err("closed");
    assert_eq!(refused.reason(), "REGISTRATION_CLOSED");
}

pub async fn an_invitation_gives_the_sites_that_it_names(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    let admin = system.log_in("admin", &system.admin_password()).await.expect("admin").access_token;
    let site_ids = vec!["north".to_owned()];
    let request = proto::CreateInvitationRequest { role: OPERATOR, site_ids: site_ids.clone(), ..Default::default() };
    let mut client = system.client();
    let invitation = answer(as_user(&admin, client.create_invitation(request)).await).expect("invitation");
    assert_eq!(system.register("ada", &invitation.invitation).await.expect("registered").site_ids, site_ids);
}

pub async fn an_invitation_works_once_and_expires(engine: Engine) {
    let system = System::start(engine, Config { registration: None, ..cheap() }).await;
    let admin = system.log_in("admin", &system.admin_password()).await.expect("admin").access_token;
    let request = proto::CreateInvitationRequest { role: OPERATOR, ..Default::default() };
    let mut client = system.client();
    let invitation = answer(as_user(&admin, client.create_invitation(request.clone())).await).expect("invitation");

    let user = system.register("ada", &invitation.invitation).await.expect("registered");
    assert_eq!(user.role, OPERATOR);
    let again = system.register("bob", &invitation.invitation).await.expect_err("used");
    assert_eq!(again.reason(), "INVITATION_INVALID");

    let other = answer(as_user(&admin, client.create_invitation(request)).await).expect("invitation");
    let taken = system.register("ada", &other.invitation).await.expect_err("the name is taken");
    assert_eq!(taken.code(), Code::Exists);
    system.advance(Duration::from_secs(7 * 24 * 3600));
    let expired = system.register("bob", &other.invitation).await.expect_err("expired");
    assert_eq!(expired.reason(), "INVITATION_INVALID");

    let admin = system.log_in("admin", &system.admin_password()).await.expect("admin").access_token;
    let long = Some(prost_types::Duration { seconds: 31 * 24 * 3600, nanos: 0 });
    let request = proto::CreateInvitationRequest { role: OPERATOR, valid_for: long, ..Default::default() };
    let refused = answer(as_user(&admin, client.create_invitation(request)).await).expect_err("too long");
    assert_eq!(refused.fields()[0].field, "valid_for");
}

pub async fn the_first_password_stands_in_a_file_until_it_is_changed(engine: Engine) {
    let mut system = System::start(engine, cheap()).await;
    let first = system.admin_password();
    let mode = std::fs::metadata(system.password_file()).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    system.restart().await;
    assert_eq!(system.admin_password(), first, "it survives a restart");
    let tokens = system.log_in("admin", &first).await.expect("logged in");
    assert_eq!(system.verify(&tokens.access_token).await.expect("genuine").role, PLATFORM_ADMIN);

    let mut client = system.client();
    let request = |old: &str, new: &str| proto::ChangePasswordRequest {
        old_password: old.to_owned(),
        new_password: new.to_owned(),
    };
    let wrong = as_user(&tokens.access_token, client.change_password(request("wrong", PASSWORD))).await;
    assert_eq!(answer(wrong).expect_err("wrong").reason(), "WRONG_PASSWORD");
    assert!(system.password_file().exists());
    let changed = as_user(&tokens.access_token, client.change_password(request(&first, PASSWORD))).await;
    answer(changed).expect("changed");
    assert!(!system.password_file().exists(), "the file is gone");
    assert!(system.log_in("admin", &first).await.is_err());
    system.restart().await;
    assert!(!system.password_file().exists(), "no second admin is made");
    system.log_in("admin", PASSWORD).await.expect("the new password");
}

pub async fn nobody_gives_more_than_the_own_role(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    let root = system.log_in("admin", &system.admin_password()).await.expect("admin").access_token;
    system.invited(&root, "alice", ADMIN).await;
    let bob = system.register("bob", "").await.expect("registered");
    let alice = system.log_in("alice", PASSWORD).await.expect("alice").access_token;

    let above = proto::User { role: PLATFORM_ADMIN, ..bob.clone() };
    let refused = system.update(&alice, above.clone(), &["role"]).await.expect_err("above the own role");
    assert_eq!((refused.code(), refused.reason()), (Code::Forbidden, "ROLE_ABOVE_OWN"));
    let raised = system.update(&alice, proto::User { role: ADMIN, ..bob.clone() }, &["role"]).await.expect("raised");
    assert_eq!(raised.role, ADMIN);
    system.update(&root, above, &["role"]).await.expect("a platform admin may");
    let refused = system.update(&alice, proto::User { role: VIEWER, ..bob.clone() }, &["role"]).await;
    assert_eq!(refused.expect_err("bob is above alice now").reason(), "ROLE_ABOVE_OWN");

    let bobs = system.log_in("bob", PASSWORD).await.expect("bob").access_token;
    system.register("carol", "").await.expect("registered");
    let carol = system.log_in("carol", PASSWORD).await.expect("carol").access_token;
    let refused = system.update(&carol, bob, &["role"]).await.expect_err("a viewer");
    assert_eq!(refused.code(), Code::Forbidden);
    system.verify(&bobs).await.expect("untouched");
}

pub async fn the_last_admin_stays(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    let root = system.log_in("admin", &system.admin_password()).await.expect("admin").access_token;
    let id = system.verify(&root).await.expect("genuine").user_id;
    let mut client = system.client();
    let delete = |user_id: &str| proto::DeleteUserRequest { user_id: user_id.to_owned() };
    let refused = answer(as_user(&root, client.delete_user(delete(&id))).await).expect_err("the last");
    assert_eq!((refused.code(), refused.reason()), (Code::Precondition, "LAST_ADMIN"));
    let smaller = proto::User { user_id: id.clone(), role: VIEWER, ..Default::default() };
    assert_eq!(system.update(&root, smaller, &["role"]).await.expect_err("the last").reason(), "LAST_ADMIN");
    let disabled = proto::User { user_id: id.clone(), disabled: true, ..Default::default() };
    assert_eq!(system.update(&root, disabled, &["disabled"]).await.expect_err("the last").reason(), "LAST_ADMIN");

    let other = system.invited(&root, "alice", ADMIN).await;
    let alice = system.log_in("alice", PASSWORD).await.expect("alice").access_token;
    answer(as_user(&root, client.delete_user(delete(&id))).await).expect("there is another one");
    assert_eq!(system.verify(&root).await.expect_err("deleted").reason(), "TOKEN_REVOKED");
    let gone = answer(as_user(&alice, client.delete_user(delete(&id))).await).expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
    let refused = answer(as_user(&alice, client.delete_user(delete(&other.user_id))).await);
    assert_eq!(refused.expect_err("now alice is the last").reason(), "LAST_ADMIN");
}

pub async fn an_update_takes_the_named_fields_and_refuses_unknown_ones(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    let root = system.log_in("admin", &system.admin_password()).await.expect("admin").access_token;
    let ada = system.register("ada", "").await.expect("registered");
    let changed = proto::User { display_name: "Ada L.".into(), role: OPERATOR, disabled: true, ..ada.clone() };
    let named = system.update(&root, changed.clone(), &["display_name"]).await.expect("named");
    assert_eq!((named.display_name.as_str(), named.role, named.disabled), ("Ada L.", VIEWER, false));
    for paths in [&["displayname"][..], &["password"], &["*", "role"]] {
        let refused = system.update(&root, changed.clone(), paths).await.expect_err("unknown");
        assert_eq!((refused.code(), refused.fields()[0].field.as_str()), (Code::Invalid, "update_mask"));
    }
    let sites = proto::User { site_ids: vec!["north".into(), "north".into()], ..changed };
    let whole = system.update(&root, sites, &["*"]).await.expect("everything");
    assert_eq!((whole.role, whole.disabled, whole.site_ids), (OPERATOR, true, vec!["north".to_owned()]));
    let nobody = proto::User { user_id: "nobody".into(), role: OPERATOR, ..Default::default() };
    assert_eq!(system.update(&root, nobody, &["role"]).await.expect_err("nobody").code(), Code::NotFound);
}

pub async fn an_admin_narrowed_to_a_site_knows_its_users_only(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    let root = system.log_in("admin", &system.admin_password()).await.expect("admin").access_token;
    let at = |user: proto::User, site: &str| proto::User { site_ids: vec![site.to_owned()], ..user };
    let [north, ada, bob] = [("nora", ADMIN, "north"), ("ada", VIEWER, "north"), ("bob", VIEWER, "south")].map(
        async |(name, role, site)| {
            let user = at(system.invited(&root, name, role).await, site);
            system.update(&root, user, &["site_ids"]).await.expect("narrowed")
        },
    );
    let (_, ada, bob) = (north.await, ada.await, bob.await);
    let nora = system.log_in("nora", PASSWORD).await.expect("nora").access_token;
    let mut client = system.client();
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = proto::ListUsersRequest { page_size: 1, page_token };
        let page = answer(as_user(&nora, client.list_users(request)).await).expect("page");
        names.extend(page.users.into_iter().map(|user| user.username));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["ada", "nora"]);
    for id in [&bob.user_id, &system.verify(&root).await.expect("genuine").user_id] {
        let get = proto::GetUserRequest { user_id: id.clone() };
        assert_eq!(answer(as_user(&nora, client.get_user(get)).await).expect_err("unknown").code(), Code::NotFound);
        let delete = proto::DeleteUserRequest { user_id: id.clone() };
        let refused = answer(as_user(&nora, client.delete_user(delete)).await);
        assert_eq!(refused.expect_err("unknown").code(), Code::NotFound);
        let disabled = proto::User { user_id: id.clone(), disabled: true, ..Default::default() };
        let refused = system.update(&nora, disabled, &["disabled"]).await.expect_err("unknown");
        assert_eq!(refused.code(), Code::NotFound);
    }
    let away = system.update(&nora, at(ada, "south"), &["site_ids"]).await.expect_err("not nora's to give");
    assert_eq!(away.reason(), "SITES_ABOVE_OWN");
}

pub async fn users_are_listed_in_pages(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    let root = system.log_in("admin", &system.admin_password()).await.expect("admin").access_token;
    for name in ["Zoe", "bob", "carl"] {
        system.register(name, "").await.expect("registered");
    }
    let mut client = system.client();
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListUsersRequest { page_size: 2, page_token };
        let page = answer(as_user(&root, client.list_users(request)).await).expect("page");
        assert!(page.users.len() <= 2);
        names.extend(page.users.into_iter().map(|user| user.username));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["admin", "bob", "carl", "Zoe"]);
    let request = proto::ListUsersRequest { page_size: 2, page_token: "00".into() };
    let refused = answer(as_user(&root, client.list_users(request)).await).expect_err("no token of ours");
    assert_eq!(refused.fields()[0].field, "page_token");
}

pub async fn another_tenants_users_do_not_exist(engine: Engine) {
    let system = System::start(engine, cheap()).await;
    let ada = system.register("ada", "").await.expect("registered");
    let stranger = TestKey::beside(&system).await.token("acme", PLATFORM_ADMIN);
    let mut client = system.client();
    let get = proto::GetUserRequest { user_id: ada.user_id.clone() };
    let hidden = answer(as_user(&stranger, client.get_user(get)).await).expect_err("another tenant's");
    assert_eq!(hidden.code(), Code::NotFound);
    let listed = answer(as_user(&stranger, client.list_users(proto::ListUsersRequest::default())).await);
    assert!(listed.expect("list").users.is_empty());
    let changed = proto::User { disabled: true, ..ada.clone() };
    assert_eq!(system.update(&stranger, changed, &["disabled"]).await.expect_err("hidden").code(), Code::NotFound);
    let delete = proto::DeleteUserRequest { user_id: ada.user_id };
    let hidden = answer(as_user(&stranger, client.delete_user(delete)).await).expect_err("hidden");
    assert_eq!(hidden.code(), Code::NotFound);
    system.log_in("ada", PASSWORD).await.expect("untouched");
}
