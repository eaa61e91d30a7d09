//! Credentials of devices and bridges, and claim codes.

use std::time::Duration;

use futures::StreamExt as _;
use sensormesh_mesh::Streaming;
use sensormesh_proto::devices::v1 as proto;
use sensormesh_proto::devices::v1::watch_credentials_response::Event;
use sensormesh_types::{Code, Role, time};

use crate::system::{Engine, System, User, answer, device, mask, sensor};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Calls a method of credentials as a user.
macro_rules! ask {
    ($user:expr, $method:ident($request:expr)) => {{
        let user: User = $user.clone();
        let mut client = user.credentials();
        answer(user.act(client.$method($request)).await)
    }};
}

fn of_device(device_id: &str) -> proto::CreateCredentialRequest {
    proto::CreateCredentialRequest { device_id: device_id.to_owned(), ..Default::default() }
}

fn of_bridge(bridge_id: &str) -> proto::CreateCredentialRequest {
    proto::CreateCredentialRequest { bridge_id: bridge_id.to_owned(), ..Default::default() }
}

fn gateway(bridge_id: &str, prefixes: &[&str], max_devices: u32) -> proto::Bridge {
    let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
    proto::Bridge { bridge_id: bridge_id.to_owned(), prefixes, max_devices, ..Default::default() }
}

async fn made(user: &User, request: proto::CreateCredentialRequest) -> (String, proto::Credential) {
    let made = ask!(user, create_credential(request)).expect("made");
    (made.token, made.credential.expect("a credential"))
}

async fn listed(user: &User, device_id: &str) -> Vec<proto::Credential> {
    let request = proto::ListCredentialsRequest { device_id: device_id.to_owned(), ..Default::default() };
    ask!(user, list_credentials(request)).expect("listed").credentials
}

async fn make_bridge(user: &User, bridge: proto::Bridge) -> proto::Bridge {
    let request = proto::CreateBridgeRequest { bridge: Some(bridge) };
    ask!(user, create_bridge(request)).expect("made").bridge.expect("a bridge")
}

/// What a service that verifies credentials hears.
struct Heard(Streaming<proto::WatchCredentialsResponse>);

impl Heard {
    async fn of(system: &System, cursor: &str) -> Self {
        let request = proto::WatchCredentialsRequest { cursor: cursor.to_owned() };
        let mut client = system.credentials_of("telemetry");
        Self(client.watch_credentials(request).await.expect("watch").into_inner().boxed())
    }

    async fn message(&mut self) -> proto::WatchCredentialsResponse {
        let next = tokio::time::timeout(Duration::from_secs(20), self.0.next()).await.expect("in time");
        next.expect("open").expect("a message")
    }

    /// The next that is no bookmark.
    async fn next(&mut self) -> (String, Event) {
        loop {
            let message = self.message().await;
            match message.event.expect("an event") {
                Event::Bookmark(_) => {}
                event => return (message.tenant, event),
            }
        }
    }

    async fn credential(&mut self) -> proto::VerifiableCredential {
        match self.next().await.1 {
            Event::Credential(credential) => credential,
            other => panic!("{other:?}"),
        }
    }

    async fn deleted(&mut self) -> String {
        match self.next().await.1 {
            Event::DeletedCredentialId(id) => id,
            other => panic!("{other:?}"),
        }
    }

    /// What is there, and the cursor.
    async fn snapshot(&mut self) -> (Vec<proto::VerifiableCredential>, String) {
        let mut all = Vec::new();
        loop {
            let message = self.message().await;
            match message.event.expect("an event") {
                Event::Credential(credential) => all.push(credential),
                Event::Bookmark(_) => return (all, message.cursor),
                Event::DeletedCredentialId(id) => panic!("{id}"),
            }
        }
    }
}

