//! Quality tests, and what a sender is told of each reading.

use sensormesh_proto::devices::v1::{QualityTests, Sensor};
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::{Quality, QualityTest, Verdict};
use sensormesh_types::{Code, Role};

use crate::devices::sensor;
use crate::system::{Engine, NOW, SECOND, System, User, batch, call, eventually, group, groups, reading};

const START: i64 = NOW - 100_000 * SECOND;

fn tested(sensor_id: &str, tests: QualityTests) -> Sensor {
    Sensor {
        expected_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        quality_tests: Some(tests),
        ..sensor(sensor_id, "", Some((-1000.0, 1000.0)))
    }
}

/// Every test but that of the usual range.
fn all_tests() -> QualityTests {
    QualityTests {
        spike_suspect: 5.0,
        spike_fail: 50.0,
        max_change_per_second: 10.0,
        flat_suspect_count: 3,
        flat_fail_count: 5,
        gap_intervals: 4,
        ..QualityTests::default()
    }
}

async fn known(user: &User, sensor_id: &str) {
    let known = || async {
        let list = pb::ListReadingsRequest { sensor_id: sensor_id.into(), ..Default::default() };
        call!(user.list_readings(list)).is_ok()
    };
    eventually("the sensor is known", known).await;
}

/// Each reading's second, quality and tests; without those that have nothing to say.
async fn found(user: &User, sensor_id: &str) -> Vec<(i64, Quality, Vec<QualityTest>)> {
    let list = pb::ListReadingsRequest { sensor_id: sensor_id.into(), ..Default::default() };
    let read = user.list(list).await.expect("list");
    let told = read.iter().map(|reading| {
        let (time, _) = crate::system::plain(reading);
        ((time - START) / SECOND, reading.quality(), reading.quality_tests().collect())
    });
    told.filter(|(_, quality, _)| *quality != Quality::Unspecified).collect()
}

fn at(second: i64, value: f64) -> pb::Reading {
    reading("lab.a", START + second * SECOND, value)
}

pub async fn what_tests_find_stands_beside_the_readings_and_outlives_a_restart(engine: Engine) {
    let mut system = System::start(engine).await;
    system.devices.put("default", tested("lab.a", all_tests()));
    let user = system.operator();
    known(&user, "lab.a").await;
    // one by one: a spike (is told when the next one comes), a gap, the first half of a stuck sensor
    for (second, value) in [(0, 1.0), (1, 2.0), (2, 60.0), (3, 1.0), (4, 2.0), (20, 2.5), (21, 7.0), (22, 7.0)] {
        assert_eq!(user.send(vec![at(second, value)]).await.expect("taken").accepted, 1);
    }
    system.crash().await;
    let user = system.operator();
    // the other half in columns: a reading is compared with those from before the crash
    let mut ingest = user.open().await;
    let number = ingest.numbers(&["lab.a"]).await[0];
    let stuck = group(number, START + 23 * SECOND, SECOND, &[7.0, 7.0, 7.0, 9.0]);
    ingest.send(batch(1, vec![stuck])).await;
    ingest.through(1).await;
    drop(ingest);
    // the last one turns out to be a spike once the next one has come, after another restart
    user.send(vec![at(27, 80.0)]).await.expect("taken");
    system.crash().await;
    let user = system.operator();
    user.send(vec![at(28, 9.0)]).await.expect("taken");
    use QualityTest::{FlatLine, Gap, RateOfChange, Spike};
    let expected = vec![
        (0, Quality::NotEvaluated, vec![]),
        (1, Quality::Suspect, vec![Spike]),
        (2, Quality::Fail, vec![Spike]),
        (3, Quality::Suspect, vec![Spike, RateOfChange]),
        (20, Quality::Suspect, vec![Gap]),
        (23, Quality::Suspect, vec![FlatLine]),
        (24, Quality::Suspect, vec![FlatLine]),
        (25, Quality::Fail, vec![FlatLine]),
        (26, Quality::Suspect, vec![Spike]),
        (27, Quality::Fail, vec![Spike]),
        (28, Quality::Suspect, vec![RateOfChange]),
    ];
    assert_eq!(found(&user, "lab.a").await, expected);
    // what failed is left out of aggregates, what is suspect is not, and no value was touched
    let request = pb::AggregateReadingsRequest { sensor_ids: vec!["lab.a".into()], ..Default::default() };
    let bucket = user.buckets(request).await.remove(0);
    assert_eq!((bucket.count, bucket.max), (11, Some(9.0)));
    let values: Vec<f64> = user.readings("lab.a").await.iter().map(|r| r.1).collect();
    assert_eq!(values, [1.0, 2.0, 60.0, 1.0, 2.0, 2.5, 7.0, 7.0, 7.0, 7.0, 7.0, 9.0, 80.0, 9.0]);
}

