//! Sensors.

use sensormesh_proto::devices::v1 as proto;
use sensormesh_types::{Code, Role};

use crate::system::{Engine, System, call, device, sensor};

pub async fn a_sensor_brings_its_device_and_takes_from_its_profile(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let said = proto::Sensor { profile_id: "carbon_dioxide".into(), unit: "ppm".into(), ..sensor("lab.co2") };
    let made = user.create_sensor(said).await.expect("made");
    assert_eq!((made.device_id.as_str(), made.unit.as_str()), ("lab", "[ppm]"));
    assert_eq!((made.quantity.as_str(), made.range_max), ("carbon_dioxide", Some(40_000.0)));
    assert_eq!(made.expected_interval.map(|interval| interval.seconds), Some(60));
    assert_eq!((made.name.as_str(), made.suggested_metric.as_str()), ("lab.co2", "co2"));
    assert_eq!(user.device("lab").await.expect("its device").origin, "manual");
    assert_eq!(user.sensor("lab.co2").await.expect("found"), made);

    let bare = user.create_sensor(proto::Sensor { unit: "°C".into(), ..sensor("lab.t") }).await.expect("made");
    assert_eq!((bare.unit.as_str(), bare.quantity.as_str(), bare.range_max), ("Cel", "temperature", None));
    assert_eq!(user.create_sensor(sensor("lab.t")).await.expect_err("taken").code(), Code::Exists);
    let listed = call!(user.list_sensors(proto::ListSensorsRequest { device_id: "lab".into(), ..Default::default() }));
    assert_eq!(listed.expect("list").sensors, [made, bare]);
    let elsewhere = proto::ListSensorsRequest { device_id: "nope".into(), ..Default::default() };
    assert!(call!(user.list_sensors(elsewhere)).expect("list").sensors.is_empty());
}

pub async fn a_sensor_is_changed_by_mask(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let made = user.create_sensor(proto::Sensor { unit: "ppm".into(), ..sensor("lab.co2") }).await.expect("made");
    let brought = proto::Sensor { name: "Air".into(), profile_id: "carbon_dioxide".into(), ..made.clone() };
    let renamed = user.update_sensor(brought.clone(), &["name"]).await.expect("renamed");
    assert_eq!((renamed.name.as_str(), renamed.profile_id.as_str()), ("Air", ""));
    let stale = user.update_sensor(brought, &["profile_id"]).await.expect_err("read before the renaming");
    assert_eq!(stale.code(), Code::Conflict);
    let whole = proto::Sensor { profile_id: "carbon_dioxide".into(), range_min: Some(300.0), ..renamed };
    let changed = user.update_sensor(whole, &[]).await.expect("changed");
    assert_eq!((changed.range_min, changed.range_max), (Some(300.0), Some(40_000.0)));
    let back = user.update_sensor(sensor("lab.co2"), &["range_min"]).await.expect("taken back");
    assert_eq!(back.range_min, Some(0.0), "the profile's again");
    let unknown = user.update_sensor(sensor("lab.co2"), &["colour"]).await.expect_err("unknown");
    assert_eq!(unknown.fields()[0].field, "update_mask");
    let same = user.update_sensor(proto::Sensor { name: "Air".into(), ..sensor("lab.co2") }, &["name"]).await;
    assert_eq!(same.expect("nothing to do").etag, back.etag);
}

pub async fn wrong_sensors_are_refused_with_the_field(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let ranged = proto::Sensor { range_min: Some(2.0), range_max: Some(1.0), ..sensor("lab.x") };
    let never = Some(prost_types::Duration { seconds: 0, nanos: 0 });
    let cases = [
        (sensor(".x"), "sensor.sensor_id"),
        (proto::Sensor { device_id: "a b".into(), ..sensor("lab.x") }, "sensor.device_id"),
        (ranged, "sensor.range_min"),
        (proto::Sensor { expected_interval: never, ..sensor("lab.x") }, "sensor.expected_interval"),
        (proto::Sensor { range_min: Some(f64::NAN), ..sensor("lab.x") }, "sensor.range_min"),
    ];
    for (wrong, field) in cases {
        let refused = user.create_sensor(wrong).await.expect_err(field);
        assert_eq!((refused.code(), refused.fields()[0].field.as_str()), (Code::Invalid, field));
    }
    let unknown = proto::Sensor { profile_id: "nope".into(), ..sensor("lab.x") };
    let refused = user.create_sensor(unknown).await.expect_err("no such profile");
    assert_eq!((refused.code(), refused.reason()), (Code::Precondition, "PROFILE_UNKNOWN"));
    assert!(user.sensor_ids().await.is_empty());
    assert_eq!(user.device("lab").await.expect_err("undone with it").code(), Code::NotFound);
    user.create_sensor(sensor("lab.x")).await.expect("made");
    let moved = proto::Sensor { device_id: "other".into(), ..sensor("lab.x") };
    let refused = user.update_sensor(moved, &["device_id"]).await.expect_err("it never changes");
    assert_eq!(refused.fields()[0].field, "sensor.device_id");
}

pub async fn another_tenant_sees_nothing_and_may_use_the_same_ids(engine: Engine) {
    let system = System::start(engine).await;
    let (ours, theirs) = (system.operator(), system.user("acme", Role::Operator, &[]));
    ours.create_sensor(sensor("lab.co2")).await.expect("made");
    assert_eq!(theirs.sensor("lab.co2").await.expect_err("hidden").code(), Code::NotFound);
    assert_eq!(theirs.device("lab").await.expect_err("hidden").code(), Code::NotFound);
    assert!(theirs.sensor_ids().await.is_empty());
    let named = proto::Sensor { name: "theirs".into(), ..sensor("lab.co2") };
    assert_eq!(theirs.update_sensor(named.clone(), &["name"]).await.expect_err("hidden").code(), Code::NotFound);
    let delete = proto::DeleteSensorRequest { sensor_id: "lab.co2".into() };
    assert_eq!(call!(theirs.delete_sensor(delete.clone())).expect_err("hidden").code(), Code::NotFound);
    theirs.create_sensor(named).await.expect("the same id");
    call!(theirs.delete_sensor(delete)).expect("their own");
    assert_eq!(ours.sensor("lab.co2").await.expect("untouched").name, "lab.co2");
}

pub async fn a_user_narrowed_to_a_site_sees_and_touches_that_site_only(engine: Engine) {
    let system = System::start(engine).await;
    let (wide, north) = (system.operator(), system.user("default", Role::Operator, &["north"]));
    wide.create_device(proto::Device { site_id: "south".into(), ..device("s") }).await.expect("made");
    wide.create_sensor(sensor("s.co2")).await.expect("made");
    wide.create_sensor(sensor("whole.co2")).await.expect("made");
    north.create_sensor(sensor("n.co2")).await.expect("made");
    assert_eq!(north.device("n").await.expect("own").site_id, "north", "what is theirs is in their site");
    assert_eq!(north.sensor_ids().await, ["n.co2"]);
    for id in ["s.co2", "whole.co2"] {
        assert_eq!(north.sensor(id).await.expect_err("another site").code(), Code::NotFound);
    }
    assert_eq!(north.create_sensor(sensor("s.x")).await.expect_err("another site's device").code(), Code::NotFound);
    let away = proto::Device { site_id: "south".into(), ..device("n") };
    assert_eq!(north.update_device(away, &["site_id"]).await.expect_err("not theirs").code(), Code::Invalid);
    assert_eq!(wide.sensor_ids().await, ["n.co2", "s.co2", "whole.co2"]);
}
