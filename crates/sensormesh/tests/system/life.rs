//! Starting, stopping, and what must not be started twice.

use std::time::Duration;

use sensormesh_testkit::system::Shape;
use serde_json::json;

use crate::{both_shapes, builder, start};

both_shapes!(it_says_ready_and_is_healthy, what_was_acknowledged_survives_a_kill, it_stops_when_told);

async fn it_says_ready_and_is_healthy(shape: Shape) {
    let system = start(shape).await;
    let (status, health) = system.send("GET", "/health", None, None).await.expect("answer");
    assert_eq!(status, 200);
    assert_eq!(health["gateway"], "healthy");
    let healthy = sensormesh_testkit::system::eventually(Duration::from_secs(15), || async {
        let (_, health) = system.send("GET", "/health", None, None).await.ok()?;
        (health["overall_status"] == "healthy").then_some(health)
    })
    .await
    .expect("healthy");
    for service in ["auth", "devices", "telemetry", "rooms", "commissioning", "adapters"] {
        assert_eq!(healthy["services"][service]["status"], "healthy", "{healthy}");
        assert_eq!(healthy["circuit_breakers"][service]["open"], false, "{healthy}");
    }
    assert!(system.command(&["status"]).await.expect("status").contains("healthy"));
    let (status, _) = system.send("GET", "/ready", None, None).await.expect("answer");
    assert_eq!(status, 200);
    let (status, _) = system.send("GET", "/metrics", None, None).await.expect("answer");
    assert_eq!(status, 401, "metrics are for admins");
}

async fn what_was_acknowledged_survives_a_kill(shape: Shape) {
    let mut system = start(shape).await;
    let admin = system.admin().await.expect("token");
    for i in 0..20 {
        let (status, _) = system.post("/sensors/lab.n/data", &admin, &json!({"value": i})).await.expect("answer");
        assert_eq!(status, 200);
    }
    system.kill().await.expect("killed");
    system.up().await.expect("up again");
    let (status, list) = system.get("/sensors/lab.n/data", &admin).await.expect("the token is still good");
    assert_eq!(status, 200, "{list}");
    let values: Vec<f64> =
        list["readings"].as_array().expect("readings").iter().filter_map(|r| r["value"].as_f64()).collect();
    assert_eq!(values, (0..20).map(f64::from).collect::<Vec<_>>());
}

async fn it_stops_when_told(shape: Shape) {
    let mut system = start(shape).await;
    let admin = system.admin().await.expect("token");
    let watch = system.http().get(system.url("/v1/readings:watch")).bearer_auth(&admin);
    let open = watch.header("accept", "text/event-stream").send().await.expect("a stream");
    assert_eq!(open.status(), 200);
    let took = system.stop().await.expect("stopped");
    assert!(took < Duration::from_secs(25), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_system_on_the_same_directory_is_refused_in_words() {
    let system = start(Shape::OneProcess).await;
    let error = system.command(&["up"]).await.expect_err("refused").to_string();
    assert!(error.contains("in use by another sensormesh"), "{error}");
    assert!(error.contains(&system.pid().expect("pid").to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_listener_for_everybody_is_refused_in_words() {
    let error = builder(Shape::OneProcess).arg("--listen").arg("0.0.0.0:0").start().await.err().expect("refused");
    let error = format!("{error:#}");
    assert!(error.contains("--tls-cert") && error.contains("--behind-proxy"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sensors_of_this_machine_are_live_in_a_room() {
    let system = builder(Shape::OneProcess).with_host_sensors().start().await.expect("the system starts");
    let admin = system.admin().await.expect("token");
    let rooms = sensormesh_testkit::system::eventually(Duration::from_secs(30), || async {
        let (_, answer) = system.get("/rooms", &admin).await.ok()?;
        let room = answer["rooms"].as_array()?.iter().find(|room| room["name"] == "This machine")?.clone();
        let id = room["roomId"].as_str()?.to_owned();
        let (_, metrics) = system.get(&format!("/rooms/{id}/metrics"), &admin).await.ok()?;
        let live =
            metrics["metrics"].as_array()?.iter().filter(|m| m["value"].is_number() && m["stale"] == false).count();
        (live >= 2).then_some(metrics)
    })
    .await;
    assert!(rooms.is_some(), "at least two of the machine's sensors are live: {}", system.log());
}
