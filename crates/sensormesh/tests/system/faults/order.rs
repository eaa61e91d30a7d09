//! Everything killed at once, started in any order; descriptors used up.

use std::time::Duration;

use sensormesh_testkit::chance::Chance;
use sensormesh_testkit::system::{Shape, eventually};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{acknowledged, becomes_healthy, busy, health, stored};
use crate::start;

#[tokio::test(flavor = "multi_thread")]
async fn f04_killed_at_once_they_start_in_any_order() {
    any_order(Duration::from_secs(30)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: times, alone on the machine"]
async fn f04_killed_at_once_each_is_ready_within_ten_seconds() {
    any_order(Duration::from_secs(10)).await;
}

/// Kills everything at once and starts it in any order, three times; each must be ready this long after the last start.
async fn any_order(soon: Duration) {
    let mut system = start(Shape::Split).await;
    let admin = system.admin().await.expect("token");
    let mut chance = Chance::new("order");
    let mut order = ["edge", "auth", "devices", "telemetry", "adapters", "commissioning", "rooms"];
    for round in 0..3 {
        assert!(acknowledged(&system, &admin, round).await);
        system.kill().await.expect("killed");
        chance.shuffle(&mut order);
        for service in order {
            system.start_alone(service, &[]).expect("started");
            tokio::time::sleep(chance.millis(0, 300)).await;
        }
        let began = Instant::now();
        for service in order {
            let left = soon.saturating_sub(began.elapsed());
            let ready = eventually(left, || async { system.is_ready(service).await.then_some(()) });
            assert!(ready.await.is_some(), "{service} is not ready, in the order {order:?}: {}", system.log());
        }
        eprintln!("ready {:?} after the last start", began.elapsed());
        becomes_healthy(&system).await;
    }
    assert_eq!(stored(&system, &admin).await, (0..3).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_without_descriptors_the_edge_waits_and_does_not_spin() {
    without_descriptors(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: times, alone on the machine"]
async fn f08_with_descriptors_again_the_edge_accepts_within_a_second() {
    without_descriptors(Duration::from_secs(1)).await;
}

/// Takes the edge's descriptors, and gives them back: it must answer so soon.
async fn without_descriptors(soon: Duration) {
    const MORE: usize = 40;
    let system = start(Shape::Split).await;
    becomes_healthy(&system).await;
    let pid = system.service_pid("edge").expect("pid");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count();
    let limit = format!("--nofile={0}:{0}", open + MORE);
    let limited = std::process::Command::new("prlimit").args([&format!("--pid={pid}"), &limit]).status();
    if !limited.is_ok_and(|status| status.success()) {
        sensormesh_testkit::skip("f08 needs prlimit of util-linux");
        return;
    }
    let mut idle = Vec::new();
    for _ in 0..90 {
        idle.push(TcpStream::connect(("127.0.0.1", system.port_base)).await.expect("connected by the kernel"));
    }
    let complains = || async { system.log().contains("no connection can be accepted").then_some(()) };
    assert!(eventually(Duration::from_secs(3), complains).await.is_some(), "the limit is reached: {}", system.log());
    let busy = busy(pid, Duration::from_secs(3)).await;
    assert!(busy < 0.05, "{:.1} % of a processor while nothing can be done", busy * 100.0);
    drop(idle);
    let answers = timeout(soon, health(&system)).await;
    assert!(matches!(answers, Ok(Some(_))), "it does not accept within {soon:?}");
    becomes_healthy(&system).await;
    let complaints = system.log().matches("no connection can be accepted").count();
    assert!(complaints <= 2, "{complaints} lines in the log");
    assert_eq!(system.service_pid("edge").expect("pid"), pid, "it is the same process");
}