pub async fn sealed_readings_keep_what_was_found(engine: Engine) {
    let mut system = System::start(engine).await;
    system.devices.put("default", tested("lab.a", QualityTests { spike_fail: 300.0, ..all_tests() }));
    let user = system.operator();
    known(&user, "lab.a").await;
    let mut ingest = user.open().await;
    let number = ingest.numbers(&["lab.a"]).await[0];
    // one of 256 stands out; the last of each batch is one, and the batch is a whole block
    let values: Vec<f64> = (0..4096).map(|i| if i % 256 == 255 { 500.0 } else { f64::from(i % 2) }).collect();
    for (place, part) in values.chunks(1024).enumerate() {
        let start = START + place as i64 * 1024 * SECOND;
        ingest.send(batch(place as u64 + 1, vec![group(number, start, SECOND, part)])).await;
        ingest.through(place as u64 + 1).await;
    }
    drop(ingest);
    for _ in 0..2 {
        let user = system.operator();
        let failed: Vec<i64> = found(&user, "lab.a")
            .await
            .into_iter()
            .filter(|(_, quality, tests)| *quality == Quality::Fail && *tests == [QualityTest::Spike])
            .map(|(second, ..)| second)
            .collect();
        // the very last one has no neighbour after it yet
        assert_eq!(failed, (0..15).map(|i| i * 256 + 255).collect::<Vec<_>>());
        let request = pb::AggregateReadingsRequest { sensor_ids: vec!["lab.a".into()], ..Default::default() };
        assert_eq!(user.buckets(request).await[0].count, 4096 - 15);
        system.restart().await;
    }
}

pub async fn late_readings_are_said_to_be_late_and_not_evaluated(engine: Engine) {
    let system = System::start(engine).await;
    system.devices.put("default", tested("lab.a", all_tests()));
    let user = system.operator();
    known(&user, "lab.a").await;
    user.send((10..20).map(|second| at(second, (second % 2) as f64)).collect()).await.expect("taken");
    // late, late and out of range, a duplicate, a revision; the new one is simply accepted
    let sent = vec![at(5, 3.0), at(6, 2000.0), at(12, 0.0), at(13, 0.5), at(20, 1.0)];
    let answer = user.send(sent).await.expect("taken");
    let verdicts: Vec<_> = answer.results.iter().map(|r| (r.index, r.verdict())).collect();
    let expected = [(0, Verdict::Late), (1, Verdict::OutOfRange), (2, Verdict::Duplicate), (3, Verdict::Revised)];
    assert_eq!(verdicts, expected);
    assert_eq!((answer.accepted, answer.duplicates, answer.refused), (4, 1, 0));
    assert_eq!(answer.results[1].field, "readings[1].value");
    let not_evaluated: Vec<_> = found(&user, "lab.a").await.iter().map(|(second, q, _)| (*second, *q)).collect();
    let expected = [
        (5, Quality::NotEvaluated),
        (6, Quality::OutOfRange),
        (10, Quality::NotEvaluated),
        (13, Quality::NotEvaluated),
    ];
    assert_eq!(not_evaluated, expected);
    // one reading alone
    let one = at(4, 1.0);
    let one =
        pb::IngestReadingRequest { sensor_id: one.sensor_id, time: one.time, value: one.value, ..Default::default() };
    assert_eq!(call!(user.ingest_reading(one)).expect("taken").verdict, Verdict::Late as i32);
    // in columns they are counted; recorded data is never late
    let mut ingest = user.open().await;
    let number = ingest.numbers(&["lab.a"]).await[0];
    ingest.send(batch(1, vec![group(number, START, SECOND, &[1.0, 2.0, 5000.0, 4.0, 1.0, 8.0])])).await;
    let answer = ingest.through(1).await.remove(0);
    assert_eq!((answer.late, answer.out_of_range, answer.duplicates, answer.revised), (4, 1, 1, 1));
    let mut ingest = user.open().await;
    ingest.announce(&["lab.a"], true).await;
    ingest.send(batch(1, vec![group(number, START - 9 * SECOND, SECOND, &[1.0, 2.0])])).await;
    assert_eq!(ingest.through(1).await[0].late, 0);
}

