//! Completeness.

use sensormesh_proto::devices::v1::Sensor;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_types::{Code, time};

use crate::devices::sensor;
use crate::system::{Engine, NOW, SECOND, System, batch, call, eventually, group};

const MINUTE: i64 = 60 * SECOND;
const DAY: i64 = 1440 * MINUTE;

fn at(nanos: i64) -> Option<prost_types::Timestamp> {
    Some(time::from_nanos(nanos))
}

pub async fn what_is_missing_is_counted_and_its_gaps_are_listed(engine: Engine) {
    let system = System::start(engine).await;
    let minutely = prost_types::Duration { seconds: 60, nanos: 0 };
    for id in ["lab.a", "lab.b"] {
        let told = Sensor { expected_interval: Some(minutely), ..sensor(id, "", None) };
        system.devices.put("default", told);
    }
    system.devices.put("default", sensor("lab.c", "", None));
    let user = system.operator();
    let known = || async {
        let list = pb::ListReadingsRequest { sensor_id: "lab.c".into(), ..Default::default() };
        call!(user.list_readings(list)).is_ok()
    };
    eventually("the sensors are known", known).await;
    let start = NOW - 3 * DAY;
    let mut ingest = user.open().await;
    let number = ingest.numbers(&["lab.a"]).await[0];
    // a whole day, then nothing for an hour, then on up to noon of the second day, and a last hour
    for (place, (from, to)) in [(0, 1440), (1500, 2160), (3 * 1440 - 60, 3 * 1440)].into_iter().enumerate() {
        let values: Vec<f64> = (from..to).map(|i| (i % 7) as f64).collect();
        ingest.send(batch(place as u64 + 1, vec![group(number, start + from * MINUTE, MINUTE, &values)])).await;
        ingest.through(place as u64 + 1).await;
    }
    let request = pb::MeasureCompletenessRequest {
        sensor_ids: vec!["lab.a".into(), "lab.b".into(), "lab.c".into()],
        start_time: at(start),
        ..Default::default()
    };
    let answer = call!(user.measure_completeness(request.clone())).expect("measured");
    assert!(answer.next_page_token.is_empty());
    let [a, b, c] = &answer.sensors[..] else { panic!("{answer:?}") };
    let counts = |sensor: &pb::SensorCompleteness| -> Vec<(u64, u64)> {
        sensor.buckets.iter().map(|bucket| (bucket.expected, bucket.received)).collect()
    };
    assert_eq!(counts(a), [(1440, 1440), (1440, 660), (1440, 60)]);
    assert_eq!((a.expected, a.received, a.completeness), (4320, 2160, Some(0.5)));
    assert_eq!(a.expected_interval, Some(minutely));
    let gap = |from: i64, to: i64, missing| pb::ReadingGap {
        start_time: at(start + from * MINUTE),
        end_time: at(start + to * MINUTE),
        missing,
    };
    assert_eq!(a.gaps, [gap(1439, 1500, 60), gap(2159, 3 * 1440 - 60, 2100)]);
    assert_eq!((counts(b), b.completeness), (vec![(1440, 0); 3], Some(0.0)));
    assert_eq!(b.gaps, [gap(0, 4320, 4320)]);
    assert_eq!((counts(c), c.completeness, c.gaps.len()), (vec![(0, 0); 3], None, 0));

    // page by page it is the same, and each gap stands where it begins
    let (mut buckets, mut gaps) = (Vec::new(), Vec::new());
    let mut page = pb::MeasureCompletenessRequest { page_size: 1, sensor_ids: vec!["lab.a".into()], ..request.clone() };
    loop {
        let mut answer = call!(user.measure_completeness(page.clone())).expect("measured");
        let sensor = answer.sensors.remove(0);
        assert_eq!(sensor.buckets.len(), 1);
        buckets.extend(sensor.buckets);
        gaps.extend(sensor.gaps);
        if answer.next_page_token.is_empty() {
            break;
        }
        page.page_token = answer.next_page_token;
    }
    assert_eq!((&buckets, &gaps), (&a.buckets, &a.gaps));

    // somebody else's idea of how often it should report
    let daily = pb::MeasureCompletenessRequest {
        expected_interval: Some(prost_types::Duration { seconds: 1800, nanos: 0 }),
        ..request.clone()
    };
    let half_hourly = call!(user.measure_completeness(daily)).expect("measured");
    assert_eq!((half_hourly.sensors[0].expected, half_hourly.sensors[0].completeness), (144, Some(1.0)));
    let wrong = pb::MeasureCompletenessRequest { start_time: at(start - 366 * DAY), ..request.clone() };
    assert_eq!(call!(user.measure_completeness(wrong)).expect_err("too long").fields()[0].field, "end_time");
    let unknown = pb::MeasureCompletenessRequest { sensor_ids: vec!["lab.x".into()], ..request };
    assert_eq!(call!(user.measure_completeness(unknown)).expect_err("unknown").code(), Code::NotFound);
}
