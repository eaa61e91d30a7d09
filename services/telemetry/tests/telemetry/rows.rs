//! `IngestReadings` and `IngestReading`.

use std::time::Duration;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::{Quality, Verdict};
use sensormesh_types::{Code, Role, time};

use crate::devices::sensor;
use crate::system::{Engine, NOW, SECOND, System, call, eventually, plain, reading};

const YEAR: i64 = 31_557_600 * SECOND;

pub async fn readings_come_back_as_they_were_sent(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let values = [612.0, 0.1 + 0.2, -0.0, 5e-324, f64::MAX, -1e-300];
    let sent: Vec<_> = values.iter().enumerate().map(|(i, v)| reading("lab.co2", NOW + i as i64, *v)).collect();
    let answer = user.send(sent).await.expect("taken");
    assert_eq!((answer.accepted, answer.duplicates, answer.refused), (6, 0, 0));
    assert!(answer.results.is_empty() && !answer.cursor.is_empty());
    let read = user.readings("lab.co2").await;
    let bits = |values: &mut dyn Iterator<Item = f64>| values.map(f64::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(&mut read.iter().map(|r| r.1)), bits(&mut values.into_iter()));
    assert_eq!(read.iter().map(|r| r.0).collect::<Vec<_>>(), (NOW..NOW + 6).collect::<Vec<_>>());

    // the sensor came into being, and its unit is told
    assert!(system.devices.sensors().contains_key(&("default".to_owned(), "lab.co2".to_owned())));
    let list = pb::ListReadingsRequest { sensor_id: "lab.co2".into(), ..Default::default() };
    assert_eq!(call!(user.list_readings(list)).expect("list").unit, "[ppm]");

    // one reading without a time gets that of its receipt, and says so
    let one =
        pb::IngestReadingRequest { sensor_id: "lab.t".into(), time: None, value: Some(21.5), ..Default::default() };
    let answer = call!(user.ingest_reading(one)).expect("taken");
    assert_eq!(answer.verdict, Verdict::Accepted as i32);
    let list = pb::ListReadingsRequest { sensor_id: "lab.t".into(), ..Default::default() };
    let read = call!(user.list_readings(list)).expect("list").readings;
    assert_eq!(plain(&read[0]), (NOW, 21.5));
    assert!(read[0].time_of_receipt);

    let list = pb::ListReadingsRequest { sensor_id: "lab.none".into(), ..Default::default() };
    assert_eq!(call!(user.list_readings(list)).expect_err("unknown").code(), Code::NotFound);
    let viewer = system.viewer();
    assert_eq!(viewer.send(vec![reading("lab.co2", NOW, 1.0)]).await.expect_err("viewer").code(), Code::Forbidden);
}

pub async fn each_refused_reading_is_named_and_the_rest_is_taken(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let mut sent: Vec<_> = (0..9).map(|i| reading("lab.co2", NOW + i, 1.0)).collect();
    sent.insert(3, reading("lab.co2", NOW, f64::NAN));
    let answer = user.send(sent).await.expect("nine are taken");
    assert_eq!((answer.accepted, answer.refused), (9, 1));
    let result = &answer.results[0];
    assert_eq!((result.index, result.verdict), (3, Verdict::NonFinite as i32));
    assert_eq!(result.field, "readings[3].value");

    let without_value = pb::Reading { value: None, ..reading("lab.co2", NOW + 50, 0.0) };
    let sent = vec![
        reading("lab.co2", NOW + 3600 * SECOND, 1.0),
        reading("lab.co2", NOW - 30 * YEAR, 1.0),
        reading("bad id", NOW, 1.0),
        reading("no-such.sensor", NOW, 1.0),
        without_value,
        reading("lab.co2", NOW + 20, 1.0),
    ];
    let answer = user.send(sent).await.expect("one is taken");
    let verdicts: Vec<_> = answer.results.iter().map(|r| (r.verdict(), r.field.as_str())).collect();
    assert_eq!(
        verdicts,
        [
            (Verdict::Future, "readings[0].time"),
            (Verdict::TooOld, "readings[1].time"),
            (Verdict::Invalid, "readings[2].sensor_id"),
            (Verdict::Invalid, "readings[3].sensor_id"),
            (Verdict::Invalid, "readings[4].value"),
        ]
    );
    assert_eq!(user.readings("lab.co2").await.len(), 10);
}