pub async fn a_devices_credential_is_made_rotated_and_ended(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.create_device(proto::Device { site_id: "north".into(), ..device("lab") }).await.expect("made");
    let mut heard = Heard::of(&system, "").await;
    assert!(heard.snapshot().await.0.is_empty());

    let request = proto::CreateCredentialRequest { name: "the roof".into(), days: 10, ..of_device("lab") };
    let (token, first) = made(&user, request).await;
    assert!(token.starts_with(&format!("smd_{}_", first.credential_id)), "{token}");
    assert_eq!((first.device_id.as_str(), first.name.as_str()), ("lab", "the roof"));
    let told = heard.credential().await;
    assert_eq!((told.credential_id.as_str(), told.site_id.as_str()), (first.credential_id.as_str(), "north"));
    assert_eq!((told.device_id.as_str(), told.bridge_id.as_str(), told.may_register), ("lab", "", false));
    assert_eq!((told.token_hash.len(), &told.expire_time), (32, &first.expire_time));

    let overlap = Some(time::from_duration(Duration::from_secs(3600)));
    let rotate = proto::RotateCredentialRequest { credential_id: first.credential_id.clone(), overlap };
    let rotated = ask!(user, rotate_credential(rotate.clone())).expect("rotated");
    let second = rotated.credential.expect("a credential");
    assert_ne!(rotated.token, token);
    assert_eq!((second.name.as_str(), &second.expire_time), ("the roof", &first.expire_time), "it lives as long");
    assert_eq!(heard.credential().await.credential_id, second.credential_id);
    let ends = heard.credential().await;
    assert_eq!(ends.credential_id, first.credential_id);
    assert_eq!(ends.expire_time.expect("an end").seconds, system.clock.now_seconds() + 3600);
    let ids = |all: Vec<proto::Credential>| all.into_iter().map(|one| one.credential_id).collect::<Vec<_>>();
    assert_eq!(ids(listed(&user, "lab").await).len(), 2);
    let rotate_again = proto::RotateCredentialRequest { credential_id: first.credential_id.clone(), overlap: None };
    let twice = ask!(user, rotate_credential(rotate_again)).expect("rotated").credential.expect("a credential");
    assert_eq!(twice.expire_time, first.expire_time, "it lives as long as the first was made for");
    let delete = proto::DeleteCredentialRequest { credential_id: twice.credential_id };
    ask!(user, delete_credential(delete)).expect("deleted");
    for _ in 0..3 {
        heard.next().await;
    }
    system.clock.advance(Duration::from_secs(3601));
    let user = system.operator();
    assert_eq!(ids(listed(&user, "lab").await), [second.credential_id.as_str()]);
    assert_eq!(ask!(user, rotate_credential(rotate)).expect_err("ended").code(), Code::NotFound);
    let whole = Heard::of(&system, "").await.snapshot().await.0;
    assert_eq!(whole.len(), 1, "what has ended is not told: {whole:?}");

    let at_once = Some(time::from_duration(Duration::ZERO));
    let rotate = proto::RotateCredentialRequest { credential_id: second.credential_id.clone(), overlap: at_once };
    let third = ask!(user, rotate_credential(rotate)).expect("rotated").credential.expect("a credential");
    assert_eq!(heard.deleted().await, second.credential_id);
    assert_eq!(heard.credential().await.credential_id, third.credential_id);
    let delete = proto::DeleteCredentialRequest { credential_id: third.credential_id.clone() };
    ask!(user, delete_credential(delete.clone())).expect("deleted");
    assert_eq!(heard.deleted().await, third.credential_id);
    assert_eq!(ask!(user, delete_credential(delete)).expect_err("gone").code(), Code::NotFound);
}

