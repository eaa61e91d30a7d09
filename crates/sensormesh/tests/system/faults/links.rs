//! Links between services that are cut, slow, or lose answers.

use std::net::SocketAddr;
use std::time::Duration;

use sensormesh_testkit::chance::Chance;
use sensormesh_testkit::proxy::{Faults, Proxy};
use sensormesh_testkit::system::{Shape, System, eventually};

use super::{BEHIND, acknowledged, becomes_healthy, health, stored};
use crate::builder;

/// A system in which everybody reaches these services through a proxy each.
async fn behind_proxies(services: &[&'static str]) -> (System, Vec<(&'static str, Proxy)>) {
    let mut proxies = Vec::new();
    let mut builder = builder(Shape::Split);
    for service in services {
        let proxy = Proxy::new(Chance::new(service)).await.expect("a proxy");
        builder = builder.endpoint(*service, proxy.address);
        proxies.push((*service, proxy));
    }
    // where they lead to is known with the ports, which are before the start
    let lead = |port_base: u16| {
        for (service, proxy) in &proxies {
            proxy.lead_to(SocketAddr::from(([127, 0, 0, 1], port_base + sensormesh_testkit::system::port_of(service))));
        }
    };
    let system = builder.start_with(lead).await.expect("the system starts");
    becomes_healthy(&system).await;
    (system, proxies)
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_answers_that_are_lost_make_no_reading_twice() {
    let (system, proxies) = behind_proxies(&["telemetry"]).await;
    let admin = system.admin().await.expect("token");
    let proxy = &proxies[0].1;
    for value in 0..6 {
        proxy.set(Faults::answers_lost());
        let heal = async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            proxy.heal();
        };
        let (acknowledged, ()) = tokio::join!(acknowledged(&system, &admin, value), heal);
        assert!(acknowledged, "reading {value}");
    }
    assert_eq!(stored(&system, &admin).await, (0..6).collect::<Vec<_>>(), "each once");
    becomes_healthy(&system).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: half a minute for each link"]
async fn f21_each_service_may_be_cut_off_for_half_a_minute() {
    let (system, proxies) = behind_proxies(&BEHIND).await;
    let admin = system.admin().await.expect("token");
    let mut sent = 0;
    for (service, proxy) in &proxies {
        let began = tokio::time::Instant::now();
        let pid = system.service_pid(service).expect("pid");
        proxy.set(Faults::blackhole());
        let noticed = eventually(Duration::from_secs(15), || async {
            let health = health(&system).await?;
            (health["services"][service]["status"] != "healthy").then_some(())
        });
        assert!(noticed.await.is_some(), "{service} is cut off, and nobody noticed in 15 s");
        while began.elapsed() < Duration::from_secs(30) {
            let (status, _) = system.send("GET", "/health", None, None).await.expect("the edge serves");
            assert_eq!(status, 200, "without {service}");
            match *service {
                "telemetry" => {}
                // a token that was issued is good without auth, and what is stored needs none of the others
                "auth" | "adapters" | "commissioning" | "rooms" => {
                    assert!(acknowledged(&system, &admin, sent).await, "without {service}");
                    sent += 1;
                }
                _ => {
                    let (status, answer) = system.get("/sensors/lab.n/data", &admin).await.expect("answer");
                    assert!([200, 404, 503, 504].contains(&status), "without {service}: {status} {answer}");
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        proxy.heal();
        becomes_healthy(&system).await;
        assert_eq!(system.service_pid(service).expect("pid"), pid, "{service} was not restarted");
        assert!(acknowledged(&system, &admin, sent).await, "after {service} is back");
        sent += 1;
    }
    assert_eq!(stored(&system, &admin).await, (0..sent).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: slow links"]
async fn f23_slow_links_between_all_services_lose_nothing() {
    let (system, proxies) = behind_proxies(&BEHIND).await;
    let admin = system.admin().await.expect("token");
    let faults = [
        Faults::slow(Duration::from_millis(200), Duration::from_millis(50)),
        Faults::narrow(125_000),
        Faults::sliced(1),
    ];
    let mut sent = 0;
    for fault in faults {
        proxies.iter().for_each(|(_, proxy)| proxy.set(fault.clone()));
        for _ in 0..20 {
            assert!(acknowledged(&system, &admin, sent).await, "{fault:?}");
            sent += 1;
        }
        let breakers = health(&system).await.expect("the edge serves")["circuit_breakers"].clone();
        for service in BEHIND {
            assert_eq!(breakers[service]["open"], false, "{service} under {fault:?}: {breakers}");
        }
    }
    assert_eq!(stored(&system, &admin).await, (0..sent).collect::<Vec<_>>());
}
