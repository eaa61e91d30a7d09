//! People who write and read while something happens to the system.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sensormesh_testkit::system::{System, eventually};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::replicas::stored;

/// How long a client tries one operation, and the pause between: what a careful client does, and little of it.
pub const CAREFUL: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(250);

/// One operation of a client: sent, and sent again where nobody answered or the answer says that it may be.
async fn operation(
    client: &reqwest::Client,
    patience: Duration,
    request: impl Fn() -> reqwest::RequestBuilder,
) -> Result<Value, String> {
    let (began, mut last) = (Instant::now(), String::new());
    while began.elapsed() < patience {
        match client.execute(request().build().expect("a request")).await {
            Ok(answer) => {
                let status = answer.status().as_u16();
                let body = answer.bytes().await.unwrap_or_default();
                match status {
                    200 | 202 => return Ok(serde_json::from_slice(&body).unwrap_or_default()),
                    429 | 502..=504 => last = format!("{status} {}", String::from_utf8_lossy(&body)),
                    _ => return Err(format!("{status} {}", String::from_utf8_lossy(&body))),
                }
            }
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(last)
}

/// People who write and read through one address, until they are told to stop; answers how many readings each sent.
pub struct People {
    stop: Arc<AtomicBool>,
    running: Vec<tokio::task::JoinHandle<i64>>,
}

impl People {
    /// Three of them, each with a sensor of its own, at this address.
    pub fn start(address: SocketAddr, token: &str, patience: Duration) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let person = |number: usize| {
            let (stop, token) = (Arc::clone(&stop), token.to_owned());
            tokio::spawn(async move {
                let client = reqwest::Client::builder().no_proxy().build().expect("a client");
                let began = jiff::Timestamp::now();
                let mut sent = 0_i64;
                while !stop.load(Ordering::SeqCst) {
                    let time = (began + Duration::from_millis(sent.unsigned_abs())).to_string();
                    let reading = json!({"sensorId": format!("lab.p{number}"), "time": time, "value": sent});
                    let batch = json!({"readings": [reading], "batchId": format!("p{number}-{sent}")});
                    let url = |path: &str| format!("http://{address}{path}");
                    let write = || client.post(url("/sensors/data")).bearer_auth(&token).json(&batch);
                    operation(&client, patience, write).await.unwrap_or_else(|error| panic!("reading {sent}: {error}"));
                    sent += 1;
                    for path in ["/v1/devices", "/rooms", "/sensors"] {
                        let read = || client.get(url(path)).bearer_auth(&token);
                        operation(&client, patience, read).await.unwrap_or_else(|error| panic!("{path}: {error}"));
                    }
                }
                sent
            })
        };
        Self { running: (0..3).map(person).collect(), stop }
    }

    /// Stops them and compares what is stored with what they sent.
    pub async fn end(self, system: &System, token: &str) {
        self.stop.store(true, Ordering::SeqCst);
        for (number, person) in self.running.into_iter().enumerate() {
            let sent = person.await.expect("no operation failed");
            assert!(sent > 0);
            // what an edge accepted for later is on its way
            let whole = eventually(Duration::from_secs(60), || async {
                let values = stored(system, token, &format!("lab.p{number}")).await;
                (values.len() as i64 >= sent).then_some(values)
            });
            let values = whole.await.expect("everything is stored");
            let expected: Vec<i64> = (0..sent).collect();
            assert_eq!(values, expected, "of lab.p{number}, each once");
        }
    }
}
