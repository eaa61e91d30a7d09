//! What calls through the edge take while something else is broken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sensormesh_testkit::system::{Shape, System};
use tokio::time::Instant;

use super::becomes_healthy;
use crate::builder;

/// The 99th percentile of so many calls of a service, one after the other.
async fn p99(system: &System, token: &str, calls: usize) -> Duration {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let began = Instant::now();
        let (status, answer) = system.get("/v1/devices?pageSize=1", token).await.expect("an answer");
        times.push(began.elapsed());
        assert_eq!(status, 200, "{answer}");
    }
    times.sort_unstable();
    times[calls * 99 / 100]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: compares times, alone on the machine"]
async fn f34_while_one_service_hangs_calls_of_others_are_as_fast_through_the_edge() {
    let unlimited = builder(Shape::Split).setting("SENSORMESH_EDGE__USER_RATE__PER_SECOND", "0");
    let system = Arc::new(unlimited.start().await.expect("starts"));
    let admin = system.admin().await.expect("token");
    p99(&system, &admin, 500).await;
    let mut ratios = Vec::new();
    for _ in 0..5 {
        let before = p99(&system, &admin, 2_000).await;
        system.freeze_service("rooms", true).expect("frozen");
        // people who look at rooms, and look again; the edge takes 100 connections of one address
        let stop = Arc::<AtomicBool>::default();
        let waiting = (0..80).map(|_| {
            let (system, admin, stop) = (Arc::clone(&system), admin.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let (status, answer) = system.get("/v1/rooms", &admin).await.expect("an answer");
                    assert!(matches!(status, 429 | 503 | 504), "{status}: {answer}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            })
        });
        let waiting: Vec<_> = waiting.collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let beside = p99(&system, &admin, 2_000).await;
        stop.store(true, Ordering::SeqCst);
        for one in waiting {
            one.await.expect("waited");
        }
        system.freeze_service("rooms", false).expect("thawed");
        becomes_healthy(&system).await;
        eprintln!("p99 {before:?} before, {beside:?} beside the one that hangs");
        ratios.push(beside.as_secs_f64() / before.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    assert!(ratios[2] <= 1.25, "{ratios:?}");
}
