//! Calls that the edge accepts while their service is away: they arrive once, in order, as of when they were accepted.

use std::time::Duration;

use sensormesh_testkit::system::{Shape, System, eventually};
use serde_json::{Value, json};

use crate::{builder, start};

const PATIENCE: Duration = Duration::from_secs(60);

/// Freezes telemetry and waits until the edge knows that it cannot be reached.
async fn lose_telemetry(system: &System) {
    system.freeze_service("telemetry", true).expect("frozen");
    let open = eventually(PATIENCE, || async {
        let (_, health) = system.send("GET", "/health", None, None).await.ok()?;
        (health["circuit_breakers"]["telemetry"]["open"] == true).then_some(())
    });
    open.await.expect("the breaker opens");
}

/// Sends a reading that the edge is to accept; its receipt.
async fn post_for_later(system: &System, token: &str, body: &Value) -> Value {
    let accepted = eventually(PATIENCE, || async {
        let (status, receipt) = system.post("/sensors/lab.co2/data", token, body).await.ok()?;
        // the breaker lets a trial call through from time to time, which runs out of time
        (status == 202).then_some(receipt)
    });
    accepted.await.expect("accepted for later")
}

async fn receipt(system: &System, token: &str, receipt: &Value) -> (u16, Value) {
    let path = format!("/v1/receipts/{}", receipt["receiptId"].as_str().expect("an id"));
    system.get(&path, token).await.expect("an answer")
}

async fn settled(system: &System, token: &str, kept: &Value) -> Value {
    let settled = eventually(PATIENCE, || async {
        let (status, receipt) = receipt(system, token, kept).await;
        (status == 200 && receipt["state"] != "RECEIPT_STATE_WAITING").then_some(receipt)
    });
    settled.await.expect("settled")
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_sent_while_telemetry_is_away_arrive_once_and_in_order() {
    let system = start(Shape::Split).await;
    let admin = system.admin().await.expect("token");
    let (status, answer) = system.post("/sensors/lab.co2/data", &admin, &json!({"value": 1})).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
    lose_telemetry(&system).await;

    let mut kept = Vec::new();
    for value in 2..=6 {
        kept.push(post_for_later(&system, &admin, &json!({"value": value})).await);
    }
    assert_eq!(kept[0]["state"], "RECEIPT_STATE_WAITING", "{}", kept[0]);
    assert_eq!(kept[0]["service"], "telemetry");
    // what is wrong is told by the receipt
    let wrong = post_for_later(&system, &admin, &json!({})).await;
    let (_, health) = system.send("GET", "/health", None, None).await.expect("health");
    assert!(health["spool"]["telemetry"]["waiting"].as_str().is_some_and(|n| n >= "6"), "{health}");
    // somebody else's receipt is not there
    let viewer = system.viewer("vera").await.expect("token");
    assert_eq!(receipt(&system, &viewer, &kept[0]).await.0, 404);
    // reads are refused as ever, with when to come back
    let (status, _) = system.get("/sensors/lab.co2/data", &admin).await.expect("an answer");
    assert_eq!(status, 503);

    system.freeze_service("telemetry", false).expect("thawed");
    let last = settled(&system, &admin, kept.last().expect("some")).await;
    assert_eq!(last["state"], "RECEIPT_STATE_DELIVERED", "{last}");
    assert!(last["answer"]["@type"].as_str().is_some_and(|name| name.ends_with("IngestReadingResponse")), "{last}");
    let wrong = settled(&system, &admin, &wrong).await;
    assert_eq!(wrong["state"], "RECEIPT_STATE_REFUSED", "{wrong}");
    assert_eq!(wrong["error"]["code"], 3, "{wrong}");
    assert!(wrong.to_string().contains("value"), "the field is named: {wrong}");

    let (status, list) = system.get("/sensors/lab.co2/data", &admin).await.expect("an answer");
    assert_eq!(status, 200, "{list}");
    let readings = list["readings"].as_array().expect("readings");
    let values: Vec<f64> = readings.iter().filter_map(|reading| reading["value"].as_f64()).collect();
    assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "in order, each once");
    // the time of receipt is when the edge accepted it
    let time = |value: &Value| value.as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time");
    for (reading, kept) in readings[1..].iter().zip(&kept) {
        assert_eq!(time(&reading["time"]).as_microsecond(), time(&kept["acceptTime"]).as_microsecond(), "{reading}");
    }
    let calm = eventually(PATIENCE, || async {
        let (_, health) = system.send("GET", "/health", None, None).await.ok()?;
        health["spool"].as_object().is_none_or(serde_json::Map::is_empty).then_some(())
    });
    calm.await.expect("nothing waits any more");
    let (status, answer) = system.post("/sensors/lab.co2/data", &admin, &json!({"value": 7})).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_outlives_the_edge_and_is_bounded() {
    let system = builder(Shape::Split).setting("SENSORMESH_EDGE__SPOOL_CALLS", "3").start().await.expect("starts");
    let admin = system.admin().await.expect("token");
    system.post("/sensors/lab.co2/data", &admin, &json!({"value": 1})).await.expect("answer");
    lose_telemetry(&system).await;
    let mut kept = Vec::new();
    for value in 2..=4 {
        kept.push(post_for_later(&system, &admin, &json!({"value": value})).await);
    }
    let (status, answer) = system.post("/sensors/lab.co2/data", &admin, &json!({"value": 5})).await.expect("answer");
    assert_eq!(status, 503, "{answer}");
    assert!(answer.to_string().contains("SPOOL_FULL") && answer.to_string().contains("RetryInfo"), "{answer}");

    let before = system.service_pid("edge").expect("pid");
    system.kill_service("edge").expect("killed");
    let back = eventually(PATIENCE, || async {
        let back = system.service_pid("edge").ok()? != before;
        let (status, _) = system.send("GET", "/health", None, None).await.ok()?;
        (back && status == 200).then_some(())
    });
    back.await.expect("the edge is back");
    let (status, waiting) = receipt(&system, &admin, &kept[0]).await;
    assert_eq!((status, &waiting["state"]), (200, &json!("RECEIPT_STATE_WAITING")), "{waiting}");
    system.freeze_service("telemetry", false).expect("thawed");
    for kept in &kept {
        assert_eq!(settled(&system, &admin, kept).await["state"], "RECEIPT_STATE_DELIVERED");
    }
    let (_, list) = system.get("/sensors/lab.co2/data", &admin).await.expect("an answer");
    assert_eq!(list["readings"].as_array().map(Vec::len), Some(4), "{list}");
}
