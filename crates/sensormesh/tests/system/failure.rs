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
async fn without_auth_a_valid_token_still_works_and_log_in_says_when_to_retry() {
    let system = start(Shape::Split).await;
    let admin = system.admin().await.expect("token");
    becomes(&system, "healthy").await;
    // Frozen, not killed: the supervisor would have it back before the test has looked.
    system.freeze_service("auth", true).expect("frozen");
    let (status, answer) = system.post("/sensors/lab.co2/data", &admin, &json!({"value": 612})).await.expect("answer");
    assert_eq!(status, 200, "a valid token needs no auth: {answer}");
    let body = json!({"username": "admin", "password": system.admin_password().expect("password")});
    let refused = eventually(Duration::from_secs(60), || async {
        let (status, answer) = system.send("POST", "/token", None, Some(&body)).await.ok()?;
        (status == 503 && answer.to_string().contains("google.rpc.RetryInfo")).then_some(())
    })
    .await;
    assert!(refused.is_some(), "log-in answers 503 with RetryInfo");
    becomes(&system, "degraded").await;
    let open = eventually(Duration::from_secs(30), || async {
        let (_, health) = system.send("GET", "/health", None, None).await.ok()?;
        (health["circuit_breakers"]["auth"]["open"] == true).then_some(())
    })
    .await;
    assert!(open.is_some(), "the breaker of auth is open");
    let (status, answer) = system.post("/circuit-breaker/reset/auth", &admin, &json!({})).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
    system.freeze_service("auth", false).expect("thawed");
    becomes(&system, "healthy").await;
    let closed = eventually(Duration::from_secs(70), || async {
        let (status, _) = system.send("POST", "/token", None, Some(&body)).await.ok()?;
        (status == 200).then_some(())
    })
    .await;
    assert!(closed.is_some(), "log-in works again");
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