pub async fn nobody_else_makes_or_sees_credentials(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.create_device(proto::Device { site_id: "north".into(), ..device("lab") }).await.expect("made");
    let (_, credential) = made(&user, of_device("lab")).await;
    let id = &credential.credential_id;
    for (who, stranger) in [
        ("another tenant", system.user("acme", Role::Admin, &[])),
        ("another site", system.user("default", Role::Operator, &["south"])),
    ] {
        assert_eq!(ask!(stranger, create_credential(of_device("lab"))).expect_err(who).code(), Code::NotFound);
        let list = proto::ListCredentialsRequest { device_id: "lab".into(), ..Default::default() };
        assert_eq!(ask!(stranger, list_credentials(list)).expect_err(who).code(), Code::NotFound);
        let delete = proto::DeleteCredentialRequest { credential_id: id.clone() };
        let refused = ask!(stranger, delete_credential(delete)).expect_err(who);
        assert_eq!((refused.code(), refused.message().contains("lab")), (Code::NotFound, false), "{refused}");
        let rotate = proto::RotateCredentialRequest { credential_id: id.clone(), overlap: None };
        assert_eq!(ask!(stranger, rotate_credential(rotate)).expect_err(who).code(), Code::NotFound);
    }
    let viewer = system.user("default", Role::Viewer, &[]);
    assert_eq!(ask!(viewer, create_credential(of_device("lab"))).expect_err("viewer").code(), Code::Forbidden);
    assert_eq!(listed(&user, "lab").await.len(), 1);
    assert_eq!(ask!(user, create_credential(of_device("nope"))).expect_err("unknown").code(), Code::NotFound);
    let both = proto::CreateCredentialRequest { bridge_id: "gw".into(), ..of_device("lab") };
    assert_eq!(ask!(user, create_credential(both)).expect_err("both").fields()[0].field, "bridge_id");
    for _ in 1..8 {
        made(&user, of_device("lab")).await;
    }
    let many = ask!(user, create_credential(of_device("lab"))).expect_err("a ninth");
    assert_eq!(many.reason(), "TOO_MANY_CREDENTIALS");
}

pub async fn verifiers_hear_of_what_becomes_of_a_device(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.create_device(proto::Device { site_id: "north".into(), ..device("lab") }).await.expect("made");
    let (_, credential) = made(&user, of_device("lab")).await;
    let mut heard = Heard::of(&system, "").await;
    let (there, cursor) = heard.snapshot().await;
    assert_eq!((there.len(), there[0].site_id.as_str()), (1, "north"));
    user.update_device(proto::Device { site_id: "south".into(), ..device("lab") }, &["site_id"]).await.expect("moved");
    assert_eq!(heard.credential().await.site_id, "south");
    let mut client = user.client();
    let delete = proto::DeleteDeviceRequest { device_id: "lab".into(), force: false };
    answer(user.act(client.delete_device(delete)).await).expect("deleted");
    assert_eq!(heard.deleted().await, credential.credential_id);
    // who was away hears the same
    let mut again = Heard::of(&system, &cursor).await;
    assert_eq!(again.credential().await.site_id, "south");
    assert_eq!(again.deleted().await, credential.credential_id);
    // and watchers of devices hear nothing of credentials
    let mut watch = system.watch_as_service("").await;
    let (before, _) = watch.until_live().await;
    user.create_device(device("a")).await.expect("made");
    made(&user, of_device("a")).await;
    user.create_device(device("b")).await.expect("made");
    let next = [watch.next().await, watch.next().await].map(|message| message.event);
    use proto::watch_devices_response::Event as Device;
    assert!(
        matches!(&next, [Some(Device::Device(a)), Some(Device::Device(b))] if a.device_id == "a" && b.device_id == "b")
    );
    assert!(before.iter().all(|message| !matches!(message.event, Some(Device::Device(_)))), "it is gone");
}

