//! What rooms show now.

use std::time::Duration;

use sensormesh_proto::devices::v1 as devices;
use sensormesh_types::time;

use crate::fakes::{Entry, sensor};
use crate::system::{Engine, SECOND, START, System, User, until};

/// What a room shows in short: `co2 612 ppm`, with `old` where it is stale and `wild` where it is out of range.
async fn shown(user: &User, room: &str) -> Vec<String> {
    let metrics = user.metrics(room).await.expect("metrics").metrics;
    let short = |m: sensormesh_proto::rooms::v1::RoomMetric| {
        let value = m.value.map_or("-".to_owned(), |value| value.to_string());
        let (old, wild) = (if m.stale { " old" } else { "" }, if m.out_of_range { " wild" } else { "" });
        format!("{} {value} {}{old}{wild}", m.metric, m.unit)
    };
    metrics.into_iter().map(short).collect()
}

pub async fn a_room_shows_the_latest_readings(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.create_room("lab").await;
    let every = |seconds| Some(time::from_duration(Duration::from_secs(seconds)));
    system.devices.know_silently(devices::Sensor { expected_interval: every(10), ..sensor("dev.co2", "[ppm]") });
    system.devices.know_silently(devices::Sensor { profile_id: "humidity".into(), ..sensor("dev.h", "") });
    system.devices.know_silently(sensor("dev.never", "W"));
    for id in ["dev.co2", "dev.h", "dev.never"] {
        user.place(id, "lab", "").await.expect("placed");
    }
    system.read("dev.co2", -3, 600.0);
    system.read("dev.co2", -1, 612.0);
    system.read("dev.co2", -2, 700.0); // late: what is newest is shown
    system.read("dev.h", -1, 101.5);
    let is = |expected: [&'static str; 3]| {
        let user = user.clone();
        async move { until(&format!("{expected:?}"), || async { shown(&user, "lab").await == expected }).await }
    };
    is(["co2 612 [ppm]", "h 101.5 % wild", "never - W old"]).await;
    let answer = user.metrics("lab").await.expect("metrics");
    assert_eq!(answer.metrics[0].time, Some(time::from_nanos((START - 1) * SECOND)));
    assert_eq!((answer.metrics[0].quantity.as_str(), answer.room_id.as_str()), ("carbon_dioxide", "lab"));
    assert_eq!(answer.as_of, Some(time::from_nanos(START * SECOND)));

    system.clock.advance(Duration::from_secs(30));
    is(["co2 612 [ppm] old", "h 101.5 % wild", "never - W old"]).await;
    // recorded data of long ago is shown, and old
    let recorded = |value| Entry {
        tenant: "default".into(),
        sensor: "dev.never".into(),
        time: (START - 1_000_000 + value as i64) * SECOND,
        value,
        backfill: true,
    };
    system.telemetry.append(vec![recorded(1.0), recorded(3.0), recorded(2.0)]);
    is(["co2 612 [ppm] old", "h 101.5 % wild", "never 3 W old"]).await;
    // a placement shows nothing of the time before it
    system.clock.advance(Duration::from_secs(1));
    user.create_room("hall").await;
    user.place("dev.h", "hall", "").await.expect("moved");
    assert_eq!(shown(&user, "hall").await, ["h - % old"]);
}

pub async fn without_telemetry_what_rooms_show_is_stale(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = system.operator();
    user.create_room("lab").await;
    system.devices.know_silently(sensor("dev.co2", "[ppm]"));
    user.place("dev.co2", "lab", "").await.expect("placed");
    system.read("dev.co2", -1, 600.0);
    until("the value", || async { shown(&user, "lab").await == ["co2 600 [ppm]"] }).await;
    system.telemetry.kill();
    until("stale", || async { shown(&user, "lab").await == ["co2 600 [ppm] old"] }).await;
    system.restart_rooms().await;
    assert_eq!(shown(&user, "lab").await, ["co2 - [ppm] old"]);
    system.telemetry.revive();
    until("the value again", || async { shown(&user, "lab").await == ["co2 600 [ppm]"] }).await;
}
