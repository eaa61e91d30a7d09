//! Damage, made by hand.

use sensormesh_types::Code;

use super::*;
use crate::Config;
use crate::db::damage::flip;
use crate::rig::{DAY, NOW, Rig, SECOND};

/// A series with raw blocks, rollups and a batch in the log.
async fn filled(rig: &Rig) -> Arc<Series> {
    let series = rig.series("lab.a", 0).await;
    for day in 0..3 {
        let readings: Vec<_> = (0..1440).map(|i| (NOW + day * DAY + i * 60 * SECOND, (i % 97) as f64)).collect();
        rig.send(&series, &readings).await;
        rig.seal(&series).await;
        rig.expire().await;
        rig.advance_days(1);
    }
    rig.expire().await;
    series
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_named_and_no_longer_so_once_it_is_whole() {
    for rig in Rig::on_both(Config { retention_days: 1, ..Config::default() }).await {
        let series = filled(&rig).await;
        let state = rig.engine.state();
        let databases = &rig.engine.databases;
        let blocks = rig.engine.sizes().await.expect("sizes").blocks;
        let batches = db::log::page(&mut databases.log.read(&Scope::system()).await.expect("read"), 0, 9).await;
        assert!(blocks >= 4 && batches.expect("batches").len() == 3);
        assert_eq!(crate::check(databases).await.expect("checked"), []);
        verify_series(state, &series).await.expect("verified");
        verify_log(state).await.expect("verified");
        assert_eq!(state.damaged.condition(), Condition::Well);
        for level in [0, 1, 2] {
            let blocks = flip(&rig.engine.databases, Some(level)).await;
            assert!(blocks > 0, "level {level}");
            verify_series(state, &series).await.expect("verified");
            assert!(
                matches!(state.damaged.condition(), Condition::Degraded(words) if words.contains("lab.a of default from 202"))
            );
            let found = crate::check(databases).await.expect("checked");
            assert_eq!(found.len(), blocks);
            let named = found[0].problem.contains(&format!("level {level}"));
            assert!(if level == 0 { found[0].object["sensor_id"] == "lab.a" } else { named }, "{found:?}");
            flip(&rig.engine.databases, Some(level)).await;
            verify_series(state, &series).await.expect("verified");
            assert_eq!(state.damaged.condition(), Condition::Well);
        }
        flip(&rig.engine.databases, None).await;
        verify_log(state).await.expect("verified");
        assert!(matches!(state.damaged.condition(), Condition::Degraded(words) if words.contains("batch 2")));
        assert_eq!(crate::check(databases).await.expect("checked").len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_block_ends_with_its_retention_and_damaged_rollups_keep_what_they_would_take() {
    for rig in Rig::on_both(Config { retention_days: 1, ..Config::default() }).await {
        let series = filled(&rig).await;
        let left = rig.readings(&series).await.len();
        flip(&rig.engine.databases, Some(2)).await;
        rig.advance_days(3);
        rig.expire().await;
        assert_eq!(rig.readings(&series).await.len(), left, "they could not be added to rollups");
        flip(&rig.engine.databases, Some(2)).await; // the same bit again: whole
        flip(&rig.engine.databases, Some(0)).await;
        let history = crate::history::History::open(&rig.engine, &series, (i64::MIN, i64::MAX)).await;
        assert_eq!(history.expect("found").load(0).await.expect_err("damaged").code(), Code::Corrupt);
        rig.expire().await;
        assert_eq!(rig.readings(&series).await.len(), 0);
        verify_series(rig.engine.state(), &series).await.expect("verified");
        assert_eq!(rig.engine.damaged.condition(), Condition::Well);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_has_its_turn_once_in_a_period() {
    let rig = Rig::sqlite(Config::default()).await;
    for n in 0..7 {
        rig.series(&format!("lab.{n}"), 0).await;
    }
    let all = rig.engine.catalog.all_series();
    for start in [0, 3, 12_345] {
        let mut turns = Vec::new();
        for second in start..start + 100 {
            turns.extend(due(all.clone(), (second, second + 1), 100).iter().map(|series| series.number));
        }
        turns.sort_unstable();
        assert_eq!(turns, (1..=7).collect::<Vec<_>>());
        assert_eq!(due(all.clone(), (start, start + 100_000), 100).len(), 7);
    }
    assert!(due(Vec::new(), (0, 100), 100).is_empty());
}