pub async fn a_bridge_is_made_changed_and_deleted(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let bridge = make_bridge(&user, gateway("gw1", &["gw1-"], 0)).await;
    assert_eq!((bridge.name.as_str(), bridge.prefixes.len()), ("gw1", 1));
    let again = proto::CreateBridgeRequest { bridge: Some(gateway("gw1", &[], 0)) };
    assert_eq!(ask!(user, create_bridge(again)).expect_err("taken").code(), Code::Exists);
    let (token, credential) = made(&user, of_bridge("gw1")).await;
    assert!(token.starts_with("smb_"));
    let mut heard = Heard::of(&system, "").await;
    let (there, _) = heard.snapshot().await;
    assert_eq!((there[0].bridge_id.as_str(), there[0].may_register), ("gw1", false));
    assert_eq!(there[0].prefixes, ["gw1-"]);

    let change = |bridge: proto::Bridge, paths: &[&str]| proto::UpdateBridgeRequest {
        bridge: Some(bridge),
        update_mask: mask(paths),
    };
    let named = proto::Bridge { name: "Roof".into(), ..gateway("gw1", &[], 0) };
    let changed = ask!(user, update_bridge(change(named, &["name"]))).expect("named").bridge.expect("a bridge");
    assert_eq!((changed.name.as_str(), changed.prefixes.len()), ("Roof", 1));
    let wider = gateway("gw1", &["gw1-", "roof-"], 5);
    ask!(user, update_bridge(change(wider, &["prefixes", "max_devices"]))).expect("wider");
    let told = heard.credential().await;
    assert_eq!((told.prefixes.len(), told.may_register), (2, true), "a name alone is no verifier's business");
    let stale = proto::Bridge { etag: bridge.etag, ..gateway("gw1", &[], 0) };
    assert_eq!(ask!(user, update_bridge(change(stale, &["*"]))).expect_err("stale").reason(), "ETAG_MISMATCH");
    let wrong = proto::CreateBridgeRequest { bridge: Some(gateway("gw2", &["ok", "no dots."], 0)) };
    assert_eq!(ask!(user, create_bridge(wrong)).expect_err("dots").fields()[0].field, "bridge.prefixes[1]");

    let south = system.user("default", Role::Operator, &["south"]);
    let get = proto::GetBridgeRequest { bridge_id: "gw1".into() };
    assert_eq!(ask!(south, get_bridge(get.clone())).expect_err("of the whole tenant").code(), Code::NotFound);
    let of_site = make_bridge(&south, gateway("gw3", &[], 0)).await;
    assert_eq!(of_site.site_id, "south");
    let list = |user: &User| {
        let user = user.clone();
        async move { ask!(user, list_bridges(proto::ListBridgesRequest::default())).expect("listed").bridges.len() }
    };
    assert_eq!((list(&user).await, list(&south).await), (2, 1));

    let delete = proto::DeleteBridgeRequest { bridge_id: "gw1".into() };
    ask!(user, delete_bridge(delete)).expect("deleted");
    assert_eq!(heard.deleted().await, credential.credential_id);
    assert_eq!(ask!(user, get_bridge(get)).expect_err("gone").code(), Code::NotFound);
}

