//! Expiry by hand, on both engines.

use crate::Config;
use crate::db;
use crate::rig::{DAY, NOW, Rig, SECOND};

fn every_minute(start: i64, readings: i64) -> Vec<(i64, f64)> {
    (0..readings).map(|i| (start + i * 60 * SECOND, (i % 97) as f64 / 4.0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_stay_as_long_as_their_profile_says_and_else_as_the_system_says() {
    for rig in Rig::on_both(Config { retention_days: 10, ..Config::default() }).await {
        let (short, long) = (rig.series("lab.short", 2).await, rig.series("lab.long", 0).await);
        let readings = every_minute(NOW - 3000 * 60 * SECOND, 3000);
        for series in [&short, &long] {
            rig.send(series, &readings).await;
            rig.seal(series).await;
        }
        rig.expire().await;
        assert_eq!(rig.readings(&short).await, readings);
        rig.advance_days(3);
        rig.expire().await;
        assert_eq!(rig.readings(&short).await, []);
        assert_eq!(short.tail.lock().sealed_span, None);
        assert_eq!(rig.readings(&long).await, readings);
        // it goes on
        let new = [(NOW + 3 * DAY, 1.0)];
        rig.send(&short, &new).await;
        rig.seal(&short).await;
        assert_eq!(rig.readings(&short).await, new);
        rig.advance_days(8);
        rig.expire().await;
        assert_eq!(rig.readings(&long).await, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_moves_its_start_and_keeps_its_end() {
    for rig in Rig::on_both(Config { retention_days: 2, ..Config::default() }).await {
        let series = rig.series("lab.a", 0).await;
        let readings = every_minute(NOW - 9 * DAY, 10 * 1440);
        rig.send(&series, &readings).await;
        rig.seal(&series).await;
        let (_, end) = series.tail.lock().sealed_span.expect("sealed");
        rig.expire().await;
        rig.advance_days(2);
        let last = [(NOW + 2 * DAY - SECOND, 5.0)];
        rig.send(&series, &last).await;
        rig.seal(&series).await;
        rig.expire().await;
        let left = rig.readings(&series).await;
        // whole blocks go
        assert!(left.len() > 1440 && left.len() < 2600, "{}", left.len());
        assert_eq!(left[..left.len() - 1], readings[readings.len() + 1 - left.len()..]);
        assert_eq!(left.last(), last.last());
        assert!(end > NOW);
        assert_eq!(series.tail.lock().sealed_span, Some((left[0].0, last[0].0)));
        let mut read = rig.engine.databases.main.read(&sensormesh_types::Scope::system()).await.expect("read");
        let stored = db::series::list(&mut read, 0).await.expect("list").remove(0);
        assert_eq!(stored.tail.sealed_span, Some((left[0].0, last[0].0)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_long_ago_stays_from_its_arrival_on() {
    for rig in Rig::on_both(Config { retention_days: 5, ..Config::default() }).await {
        let series = rig.series("lab.a", 0).await;
        let live = every_minute(NOW - 2 * DAY, 100);
        rig.send(&series, &live).await;
        rig.seal(&series).await;
        rig.expire().await;
        rig.advance_days(4);
        let recorded = every_minute(NOW - 1000 * DAY, 100);
        rig.send(&series, &recorded).await;
        rig.seal(&series).await;
        rig.expire().await;
        rig.advance_days(4);
        rig.expire().await;
        assert_eq!(rig.readings(&series).await, recorded, "what is live has gone, what was backfilled has not");
        rig.advance_days(2);
        rig.expire().await;
        assert_eq!(rig.readings(&series).await, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_sensor_does_not_keep_its_readings_in_the_log() {
    for rig in Rig::on_both(Config { retention_days: 8, ..Config::default() }).await {
        let series = rig.series("lab.a", 0).await;
        let hourly =
            |day: i64| (0..24).map(move |hour| (NOW + day * DAY + hour * 3600 * SECOND, 1.0)).collect::<Vec<_>>();
        for day in 0..30 {
            rig.advance_days(1);
            rig.send(&series, &hourly(day)).await;
            rig.expire().await;
        }
        let left = rig.readings(&series).await;
        let first = left.first().expect("some").0;
        let age = (rig.clock.now_nanos() - first) / DAY;
        assert!((8..=12).contains(&age), "{age} days");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_stays_while_what_overlaps_it_is_young() {
    for rig in Rig::on_both(Config { retention_days: 2, ..Config::default() }).await {
        let series = rig.series("lab.a", 0).await;
        rig.send(&series, &every_minute(NOW - DAY, 100)).await;
        rig.seal(&series).await;
        rig.expire().await;
        rig.advance_days(1);
        // a revision that came a day later, first unsealed, then in a block of its own
        let time = NOW - DAY + 50 * 60 * SECOND;
        rig.send(&series, &[(time, 1e6)]).await;
        rig.advance_days(2);
        let before = rig.clock.now_seconds() - 2 * 86_400;
        assert_eq!(super::expire_series(rig.engine.state(), &series, before).await.expect("expired"), 0);
        rig.seal(&series).await;
        rig.expire().await;
        let left = rig.readings(&series).await;
        assert_eq!((left.len(), left[50]), (100, (time, 1e6)));
        rig.advance_days(3);
        rig.expire().await;
        assert_eq!(rig.readings(&series).await, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expired_is_free_on_the_disk_again() {
    let rig = Rig::sqlite(Config { retention_days: 1, log_max_bytes: 1, ..Config::default() }).await;
    let mut noise = 1u64;
    for n in 0..4 {
        let series = rig.series(&format!("lab.{n}"), 0).await;
        for part in 0..10 {
            let readings: Vec<_> = (0..10_000)
                .map(|i| {
                    noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (NOW - DAY + (part * 10_000 + i) * SECOND / 2, (noise >> 11) as f64)
                })
                .collect();
            rig.send(&series, &readings).await;
        }
        rig.seal(&series).await;
    }
    crate::seal::cut_log(&rig.engine).await.expect("cut");
    let (main, log) = (rig.file("telemetry").expect("a file"), rig.file("telemetry-log").expect("a file"));
    let size = |file: &std::path::Path| std::fs::metadata(file).expect("a file").len();
    let databases = rig.engine.databases.clone();
    // what happens by itself within ten minutes and half a minute
    let settle = async || {
        databases.log.remove_old().await.expect("removed");
        for store in [&databases.main, &databases.log] {
            store.checkpoint().await.expect("checkpoint");
        }
    };
    settle().await;
    assert!(size(&main) > 2_500_000, "{}", size(&main));
    assert!(size(&log) < 1_000_000, "{}", size(&log));
    rig.expire().await;
    rig.advance_days(2);
    rig.expire().await;
    settle().await;
    assert!(size(&main) < 500_000, "{}", size(&main));
}
