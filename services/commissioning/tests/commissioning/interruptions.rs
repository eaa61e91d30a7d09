//! A test goes on, whoever goes away.

use std::time::Duration;

use sensormesh_proto::commissioning::v1 as proto;
use sensormesh_proto::commissioning::v1::{TestResult, TestState};

use crate::fakes::sensor;
use crate::system::{Engine, System, until};

pub async fn a_test_survives_a_restart(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    let id = user.start_type("temperature").await;
    user.reaches(&id, TestState::Running).await;
    system.feed(&user, &id, "a.t", 10).await;
    user.counts(&id, 10).await;
    system.end().await;
    system.read_well("a.t", 12);
    system.begin().await;
    let user = system.operator();
    let tested = user.counts(&id, 22).await;
    assert_eq!((tested.readings, tested.gaps), (22, 0), "what came in between is counted, once");
    system.feed(&user, &id, "a.t", 8).await;
    let test = user.reaches(&id, TestState::Done).await;
    assert_eq!((test.result(), test.sensors[0].readings), (TestResult::Passed, 30), "{test:?}");
    system.restart().await;
    let user = system.operator();
    assert_eq!(user.test(&id).await.expect("kept"), proto::Test { as_of: test.as_of, ..test });
}

pub async fn a_test_goes_on_when_telemetry_is_back(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    let id = user.start_type("temperature").await;
    user.reaches(&id, TestState::Running).await;
    system.feed(&user, &id, "a.t", 15).await;
    user.counts(&id, 15).await;
    let due = user.test(&id).await.expect("test").due_time.expect("due");
    system.telemetry.kill();
    until("stale", || async { user.test(&id).await.expect("test").stale }).await;
    let stale = user.test(&id).await.expect("test");
    assert!(stale.summary.contains("telemetry cannot be heard"), "{}", stale.summary);
    assert_eq!((stale.state(), stale.due_time), (TestState::Running, None));
    system.clock.advance(Duration::from_secs(300));
    system.telemetry.revive();
    until("no longer stale", || async { !user.test(&id).await.expect("test").stale }).await;
    let back = user.test(&id).await.expect("test");
    assert_eq!(back.state(), TestState::Running, "the time without telemetry does not count: {back:?}");
    assert_eq!(back.interrupted.expect("said").seconds, 300);
    assert_eq!(back.due_time.expect("due").seconds, due.seconds + 300);
    system.feed(&user, &id, "a.t", 15).await;
    let test = user.reaches(&id, TestState::Done).await;
    assert_eq!((test.result(), test.sensors[0].readings), (TestResult::Passed, 30), "{test:?}");
    assert!(test.summary.ends_with("telemetry was not heard for 5 min"), "{}", test.summary);
}

pub async fn a_test_without_telemetry_waits_and_says_so(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    system.telemetry.kill();
    let id = user.start_type("temperature").await;
    until("stale", || async { user.test(&id).await.expect("test").stale }).await;
    let test = user.test(&id).await.expect("test");
    assert_eq!((test.state(), test.result()), (TestState::Queued, TestResult::Unspecified));
    assert!(test.summary.ends_with("waits for telemetry, which cannot be heard"), "{}", test.summary);
    assert_eq!(system.telemetry.streams(), 0);
    system.telemetry.revive();
    user.reaches(&id, TestState::Running).await;
    system.feed(&user, &id, "a.t", 30).await;
    let test = user.reaches(&id, TestState::Done).await;
    assert_eq!((test.result(), test.summary.as_str()), (TestResult::Passed, "1 sensor passed"));
    // with nothing to test, telemetry is left alone
    let streams = system.telemetry.streams();
    system.telemetry.kill();
    system.telemetry.revive();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(system.telemetry.streams(), streams);
}

pub async fn readings_that_were_missed_are_told(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    let id = user.start_type("temperature").await;
    user.reaches(&id, TestState::Running).await;
    system.feed(&user, &id, "a.t", 5).await;
    user.counts(&id, 5).await;
    system.telemetry.kill();
    system.read_well("a.t", 20);
    system.telemetry.trim();
    system.telemetry.revive();
    until("missed", || async { user.test(&id).await.expect("test").summary.contains("readings were missed") }).await;
    system.feed(&user, &id, "a.t", 25).await;
    let test = user.reaches(&id, TestState::Done).await;
    assert_eq!((test.sensors[0].readings, test.sensors[0].gaps), (30, 0), "nobody blames the sensor: {test:?}");
    assert!(test.summary.contains("readings were missed"), "{}", test.summary);
}

pub async fn of_two_replicas_one_counts(engine: Engine) {
    if matches!(engine, Engine::Sqlite) {
        return;
    }
    let mut system = System::start(engine).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    // the one that was first has the lease; once it is gone, the other one goes on
    let second = system.replica().await;
    system.end().await;
    let first = second;
    system.begin().await;
    let id = user.start_type("temperature").await;
    user.reaches(&id, TestState::Running).await;
    system.feed(&user, &id, "a.t", 20).await;
    assert_eq!(user.counts(&id, 20).await.readings, 20);
    first.0.request();
    first.1.stopped().await;
    system.feed(&user, &id, "a.t", 10).await;
    let test = user.reaches(&id, TestState::Done).await;
    assert_eq!((test.result(), test.sensors[0].readings), (TestResult::Passed, 30), "{test:?}");
}
