//! Which sensor is where.

use sensormesh_proto::devices::v1 as devices;
use sensormesh_proto::devices::v1::watch_devices_response::Event;
use sensormesh_proto::rooms::v1 as proto;
use sensormesh_proto::rooms::v1::PlaceKind;
use sensormesh_types::{Code, Result, time};

use crate::fakes::sensor;
use crate::system::{Engine, SECOND, START, System, User, call, until};

async fn take_out(user: &User, sensor: &str) -> Result<proto::DeletePlacementResponse> {
    call!(user.delete_placement(proto::DeletePlacementRequest { sensor_id: sensor.into() }))
}

async fn heard_of(user: &User, sensors: &[&str]) {
    until("the registry", || async { user.unplaced().await == sensors }).await;
}

pub async fn a_sensor_is_placed_moved_and_taken_out(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    system.devices.sensor(sensor("dev.air.co2", "[ppm]"));
    system.devices.sensor(sensor("dev.t", "Cel"));
    heard_of(&user, &["dev.air.co2", "dev.t"]).await;
    user.create_room("a").await;
    user.create_room("b").await;
    let placed = user.place("dev.air.co2", "a", "").await.expect("placed");
    assert_eq!((placed.metric.as_str(), placed.start_time, placed.end_time), ("co2", None, None));
    assert_eq!(user.place("dev.air.co2", "a", "co2").await.expect("the same"), placed);
    assert_eq!(user.unplaced().await, ["dev.t"]);

    system.clock.advance(std::time::Duration::from_secs(10));
    user.place("dev.air.co2", "b", "").await.expect("moved");
    assert_eq!(user.placements("dev.air.co2").await, ["a/co2 -10", "b/co2 10-"]);
    system.clock.advance(std::time::Duration::from_secs(10));
    user.place("dev.air.co2", "b", "air").await.expect("renamed");
    assert_eq!(user.placements("dev.air.co2").await, ["a/co2 -10", "b/air 10-"]);
    let early = Some(time::from_nanos((START + 5) * SECOND));
    let error = user.place_since("dev.air.co2", "a", "", early).await.expect_err("was in a, then in b");
    assert_eq!(error.reason(), "PLACEMENT_OVERLAP");

    take_out(&user, "dev.air.co2").await.expect("out");
    assert_eq!(take_out(&user, "dev.air.co2").await.expect_err("is out").code(), Code::NotFound);
    assert_eq!(user.placements("dev.air.co2").await, ["a/co2 -10", "b/air 10-20"]);
    assert_eq!(user.unplaced().await, ["dev.air.co2", "dev.t"]);

    let mut request = proto::ListPlacementsRequest { include_ended: true, page_size: 1, ..Default::default() };
    let first = call!(user.list_placements(request.clone())).expect("list");
    request.page_token = first.next_page_token.clone();
    let second = call!(user.list_placements(request.clone())).expect("list");
    assert_eq!((first.placements[0].room_id.as_str(), second.placements[0].room_id.as_str()), ("a", "b"));
    assert!(second.next_page_token.is_empty());
    assert!(call!(user.list_placements(proto::ListPlacementsRequest::default())).expect("list").placements.is_empty());
}

pub async fn a_metric_names_one_sensor_of_a_room(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    for id in ["one.co2", "other.co2"] {
        system.devices.sensor(sensor(id, "[ppm]"));
    }
    heard_of(&user, &["one.co2", "other.co2"]).await;
    user.create_room("a").await;
    user.place("one.co2", "a", "").await.expect("placed");
    assert_eq!(user.place("other.co2", "a", "").await.expect_err("taken").code(), Code::Exists);
    user.place("other.co2", "a", "co2_wall").await.expect("another name");
    assert_eq!(user.place("other.co2", "a", "co2").await.expect_err("taken").code(), Code::Exists);
    system.clock.advance(std::time::Duration::from_secs(1));
    take_out(&user, "one.co2").await.expect("out");
    user.place("other.co2", "a", "co2").await.expect("free again");
    assert_eq!(user.place("one.co2", "nowhere", "").await.expect_err("no room").code(), Code::NotFound);
}

pub async fn a_sensor_that_was_not_heard_of_yet_is_asked_for(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.create_room("a").await;
    assert_eq!(user.place("new.co2", "a", "").await.expect_err("unknown").code(), Code::NotFound);
    system.devices.know_silently(sensor("new.co2", "[ppm]"));
    user.place("new.co2", "a", "").await.expect("placed");
    assert_eq!(user.metrics("a").await.expect("metrics").metrics[0].unit, "[ppm]");
}

fn suggesting(id: &str, room: &str, metric: &str) -> devices::Sensor {
    devices::Sensor { suggested_room: room.into(), suggested_metric: metric.into(), ..sensor(id, "%") }
}