pub async fn a_request_of_which_nothing_can_be_taken_fails_and_names_the_fields(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let sent = vec![reading("lab.co2", NOW, f64::INFINITY), reading("lab.co2", NOW + 3600 * SECOND, 1.0)];
    let error = user.send(sent).await.expect_err("refused");
    assert_eq!(error.code(), Code::Invalid);
    let fields: Vec<_> = error.fields().iter().map(|f| f.field.as_str()).collect();
    assert_eq!(fields, ["readings[0].value", "readings[1].time"]);
    let one = pb::IngestReadingRequest { sensor_id: "lab.co2".into(), time: None, value: None, ..Default::default() };
    let error = call!(user.ingest_reading(one)).expect_err("no value");
    assert_eq!(error.fields()[0].field, "value");
    assert!(user.readings("lab.co2").await.is_empty());
    let many = (0..1001).map(|i| reading("lab.co2", NOW + i, 1.0)).collect();
    assert_eq!(user.send(many).await.expect_err("too many").code(), Code::Invalid);
}

pub async fn a_reading_sent_again_is_a_duplicate_or_a_revision(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.send((0..5).map(|i| reading("lab.co2", NOW + i, i as f64)).collect()).await.expect("taken");
    let again = vec![
        reading("lab.co2", NOW + 1, 1.0),
        reading("lab.co2", NOW + 2, 22.0),
        reading("lab.co2", NOW + 9, 9.0),
        reading("lab.co2", NOW + 9, 9.0),
        reading("lab.co2", NOW + 9, 99.0),
        reading("lab.co2", NOW - 1, -1.0),
    ];
    let answer = user.send(again).await.expect("taken");
    assert_eq!((answer.accepted, answer.duplicates, answer.refused), (4, 2, 0));
    let verdicts: Vec<_> = answer.results.iter().map(|r| (r.index, r.verdict())).collect();
    let (duplicate, revised) = (Verdict::Duplicate, Verdict::Revised);
    assert_eq!(verdicts, [(0, duplicate), (1, revised), (3, duplicate), (4, revised), (5, Verdict::Late)]);
    let read: Vec<_> = user.readings("lab.co2").await.iter().map(|r| (r.0 - NOW, r.1)).collect();
    assert_eq!(read, [(-1, -1.0), (0, 0.0), (1, 1.0), (2, 22.0), (3, 3.0), (4, 4.0), (9, 99.0)]);
    assert_eq!(user.latest().await, [("lab.co2".to_owned(), NOW + 9, 99.0)]);

    let answer = user.send(vec![reading("lab.co2", NOW, 0.0)]).await.expect("all duplicates is OK");
    assert_eq!((answer.accepted, answer.duplicates), (0, 1));
}

