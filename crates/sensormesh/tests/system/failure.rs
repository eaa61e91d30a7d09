//! The loss of any one process leaves the others working.

use std::time::Duration;

use sensormesh_testkit::system::{Shape, System, eventually};
use serde_json::json;

use crate::start;
use crate::streams::{Events, post_until_acknowledged};

/// Waits until `/health` says this of the whole.
async fn becomes(system: &System, overall: &str) {
    let reached = eventually(Duration::from_secs(30), || async {
        let (_, health) = system.send("GET", "/health", None, None).await.ok()?;
        (health["overall_status"] == overall).then_some(())
    })
    .await;
    assert!(reached.is_some(), "never became {overall}: {:?}", system.send("GET", "/health", None, None).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_one_process_may_be_killed() {
    let system = start(Shape::Split).await;
    let admin = system.admin().await.expect("token");
    system.post("/sensors/lab.n/data", &admin, &json!({"value": 0})).await.expect("answer");
    let mut events = Events::new("/v1/readings:watch?sensorIds=lab.n", &admin);
    loop {
        let message = events.next(&system, Duration::from_secs(15)).await.expect("a message");
        if message["bookmark"]["live"] == true {
            break;
        }
    }
    let mut sent = 0;
    for victim in ["auth", "devices", "telemetry", "adapters", "commissioning", "rooms", "edge"] {
        let before = system.service_pid(victim).expect("pid");
        system.kill_service(victim).expect("killed");
        if victim != "edge" {
            let (status, _) = system.send("GET", "/health", None, None).await.expect("the edge serves");
            assert_eq!(status, 200, "without {victim}");
        }
        if !matches!(victim, "devices" | "edge") {
            let (status, answer) = system.get("/sensors", &admin).await.expect("answer");
            assert_eq!(status, 200, "devices serves without {victim}: {answer}");
        }
        for _ in 0..5 {
            sent += 1;
            post_until_acknowledged(&system, &admin, sent).await;
        }
        let back = eventually(Duration::from_secs(30), || async {
            (system.service_pid(victim).ok()? != before).then_some(())
        })
        .await;
        assert!(back.is_some(), "{victim} is started again");
        let serves = eventually(Duration::from_secs(30), || async {
            (system.get("/sensors", &admin).await.ok()?.0 == 200).then_some(())
        });
        assert!(serves.await.is_some(), "all is well again after {victim}");
    }
    let mut seen: Vec<i64> = Vec::new();
    while seen.last() != Some(&sent) {
        let message = events.next(&system, Duration::from_secs(30)).await.expect("a message");
        #[allow(clippy::cast_possible_truncation)] // the test sends whole numbers
        seen.extend(
            message["readings"].as_array().into_iter().flatten().filter_map(|r| r["value"].as_f64()).map(|v| v as i64),
        );
    }
    assert_eq!(seen, (1..=sent).collect::<Vec<i64>>(), "no gap, no duplicate");
    let (_, list) = system.get("/sensors/lab.n/data", &admin).await.expect("answer");
    assert_eq!(list["readings"].as_array().expect("readings").len(), usize::try_from(sent).expect("small") + 1);
    becomes(&system, "healthy").await;
}
