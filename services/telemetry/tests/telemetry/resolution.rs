//! Readings that are rounded to the decimals of their sensor's profile.

use sensormesh_proto::devices::v1::Sensor;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::Verdict;

use crate::devices::sensor;
use crate::system::{Engine, NOW, SECOND, System, User, batch, call, eventually, group, reading};

const START: i64 = NOW - 100_000 * SECOND;

fn rounded(sensor_id: &str, decimals: Option<u32>) -> Sensor {
    Sensor { decimals, ..sensor(sensor_id, "", Some((0.0, 30.0))) }
}

async fn known(user: &User, sensor_id: &str) {
    let known = || async {
        let list = pb::ListReadingsRequest { sensor_id: sensor_id.into(), ..Default::default() };
        call!(user.list_readings(list)).is_ok()
    };
    eventually("the sensor is known", known).await;
}

/// A group of whole numbers and a power of ten.
fn scaled(series: u32, start: i64, decimals: u32, deltas: &[i64]) -> pb::Group {
    let mut group = group(series, start, SECOND, &vec![0.0; deltas.len()]);
    let scaled = pb::Scaled { decimals, deltas: deltas.to_vec() };
    group.channels[0].values = Some(pb::channel::Values::Scaled(scaled));
    group
}

fn values(readings: &[(i64, f64)]) -> Vec<f64> {
    readings.iter().map(|(_, value)| *value).collect()
}

pub async fn readings_are_rounded_by_whichever_door_they_come(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = system.operator();
    for (id, decimals) in [("lab.rows", Some(2)), ("lab.doubles", Some(2)), ("lab.scaled", Some(2)), ("lab.all", None)]
    {
        system.devices.put("default", rounded(id, decimals));
        known(&user, id).await;
    }
    let sent = [21.123_456, 21.125, -0.001, 1.005, 30.004, 30.006];
    for id in ["lab.rows", "lab.all"] {
        let readings = sent.iter().zip(0..).map(|(value, second)| reading(id, START + second * SECOND, *value));
        assert_eq!(user.send(readings.collect()).await.expect("taken").accepted, 6);
    }
    let mut ingest = user.open().await;
    let numbers = ingest.numbers(&["lab.doubles", "lab.scaled"]).await;
    let parts = [21_123_456, 1_544, -21_126_000, 1_006_000, 28_999_000, 2_000];
    let sent_groups = [group(numbers[0], START, SECOND, &sent), scaled(numbers[1], START, 6, &parts)];
    ingest.send(batch(1, sent_groups.clone())).await;
    // what is looked at is what is kept: 30.004 is within a range that ends at 30
    assert_eq!(ingest.through(1).await[0].out_of_range, 2);
    let kept = [21.12, 21.13, 0.0, 1.01, 30.0, 30.01];
    for _ in 0..2 {
        for id in ["lab.rows", "lab.doubles", "lab.scaled"] {
            assert_eq!(values(&user.readings(id).await).map_bits(), kept.to_vec().map_bits(), "{id}");
        }
        assert_eq!(values(&user.readings("lab.all").await), sent);
        system.crash().await;
    }
    // sent again by another door, another way: the same
    let user = system.operator();
    let readings = sent.iter().zip(0..).map(|(value, second)| reading("lab.scaled", START + second * SECOND, *value));
    let again = user.send(readings.collect()).await.expect("taken");
    assert_eq!((again.accepted, again.duplicates), (0, 6), "{:?}", again.results);
    let mut ingest = user.open().await;
    ingest.numbers(&["lab.doubles", "lab.scaled"]).await;
    ingest.send(batch(1, sent_groups)).await;
    assert_eq!(ingest.through(1).await[0].duplicates, 12);
    // differs by less than is kept
    let close = user.send(vec![reading("lab.rows", START, 21.119)]).await.expect("taken");
    assert_eq!(close.results[0].verdict(), Verdict::Duplicate);
}

/// Bits, so that 0 and -0 differ.
trait Bits {
    fn map_bits(self) -> Vec<u64>;
}

impl Bits for Vec<f64> {
    fn map_bits(self) -> Vec<u64> {
        self.into_iter().map(f64::to_bits).collect()
    }
}

pub async fn decimals_of_a_profile_that_changes_hold_from_then_on(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = system.operator();
    system.devices.put("default", rounded("lab.a", None));
    known(&user, "lab.a").await;
    user.send(vec![reading("lab.a", START, 21.123_456)]).await.expect("taken");
    let sends = async |system: &System, expected: f64| {
        let (user, second) = (system.operator(), std::sync::atomic::AtomicI64::new(1));
        let so = || async {
            let time = START + second.fetch_add(1, std::sync::atomic::Ordering::Relaxed) * SECOND;
            user.send(vec![reading("lab.a", time, 21.123_456)]).await.expect("taken");
            user.readings("lab.a").await.contains(&(time, expected))
        };
        eventually("readings are rounded so", so).await;
    };
    system.devices.put("default", rounded("lab.a", Some(1)));
    sends(&system, 21.1).await;
    // it is known before `devices` is there
    system.stop_devices().await;
    system.restart().await;
    let user = system.operator();
    user.send(vec![reading("lab.a", START + 9_000 * SECOND, 1.23)]).await.expect("taken");
    assert_eq!(user.readings("lab.a").await.last(), Some(&(START + 9_000 * SECOND, 1.2)));
    assert_eq!(user.readings("lab.a").await[0], (START, 21.123_456));
    system.start_devices().await;
    system.devices.put("default", rounded("lab.a", None));
    sends(&system, 21.123_456).await;
}

pub async fn what_was_kept_aside_is_rounded_when_it_is_let_go(engine: Engine) {
    let mut system = System::start(engine).await;
    system.stop_devices().await;
    let user = system.operator();
    let answer = user.send(vec![reading("lab.late", START, 21.123_456)]).await.expect("kept aside");
    assert_eq!(answer.results[0].verdict(), Verdict::Quarantined);
    system.devices.put("default", rounded("lab.late", Some(0)));
    system.start_devices().await;
    known(&user, "lab.late").await;
    let stored = || async { user.readings("lab.late").await == [(START, 21.0)] };
    eventually("the reading is stored", stored).await;
}
