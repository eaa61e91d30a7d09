//! What a test finds.

use std::time::Duration;

use sensormesh_commissioning::Config;
use sensormesh_proto::commissioning::v1 as proto;
use sensormesh_proto::commissioning::v1::{TestResult, TestState};
use sensormesh_types::{Code, time};

use crate::fakes::{Entry, sensor};
use crate::system::{Engine, System, of_type, until};

fn results(sensor: &proto::TestedSensor) -> Vec<TestResult> {
    sensor.checks.iter().map(proto::TestCheck::result).collect()
}

pub async fn a_healthy_sensor_passes_and_a_sick_one_fails_the_test(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    system.register("default", sensor("b.t")).await;
    system.read("a.t", 5.0);
    let started = user.start(of_type("Temperature")).await.expect("started");
    assert_eq!((started.state(), started.result()), (TestState::Queued, TestResult::Unspecified));
    assert_eq!(started.sensors.len(), 2);
    let id = started.test_id;
    user.reaches(&id, TestState::Running).await;
    for i in 0..40u32 {
        system.clock.advance(Duration::from_secs(1));
        system.read("a.t", 21.0 + f64::from(i % 3) * 0.1);
        system.read("b.t", if i == 3 { 85.0 } else { 21.5 });
        if i % 5 == 4 && i < 30 {
            user.counts(&id, u64::from(i) + 1).await;
        }
        if i == 10 {
            until("a failure", || async { user.test(&id).await.expect("test").result() == TestResult::Failed }).await;
            assert_eq!(user.test(&id).await.expect("test").state(), TestState::Running, "it goes on");
        }
    }
    let test = user.reaches(&id, TestState::Done).await;
    assert_eq!((test.result(), test.summary.as_str()), (TestResult::Failed, "1 of 2 sensors failed: b.t"));
    assert_eq!(results(&test.sensors[0]), [TestResult::Passed; 5], "{:?}", test.sensors[0]);
    assert!(test.sensors[0].readings >= 30, "{}", test.sensors[0].readings);
    assert_eq!(
        (test.sensors[0].min, test.sensors[0].max),
        (Some(21.0), Some(21.2)),
        "the reading before does not count"
    );
    let sick = [TestResult::Passed, TestResult::Failed, TestResult::Failed, TestResult::Passed, TestResult::Failed];
    assert_eq!(results(&test.sensors[1]), sick, "{:?}", test.sensors[1]);
    assert!(test.sensors[1].summary.contains("85 °C"), "{}", test.sensors[1].summary);
    assert!(test.end_time.is_some() && test.due_time.is_none() && !test.stale);
}

pub async fn a_test_of_nothing_says_what_there_is(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    let test = user.start(of_type("co2")).await.expect("an answer");
    assert_eq!((test.state(), test.result()), (TestState::Done, TestResult::NoSensor));
    assert_eq!(test.summary, "there is no sensor of type \"co2\"; there are sensors of temperature");
    assert_eq!(user.test(&test.test_id).await.expect("it is kept").result(), TestResult::NoSensor);
    let device = proto::StartTestRequest { device_id: "z".into(), ..Default::default() };
    assert_eq!(user.start(device).await.expect("an answer").result(), TestResult::NoSensor);
}

