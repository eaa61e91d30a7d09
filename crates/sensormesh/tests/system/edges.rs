//! Two edges behind one balancer, and every process restarted in its turn, while people write, read and watch.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sensormesh_testkit::postgres::url_for_new_database;
use sensormesh_testkit::system::{Shape, System, eventually};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::builder;
use crate::people::{CAREFUL, People};

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

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_edges_may_die_and_a_receipt_is_readable_at_either() {
    let Some(url) = url_for_new_database() else { return };
    let system = builder(Shape::Split).arg("--database-url").arg(url).start().await.expect("starts");
    let admin = system.admin().await.expect("token");
    let (mut second, beside) = system.start_edge().await.expect("a second edge");
    let balancer = balanced(vec![system.address("edge"), beside]).await;
    let people = People::start(balancer, &admin, CAREFUL);
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
    let people = People::start(system.address("edge"), &admin, CAREFUL);
    for service in [SERVICES; 5].into_iter().flatten() {
        system.stop_alone(service).await.expect("stopped");
        system.start_alone(service, &[]).expect("started");
        is_ready(&system, service).await;
    }
    people.end(&system, &admin).await;
}

pub async fn is_ready(system: &System, service: &str) {
    let ready = eventually(Duration::from_secs(40), || async { system.is_ready(service).await.then_some(()) });
    ready.await.unwrap_or_else(|| panic!("{service} is not ready: {}", system.log()));
}
