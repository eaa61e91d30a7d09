//! How long readings stay.

use std::time::Duration;

use sensormesh_proto::devices::v1::Sensor;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::{CalendarUnit, Gap, Statistic};
use sensormesh_telemetry::Config;
use sensormesh_types::{Code, Role, time};

use crate::devices::sensor;
use crate::history::fill;
use crate::system::{Engine, NOW, SECOND, System, call, eventually, reading};

const DAY: Duration = Duration::from_secs(86_400);

pub async fn old_readings_end_with_their_retention(engine: Engine) {
    let system = System::with(engine, Config { retention_days: 10_000, ..Config::default() }).await;
    system.devices.put("default", Sensor { retention_days: 1, ..sensor("lab.a", "", None) });
    let user = system.operator();
    let values: Vec<f64> = (0..3_000).map(f64::from).collect();
    for sensor_id in ["lab.a", "lab.b"] {
        fill(&user, sensor_id, NOW - 3 * 86_400 * SECOND, SECOND, &values).await;
    }
    assert_eq!(user.readings("lab.a").await.len(), 3_000);
    let gone = || async {
        system.clock.advance(DAY / 4);
        system.operator().readings("lab.a").await.is_empty()
    };
    eventually("what is past its retention is deleted", gone).await;
    assert_eq!(system.operator().readings("lab.b").await.len(), 3_000);
}

pub async fn summaries_of_what_is_gone_come_from_its_rollups(engine: Engine) {
    let mut system = System::with(engine, Config { retention_days: 2, ..Config::default() }).await;
    let user = system.operator();
    let start = NOW - 3 * 86_400 * SECOND;
    // two days of a reading every 5 minutes, and some two days later
    let values: Vec<f64> = (0..576).map(|i| f64::from(i % 50)).collect();
    for sensor_id in ["lab.a", "lab.b"] {
        fill(&user, sensor_id, start, 300 * SECOND, &values).await;
    }
    let ask = |statistics: &[Statistic], seconds: i64| pb::AggregateReadingsRequest {
        sensor_ids: vec!["lab.a".into()],
        interval: Some(prost_types::Duration { seconds, nanos: 0 }),
        statistics: statistics.iter().map(|statistic| *statistic as i32).collect(),
        page_size: 7,
        ..Default::default()
    };
    let days = pb::AggregateReadingsRequest { interval: None, calendar: CalendarUnit::Day as i32, ..ask(&[], 1) };
    let usual = ask(&[], 3600);
    let deviation = ask(&[Statistic::Mean, Statistic::Stddev], 86_400);
    let before =
        (user.buckets(usual.clone()).await, user.buckets(days.clone()).await, user.buckets(deviation.clone()).await);
    assert_eq!((before.0.len(), before.1.len()), (48, 2));
    let gone = || async {
        system.clock.advance(DAY / 4);
        system.operator().readings("lab.a").await.is_empty()
    };
    eventually("what is past its retention is deleted", gone).await;
    for _ in 0..2 {
        let user = system.operator();
        assert_eq!(user.buckets(usual.clone()).await, before.0);
        assert_eq!(user.buckets(days.clone()).await, before.1);
        for (told, then) in user.buckets(deviation.clone()).await.iter().zip(&before.2) {
            let (told, then) = (told.stddev.expect("wanted"), then.stddev.expect("wanted"));
            assert!((told - then).abs() < 1e-9);
        }
        // carried over what is rolled up, from what is rolled up
        let now = system.clock.now_nanos();
        let dense = pb::AggregateReadingsRequest {
            start_time: Some(time::from_nanos(start)),
            end_time: Some(time::from_nanos(start + 4 * 86_400 * SECOND)),
            gap: Gap::Previous as i32,
            page_size: 1000,
            ..usual.clone()
        };
        let dense = user.buckets(dense).await;
        assert_eq!((dense.len(), dense[95].count, dense[95].last), (96, 0, before.0[47].last));
        // what only readings themselves could tell is refused and says why
        for request in [
            ask(&[Statistic::Increase], 3600),
            ask(&[], 60),
            pb::AggregateReadingsRequest { percentiles: vec![50.0], ..ask(&[], 3600) },
        ] {
            let error = call!(user.aggregate_readings(request.clone())).expect_err("refused");
            assert_eq!((error.code(), error.reason()), (Code::Precondition, "ROLLED_UP"));
            let until = error.metadata("rolled_up_until").expect("until when").to_owned();
            // the interval that this lies in begins before it
            let until = until.parse::<jiff::Timestamp>().expect("a time").as_nanosecond() as i64;
            let from = time::from_nanos(until + 3600 * SECOND);
            let later = pb::AggregateReadingsRequest { start_time: Some(from), ..request };
            call!(user.aggregate_readings(later)).expect("nothing is left to refuse");
        }
        user.send(vec![reading("lab.a", now, 1.0)]).await.expect("taken");
        assert_eq!(user.buckets(usual.clone()).await.len(), 49);
        let admin = system.user("default", Role::Admin, &[]);
        let delete = pb::DeleteReadingsRequest {
            sensor_id: "lab.a".into(),
            start_time: Some(time::from_nanos(now)),
            ..Default::default()
        };
        assert_eq!(call!(admin.delete_readings(delete)).expect("deleted").readings, 1);
        system.restart().await;
    }
}

