//! Live streams: what arrives is shown once and in order, whatever is killed meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sensormesh_testkit::system::{Shape, System, eventually};
use serde_json::{Value, json};

use crate::{both_shapes, start};

both_shapes!(readings_appear_in_a_stream, a_stream_goes_on_after_a_restart_without_gap_or_duplicate);

/// Reads Server-Sent Events as a browser would: remembers the last id and comes back with it.
pub struct Events {
    path: String,
    token: String,
    last_id: String,
    open: Option<reqwest::Response>,
    buffer: String,
}

impl Events {
    pub fn new(path: &str, token: &str) -> Self {
        Self { path: path.into(), token: token.into(), last_id: String::new(), open: None, buffer: String::new() }
    }

    /// Where it would resume.
    pub fn cursor(&self) -> &str {
        &self.last_id
    }

    /// The next message; connects, and connects again where the stream ended.
    pub async fn next(&mut self, system: &System, patience: Duration) -> Result<Value> {
        tokio::time::timeout(patience, self.wait(system)).await.context("nothing arrived in time")?
    }

    async fn wait(&mut self, system: &System) -> Result<Value> {
        loop {
            while let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
                if let Some(id) = field("id:") {
                    id.clone_into(&mut self.last_id);
                }
                if let (Some(data), None | Some("message")) = (field("data:"), field("event:")) {
                    return Ok(serde_json::from_str(data)?);
                }
            }
            let chunk = match &mut self.open {
                Some(open) => open.chunk().await.ok().flatten(),
                None => None,
            };
            match chunk {
                Some(bytes) => self.buffer.push_str(std::str::from_utf8(&bytes)?),
                None => self.connect(system).await,
            }
        }
    }

    async fn connect(&mut self, system: &System) {
        self.buffer.clear();
        let mut request = reqwest::Client::new().get(system.url(&self.path)).bearer_auth(&self.token);
        request = request.header("accept", "text/event-stream");
        if !self.last_id.is_empty() {
            request = request.header("last-event-id", &self.last_id);
        }
        self.open = request.send().await.ok().filter(|answer| answer.status().is_success());
        if self.open.is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The values of the readings of a message, in order.
fn values(message: &Value) -> Vec<i64> {
    let readings = message["readings"].as_array().cloned().unwrap_or_default();
    #[allow(clippy::cast_possible_truncation)] // the test sends whole numbers
    readings.iter().filter_map(|r| r["value"].as_f64()).map(|v| v as i64).collect()
}

/// Reads up to the message that says that the stream is live.
pub async fn live(events: &mut Events, system: &System) {
    for _ in 0..50 {
        let message = events.next(system, Duration::from_secs(15)).await.expect("a message");
        if message["bookmark"]["live"] == true {
            return;
        }
    }
    panic!("the stream never became live");
}

async fn readings_appear_in_a_stream(shape: Shape) {
    let system = start(shape).await;
    let admin = system.admin().await.expect("token");
    system.post("/sensors/lab.n/data", &admin, &json!({"value": 0})).await.expect("answer");
    let mut events = Events::new("/v1/readings:watch?sensorIds=lab.n", &admin);
    live(&mut events, &system).await;
    for i in 1..=5 {
        system.post("/sensors/lab.n/data", &admin, &json!({"value": i})).await.expect("answer");
    }
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.extend(values(&events.next(&system, Duration::from_secs(15)).await.expect("a message")));
    }
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}

async fn a_stream_goes_on_after_a_restart_without_gap_or_duplicate(shape: Shape) {
    let mut system = start(shape).await;
    let admin = system.admin().await.expect("token");
    system.post("/sensors/lab.n/data", &admin, &json!({"value": 0})).await.expect("answer");
    let mut events = Events::new("/v1/readings:watch?sensorIds=lab.n", &admin);
    live(&mut events, &system).await;
    let mut sent = 0;
    for round in 0..3 {
        for _ in 0..10 {
            sent += 1;
            post_until_acknowledged(&system, &admin, sent).await;
        }
        if round < 2 {
            system.kill().await.expect("killed");
            system.up().await.expect("up again");
        }
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&sent) {
        seen.extend(values(&events.next(&system, Duration::from_secs(30)).await.expect("a message")));
    }
    assert_eq!(seen, (1..=sent).collect::<Vec<i64>>());
}

/// Sends a reading with a time of its own until the answer is definite.
pub async fn post_until_acknowledged(system: &System, token: &str, value: i64) {
    let time = jiff::Timestamp::now().to_string();
    let body = json!({"readings": [{"sensorId": "lab.n", "time": time, "value": value}]});
    let done = eventually(Duration::from_secs(30), || async {
        let (status, _) = system.post("/sensors/data", token, &body).await.ok()?;
        // accepted by telemetry, or by the edge for it
        matches!(status, 200 | 202).then_some(())
    })
    .await;
    assert!(done.is_some(), "reading {value} was never acknowledged");
}
