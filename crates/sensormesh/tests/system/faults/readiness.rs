//! What says that a service is alive, and that it is ready, and to whom.

use std::time::Duration;

use sensormesh_mesh::ServerLimits;
use sensormesh_testkit::postgres::Server;
use sensormesh_testkit::system::{Shape, System, eventually};

use tokio::time::Instant;

use super::{BEHIND, becomes_healthy};
use crate::people::People;
use crate::{builder, start};

/// The status of a path of a service's operations port; 0 = no answer in a second.
async fn operations(system: &System, service: &str, path: &str) -> u16 {
    let port = system.address(service).port() + 1000;
    let request = system.http().get(format!("http://127.0.0.1:{port}{path}")).timeout(Duration::from_secs(1));
    request.send().await.map_or(0, |answer| answer.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: a minute, until each service has missed its database"]
async fn f82_without_its_database_a_service_is_alive_and_not_ready() {
    let server = match Server::start(None) {
        Ok(server) => server,
        Err(error) => {
            return sensormesh_testkit::skip(format_args!("f82 needs a PostgreSQL that can be stopped: {error:#}"));
        }
    };
    let system = builder(Shape::Split).arg("--database-url").arg(&server.url).start().await.expect("starts");
    becomes_healthy(&system).await;
    let admin = system.admin().await.expect("token");
    for service in ["auth", "devices", "telemetry", "rooms"] {
        assert_eq!(operations(&system, service, "/ready").await, 200, "{service}");
    }
    let sh =
        |script: &str| assert!(std::process::Command::new("sh").args(["-c", script]).status().expect("sh").success());
    sh(&server.stop);
    for service in ["auth", "devices", "telemetry", "rooms"] {
        let gone = eventually(Duration::from_secs(60), || async {
            // a database is missed by who asks it; what becomes of the answer does not matter here
            let short = Duration::from_secs(1);
            let log_in = serde_json::json!({"username": "nobody", "password": "nothing"});
            system.http().post(system.url("/token")).json(&log_in).timeout(short).send().await.ok();
            for path in ["/sensors", "/rooms"] {
                system.http().get(system.url(path)).bearer_auth(&admin).timeout(short).send().await.ok();
            }
            (operations(&system, service, "/ready").await == 503).then_some(())
        });
        assert!(gone.await.is_some(), "{service} is not ready");
        assert_eq!(operations(&system, service, "/live").await, 200, "{service} is alive");
    }
    sh(&server.start);
    becomes_healthy(&system).await;
    for service in ["auth", "devices", "telemetry", "rooms"] {
        assert_eq!(operations(&system, service, "/ready").await, 200, "{service}");
    }
}

/// With the limits as they are shipped, which `up` shortens on one machine.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: half a minute of draining"]
async fn f75_a_process_told_to_end_under_load_ends_within_its_time_and_loses_nothing() {
    const STREAMS: usize = 200;
    let many = builder(Shape::Split)
        .setting("SENSORMESH_EDGE__STREAMS_PER_CALLER", "1000")
        .setting("SENSORMESH_EDGE__LIMITS__CONNECTIONS_PER_ADDRESS", "1000");
    let mut system = many.setting("SENSORMESH_EDGE__USER_RATE__PER_SECOND", "0").start().await.expect("starts");
    let admin = system.admin().await.expect("token");
    system.kill().await.expect("killed");
    let shipped = ServerLimits::mesh();
    let times = [("NOTICE", shipped.drain_notice), ("CALLS", shipped.drain_calls), ("STREAMS", shipped.drain_streams)];
    let of = |(part, time): (&str, Duration)| {
        ["MESH", "EDGE"]
            .map(|whose| (format!("SENSORMESH_{whose}__LIMITS__DRAIN_{part}"), format!("{}s", time.as_secs())))
    };
    let times: Vec<_> = times.into_iter().flat_map(of).collect();
    for service in [&BEHIND[..], &["edge"]].concat() {
        system.start_alone(service, &times).expect("started");
    }
    becomes_healthy(&system).await;
    let people = People::start(system.address("edge"), &admin, Duration::from_secs(60));
    for service in ["telemetry", "edge"] {
        let mut watching = Vec::new();
        for _ in 0..STREAMS {
            let request = system.http().get(system.url("/v1/readings:watch?sensorIds=lab.n")).bearer_auth(&admin);
            let stream = request.send().await.expect("an answer");
            assert_eq!(stream.status(), 200);
            watching.push(stream);
        }
        let _silent = tokio::net::TcpStream::connect(system.address(service)).await.expect("connected");
        let began = Instant::now();
        system.stop_alone(service).await.expect("it ends by itself");
        eprintln!("{service} ended after {:?}", began.elapsed());
        assert!(began.elapsed() >= shipped.drain_notice, "others are given time to notice");
        assert!(began.elapsed() <= Duration::from_secs(25), "{service}: {:?}", began.elapsed());
        system.start_alone(service, &times).expect("started");
        becomes_healthy(&system).await;
    }
    people.end(&system, &admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f82_a_process_that_does_not_turn_is_not_alive() {
    let system = start(Shape::Split).await;
    assert_eq!(operations(&system, "rooms", "/live").await, 200);
    system.freeze_service("rooms", true).expect("frozen");
    assert_eq!(operations(&system, "rooms", "/live").await, 0);
    system.freeze_service("rooms", false).expect("thawed");
    assert_eq!(operations(&system, "rooms", "/live").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn f82_the_edge_tells_strangers_little() {
    let system = start(Shape::Split).await;
    let (admin, viewer) = (system.admin().await.expect("token"), system.viewer("eve").await.expect("token"));
    let status = async |verb: &str, path: &str, token: Option<&str>| {
        system.send(verb, path, token, None).await.expect("an answer").0
    };
    for (path, stranger, as_viewer, as_admin) in [
        ("/health", 200, 200, 200),
        ("/ready", 200, 200, 200),
        ("/metrics", 401, 403, 200),
        ("/v1/services", 401, 403, 200),
        ("/live", 404, 404, 404),
    ] {
        let heard = [None, Some(viewer.as_str()), Some(admin.as_str())].map(|token| status("GET", path, token));
        let heard = futures::future::join_all(heard).await;
        assert_eq!(heard, [stranger, as_viewer, as_admin], "{path}");
    }
    let reset = "/circuit-breaker/reset/rooms";
    let heard = [None, Some(viewer.as_str()), Some(admin.as_str())].map(|token| status("POST", reset, token));
    assert_eq!(futures::future::join_all(heard).await, [401, 403, 200], "{reset}");
    let (_, health) = system.send("GET", "/health", None, None).await.expect("health");
    let said = health.to_string();
    assert!(!said.contains("127.0.0.1") && !said.contains("postgres"), "in words only: {said}");
}