pub async fn a_test_ends_when_time_is_up(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    let asked = proto::StartTestRequest {
        duration: Some(time::from_duration(Duration::from_secs(6))),
        device_id: "a".into(),
        ..Default::default()
    };
    let id = user.start(asked).await.expect("started").test_id;
    user.reaches(&id, TestState::Running).await;
    system.feed(&user, &id, "a.t", 3).await;
    user.counts(&id, 3).await;
    system.clock.advance(Duration::from_secs(3));
    let test = user.reaches(&id, TestState::Done).await;
    let passed =
        [TestResult::Passed, TestResult::Passed, TestResult::NotJudged, TestResult::Passed, TestResult::NotJudged];
    assert_eq!((test.result(), results(&test.sensors[0])), (TestResult::Passed, passed.to_vec()), "{test:?}");
    assert_eq!(test.sensors[0].summary, "3 checks passed, 2 could not be judged");

    // nothing at all arrives of one of two
    system.register("default", sensor("b.t")).await;
    let id = user.start_type("temperature").await;
    user.reaches(&id, TestState::Running).await;
    for count in 1..=10 {
        system.clock.advance(Duration::from_secs(6));
        system.read("a.t", 21.0);
        user.counts(&id, count).await;
    }
    let test = user.reaches(&id, TestState::Done).await;
    assert_eq!(test.result(), TestResult::Failed);
    assert_eq!(test.sensors[0].gaps, 9, "{test:?}");
    assert!(test.sensors[1].summary.contains("no reading arrived in 60 s"), "{}", test.sensors[1].summary);
}

pub async fn the_same_request_id_gives_the_same_test(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    let asked = |sensor_type: &str| proto::StartTestRequest { request_id: "again".into(), ..of_type(sensor_type) };
    let first = user.start(asked("temperature")).await.expect("started");
    let second = user.start(asked("temperature")).await.expect("started");
    assert_eq!(first, second);
    assert_eq!(user.start(asked("humidity")).await.expect_err("another request").code(), Code::Invalid);
    let of = proto::ListTestsRequest { sensor_id: "a.t".into(), ..Default::default() };
    assert_eq!(user.tests(of).await, [first.test_id]);
}

pub async fn what_makes_no_sense_is_refused(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    let plain = of_type("temperature");
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    for (field, request) in [
        ("sensor_type", proto::StartTestRequest::default()),
        ("range_max", proto::StartTestRequest { range_min: Some(2.0), range_max: Some(1.0), ..plain.clone() }),
        ("flat_readings", proto::StartTestRequest { flat_readings: 1, ..plain.clone() }),
        ("duration", proto::StartTestRequest { duration: seconds(0), ..plain.clone() }),
        ("duration", proto::StartTestRequest { duration: seconds(86_401), ..plain.clone() }),
        ("readings", proto::StartTestRequest { readings: 10_001, ..plain.clone() }),
    ] {
        let error = user.start(request).await.expect_err(field);
        assert_eq!((error.code(), error.fields()[0].field.as_str()), (Code::Invalid, field), "{error}");
    }
    let unknown = proto::StartTestRequest { sensor_ids: vec!["no.such".into()], ..Default::default() };
    assert_eq!(user.start(unknown).await.expect_err("unknown").code(), Code::NotFound);
    assert_eq!(user.test("nothing").await.expect_err("unknown").code(), Code::NotFound);
}

pub async fn further_tests_take_their_turn(engine: Engine) {
    let system = System::with(engine, Config { tests_at_once: 1, ..Config::default() }).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    let first = user.start_type("temperature").await;
    system.clock.advance(Duration::from_secs(1));
    let second = user.start_type("temperature").await;
    user.reaches(&first, TestState::Running).await;
    system.feed(&user, &first, "a.t", 10).await;
    user.counts(&first, 10).await;
    let waits = user.test(&second).await.expect("test");
    assert_eq!((waits.state(), waits.stale), (TestState::Queued, false), "{waits:?}");
    system.feed(&user, &first, "a.t", 20).await;
    user.reaches(&first, TestState::Done).await;
    user.reaches(&second, TestState::Running).await;
    system.feed(&user, &second, "a.t", 30).await;
    let test = user.reaches(&second, TestState::Done).await;
    assert_eq!((test.result(), test.sensors[0].readings), (TestResult::Passed, 30), "only what came in its own time");
}

pub async fn too_many_tests_are_refused(engine: Engine) {
    let system = System::with(engine, Config { unfinished_tests: 2, ..Config::default() }).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    let first = user.start_type("temperature").await;
    user.start_type("temperature").await;
    let error = user.start(of_type("temperature")).await.expect_err("one too many");
    assert_eq!((error.code(), error.reason()), (Code::Exhausted, "TOO_MANY_TESTS"));
    user.cancel(&first).await.expect("cancelled");
    user.start_type("temperature").await;
}