pub async fn the_same_batch_id_gives_the_first_answer(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = system.operator();
    let request = |value: f64| pb::IngestReadingsRequest {
        readings: vec![reading("lab.co2", NOW, value), reading("lab.co2", NOW + 1, f64::NAN)],
        batch_id: "b1".into(),
        backfill: false,
    };
    let first = call!(user.ingest_readings(request(1.0))).expect("taken");
    assert_eq!((first.accepted, first.refused), (1, 1));
    assert_eq!(call!(user.ingest_readings(request(1.0))).expect("again"), first);
    system.restart().await;
    let user = system.operator();
    assert_eq!(call!(user.ingest_readings(request(1.0))).expect("again"), first);
    // what is not stored must not look as if it were
    let refused = call!(user.ingest_readings(request(2.0))).expect_err("another batch");
    assert_eq!((refused.code(), refused.fields()[0].field.as_str()), (Code::Invalid, "batch_id"));
    let recorded = pb::IngestReadingsRequest { backfill: true, ..request(1.0) };
    assert_eq!(call!(user.ingest_readings(recorded)).expect_err("another lane").code(), Code::Invalid);
    assert_eq!(user.readings("lab.co2").await, [(NOW, 1.0)]);
    // another sender's ids are its own, and so are another tenant's
    let colleague = system.named("bob", "default", Role::Operator, &[]);
    let answer = call!(colleague.ingest_readings(request(2.0))).expect("taken");
    assert_eq!((answer.accepted, answer.results[0].verdict()), (1, Verdict::Revised));
    assert_eq!(user.readings("lab.co2").await, [(NOW, 2.0)]);
    let other = system.user("other", Role::Operator, &[]);
    let answer = call!(other.ingest_readings(request(3.0))).expect("taken");
    assert_eq!(answer.accepted, 1);
    assert_eq!(other.readings("lab.co2").await, [(NOW, 3.0)]);
    // of many at once one is the first
    let send = |i: i64| {
        let user = user.clone();
        async move {
            let readings = vec![reading("lab.co2", NOW + 100 + i, i as f64)];
            let request = pb::IngestReadingsRequest { readings, batch_id: "b2".into(), backfill: false };
            call!(user.ingest_readings(request))
        }
    };
    let answers = futures::future::join_all((0..16).map(|i| send(i % 2))).await;
    let taken: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    assert_eq!(taken.len(), 8, "one of the two, and its repetitions");
    assert!(taken.iter().all(|answer| *answer == taken[0]));
    let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
    assert!(refused.into_iter().all(|error| error.code() == Code::Invalid && error.fields()[0].field == "batch_id"));
    assert_eq!(user.readings("lab.co2").await.len(), 2);
}

pub async fn values_out_of_range_are_kept_and_left_out_of_aggregates(engine: Engine) {
    let system = System::start(engine).await;
    system.devices.put("default", sensor("lab.co2", "", Some((0.0, 5000.0))));
    let user = system.operator();
    let known = || async {
        let list = pb::ListReadingsRequest { sensor_id: "lab.co2".into(), ..Default::default() };
        call!(user.list_readings(list)).is_ok()
    };
    eventually("the sensor is known", known).await;
    let sent =
        vec![reading("lab.co2", NOW, 400.0), reading("lab.co2", NOW + 1, 9999.0), reading("lab.co2", NOW + 2, 600.0)];
    assert_eq!(user.send(sent).await.expect("taken").accepted, 3);
    let list = pb::ListReadingsRequest { sensor_id: "lab.co2".into(), ..Default::default() };
    let read = call!(user.list_readings(list)).expect("list").readings;
    let qualities: Vec<_> = read.iter().map(pb::Reading::quality).collect();
    assert_eq!(qualities, [Quality::Unspecified, Quality::OutOfRange, Quality::Unspecified]);
    assert_eq!(plain(&read[1]).1, 9999.0);
    let request = pb::AggregateReadingsRequest { sensor_ids: vec!["lab.co2".into()], ..Default::default() };
    let buckets = user.buckets(request).await;
    assert_eq!((buckets[0].count, buckets[0].mean, buckets[0].max), (2, Some(500.0), Some(600.0)));
}

pub async fn recorded_data_is_taken_from_1990_on(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let year_2000 = time::to_nanos(&prost_types::Timestamp { seconds: 946_684_800, nanos: 0 }).expect("time");
    let year_1989 = year_2000 - 11 * YEAR;
    let request = pb::IngestReadingsRequest {
        readings: vec![reading("old.t", year_2000, 1.0), reading("old.t", year_1989, 2.0)],
        batch_id: String::new(),
        backfill: true,
    };
    let answer = call!(user.ingest_readings(request)).expect("taken");
    assert_eq!((answer.accepted, answer.refused), (1, 1));
    assert_eq!(answer.results[0].verdict(), Verdict::TooOld);
    assert_eq!(user.readings("old.t").await, [(year_2000, 1.0)]);
    system.clock.advance(Duration::from_secs(1));
}