pub async fn a_bridge_brings_devices_of_its_prefixes_up_to_its_quota(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    make_bridge(&user, proto::Bridge { site_id: "north".into(), ..gateway("gw1", &["gw1-"], 2) }).await;
    let ensure = |ids: &[&str]| proto::EnsureSensorsRequest {
        sensors: ids.iter().map(|id| sensor(id)).collect(),
        bridge_id: "gw1".into(),
        ..Default::default()
    };
    let mut telemetry = system.client_of("telemetry");
    let made = answer(telemetry.ensure_sensors(ensure(&["gw1-a.t", "gw1-a.h", "gw1-b.t"])).await).expect("two devices");
    assert!(made.sensors.iter().all(|sensor| sensor.site_id == "north"), "{made:?}");
    assert_eq!(user.device("gw1-a").await.expect("found").origin, "bridge:gw1");
    let third = answer(telemetry.ensure_sensors(ensure(&["gw1-c.t"])).await).expect_err("a third device");
    assert_eq!((third.code(), third.reason()), (Code::Exhausted, "BRIDGE_DEVICES"));
    answer(telemetry.ensure_sensors(ensure(&["gw1-b.h"])).await).expect("another sensor of one it has");
    let foreign = answer(telemetry.ensure_sensors(ensure(&["gw2-a.t"])).await).expect_err("not its prefix");
    assert_eq!(foreign.code(), Code::Invalid);
    assert_eq!(user.sensor_ids().await, ["gw1-a.h", "gw1-a.t", "gw1-b.h", "gw1-b.t"]);
    let pretended = proto::Device { origin: "bridge:gw1".into(), ..device("gw1-z") };
    assert_eq!(user.create_device(pretended).await.expect_err("a bridge's").fields()[0].field, "device.origin");
    let sensors: Vec<String> = (0..260).map(|n| format!("gw1-a.s{n}")).collect();
    let ids: Vec<&str> = sensors.iter().map(String::as_str).collect();
    let many = answer(telemetry.ensure_sensors(ensure(&ids)).await).expect_err("too many of one device");
    assert_eq!((many.code(), many.reason()), (Code::Exhausted, "BRIDGE_SENSORS"));
    user.create_device(proto::Device { site_id: "south".into(), ..device("gw1-s") }).await.expect("made");
    let elsewhere = answer(telemetry.ensure_sensors(ensure(&["gw1-s.t"])).await).expect_err("another site's device");
    assert_eq!(elsewhere.code(), Code::NotFound);
    let mut client = user.client();
    let by_user = answer(user.act(client.ensure_sensors(ensure(&["gw1-a.x"]))).await).expect_err("a user");
    assert_eq!(by_user.fields()[0].field, "bridge_id");
}

pub async fn a_device_gets_its_credential_with_a_claim_code(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let create = proto::CreateClaimCodeRequest {
        name: "line 3".into(),
        site_id: "north".into(),
        prefix: "aq-".into(),
        uses: 2,
        days: 1,
    };
    let code = ask!(user, create_claim_code(create.clone())).expect("made");
    let mut nobody = system.edge_credentials();
    let claim = |code: &str, device_id: &str| proto::ClaimDeviceRequest {
        code: code.to_owned(),
        device_id: device_id.to_owned(),
        manufacturer: "Acme".into(),
        model: "AQ1".into(),
    };
    let typed = code.code.to_lowercase().replace('-', "");
    let claimed = answer(nobody.claim_device(claim(&typed, "aq-1")).await).expect("claimed");
    assert!(claimed.token.starts_with("smd_"));
    let device = user.device("aq-1").await.expect("registered");
    assert_eq!((device.site_id.as_str(), device.model.as_str(), device.origin.as_str()), ("north", "AQ1", "claim"));
    assert_eq!(listed(&user, "aq-1").await[0].name, "line 3");

    let outside = answer(nobody.claim_device(claim(&code.code, "bq-1")).await).expect_err("not its prefix");
    assert_eq!(outside.fields()[0].field, "device_id");
    // whose answer was lost asks again; then the first token is worth nothing
    let again = answer(nobody.claim_device(claim(&code.code, "aq-1")).await).expect("asked again");
    let (first, second) = (claimed.credential.expect("one"), again.credential.expect("another"));
    let there = listed(&user, "aq-1").await;
    assert_eq!((there.len(), &there[0].credential_id), (1, &second.credential_id));
    assert_ne!(first.credential_id, second.credential_id);
    let used = proto::CredentialUse {
        tenant: "default".into(),
        credential_id: second.credential_id,
        time: Some(prost_types::Timestamp { seconds: system.clock.now_seconds(), nanos: 0 }),
    };
    let mut telemetry = system.credentials_of("telemetry");
    answer(telemetry.note_credential_use(proto::NoteCredentialUseRequest { uses: vec![used] }).await).expect("told");
    let twice = answer(nobody.claim_device(claim(&code.code, "aq-1")).await).expect_err("it has one");
    assert_eq!(twice.reason(), "DEVICE_HAS_CREDENTIAL");
    user.create_device(proto::Device { site_id: "south".into(), ..crate::system::device("aq-s") }).await.expect("made");
    let elsewhere = answer(nobody.claim_device(claim(&code.code, "aq-s")).await).expect_err("another site's");
    assert_eq!(elsewhere.code(), Code::Exists);
    let left = ask!(user, list_claim_codes(proto::ListClaimCodesRequest {})).expect("listed").claim_codes;
    assert_eq!((left.len(), left[0].uses_left), (1, 1), "what was refused used nothing up");
    answer(nobody.claim_device(claim(&code.code, "aq-2")).await).expect("the second");
    let unknown = answer(nobody.claim_device(claim("0000-0000-0000-0000", "aq-3")).await).expect_err("made up");
    let used_up = answer(nobody.claim_device(claim(&code.code, "aq-3")).await).expect_err("used up");
    assert_eq!((used_up.code(), used_up.message()), (Code::Unauthenticated, unknown.message()));

    let code = ask!(user, create_claim_code(create.clone())).expect("made");
    system.clock.advance(DAY + Duration::from_secs(1));
    let user = system.operator();
    assert!(answer(nobody.claim_device(claim(&code.code, "aq-4")).await).is_err(), "a day is over");
    let code = ask!(user, create_claim_code(create)).expect("made");
    let delete = |code: &proto::CreateClaimCodeResponse| proto::DeleteClaimCodeRequest {
        claim_code_id: code.claim_code.as_ref().map(|code| code.claim_code_id.clone()).unwrap_or_default(),
    };
    let south = system.user("default", Role::Operator, &["south"]);
    assert_eq!(ask!(south, delete_claim_code(delete(&code))).expect_err("another site's").code(), Code::NotFound);
    ask!(user, delete_claim_code(delete(&code))).expect("deleted");
    assert!(answer(nobody.claim_device(claim(&code.code, "aq-5")).await).is_err());
}