pub async fn a_suggested_room_is_made_once(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = system.operator();
    system.devices.sensor(suggesting("m.cpu", "This machine", ""));
    system.devices.sensor(suggesting("m.mem", "This machine", "memory"));
    system.devices.sensor(suggesting("n.memory", "This machine", ""));
    until("the room", || async { user.metrics("this-machine").await.is_ok_and(|room| room.metrics.len() == 3) }).await;
    let shown = user.metrics("this-machine").await.expect("metrics");
    let metrics: Vec<_> = shown.metrics.iter().map(|m| (m.metric.as_str(), m.sensor_id.as_str())).collect();
    assert_eq!(metrics, [("cpu", "m.cpu"), ("memory", "m.mem"), ("n.memory", "n.memory")]);
    let rooms = call!(user.list_rooms(proto::ListRoomsRequest::default())).expect("list").rooms;
    assert_eq!(rooms[0].name, "This machine");

    take_out(&user, "m.cpu").await.expect("out");
    system.restart_rooms().await;
    let renamed = devices::Sensor { name: "Load".into(), ..suggesting("m.cpu", "This machine", "") };
    system.devices.sensor(renamed);
    system.devices.sensor(sensor("z.last", "%"));
    heard_of(&user, &["m.cpu", "z.last"]).await;
    let delete = proto::DeletePlaceRequest { place_id: "this-machine".into(), force: true };
    call!(user.delete_place(delete)).expect("deleted");
    system.devices.sensor(suggesting("m.mem", "This machine", "memory"));
    system.devices.sensor(sensor("zz.last", "%"));
    heard_of(&user, &["m.cpu", "m.mem", "n.memory", "z.last", "zz.last"]).await;
    assert!(call!(user.list_rooms(proto::ListRoomsRequest::default())).expect("list").rooms.is_empty());
}

pub async fn a_deleted_sensor_leaves_its_room(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.create_room("a").await;
    for id in ["dev.a", "dev.b"] {
        system.devices.sensor(sensor(id, "%"));
    }
    heard_of(&user, &["dev.a", "dev.b"]).await;
    user.place("dev.a", "a", "").await.expect("placed");
    user.place("dev.b", "a", "").await.expect("placed");
    let count = || async { user.metrics("a").await.expect("metrics").metrics.len() };
    system.devices.tell("default", Event::DeletedSensorId("dev.a".into()));
    until("the first has left", || async { count().await == 1 }).await;
    system.devices.tell("default", Event::DeletedDeviceId("dev".into()));
    until("the other has left", || async { count().await == 0 }).await;
    assert!(user.unplaced().await.is_empty());
    assert_eq!(user.placements("dev.a").await, ["a/a -0"]);
}

pub async fn a_sensor_of_another_site_is_refused(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    for site in ["north", "south"] {
        user.create_place(PlaceKind::Site, site, "").await.expect("site");
        user.create_place(PlaceKind::Room, &format!("{site}-room"), site).await.expect("room");
    }
    let at = |site: &str| devices::Sensor { site_id: site.into(), ..sensor("dev.t", "Cel") };
    system.devices.sensor(at("north"));
    heard_of(&user, &["dev.t"]).await;
    assert_eq!(user.place("dev.t", "south-room", "").await.expect_err("elsewhere").reason(), "SITE_MISMATCH");
    user.place("dev.t", "north-room", "").await.expect("placed");
    let update = proto::UpdatePlaceRequest {
        place: Some(crate::system::place(PlaceKind::Room, "north-room", "south")),
        update_mask: crate::system::mask(&["parent_id"]),
    };
    assert_eq!(call!(user.update_place(update)).expect_err("its sensor stays").reason(), "SITE_MISMATCH");
    let north = system.user("default", sensormesh_types::Role::Viewer, &["north"]);
    assert_eq!(north.metrics("north-room").await.expect("metrics").metrics.len(), 1);
    // the device was carried to the other site
    system.devices.sensor(at("south"));
    until("it has left the room", || async { user.unplaced().await == ["dev.t"] }).await;
    assert!(north.metrics("north-room").await.expect("metrics").metrics.is_empty());
}

pub async fn a_room_with_sensors_is_deleted_by_force_only(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.create_room("a").await;
    system.devices.know_silently(sensor("dev.t", "Cel"));
    user.place("dev.t", "a", "").await.expect("placed");
    let delete = |force| proto::DeletePlaceRequest { place_id: "a".into(), force };
    assert_eq!(call!(user.delete_place(delete(false))).expect_err("in use").reason(), "PLACE_NOT_EMPTY");
    system.clock.advance(std::time::Duration::from_secs(3));
    call!(user.delete_place(delete(true))).expect("forced");
    assert_eq!(user.placements("dev.t").await, ["a/t -3"]);
    assert_eq!(user.unplaced().await, ["dev.t"]);
}