pub async fn readings_are_deleted_by_who_may(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = system.operator();
    fill(&user, "lab.a", NOW - 5_000 * SECOND, SECOND, &(0..5_000).map(f64::from).collect::<Vec<_>>()).await;
    let delete = |from: i64, to: i64| pb::DeleteReadingsRequest {
        sensor_id: "lab.a".into(),
        start_time: Some(time::from_nanos(NOW + from * SECOND)),
        end_time: Some(time::from_nanos(NOW + to * SECOND)),
        all: false,
    };
    assert_eq!(call!(user.delete_readings(delete(-100, 0))).expect_err("an operator").code(), Code::Forbidden);
    let admin = system.user("default", Role::Admin, &[]);
    let unknown = pb::DeleteReadingsRequest { sensor_id: "lab.x".into(), ..delete(-100, 0) };
    assert_eq!(call!(admin.delete_readings(unknown)).expect_err("unknown").code(), Code::NotFound);
    let other = system.user("other", Role::Admin, &[]);
    assert_eq!(call!(other.delete_readings(delete(-100, 0))).expect_err("another's").code(), Code::NotFound);
    let wrong = call!(admin.delete_readings(delete(0, -100))).expect_err("backwards");
    assert_eq!(wrong.fields()[0].field, "end_time");
    assert_eq!(call!(admin.delete_readings(delete(-3_000, -1_000))).expect("deleted").readings, 2_000);
    assert_eq!(call!(admin.delete_readings(delete(-3_000, -1_000))).expect("again").readings, 0);
    let left: Vec<f64> = user.readings("lab.a").await.iter().map(|reading| reading.1).collect();
    assert_eq!(left, (0..2_000).chain(4_000..5_000).map(f64::from).collect::<Vec<_>>());
    assert_eq!(call!(admin.delete_readings(delete(-100, 1_000))).expect("deleted").readings, 100);
    assert_eq!(user.latest().await[0].2, 4_899.0);
    // also of a sensor that nobody has registered any more
    system.devices.delete("default", "lab.a");
    system.restart().await;
    let (user, admin) = (system.operator(), system.user("default", Role::Admin, &[]));
    // all of them only where that is said
    let bare = pb::DeleteReadingsRequest { sensor_id: "lab.a".into(), ..Default::default() };
    for wrong in [bare.clone(), pb::DeleteReadingsRequest { all: true, ..delete(-100, 0) }] {
        let error = call!(admin.delete_readings(wrong)).expect_err("refused");
        assert_eq!((error.code(), error.fields()[0].field.as_str()), (Code::Invalid, "all"));
    }
    assert_eq!(user.readings("lab.a").await.len(), 2_900, "nothing is gone");
    let everything = pb::DeleteReadingsRequest { all: true, ..bare };
    let deleted = call!(admin.delete_readings(everything)).expect("deleted").readings;
    assert_eq!(deleted, 2_900);
    assert_eq!((user.readings("lab.a").await.len(), user.latest().await.len()), (0, 0));
}
