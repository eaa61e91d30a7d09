//! Calibrations.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::calibration::Function;
use sensormesh_types::{Code, Result, Role, time};

use crate::system::{Engine, NOW, SECOND, System, User, batch, call, group, groups, plain, reading};

const START: i64 = NOW - 10_000 * SECOND;

fn line(gain: f64, offset: f64) -> pb::Calibration {
    let function = Function::Linear(pb::LinearCalibration { gain: Some(gain), offset });
    pb::Calibration { function: Some(function), note: "certificate 7".into(), ..Default::default() }
}

async fn make(user: &User, sensor_id: &str, calibration: pb::Calibration) -> Result<pb::Calibration> {
    let request = pb::CreateCalibrationRequest {
        sensor_id: sensor_id.into(),
        calibration: Some(calibration),
        ..Default::default()
    };
    call!(user.create_calibration(request)).map(|answer| answer.calibration.expect("calibration"))
}

async fn list(user: &User, sensor_id: &str, raw: bool) -> (Vec<f64>, String) {
    let request = pb::ListReadingsRequest { sensor_id: sensor_id.into(), raw, page_size: 10_000, ..Default::default() };
    let page = call!(user.list_readings(request)).expect("list");
    (page.readings.iter().map(|r| plain(r).1).collect(), page.unit)
}

async fn means(user: &User, raw: bool) -> Vec<pb::Bucket> {
    let request = pb::AggregateReadingsRequest {
        sensor_ids: vec!["lab.a".into()],
        interval: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        raw,
        ..Default::default()
    };
    user.buckets(request).await
}

async fn streamed(user: &User, raw: bool) -> (Vec<f64>, String) {
    let mut client = user.client();
    let request = pb::StreamReadingsRequest { sensor_ids: vec!["lab.a".into()], raw, ..Default::default() };
    let mut stream = user.act(client.stream_readings(request)).await.expect("stream").into_inner();
    let (mut values, mut unit) = (Vec::new(), String::new());
    while let Some(message) = stream.message().await.expect("message") {
        for name in message.names {
            unit = name.unit;
        }
        for channel in message.groups.iter().flat_map(|group| &group.channels) {
            values.extend(column(channel));
        }
    }
    (values, unit)
}

fn column(channel: &pb::Channel) -> Vec<f64> {
    match channel.values.as_ref().expect("values") {
        pb::channel::Values::Doubles(doubles) => doubles.values.clone(),
        pb::channel::Values::Scaled(scaled) => {
            let mut sum = 0;
            let step = |delta: &i64| {
                sum += delta;
                sum as f64 / 10f64.powi(scaled.decimals as i32)
            };
            scaled.deltas.iter().map(step).collect()
        }
    }
}

pub async fn every_read_is_calibrated_unless_it_asks_for_raw_values(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = system.operator();
    let mut ingest = user.open().await;
    let number = ingest.numbers(&["lab.a"]).await[0];
    // blocks and a tail
    let values: Vec<f64> = (0..2500).map(|i| f64::from(i % 100)).collect();
    ingest.send(batch(1, vec![group(number, START, SECOND, &values)])).await;
    ingest.through(1).await;
    drop(ingest);
    let before = means(&user, false).await;
    let made = make(&user, "lab.a", pb::Calibration { unit: "%".into(), ..line(-0.5, 3.0) }).await.expect("made");
    assert_eq!((made.version, made.creator.as_str(), made.sensor_id.as_str()), (1, "user:ada", "lab.a"));
    assert_eq!(made.create_time, Some(time::from_nanos(NOW)));
    let expected: Vec<f64> = values.iter().map(|v| v * -0.5 + 3.0).collect();
    for _ in 0..2 {
        let user = system.operator();
        assert_eq!(list(&user, "lab.a", false).await, (expected.clone(), "%".to_owned()));
        assert_eq!(list(&user, "lab.a", true).await, (values.clone(), "[ppm]".to_owned()));
        assert_eq!(streamed(&user, false).await, (expected.clone(), "%".to_owned()));
        assert_eq!(streamed(&user, true).await, (values.clone(), "[ppm]".to_owned()));
        assert_eq!(means(&user, true).await, before);
        for (calibrated, raw) in means(&user, false).await.iter().zip(&before) {
            assert_eq!((calibrated.count, calibrated.start), (raw.count, raw.start));
            let line = |value: Option<f64>| value.map(|value| value * -0.5 + 3.0);
            assert_eq!((calibrated.min, calibrated.max), (line(raw.max), line(raw.min)));
            let far = calibrated.mean.zip(line(raw.mean)).map(|(a, b)| (a - b).abs());
            assert!(far.is_some_and(|far| far < 1e-9));
        }
        assert_eq!(user.latest().await[0].2, expected[2499]);
        system.restart().await;
    }
    // live, in every form
    let user = system.operator();
    for (place, form) in
        [pb::ReadingForm::Rows, pb::ReadingForm::Columns, pb::ReadingForm::Latest].into_iter().enumerate()
    {
        for raw in [false, true] {
            let request = pb::WatchReadingsRequest { form: form as i32, raw, ..Default::default() };
            let mut watch = user.watch(request).await;
            watch.until_live().await;
            let second = 3000 + 2 * place as i64 + i64::from(raw);
            user.send(vec![reading("lab.a", START + second * SECOND, 40.0)]).await.expect("taken");
            let told = watch.next().await;
            let value = match form {
                pb::ReadingForm::Columns => {
                    assert_eq!(told.groups.len(), 1);
                    column(&groups(&told)[0].channels[0])[0]
                }
                _ => plain(&told.readings[0]).1,
            };
            assert_eq!(value, if raw { 40.0 } else { -17.0 }, "{form:?} raw {raw}");
        }
    }
}

