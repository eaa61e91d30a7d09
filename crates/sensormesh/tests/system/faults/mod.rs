//! Faults of the catalogue in a whole system, split over mutual TLS, each with its number in the name of its test. What takes
//! long is ignored here and run by `make test-faults`.

mod abuse;
mod cardinality;
mod certificates;
mod clocks;
mod conflicts;
mod killed;
mod latency;
mod links;
mod memory;
mod neighbours;
mod order;
mod readiness;

use std::time::Duration;

use sensormesh_testkit::system::{System, eventually};
use serde_json::{Value, json};

/// All but the edge.
const BEHIND: [&str; 6] = ["auth", "devices", "telemetry", "adapters", "commissioning", "rooms"];

/// What `/health` says.
async fn health(system: &System) -> Option<Value> {
    system.send("GET", "/health", None, None).await.ok().map(|(_, health)| health)
}

/// Waits until `/health` says that all is well.
async fn becomes_healthy(system: &System) {
    let well = eventually(Duration::from_secs(60), || async {
        (health(system).await?["overall_status"] == "healthy").then_some(())
    });
    assert!(well.await.is_some(), "never healthy again: {:?}", health(system).await);
}

/// How much of a processor a process takes in this time.
async fn busy(pid: u32, time: Duration) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>()
    };
    let (before, began) = (ticks(), tokio::time::Instant::now());
    tokio::time::sleep(time).await;
    (ticks() - before) / TICKS_PER_SECOND / began.elapsed().as_secs_f64()
}

/// Sends one reading until it is acknowledged, under one id.
async fn acknowledged(system: &System, token: &str, value: i64) -> bool {
    let time = jiff::Timestamp::now().to_string();
    let readings = json!([{"sensorId": "lab.n", "time": time, "value": value}]);
    let body = json!({"readings": readings, "batchId": format!("fault-{value}")});
    let done = eventually(Duration::from_secs(60), || async {
        let (status, _) = system.post("/sensors/data", token, &body).await.ok()?;
        (status == 200).then_some(())
    });
    done.await.is_some()
}

/// The values stored of the sensor.
async fn stored(system: &System, token: &str) -> Vec<i64> {
    let (status, list) = system.get("/sensors/lab.n/data?pageSize=1000", token).await.expect("answer");
    assert_eq!(status, 200, "{list}");
    let readings = list["readings"].as_array().cloned().unwrap_or_default();
    #[allow(clippy::cast_possible_truncation)] // the tests send whole numbers
    readings.iter().filter_map(|r| r["value"].as_f64()).map(|v| v as i64).collect()
}
