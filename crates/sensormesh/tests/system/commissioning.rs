//! Tests of sensors, in the whole system: by the well-known paths, on readings that arrive, whoever goes away.

use std::time::Duration;

use sensormesh_testkit::system::{Shape, System, eventually};
use serde_json::{Value, json};

use crate::{both_shapes, start};

both_shapes!(a_sensor_is_tested_from_outside, a_test_goes_on_after_a_kill);

const PATIENCE: Duration = Duration::from_secs(60);

/// A sensor whose readings may be slow, so that no machine is too slow for the test.
async fn register(system: &System, admin: &str, id: &str) {
    let sensor = json!({"sensorId": id, "unit": "Cel", "rangeMin": 0, "rangeMax": 50, "expectedInterval": "60s"});
    let (status, answer) = system.post("/v1/sensors", admin, &sensor).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
}

async fn test(system: &System, token: &str, id: &str) -> Option<Value> {
    let (status, answer) = system.get(&format!("/test/{id}"), token).await.ok()?;
    (status == 200).then_some(answer)
}

/// The test once this is so.
async fn once(system: &System, token: &str, id: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    let reached = eventually(PATIENCE, || async { test(system, token, id).await.filter(|test| so(test)) }).await;
    match reached {
        Some(test) => test,
        None => panic!("never {what}: {:?}\n{}", test(system, token, id).await, system.log()),
    }
}

fn is(state: &str) -> impl Fn(&Value) -> bool {
    move |test| test["state"] == state
}

/// Sends readings until the test is over.
async fn feed(system: &System, token: &str, id: &str, sensor: &str) -> Value {
    let mut i = 0;
    let path = format!("/sensors/{sensor}/data");
    let over = eventually(PATIENCE, || {
        i += 1;
        let body = json!({"value": 21.0 + f64::from(i % 3) * 0.1});
        let path = &path;
        async move {
            system.post(path, token, &body).await.ok()?;
            test(system, token, id).await.filter(|test| test["state"] == "TEST_STATE_DONE")
        }
    });
    over.await.unwrap_or_else(|| panic!("not over\n{}", system.log()))
}

async fn start_test(system: &System, token: &str, path: &str, body: &Value) -> Value {
    let (status, answer) = system.post(path, token, body).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn a_sensor_is_tested_from_outside(shape: Shape) {
    let system = start(shape).await;
    let admin = system.admin().await.expect("token");
    let viewer = system.viewer("vera").await.expect("token");
    register(&system, &admin, "lab.t").await;
    // at once after it was registered, without a body
    let request = system.http().post(system.url("/test/temperature")).bearer_auth(&admin);
    let answer = request.send().await.expect("answer");
    assert_eq!(answer.status(), 200);
    let started: Value = answer.json().await.expect("a test");
    assert_eq!(started["state"], "TEST_STATE_QUEUED", "{started}");
    assert_eq!(started["sensors"][0]["sensorId"], "lab.t");
    let id = started["testId"].as_str().expect("an id").to_owned();
    once(&system, &viewer, &id, "running", is("TEST_STATE_RUNNING")).await;
    let done = feed(&system, &admin, &id, "lab.t").await;
    assert_eq!(done["result"], "TEST_RESULT_PASSED", "{done}");
    assert_eq!(done["sensors"][0]["checks"].as_array().map(Vec::len), Some(5), "{done}");

    let (status, refused) = system.post("/test/sensor/temperature", &viewer, &json!({})).await.expect("answer");
    assert_eq!(status, 403, "{refused}");
    let nothing = start_test(&system, &admin, "/test/sensor/radiation", &json!({})).await;
    assert_eq!(nothing["result"], "TEST_RESULT_NO_SENSOR", "{nothing}");
    let again = json!({"sensorType": "temperature", "requestId": "once"});
    let first = start_test(&system, &admin, "/v1/tests", &again).await;
    assert_eq!(start_test(&system, &admin, "/v1/tests", &again).await, first);
    let cancel = format!("/v1/tests/{}:cancel", first["testId"].as_str().expect("an id"));
    assert_eq!(start_test(&system, &admin, &cancel, &json!({})).await["state"], "TEST_STATE_CANCELLED");
    let (_, list) = system.get("/v1/tests?sensorId=lab.t", &viewer).await.expect("answer");
    assert_eq!(list["tests"].as_array().map(Vec::len), Some(2), "{list}");
}

async fn a_test_goes_on_after_a_kill(shape: Shape) {
    let mut system = start(shape).await;
    let admin = system.admin().await.expect("token");
    register(&system, &admin, "lab.t").await;
    let started = start_test(&system, &admin, "/test/temperature", &json!({"readings": 30})).await;
    let id = started["testId"].as_str().expect("an id").to_owned();
    once(&system, &admin, &id, "running", is("TEST_STATE_RUNNING")).await;
    for i in 0..10 {
        let body = json!({"value": 21.0 + f64::from(i % 3) * 0.1});
        system.post("/sensors/lab.t/data", &admin, &body).await.expect("answer");
    }
    once(&system, &admin, &id, "counted", |test| test["sensors"][0]["readings"] == "10").await;
    system.kill().await.expect("killed");
    system.up().await.expect("up again");
    let back = test(&system, &admin, &id).await.expect("it is still there");
    assert_eq!(
        (&back["state"], &back["sensors"][0]["readings"]),
        (&json!("TEST_STATE_RUNNING"), &json!("10")),
        "{back}"
    );
    let done = feed(&system, &admin, &id, "lab.t").await;
    assert_eq!(done["result"], "TEST_RESULT_PASSED", "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_needs_no_auth_and_waits_for_telemetry() {
    let system = start(Shape::Split).await;
    let admin = system.admin().await.expect("token");
    register(&system, &admin, "lab.t").await;
    // Frozen, not killed: the supervisor would have it back before the test has looked.
    system.freeze_service("auth", true).expect("frozen");
    let started = start_test(&system, &admin, "/test/temperature", &json!({})).await;
    let id = started["testId"].as_str().expect("an id").to_owned();
    once(&system, &admin, &id, "running", is("TEST_STATE_RUNNING")).await;
    for i in 0..10 {
        let body = json!({"value": 21.0 + f64::from(i % 3) * 0.1});
        system.post("/sensors/lab.t/data", &admin, &body).await.expect("answer");
    }
    once(&system, &admin, &id, "counted", |test| test["sensors"][0]["readings"] == "10").await;
    system.freeze_service("telemetry", true).expect("frozen");
    once(&system, &admin, &id, "stale", |test| test["stale"] == true && test["state"] == "TEST_STATE_RUNNING").await;
    system.freeze_service("telemetry", false).expect("thawed");
    once(&system, &admin, &id, "back", |test| test["stale"] != true).await;
    let done = feed(&system, &admin, &id, "lab.t").await;
    assert_eq!(done["result"], "TEST_RESULT_PASSED", "{done}");
    assert!(done["summary"].as_str().is_some_and(|words| words.contains("telemetry was not heard")), "{done}");
    system.freeze_service("auth", false).expect("thawed");
}
