//! What one asks for is not taken from the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sensormesh_testkit::system::Shape;
use serde_json::json;

use crate::builder;

#[tokio::test(flavor = "multi_thread")]
async fn heavy_reads_of_one_user_refuse_nobody_elses_readings() {
    const READERS: usize = 32;
    // how often somebody may ask would hide what is looked for
    let system =
        builder(Shape::Split).setting("SENSORMESH_EDGE__USER_RATE__PER_SECOND", "0").start().await.expect("starts");
    let admin = system.admin().await.expect("token");
    let greedy = system.viewer("greedy").await.expect("token");
    system.command(&["load", "--duration", "2s", "--sensors", "8", "--no-check", "--no-watch"]).await.expect("loaded");
    let (_, list) = system.get("/v1/sensors?pageSize=100", &admin).await.expect("an answer");
    let ids = list["sensors"].as_array().expect("sensors").iter().filter_map(|sensor| sensor["sensorId"].as_str());
    let ids: String = ids.filter(|id| id.starts_with("load-")).map(|id| format!("&sensorIds={id}")).collect();
    let heavy =
        format!("/v1/readings:aggregate?calendar=CALENDAR_UNIT_YEAR&timeZone=UTC&percentiles=50&percentiles=99{ids}");

    let system = Arc::new(system);
    let (stop, read, refused) =
        (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let readers = (0..READERS).map(|_| {
        let (system, greedy, heavy) = (Arc::clone(&system), greedy.clone(), heavy.clone());
        let (stop, read, refused) = (Arc::clone(&stop), Arc::clone(&read), Arc::clone(&refused));
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let (status, answer) = system.get(&heavy, &greedy).await.expect("an answer");
                match status {
                    200 => read.fetch_add(1, Ordering::SeqCst),
                    // no turn came, or no time was left
                    429 | 504 => refused.fetch_add(1, Ordering::SeqCst),
                    _ => panic!("{status}: {answer}"),
                };
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for value in 0..30 {
        let (status, answer) =
            system.post("/sensors/lab.n/data", &admin, &json!({"value": value})).await.expect("answer");
        assert_eq!(status, 200, "reading {value}: {answer}");
        if value % 10 == 0 {
            let (_, health) = system.send("GET", "/health", None, None).await.expect("health");
            assert_ne!(health["circuit_breakers"]["telemetry"]["open"], true, "{health}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.expect("read");
    }
    let (read, refused) = (read.load(Ordering::SeqCst), refused.load(Ordering::SeqCst));
    eprintln!("{read} heavy reads answered, {refused} refused");
    assert!(read > 0, "some are answered");
}
