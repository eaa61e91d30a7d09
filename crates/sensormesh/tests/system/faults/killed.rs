//! Services that are killed or paused at random, while people write and read.

use std::time::Duration;

use sensormesh_testkit::chance::Chance;
use sensormesh_testkit::system::{Shape, System};
use tokio::time::Instant;

use super::becomes_healthy;
use crate::builder;
use crate::edges::is_ready;
use crate::people::People;

const SERVICES: [&str; 7] = ["auth", "devices", "telemetry", "adapters", "commissioning", "rooms", "edge"];

/// A system whose edge lets one user do as much as there is time for.
async fn unlimited() -> System {
    let unlimited = builder(Shape::Split).setting("SENSORMESH_EDGE__USER_RATE__PER_SECOND", "0");
    unlimited.start().await.expect("starts")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: some minutes"]
async fn f01_killed_fifty_times_at_random_nothing_is_lost_and_each_is_soon_back() {
    let mut system = unlimited().await;
    let admin = system.admin().await.expect("token");
    // without a supervisor, whose pauses grow
    system.kill().await.expect("killed");
    for service in SERVICES {
        system.start_alone(service, &[]).expect("started");
    }
    becomes_healthy(&system).await;
    let people = People::start(system.address("edge"), &admin, Duration::from_secs(60));
    let mut chance = Chance::new("killed");
    let mut times = Vec::new();
    for _ in 0..50 {
        let service = SERVICES[chance.below(SERVICES.len())];
        tokio::time::sleep(chance.millis(0, 1500)).await;
        system.kill_service(service).expect("killed");
        let began = Instant::now();
        system.start_alone(service, &[]).expect("started");
        is_ready(&system, service).await;
        times.push(began.elapsed());
    }
    people.end(&system, &admin).await;
    becomes_healthy(&system).await;
    times.sort_unstable();
    eprintln!("ready again after {:?}, at most {:?}", times[25], times[49]);
    assert!(times[49] <= Duration::from_secs(3), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: some minutes"]
async fn f03_paused_for_a_quarter_of_a_minute_each_goes_on_where_it_was() {
    let system = unlimited().await;
    let admin = system.admin().await.expect("token");
    let people = People::start(system.address("edge"), &admin, Duration::from_secs(60));
    for service in SERVICES {
        let pid = system.service_pid(service).expect("pid");
        system.freeze_service(service, true).expect("paused");
        tokio::time::sleep(Duration::from_secs(15)).await;
        system.freeze_service(service, false).expect("goes on");
        becomes_healthy(&system).await;
        assert_eq!(system.service_pid(service).expect("pid"), pid, "{service} is the same process");
    }
    people.end(&system, &admin).await;
}
