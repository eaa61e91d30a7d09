//! Following the registry.

use sensormesh_proto::devices::v1 as proto;
use sensormesh_proto::devices::v1::watch_devices_response::Event;
use sensormesh_types::{Code, Role, quantity::QUANTITIES};

use crate::system::{Engine, System, call, device, sensor};

/// A message in short: `default sensor lab.co2`, `default -device lab`.
fn short(message: &proto::WatchDevicesResponse) -> String {
    let what = match message.event.as_ref().expect("event") {
        Event::Device(device) => format!("device {}", device.device_id),
        Event::Sensor(sensor) => format!("sensor {}", sensor.sensor_id),
        Event::Profile(profile) => format!("profile {}", profile.profile_id),
        Event::DeletedDeviceId(id) => format!("-device {id}"),
        Event::DeletedSensorId(id) => format!("-sensor {id}"),
        Event::DeletedProfileId(id) => format!("-profile {id}"),
        Event::Bookmark(_) => "bookmark".to_owned(),
    };
    format!("{} {what}", message.tenant)
}

fn without_builtins(messages: &[proto::WatchDevicesResponse]) -> Vec<String> {
    let own = messages.iter().filter(|m| !matches!(&m.event, Some(Event::Profile(profile)) if profile.builtin));
    own.map(short).collect()
}

pub async fn a_watcher_sees_the_present_state_and_then_every_change(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let made = user.create_sensor(proto::Sensor { unit: "ppm".into(), ..sensor("lab.co2") }).await.expect("made");
    let mut watch = user.watch("").await;
    let (snapshot, cursor) = watch.until_live().await;
    assert_eq!(without_builtins(&snapshot), ["default device lab", "default sensor lab.co2"]);
    assert_eq!(snapshot.len(), 2 + QUANTITIES.len());
    assert!(snapshot.iter().all(|message| message.cursor.is_empty()) && !cursor.is_empty());
    assert!(snapshot.iter().any(|message| message.event == Some(Event::Sensor(made.clone()))));

    let named = user.update_sensor(proto::Sensor { name: "Air".into(), ..sensor("lab.co2") }, &["name"]).await;
    assert_eq!(watch.next().await.event, Some(Event::Sensor(named.expect("changed"))));
    call!(user.delete_device(proto::DeleteDeviceRequest { device_id: "lab".into(), force: true })).expect("deleted");
    assert_eq!(short(&watch.next().await), "default -sensor lab.co2");
    assert_eq!(short(&watch.next().await), "default -device lab");
}

pub async fn a_watcher_resumes_without_a_gap(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let mut watch = user.watch("").await;
    watch.until_live().await;
    for n in 0..3 {
        user.create_device(device(&format!("d{n}"))).await.expect("made");
    }
    let first = watch.next().await;
    assert_eq!(short(&first), "default device d0");
    drop(watch);
    user.create_device(device("d3")).await.expect("made");
    let (missed, cursor) = user.watch(&first.cursor).await.until_live().await;
    let missed: Vec<String> = missed.iter().map(short).collect();
    assert_eq!(missed, ["default device d1", "default device d2", "default device d3"]);
    let (nothing, _) = user.watch(&cursor).await.until_live().await;
    assert!(nothing.is_empty());

    let forged = proto::WatchDevicesRequest { cursor: "Zm9yZ2Vk".into() };
    let refused = match call!(user.watch_devices(forged)) {
        Err(error) => error,
        Ok(mut stream) => sensormesh_types::Error::from(stream.message().await.expect_err("forged")),
    };
    assert_eq!(refused.code(), Code::Invalid);
}

pub async fn users_see_their_tenant_and_services_see_all(engine: Engine) {
    let system = System::start(engine).await;
    let (ours, theirs) = (system.operator(), system.user("acme", Role::Operator, &[]));
    ours.create_device(device("a")).await.expect("made");
    theirs.create_device(device("b")).await.expect("made");
    let mut own = theirs.watch("").await;
    let mut all = system.watch_as_service("").await;
    assert_eq!(without_builtins(&own.until_live().await.0), ["acme device b"]);
    let mut seen = without_builtins(&all.until_live().await.0);
    seen.sort();
    assert_eq!(seen, ["acme device b", "default device a"]);
    ours.create_device(device("c")).await.expect("made");
    theirs.create_device(device("d")).await.expect("made");
    assert_eq!(short(&own.next().await), "acme device d");
    assert_eq!(short(&all.next().await), "default device c");
    assert_eq!(short(&all.next().await), "acme device d");
}

pub async fn a_device_that_leaves_a_site_leaves_its_watchers(engine: Engine) {
    let system = System::start(engine).await;
    let (wide, north) = (system.operator(), system.user("default", Role::Viewer, &["north"]));
    wide.create_device(proto::Device { site_id: "north".into(), ..device("lab") }).await.expect("made");
    wide.create_device(proto::Device { site_id: "south".into(), ..device("other") }).await.expect("made");
    wide.create_sensor(sensor("lab.co2")).await.expect("made");
    let (mut narrow, mut whole) = (north.watch("").await, wide.watch("").await);
    assert_eq!(without_builtins(&narrow.until_live().await.0), ["default device lab", "default sensor lab.co2"]);
    whole.until_live().await;

    let moved = proto::Device { site_id: "south".into(), ..device("lab") };
    wide.update_device(moved, &["site_id"]).await.expect("moved");
    assert_eq!(wide.sensor("lab.co2").await.expect("found").site_id, "south", "its sensors go with it");
    assert_eq!(short(&narrow.next().await), "default -device lab");
    assert_eq!(short(&narrow.next().await), "default -sensor lab.co2");
    assert_eq!(short(&whole.next().await), "default device lab", "for the others nothing was deleted");
    assert_eq!(short(&whole.next().await), "default sensor lab.co2");
    let back = proto::Device { site_id: "north".into(), ..device("lab") };
    wide.update_device(back, &["site_id"]).await.expect("moved back");
    assert_eq!(short(&narrow.next().await), "default device lab");
}
