//! Everything killed at once, started in any order; descriptors used up.

use std::time::Duration;

use sensormesh_testkit::chance::Chance;
use sensormesh_testkit::system::{Shape, eventually};
use tokio::net::TcpStream;

use super::{acknowledged, becomes_healthy, stored};
use crate::start;

#[tokio::test(flavor = "multi_thread")]
async fn f04_killed_at_once_they_start_in_any_order() {
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
        for service in order {
            let ready = eventually(Duration::from_secs(30), || async { system.is_ready(service).await.then_some(()) });
            assert!(ready.await.is_some(), "{service} is not ready, in the order {order:?}: {}", system.log());
        }
        becomes_healthy(&system).await;
    }
    assert_eq!(stored(&system, &admin).await, (0..3).collect::<Vec<_>>());
}

/// Clock ticks that a process has used so far.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11].parse::<u64>().expect("user") + fields[12].parse::<u64>().expect("system")
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_without_descriptors_the_edge_waits_and_does_not_spin() {
    const MORE: usize = 40;
    const TICKS_PER_SECOND: f64 = 100.0;
    let system = start(Shape::Split).await;
    becomes_healthy(&system).await;
    let pid = system.service_pid("edge").expect("pid");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count();
    let limit = format!("--nofile={0}:{0}", open + MORE);
    let limited = std::process::Command::new("prlimit").args([&format!("--pid={pid}"), &limit]).status();
    if !limited.is_ok_and(|status| status.success()) {
        eprintln!("skipped: f08 needs prlimit of util-linux");
        return;
    }
    let mut idle = Vec::new();
    for _ in 0..90 {
        idle.push(TcpStream::connect(("127.0.0.1", system.port_base)).await.expect("connected by the kernel"));
    }
    let complains = || async { system.log().contains("no connection can be accepted").then_some(()) };
    assert!(eventually(Duration::from_secs(3), complains).await.is_some(), "the limit is reached: {}", system.log());
    let (before, began) = (ticks(pid), tokio::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    #[allow(clippy::cast_precision_loss)] // few
    let busy = (ticks(pid) - before) as f64 / TICKS_PER_SECOND / began.elapsed().as_secs_f64();
    assert!(busy < 0.05, "{:.1} % of a processor while nothing can be done", busy * 100.0);
    drop(idle);
    becomes_healthy(&system).await;
    let complaints = system.log().matches("no connection can be accepted").count();
    assert!(complaints <= 2, "{complaints} lines in the log");
    assert_eq!(system.service_pid("edge").expect("pid"), pid, "it is the same process");
}
