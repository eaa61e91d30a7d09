//! Two edges behind one balancer, and every process restarted in its turn, while people write, read and watch.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sensormesh_testkit::postgres::url_for_new_database;
use sensormesh_testkit::system::{Shape, System, eventually};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::builder;

/// How often a client tries one operation, and the pause between: what a careful client does, and little of it.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// Takes connections and leads each to the next place where somebody listens.
async fn balanced(places: Vec<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let turn = AtomicUsize::new(0);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let first = turn.fetch_add(1, Ordering::SeqCst);
            let order: Vec<SocketAddr> = (0..places.len()).map(|n| places[(first + n) % places.len()]).collect();
            tokio::spawn(async move {
                for place in order {
                    if let Ok(mut edge) = TcpStream::connect(place).await {
                        tokio::io::copy_bidirectional(&mut client, &mut edge).await.ok();
                        return;
                    }
                }
            });
        }
    });
    address
}

/// One operation of a client: sent, and sent again where nobody answered or the answer says that it may be.
async fn operation(client: &reqwest::Client, request: impl Fn() -> reqwest::RequestBuilder) -> Result<Value, String> {
    let mut last = String::new();
    for _ in 0..TRIES {
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
struct People {
    stop: Arc<AtomicBool>,
    running: Vec<tokio::task::JoinHandle<i64>>,
}

impl People {
    fn start(address: SocketAddr, token: &str) -> Self {
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
                    operation(&client, write).await.unwrap_or_else(|error| panic!("reading {sent}: {error}"));
                    sent += 1;
                    for path in ["/v1/devices", "/rooms", "/sensors"] {
                        let read = || client.get(url(path)).bearer_auth(&token);
                        operation(&client, read).await.unwrap_or_else(|error| panic!("{path}: {error}"));
                    }
                }
                sent
            })
        };
        Self { running: (0..3).map(person).collect(), stop }
    }

    /// Stops them and compares what is stored with what they sent.
    async fn end(self, system: &System, token: &str) {
        self.stop.store(true, Ordering::SeqCst);
        for (number, person) in self.running.into_iter().enumerate() {
            let sent = person.await.expect("no operation failed");
            assert!(sent > 0);
            let path = format!("/sensors/lab.p{number}/data?pageSize=1000");
            // what an edge accepted for later is on its way
            let whole = eventually(Duration::from_secs(60), || async {
                let (_, list) = system.get(&path, token).await.ok()?;
                let values: Vec<f64> =
                    list["readings"].as_array()?.iter().filter_map(|reading| reading["value"].as_f64()).collect();
                (values.len() as i64 >= sent.min(1000)).then_some(values)
            });
            let values = whole.await.expect("everything is stored");
            #[allow(clippy::cast_precision_loss)] // small
            let expected: Vec<f64> = (0..sent.min(1000)).map(|value| value as f64).collect();
            assert_eq!(values, expected, "of lab.p{number}, each once");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_edges_may_die_and_a_receipt_is_readable_at_either() {
    let Some(url) = url_for_new_database() else { return };
    let system = builder(Shape::Split).arg("--database-url").arg(url).start().await.expect("starts");
    let admin = system.admin().await.expect("token");
    let (mut second, beside) = system.start_edge().await.expect("a second edge");
    let balancer = balanced(vec![system.address("edge"), beside]).await;
    let people = People::start(balancer, &admin);
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        second.kill().await.expect("killed");
        tokio::time::sleep(Duration::from_secs(1)).await;
        second = system.start_edge().await.expect("there again").0;
        system.kill_service("edge").expect("killed, and started by the supervisor");
    }
    people.end(&system, &admin).await;

    system.freeze_service("telemetry", true).expect("frozen");
    let client = system.http();
    let at = |edge: SocketAddr, path: &str| format!("http://{edge}{path}");
    let now = jiff::Timestamp::now().to_string();
    let kept = eventually(Duration::from_secs(60), || async {
        let write = client.post(at(beside, "/sensors/lab.co2/data")).bearer_auth(&admin);
        let answer = write.json(&json!({"value": 1, "time": now})).send().await.ok()?;
        if answer.status() == 202 { answer.json::<Value>().await.ok() } else { None }
    });
    let kept = kept.await.expect("accepted for later");
    let path = format!("/v1/receipts/{}", kept["receiptId"].as_str().expect("an id"));
    let state = async |edge: SocketAddr| -> Option<String> {
        let answer = client.get(at(edge, &path)).bearer_auth(&admin).send().await.ok()?;
        Some(answer.json::<Value>().await.ok()?["state"].as_str()?.to_owned())
    };
    assert_eq!(state(system.address("edge")).await.as_deref(), Some("RECEIPT_STATE_WAITING"), "at the other edge");
    second.kill().await.expect("the one that accepted it is gone");
    system.freeze_service("telemetry", false).expect("thawed");
    let delivered = eventually(Duration::from_secs(60), || async {
        (state(system.address("edge")).await? == "RECEIPT_STATE_DELIVERED").then_some(())
    });
    delivered.await.expect("the other one delivers it");
}

#[tokio::test(flavor = "multi_thread")]
async fn f76_every_process_is_restarted_in_its_turn_and_no_operation_fails() {
    let Some(url) = url_for_new_database() else { return };
    const SERVICES: [&str; 7] = ["auth", "devices", "telemetry", "adapters", "commissioning", "rooms", "edge"];
    let mut system = builder(Shape::Split).arg("--database-url").arg(url).start().await.expect("starts");
    let admin = system.admin().await.expect("token");
    // without a supervisor, as pods are
    system.kill().await.expect("killed");
    for service in SERVICES {
        system.start_alone(service, &[]).expect("started");
    }
    for service in SERVICES {
        is_ready(&system, service).await;
    }
    let people = People::start(system.address("edge"), &admin);
    for service in [SERVICES; 5].into_iter().flatten() {
        system.stop_alone(service).await.expect("stopped");
        system.start_alone(service, &[]).expect("started");
        is_ready(&system, service).await;
    }
    people.end(&system, &admin).await;
}

async fn is_ready(system: &System, service: &str) {
    let ready = eventually(Duration::from_secs(40), || async { system.is_ready(service).await.then_some(()) });
    ready.await.unwrap_or_else(|| panic!("{service} is not ready: {}", system.log()));
}