pub async fn versions_hold_for_their_time_and_can_be_deleted(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = system.operator();
    user.send((0..6).map(|i| reading("lab.a", START + i * SECOND, 10.0)).collect()).await.expect("taken");
    let at = |second: i64| Some(time::from_nanos(START + second * SECOND));
    make(&user, "lab.a", line(1.0, 1.0)).await.expect("one");
    make(&user, "lab.a", pb::Calibration { valid_from: at(2), ..line(2.0, 0.0) }).await.expect("two");
    let square = Function::Polynomial(pb::PolynomialCalibration { coefficients: vec![0.0, 0.0, 1.0] });
    let square = pb::Calibration { function: Some(square), valid_from: at(4), valid_to: at(5), ..Default::default() };
    make(&user, "lab.a", square).await.expect("three");
    assert_eq!(list(&user, "lab.a", false).await.0, [11.0, 11.0, 20.0, 20.0, 100.0, 20.0]);
    let sums = means(&user, false).await;
    assert_eq!((sums[0].sum, sums[0].max), (Some(182.0), Some(100.0)));
    let delete = |version| pb::DeleteCalibrationRequest { sensor_id: "lab.a".into(), version };
    call!(user.delete_calibration(delete(2))).expect("deleted");
    call!(user.delete_calibration(delete(2))).expect("deleted before");
    assert_eq!(call!(user.delete_calibration(delete(9))).expect_err("none").code(), Code::NotFound);
    for _ in 0..2 {
        let viewer = system.viewer();
        assert_eq!(list(&viewer, "lab.a", false).await.0, [11.0, 11.0, 11.0, 11.0, 100.0, 11.0]);
        let versions = |show_deleted| pb::ListCalibrationsRequest {
            sensor_id: "lab.a".into(),
            show_deleted,
            page_size: 1,
            ..Default::default()
        };
        let numbers = |mut request: pb::ListCalibrationsRequest| {
            let viewer = viewer.clone();
            async move {
                let mut numbers = Vec::new();
                loop {
                    let page = call!(viewer.list_calibrations(request.clone())).expect("list");
                    numbers.extend(page.calibrations.iter().map(|c| (c.version, c.deleter.clone())));
                    if page.next_page_token.is_empty() {
                        return numbers;
                    }
                    request.page_token = page.next_page_token;
                }
            }
        };
        assert_eq!(numbers(versions(false)).await, [(3, String::new()), (1, String::new())]);
        let all = numbers(versions(true)).await;
        assert_eq!(all, [(3, String::new()), (2, "user:ada".to_owned()), (1, String::new())]);
        system.restart().await;
    }
    // a number is not used again
    let user = system.operator();
    assert_eq!(make(&user, "lab.a", line(1.0, 0.0)).await.expect("four").version, 4);
}

pub async fn what_makes_no_sense_as_a_calibration_is_refused_by_name(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.send(vec![reading("lab.a", NOW, 1.0)]).await.expect("taken");
    let refused = |calibration| async { make(&user, "lab.a", calibration).await.expect_err("refused") };
    assert_eq!(refused(line(0.0, 1.0)).await.fields()[0].field, "calibration.linear.gain");
    assert!(refused(pb::Calibration::default()).await.fields()[0].field.starts_with("calibration"));
    make(&user, "lab.a", line(1.0, 1.0)).await.expect("made");
    let percent = pb::Calibration { unit: "%".into(), ..line(1.0, 1.0) };
    assert_eq!(refused(percent).await.fields()[0].field, "calibration.unit");
    assert_eq!(make(&user, "lab.none", line(1.0, 1.0)).await.expect_err("unknown").code(), Code::NotFound);
    let other = system.user("other", Role::Operator, &[]);
    assert_eq!(make(&other, "lab.a", line(1.0, 1.0)).await.expect_err("another tenant's").code(), Code::NotFound);
    let viewer = system.viewer();
    assert_eq!(make(&viewer, "lab.a", line(1.0, 1.0)).await.expect_err("viewer").code(), Code::Forbidden);
    // the same request gives the same version
    let request = pb::CreateCalibrationRequest {
        sensor_id: "lab.a".into(),
        calibration: Some(line(1.0, 2.0)),
        request_id: "r1".into(),
    };
    let first = call!(user.create_calibration(request.clone())).expect("made");
    assert_eq!(call!(user.create_calibration(request)).expect("the same"), first);
}
