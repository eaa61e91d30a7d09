//! Somebody who makes up sensors, labels and ids.

use sensormesh_testkit::system::{Shape, System};
use serde_json::{Value, json};

use crate::builder;

/// What a process uses, bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Refused, and the field is named.
async fn is_refused(system: &System, token: &str, path: &str, body: &Value, field: &str) {
    let (status, answer) = system.post(path, token, body).await.expect("an answer");
    assert!(
        matches!(status, 400 | 413),
        "{path}: {status} {}",
        answer.to_string().chars().take(300).collect::<String>()
    );
    let said = answer.to_string();
    assert!(said.len() < 10_000 && (status == 413 || said.contains(field)), "{path}: {}", &said[..said.len().min(300)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f35_a_hundred_thousand_made_up_sensors_are_refused_beyond_the_quota() {
    const QUOTA: u64 = 2_000;
    let system = builder(Shape::Split)
        .setting("SENSORMESH_EDGE__USER_RATE__PER_SECOND", "0")
        .setting("SENSORMESH_TELEMETRY__SENSORS", QUOTA.to_string());
    let system = system.start().await.expect("starts");
    let admin = system.admin().await.expect("token");
    let sends = async |batch: usize| {
        let readings: Vec<_> =
            (0..1_000).map(|n| json!({"sensorId": format!("made{batch}.up{n}"), "value": n})).collect();
        system.post("/sensors/data", &admin, &json!({"readings": readings})).await.expect("an answer")
    };
    let mut accepted = 0;
    for batch in 0..2 {
        let (status, answer) = sends(batch).await;
        assert_eq!(status, 200, "{answer}");
        accepted += answer["accepted"].as_u64().expect("a number");
    }
    assert_eq!(accepted, QUOTA);
    let refused = async |batches: std::ops::Range<usize>| {
        for batch in batches {
            let (status, answer) = sends(batch).await;
            assert_eq!(status, 429, "batch {batch}: {answer}");
            assert!(answer.to_string().contains("TOO_MANY_SENSORS"), "{answer}");
        }
    };
    refused(2..50).await;
    let pids = ["telemetry", "devices", "rooms", "edge"].map(|service| system.service_pid(service).expect("pid"));
    let before = pids.map(resident);
    refused(50..100).await;
    for (pid, before) in pids.into_iter().zip(before) {
        let more = resident(pid).saturating_sub(before) >> 20;
        assert!(more < 16, "{more} MiB more for what was refused, process {pid}");
    }
    // those that were there go on
    let (status, answer) = system
        .post("/sensors/data", &admin, &json!({"readings": [{"sensorId": "made0.up1", "value": 1}]}))
        .await
        .expect("answer");
    assert_eq!(status, 200, "{answer}");

    let long = "x".repeat(1 << 20);
    is_refused(&system, &admin, "/sensors/data", &json!({"readings": [{"sensorId": long, "value": 1}]}), "sensorId")
        .await;
    is_refused(&system, &admin, "/v1/devices", &json!({"deviceId": "x".repeat(100_000)}), "device").await;
    let labels: Value = (0..10_000).map(|n| (format!("l{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
    is_refused(&system, &admin, "/v1/devices", &json!({"deviceId": "d", "labels": labels}), "labels").await;
}