pub async fn the_last_use_is_shown_and_never_goes_back(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.create_device(device("lab")).await.expect("made");
    let (_, credential) = made(&user, of_device("lab")).await;
    assert_eq!(listed(&user, "lab").await[0].last_use_time, None);
    let mut telemetry = system.credentials_of("telemetry");
    for (tenant, seconds) in [("default", 100), ("default", 50), ("acme", 200)] {
        let time = Some(prost_types::Timestamp { seconds, nanos: 0 });
        let used =
            proto::CredentialUse { tenant: tenant.into(), credential_id: credential.credential_id.clone(), time };
        answer(telemetry.note_credential_use(proto::NoteCredentialUseRequest { uses: vec![used] }).await)
            .expect("told");
    }
    assert_eq!(listed(&user, "lab").await[0].last_use_time.expect("a use").seconds, 100);
    let mut rooms = system.credentials_of("rooms");
    let refused = answer(rooms.note_credential_use(proto::NoteCredentialUseRequest::default()).await);
    assert_eq!(refused.expect_err("not named by the contract").code(), Code::Forbidden);
}

pub async fn f05_a_credential_given_up_at_any_wait_is_whole_or_not_at_all(engine: Engine) {
    let system = System::start(engine).await;
    let (user, given_up) = (system.operator(), &system.given_up);
    for n in 1..=100 {
        user.create_device(device(&format!("d{n}"))).await.expect("made");
    }
    let create = async |n: usize| ask!(user, create_credential(of_device(&format!("d{n}"))));
    let waits = given_up.at_every_wait("CreateCredential", create).await;
    assert!(waits > 1 && waits < 100, "{waits}");
    let (told, _) = Heard::of(&system, "").await.snapshot().await;
    for n in 1..=waits {
        let there = listed(&user, &format!("d{n}")).await;
        let heard = told.iter().filter(|one| one.device_id == format!("d{n}")).count();
        assert_eq!(there.len(), heard);
        assert!(there.len() <= 2, "one for each time that it was asked: {there:?}");
    }
}