pub async fn a_test_is_cancelled_once(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    let id = user.start_type("temperature").await;
    user.reaches(&id, TestState::Running).await;
    system.feed(&user, &id, "a.t", 3).await;
    user.counts(&id, 3).await;
    let test = user.cancel(&id).await.expect("cancelled");
    assert_eq!((test.state(), test.result()), (TestState::Cancelled, TestResult::Unspecified));
    assert_eq!(test.sensors[0].readings, 3, "what it has found stays");
    assert_eq!(user.cancel(&id).await.expect("again").end_time, test.end_time);
    system.read_well("a.t", 3);
    let other = user.start_type("temperature").await;
    user.reaches(&other, TestState::Running).await;
    assert_eq!(user.test(&id).await.expect("test").sensors[0].readings, 3);
    system.feed(&user, &other, "a.t", 30).await;
    user.reaches(&other, TestState::Done).await;
    let error = user.cancel(&other).await.expect_err("over");
    assert_eq!((error.code(), error.reason()), (Code::Precondition, "TEST_OVER"));
}

pub async fn a_sensor_that_was_not_heard_of_yet_is_asked_for(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    system.devices.know_silently(sensor("new.t"));
    let by_type = user.start(of_type("temperature")).await.expect("started");
    assert_eq!(by_type.sensors.len(), 1, "{by_type:?}");
    let by_name = proto::StartTestRequest { sensor_ids: vec!["new.t".into()], ..Default::default() };
    let id = user.start(by_name).await.expect("started").test_id;
    user.reaches(&id, TestState::Running).await;
    system.feed(&user, &id, "new.t", 30).await;
    assert_eq!(user.reaches(&id, TestState::Done).await.result(), TestResult::Passed);
}

pub async fn without_devices_what_was_heard_of_holds(engine: Engine) {
    let system = System::start(engine).await;
    let (user, stranger) = (system.operator(), system.user("other", sensormesh_types::Role::Operator, &[]));
    system.register("default", sensor("a.t")).await;
    system.devices.kill();
    assert_eq!(user.start(of_type("temperature")).await.expect("started").sensors.len(), 1);
    assert_eq!(user.start(of_type("co2")).await.expect("an answer").result(), TestResult::NoSensor);
    let error = stranger.start(of_type("temperature")).await.expect_err("nobody can tell");
    assert_eq!(error.code(), Code::Unavailable);
}

pub async fn recorded_data_and_old_readings_do_not_count(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    let id = user.start_type("temperature").await;
    user.reaches(&id, TestState::Running).await;
    let now = system.clock.now_nanos();
    let entry = |time: i64, backfill: bool| Entry {
        tenant: "default".into(),
        sensor: "a.t".into(),
        time,
        value: 20.0,
        backfill,
    };
    system.telemetry.append(vec![entry(now + 1_000_000, true)]);
    system.telemetry.append(vec![entry(now - 600_000_000_000, false)]);
    system.feed(&user, &id, "a.t", 2).await;
    let tested = user.counts(&id, 2).await;
    assert_eq!((tested.readings, tested.older_readings), (2, 1));
    assert_eq!(tested.min, Some(21.0));
}

pub async fn old_tests_are_deleted(engine: Engine) {
    let mut system = System::with(engine, Config { retention_days: 2, ..Config::default() }).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    let old = user.start(of_type("co2")).await.expect("done").test_id;
    let unfinished = user.start_type("temperature").await;
    system.clock.advance(Duration::from_secs(86_400));
    system.restart().await;
    let user = system.operator();
    let young = user.start(of_type("co2")).await.expect("done").test_id;
    user.test(&old).await.expect("still there");
    system.clock.advance(Duration::from_secs(86_401));
    system.restart().await;
    let user = system.operator();
    until("the end of the old one", || async { user.test(&old).await.is_err() }).await;
    user.test(&young).await.expect("still there");
    user.test(&unfinished).await.expect("it is not over");
}
