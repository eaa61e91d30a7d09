//! Calls that are given up while they wait.

use sensormesh_proto::devices::v1 as proto;
use sensormesh_testkit::given_up::{happened_once, or_done};
use sensormesh_types::{AuditQuery, Code, Scope};

use crate::system::{Engine, System, call, device, sensor};

/// More than any call waits.
const MANY: usize = 100;

pub async fn f05_a_change_given_up_at_any_wait_is_whole_or_not_at_all(engine: Engine) {
    let system = System::start(engine).await;
    let (user, given_up) = (system.operator(), &system.given_up);
    let profile = |n: usize| proto::Profile {
        profile_id: format!("p{n}"),
        name: format!("P{n}"),
        quantity: "temperature".into(),
        ..Default::default()
    };

    let create_device = async |n: usize| {
        let request =
            proto::CreateDeviceRequest { device: Some(device(&format!("d{n}"))), request_id: format!("device-{n}") };
        call!(user.create_device(request))
    };
    // brings its device with it
    let create_sensor = async |n: usize| {
        let request =
            proto::CreateSensorRequest { sensor: Some(sensor(&format!("s{n}.a"))), request_id: format!("sensor-{n}") };
        call!(user.create_sensor(request))
    };
    let create_profile = async |n: usize| {
        let request = proto::CreateProfileRequest { profile: Some(profile(n)), request_id: format!("profile-{n}") };
        call!(user.create_profile(request))
    };
    let ensure = async |n: usize| {
        let sensors = ["a", "b"].map(|id| sensor(&format!("e{n}.{id}"))).to_vec();
        call!(user.ensure_sensors(proto::EnsureSensorsRequest { sensors, ..Default::default() }))
    };
    let mut rounds = [0; 4];
    rounds[0] = given_up.at_every_wait("CreateDevice", create_device).await;
    rounds[1] = given_up.at_every_wait("CreateSensor", create_sensor).await;
    rounds[2] = given_up.at_every_wait("CreateProfile", create_profile).await;
    rounds[3] = given_up.at_every_wait("EnsureSensors", ensure).await;
    eprintln!("waits: {rounds:?}");
    assert!(rounds.iter().all(|waits| *waits < MANY), "{rounds:?}");
    for n in 1..=MANY {
        for answer in [create_device(n).await.err(), create_sensor(n).await.err(), create_profile(n).await.err()] {
            assert!(answer.is_none(), "{answer:?}");
        }
    }

    let update_device = async |n: usize| {
        user.update_device(proto::Device { name: "D".into(), ..device(&format!("d{n}")) }, &["name"]).await
    };
    let update_sensor = async |n: usize| {
        user.update_sensor(proto::Sensor { name: "S".into(), ..sensor(&format!("s{n}.a")) }, &["name"]).await
    };
    let update_profile = async |n: usize| {
        let changed = proto::Profile { name: "P".into(), ..profile(n) };
        let request =
            proto::UpdateProfileRequest { profile: Some(changed), update_mask: crate::system::mask(&["name"]) };
        call!(user.update_profile(request))
    };
    let updated = [
        given_up.at_every_wait("UpdateDevice", update_device).await,
        given_up.at_every_wait("UpdateSensor", update_sensor).await,
        given_up.at_every_wait("UpdateProfile", update_profile).await,
    ];
    let delete_sensor = async |n: usize| {
        or_done(call!(user.delete_sensor(proto::DeleteSensorRequest { sensor_id: format!("s{n}.a") })), Code::NotFound)
    };
    let delete_device = async |n: usize| {
        let device_id = if n.is_multiple_of(2) { format!("d{n}") } else { format!("e{n}") };
        or_done(call!(user.delete_device(proto::DeleteDeviceRequest { device_id, force: true })), Code::NotFound)
    };
    let delete_profile = async |n: usize| {
        or_done(call!(user.delete_profile(proto::DeleteProfileRequest { profile_id: format!("p{n}") })), Code::NotFound)
    };
    let deleted = [
        given_up.at_every_wait("DeleteSensor", delete_sensor).await,
        given_up.at_every_wait("DeleteProfile", delete_profile).await,
    ];
    given_up.at_every_wait("DeleteDevice", delete_device).await;
    eprintln!("waits: {updated:?}, {deleted:?}");
    assert!(updated.iter().chain(&deleted).all(|waits| *waits < MANY), "{updated:?}, {deleted:?}");

    // the log has each change once, and so has the state
    let log = system
        .store
        .list_audit(&Scope::tenant_of("default"), &AuditQuery { limit: 10_000, ..Default::default() })
        .await
        .expect("the log");
    let each =
        |prefix: &'static str, to: usize, rest: &'static str| (1..=to).map(move |n| format!("{prefix}{n}{rest}"));
    let ensured = each("e", rounds[3], ".a").chain(each("e", rounds[3], ".b"));
    happened_once(&log, "sensor.created", each("s", MANY, ".a").chain(ensured));
    happened_once(&log, "profile.created", each("p", MANY, ""));
    let devices = each("d", MANY, "").chain(each("s", MANY, "")).chain(each("e", rounds[3], ""));
    happened_once(&log, "device.created", devices);
    happened_once(&log, "device.updated", each("d", updated[0], ""));
    happened_once(&log, "sensor.updated", each("s", updated[1], ".a"));
    happened_once(&log, "profile.updated", each("p", updated[2], ""));
    happened_once(&log, "profile.deleted", each("p", deleted[1], ""));
    let (created, gone) = (count(&log, "sensor.created"), count(&log, "sensor.deleted"));
    let list = proto::ListSensorsRequest { page_size: 1000, ..Default::default() };
    let left = call!(user.list_sensors(list)).expect("list").sensors.len();
    assert_eq!(left, created - gone);
}

fn count(log: &[sensormesh_types::AuditRecord], kind: &str) -> usize {
    log.iter().filter(|one| one.kind == kind).count()
}
