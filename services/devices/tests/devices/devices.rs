//! Devices.

use std::collections::HashMap;

use sensormesh_proto::devices::v1 as proto;
use sensormesh_types::{Code, Role};

use crate::system::{Engine, System, answer, call, device, sensor};

pub async fn a_device_is_registered_changed_and_deleted(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let labels = HashMap::from([("floor".to_owned(), "2".to_owned())]);
    let made = user.create_device(proto::Device { labels: labels.clone(), ..device("lab") }).await.expect("made");
    assert_eq!((made.name.as_str(), made.origin.as_str(), &made.labels), ("lab", "manual", &labels));
    assert_eq!(made.create_time.map(|time| time.seconds), Some(system.clock.now_seconds()));
    assert_eq!(user.create_device(device("lab")).await.expect_err("taken").code(), Code::Exists);
    assert_eq!(user.device("lab").await.expect("found"), made);

    let named = proto::Device { name: "Laboratory".into(), ..device("lab") };
    let changed = user.update_device(named, &[]).await.expect("changed");
    assert_eq!((changed.name.as_str(), &changed.labels), ("Laboratory", &labels));
    assert_ne!(changed.etag, made.etag);
    let cleared = user.update_device(device("lab"), &["*"]).await.expect("cleared");
    assert_eq!((cleared.name.as_str(), cleared.labels.len()), ("lab", 0));
    assert_eq!(user.update_device(device("nope"), &["*"]).await.expect_err("unknown").code(), Code::NotFound);

    let delete = proto::DeleteDeviceRequest { device_id: "lab".into(), force: false };
    call!(user.delete_device(delete.clone())).expect("deleted");
    assert_eq!(user.device("lab").await.expect_err("gone").code(), Code::NotFound);
    assert_eq!(call!(user.delete_device(delete)).expect_err("gone").code(), Code::NotFound);
}

pub async fn a_stale_etag_and_an_unknown_mask_path_are_refused(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let made = user.create_device(device("lab")).await.expect("made");
    let mine = proto::Device { model: "A".into(), ..made.clone() };
    let yours = proto::Device { model: "B".into(), ..made.clone() };
    user.update_device(mine, &["model"]).await.expect("first");
    let stale = user.update_device(yours, &["model"]).await.expect_err("second");
    assert_eq!((stale.code(), stale.reason()), (Code::Conflict, "ETAG_MISMATCH"));
    assert_eq!(user.device("lab").await.expect("found").model, "A");
    let unknown = user.update_device(made, &["modell"]).await.expect_err("unknown");
    assert_eq!((unknown.code(), unknown.fields()[0].field.as_str()), (Code::Invalid, "update_mask"));

    call!(user.delete_device(proto::DeleteDeviceRequest { device_id: "lab".into(), force: false })).expect("deleted");
    system.clock.advance(std::time::Duration::from_secs(1));
    let anew = user.create_device(device("lab")).await.expect("made anew");
    let old = proto::Device { model: "C".into(), etag: stale_etag(), ..anew };
    assert_eq!(user.update_device(old, &["model"]).await.expect_err("of the old one").code(), Code::Conflict);
}

fn stale_etag() -> String {
    "1-0".to_owned()
}

pub async fn a_device_with_sensors_is_deleted_by_force_only(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.create_sensor(sensor("lab.co2")).await.expect("made");
    user.create_sensor(sensor("other.co2")).await.expect("made");
    let delete = |force| proto::DeleteDeviceRequest { device_id: "lab".into(), force };
    let refused = call!(user.delete_device(delete(false))).expect_err("it has a sensor");
    assert_eq!((refused.code(), refused.reason()), (Code::Precondition, "DEVICE_HAS_SENSORS"));
    call!(user.delete_device(delete(true))).expect("by force");
    assert_eq!(user.sensor_ids().await, ["other.co2"]);
}

pub async fn devices_are_listed_in_pages(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    for id in ["b", "a", "d", "c", "e"] {
        user.create_device(device(id)).await.expect("made");
    }
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = call!(user.list_devices(proto::ListDevicesRequest { page_size: 2, page_token })).expect("page");
        assert!(page.devices.len() <= 2);
        ids.extend(page.devices.into_iter().map(|device| device.device_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(ids, ["a", "b", "c", "d", "e"]);
    let page =
        call!(user.list_devices(proto::ListDevicesRequest { page_size: 2, ..Default::default() })).expect("page");
    let other = proto::ListSensorsRequest { page_token: page.next_page_token, ..Default::default() };
    assert_eq!(call!(user.list_sensors(other)).expect_err("of another list").fields()[0].field, "page_token");
    let negative = proto::ListDevicesRequest { page_size: -1, ..Default::default() };
    assert_eq!(call!(user.list_devices(negative)).expect_err("negative").code(), Code::Invalid);
}

pub async fn the_same_request_id_gives_the_same_answer(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let labels: HashMap<_, _> = ["a", "b", "c", "d"].into_iter().map(|l| (l.to_owned(), l.to_owned())).collect();
    let request = |id: &str, request_id: &str| proto::CreateDeviceRequest {
        // the order of labels differs from map to map
        device: Some(proto::Device { labels: labels.clone().into_iter().collect(), ..device(id) }),
        request_id: request_id.to_owned(),
    };
    let first = call!(user.create_device(request("lab", "r1"))).expect("made");
    user.update_device(proto::Device { name: "Lab".into(), ..device("lab") }, &["name"]).await.expect("changed");
    let again = call!(user.create_device(request("lab", "r1"))).expect("the same answer");
    assert_eq!(again, first);
    let reused = call!(user.create_device(request("other", "r1"))).expect_err("the id is of another request");
    assert_eq!(reused.code(), Code::Invalid);
    assert_eq!(call!(user.create_device(request("lab", "r2"))).expect_err("taken").code(), Code::Exists);
    let stranger = system.user("acme", Role::Operator, &[]);
    call!(stranger.create_device(request("lab", "r1"))).expect("another tenant's ids are its own");
}

pub async fn a_viewer_may_not_write(engine: Engine) {
    let system = System::start(engine).await;
    let viewer = system.user("default", Role::Viewer, &[]);
    assert_eq!(viewer.create_device(device("lab")).await.expect_err("viewer").code(), Code::Forbidden);
    assert_eq!(viewer.create_sensor(sensor("lab.co2")).await.expect_err("viewer").code(), Code::Forbidden);
    let rooms = system.client_of("rooms").list_devices(proto::ListDevicesRequest::default()).await;
    assert_eq!(answer(rooms).expect_err("a peer that is not named").code(), Code::Forbidden);
    assert!(viewer.sensor_ids().await.is_empty());
}