pub async fn a_watcher_sees_a_spike_once_it_is_one(engine: Engine) {
    let system = System::start(engine).await;
    system.devices.put("default", tested("lab.a", all_tests()));
    let user = system.operator();
    known(&user, "lab.a").await;
    user.send(vec![at(0, 1.0), at(1, 2.0)]).await.expect("taken");
    for form in [pb::ReadingForm::Rows, pb::ReadingForm::Columns] {
        let second = if form == pb::ReadingForm::Rows { 2 } else { 12 };
        let mut watch = user.watch(pb::WatchReadingsRequest { form: form as i32, ..Default::default() }).await;
        watch.until_live().await;
        user.send(vec![at(second, 90.0)]).await.expect("taken");
        watch.next().await;
        user.send(vec![at(second + 1, 2.0)]).await.expect("taken");
        let told = watch.next().await;
        if form == pb::ReadingForm::Rows {
            let told: Vec<_> = told.readings.iter().map(|r| (r.value, r.quality())).collect();
            assert_eq!(told, [(Some(90.0), Quality::Fail), (Some(2.0), Quality::Suspect)]);
        } else {
            let exception = &groups(&told)[0].channels[0].exceptions[0];
            assert_eq!(exception.quality(), Quality::Fail);
            assert_eq!(exception.tests().collect::<Vec<_>>(), [QualityTest::Spike]);
        }
    }
}

pub async fn tests_of_a_profile_that_changes_hold_from_then_on(engine: Engine) {
    let system = System::start(engine).await;
    system.devices.put("default", sensor("lab.a", "", None));
    let user = system.operator();
    known(&user, "lab.a").await;
    user.send((0..10).map(|second| at(second, 7.0)).collect()).await.expect("taken");
    assert!(found(&user, "lab.a").await.is_empty());
    system.devices.put("default", tested("lab.a", QualityTests { flat_fail_count: 4, ..Default::default() }));
    let second = std::sync::atomic::AtomicI64::new(10);
    let failing = || async {
        let second = second.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        user.send(vec![at(second, 7.0)]).await.expect("taken");
        found(&user, "lab.a").await.last().is_some_and(|(at, quality, _)| (*at, *quality) == (second, Quality::Fail))
    };
    eventually("the stuck sensor is found", failing).await;
    assert!(found(&user, "lab.a").await.iter().all(|(second, ..)| *second >= 10));
}

pub async fn sensors_beyond_the_quota_are_refused_on_both_doors(engine: Engine) {
    let config = sensormesh_telemetry::Config { sensors: 2, ..Default::default() };
    let system = System::with(engine, config).await;
    let user = system.operator();
    let sent = ["a.a", "a.b", "a.c"].map(|id| reading(id, NOW, 1.0)).to_vec();
    let answer = user.send(sent).await.expect("two are taken");
    assert_eq!((answer.accepted, answer.refused), (2, 1));
    assert_eq!((answer.results[0].index, answer.results[0].verdict()), (2, Verdict::Quota));
    let error = user.send(vec![reading("a.c", NOW, 1.0)]).await.expect_err("none is taken");
    assert_eq!((error.code(), error.reason()), (Code::Exhausted, "TOO_MANY_SENSORS"));
    let announced = user.open().await.announce(&["a.a", "a.c"], false).await;
    assert_eq!((announced[0].reason.as_str(), announced[1].reason.as_str()), ("", "QUOTA"));
    // another tenant has its own
    let other = system.user("other", Role::Operator, &[]);
    assert_eq!(other.send(vec![reading("a.c", NOW, 1.0)]).await.expect("taken").accepted, 1);
}

pub async fn a_replica_judges_by_what_another_one_took(url: String) {
    let first = System::start(Engine::Postgres(url)).await;
    let second = first.replica().await;
    let users = [first.operator(), second.operator()];
    for id in ["lab.a", "lab.b"] {
        first.devices.put("default", tested(id, all_tests()));
        known(&users[0], id).await;
        known(&users[1], id).await;
    }
    let values = [(0, 1.0), (1, 2.0), (2, 60.0), (3, 1.0), (4, 2.0), (20, 2.5), (21, 7.0), (22, 7.0)];
    for (place, (second, value)) in values.into_iter().chain((23..28).map(|second| (second, 7.0))).enumerate() {
        let time = START + second * SECOND;
        // one sensor's by turns, the other's all to one
        assert_eq!(users[place % 2].send(vec![reading("lab.a", time, value)]).await.expect("taken").accepted, 1);
        assert_eq!(users[0].send(vec![reading("lab.b", time, value)]).await.expect("taken").accepted, 1);
    }
    let alone = found(&users[0], "lab.b").await;
    assert!(alone.len() > 3, "{alone:?}");
    assert_eq!(found(&users[0], "lab.a").await, alone);
    let seen = || async { found(&users[1], "lab.a").await == alone && found(&users[1], "lab.b").await == alone };
    eventually("the other shows the same", seen).await;
}
