//! Sensors that come into being because something is said about them.

use sensormesh_proto::devices::v1 as proto;
use sensormesh_types::{Code, Role};

use crate::system::{Engine, System, answer, call, device, sensor};

fn request(ids: &[&str]) -> proto::EnsureSensorsRequest {
    proto::EnsureSensorsRequest { sensors: ids.iter().map(|id| sensor(id)).collect(), ..Default::default() }
}

pub async fn sensors_are_registered_once_and_returned_in_order(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.create_sensor(proto::Sensor { name: "Air".into(), ..sensor("lab.co2") }).await.expect("made");
    let mut asked = request(&["z.t", "lab.co2", "lab.t", "z.t"]);
    asked.sensors[1].name = "something else".into();
    asked.devices = vec![proto::Device { name: "Zed".into(), origin: "mqtt".into(), ..device("z") }];
    let sensors = call!(user.ensure_sensors(asked.clone())).expect("ensured").sensors;
    let ids: Vec<_> = sensors.iter().map(|sensor| sensor.sensor_id.as_str()).collect();
    assert_eq!(ids, ["z.t", "lab.co2", "lab.t", "z.t"]);
    assert_eq!(sensors[1].name, "Air", "what exists is left as it is");
    let made = user.device("z").await.expect("its device");
    assert_eq!((made.name.as_str(), made.origin.as_str()), ("Zed", "mqtt"));
    assert_eq!(call!(user.ensure_sensors(asked)).expect("again").sensors, sensors);
    call!(user.ensure_sensors(request(&["new.x"]))).expect("ensured");
    assert_eq!(user.device("new").await.expect("its device").origin, "ingest");
}

pub async fn a_peer_names_the_tenant_and_a_user_does_not(engine: Engine) {
    let system = System::start(engine).await;
    let theirs = system.user("acme", Role::Operator, &[]);
    let asked = proto::EnsureSensorsRequest { tenant: "acme".into(), ..request(&["lab.co2"]) };
    let mut telemetry = system.client_of("telemetry");
    answer(telemetry.ensure_sensors(asked.clone()).await).expect("a peer may");
    assert_eq!(theirs.sensor_ids().await, ["lab.co2"]);
    answer(telemetry.ensure_sensors(request(&["d.co2"])).await).expect("the default tenant");
    let user = system.operator();
    assert_eq!(user.sensor_ids().await, ["d.co2"]);
    let refused = call!(user.ensure_sensors(asked)).expect_err("a user may not");
    assert_eq!((refused.code(), refused.fields()[0].field.as_str()), (Code::Invalid, "tenant"));
    let rooms = system.client_of("rooms").ensure_sensors(request(&["r.x"])).await;
    assert_eq!(answer(rooms).expect_err("a peer that is not named").code(), Code::Forbidden);
}

pub async fn nothing_is_registered_if_one_is_wrong(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let mut asked = request(&["a.x", "b.x"]);
    asked.sensors[1].device_id = "no device".into();
    let refused = call!(user.ensure_sensors(asked)).expect_err("the second is wrong");
    assert_eq!(refused.fields()[0].field, "sensors[1].device_id");
    assert!(user.sensor_ids().await.is_empty());
    assert_eq!(user.device("a").await.expect_err("undone").code(), Code::NotFound);
    assert_eq!(call!(user.ensure_sensors(request(&[]))).expect_err("none").fields()[0].field, "sensors");
}

pub async fn parallel_calls_register_each_sensor_once(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let ids: Vec<String> = (0..20).map(|n| format!("d{}.s{n:02}", n / 4)).collect();
    let calls = (0..8).map(|n| {
        let (user, ids) = (user.clone(), ids.clone());
        tokio::spawn(async move {
            // half of them the other way round, which must not make them wait for each other in a circle
            let mut ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            if n % 2 == 0 {
                ids.reverse();
            }
            let mut sensors = call!(user.ensure_sensors(request(&ids))).expect("ensured").sensors;
            sensors.sort_by(|one, other| one.sensor_id.cmp(&other.sensor_id));
            sensors
        })
    });
    let answers: Vec<_> = futures::future::join_all(calls).await.into_iter().map(|call| call.expect("call")).collect();
    assert!(answers.iter().all(|sensors| *sensors == answers[0]), "all see the same sensors");
    assert_eq!(user.sensor_ids().await, ids);
    let (entries, _) = system.watch_as_service("").await.until_live().await;
    assert_eq!(entries.iter().filter(|message| message.tenant == "default").count(), 25, "20 sensors and 5 devices");
}
