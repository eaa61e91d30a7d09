//! Rollups and raw readings together are what a recount of every reading gives, whatever came in which order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use sensormesh_series::rollup::QUARTER;
use sensormesh_series::{Buckets, Column, Grid, Quality, Summaries, Wanted, bucket_start};
use sensormesh_types::{Code, Result, Scope};

use crate::Config;
use crate::calibration::{Calibration, Function, Version};
use crate::catalog::Series;
use crate::history::History;
use crate::rig::{DAY, NOW, Rig, SECOND};

/// What happens to a series.
#[derive(Clone, Debug)]
enum Step {
    /// Readings so many seconds apart, the first so long after the newest one.
    Append(u16, u32),
    /// A reading so many minutes ago, late or a revision; of no good quality where the last one says so.
    Late(u32, i32, bool),
    /// One of the raw readings sent again, with another value or the same.
    Again(prop::sample::Index, bool),
    /// What was taken in so many quarters of an hour, the first so many ago, is deleted.
    Delete(u16, u16),
    Seal,
    Expire,
    /// Days pass.
    Wait(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u16..400, 1u32..4000).prop_map(|(n, apart)| Step::Append(n, apart)),
        3 => (0u32..60_000, -99i32..99, any::<bool>()).prop_map(|(ago, value, bad)| Step::Late(ago, value, bad)),
        2 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(pick, same)| Step::Again(pick, same)),
        1 => (1u16..400, 0u16..3000).prop_map(|(n, ago)| Step::Delete(n, ago)),
        4 => Just(Step::Seal),
        4 => Just(Step::Expire),
        3 => (1u8..9).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..40)
}

async fn summary(rig: &Rig, series: &Arc<Series>, grid: Grid, wanted: Wanted, range: (i64, i64)) -> Result<Summaries> {
    let mut buckets = Buckets::of(grid, wanted);
    let mut history = History::with_headers(&rig.engine, series, range).await?;
    history.summarise_rolled(&mut buckets, |_| false).await?;
    for run in 0..history.runs() {
        history.summarise(run, &mut buckets).await?;
    }
    Ok(buckets.finish())
}

fn deviation() -> Wanted {
    Wanted { deviation: true, ..Wanted::default() }
}

/// Compares the buckets of a range with a recount of what was ever taken.
async fn compare(rig: &Rig, series: &Arc<Series>, taken: &BTreeMap<i64, (f64, bool)>) {
    let mut column = Column::default();
    for (time, (value, bad)) in taken {
        column.upsert(*time, *value, if *bad { Quality::FAIL } else { Quality::USUAL });
    }
    let everything = (i64::MIN, i64::MAX);
    let inner = (NOW - 7 * DAY + 3 * QUARTER, NOW + 5 * DAY - QUARTER);
    for (grid, range) in [
        (Grid::Fixed(QUARTER), everything),
        (Grid::Fixed(DAY), everything),
        (Grid::Fixed(5 * QUARTER), inner),
        (Grid::Whole, everything),
        (Grid::Whole, inner),
    ] {
        for wanted in [Wanted::default(), deviation()] {
            let mut naive = Buckets::of(grid.clone(), wanted.clone());
            naive.add_column(&column.slice(column.range(range.0, range.1))).expect("few");
            let told = summary(rig, series, grid.clone(), wanted.clone(), range).await.expect("told");
            let naive = naive.finish();
            assert_eq!(told.len(), naive.len(), "{grid:?}");
            for (told, naive) in told.iter().zip(naive.iter()) {
                assert_eq!(told.start, naive.start, "{grid:?}");
                let (a, b) = (told.rollup.aggregate, naive.rollup.aggregate);
                assert_eq!((a.count, a.sum.value(), a.min, a.max), (b.count, b.sum.value(), b.min, b.max), "{grid:?}");
                assert_eq!((a.first, a.last), (b.first, b.last), "{grid:?}");
                let apart = told.rollup.deviation().unwrap_or(-1.0) - naive.rollup.deviation().unwrap_or(-1.0);
                assert!(!wanted.deviation || apart.abs() < 1e-6, "{grid:?}: {told:?} {naive:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_between_the_tail_and_the_blocks_takes_nothing_out_of_a_summary() {
    for rig in Rig::on_both(Config { retention_days: 1, ..Config::default() }).await {
        let series = rig.series("lab.a", 0).await;
        let mut readings = 0;
        for expiry in 0..3 {
            rig.send(&series, &[(NOW + expiry * 3 * DAY, 1.0), (NOW + expiry * 3 * DAY + SECOND, 2.0)]).await;
            rig.seal(&series).await;
            rig.expire().await;
            readings += 2;
            rig.advance_days(3);
            let known = || {
                let tail = series.tail.lock();
                (tail.sealed_span, tail.rolled_end)
            };
            // to whoever looked at the tail before, it is as if it had not changed since
            let before = known();
            rig.expire().await;
            let after = known();
            assert_ne!(before, after);
            (series.tail.lock().sealed_span, series.tail.lock().rolled_end) = before;
            let told = summary(&rig, &series, Grid::Whole, Wanted::default(), (i64::MIN, i64::MAX)).await;
            assert_eq!(told.expect("told").get(0).expect("a bucket").rollup.aggregate.count, readings);
            (series.tail.lock().sealed_span, series.tail.lock().rolled_end) = after;
        }
    }
}

/// Waits until each replica knows what the others did.
async fn settle(rigs: &[(Rig, Arc<Series>)]) {
    let known = |series: &Arc<Series>| {
        let tail = series.tail.lock();
        (tail.sealed_seq, tail.deletions, tail.rolled_end)
    };
    for (rig, series) in rigs.iter().filter(|_| rigs.len() > 1) {
        loop {
            rig.engine.catch_up().await.expect("followed");
            let mut read = rig.engine.databases.main.read(&Scope::system()).await.expect("read");
            let there = crate::db::series::list(&mut read, 0).await.expect("list").remove(0).tail;
            if known(series) == (there.sealed_seq, there.deletions, there.rolled_end) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Has one of the replicas that look after the log delete what is past its time.
async fn expire(rigs: &[(Rig, Arc<Series>)]) {
    settle(rigs).await;
    loop {
        if let Some((rig, _)) = rigs.iter().find(|(rig, _)| rig.engine.ownership.is_held()) {
            rig.expire().await;
            return settle(rigs).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Takes the steps, each at another replica.
async fn check(rigs: Vec<Rig>, steps: Vec<Step>) {
    let mut replicas = Vec::new();
    for rig in rigs {
        let series = rig.series("lab.a", 0).await;
        replicas.push((rig, series));
    }
    let mut taken: BTreeMap<i64, (f64, bool)> = BTreeMap::new();
    let mut count = 0;
    for (place, step) in steps.into_iter().enumerate() {
        settle(&replicas).await;
        let (rig, series) = &replicas[place % replicas.len()];
        match step {
            Step::Append(n, apart) => {
                let from = taken.keys().next_back().copied().unwrap_or(NOW - 20 * DAY);
                let readings: Vec<_> = (1..=i64::from(n))
                    .map(|i| {
                        count += 1;
                        (from + i * i64::from(apart) * SECOND, f64::from(count % 101) / 8.0)
                    })
                    .collect();
                rig.send(series, &readings).await;
                taken.extend(readings.iter().map(|(time, value)| (*time, (*value, false))));
            }
            Step::Late(ago, value, bad) => {
                let time = rig.clock.now_nanos() - i64::from(ago) * 60 * SECOND;
                // a reading that is gone is not known again: see the service's README
                if taken.contains_key(&time) && rig.readings(series).await.iter().all(|r| r.0 != time) {
                    continue;
                }
                let quality = if bad { Quality::FAIL } else { Quality::USUAL };
                rig.send_flagged(series, &[(time, f64::from(value), quality)]).await;
                taken.insert(time, (f64::from(value), bad));
            }
            Step::Again(pick, same) => {
                let raw = rig.readings(series).await;
                if raw.is_empty() {
                    continue;
                }
                let (time, value) = raw[pick.index(raw.len())];
                let value = if same { value } else { value + 1000.0 };
                let bad = taken[&time].1;
                let quality = if bad { Quality::FAIL } else { Quality::USUAL };
                rig.send_flagged(series, &[(time, value, quality)]).await;
                taken.insert(time, (value, bad));
            }
            Step::Delete(n, ago) => {
                let start = bucket_start(rig.clock.now_nanos(), QUARTER) - i64::from(ago) * QUARTER;
                let range = start..start + i64::from(n) * QUARTER;
                let before = taken.len();
                taken.retain(|time, _| !range.contains(time));
                let latest = series.tail.lock().latest;
                let deleted = rig.delete(series, range.clone()).await.expect("deleted");
                // what failed is in no rollup, and so cannot be counted once it is one
                assert!(deleted <= (before - taken.len()) as u64);
                let last = rig.readings(series).await.last().map(|reading| reading.0);
                if latest.is_some_and(|latest| range.contains(&latest.time)) {
                    assert_eq!(series.tail.lock().newest(), last);
                }
            }
            Step::Seal => rig.seal(series).await,
            Step::Expire => expire(&replicas).await,
            Step::Wait(days) => rig.advance_days(u64::from(days)),
        }
    }
    settle(&replicas).await;
    for (rig, series) in &replicas {
        compare(rig, series, &taken).await;
    }
    for days in [2, 2000, 2000] {
        replicas[0].0.advance_days(days);
        expire(&replicas).await;
    }
    for (rig, series) in &replicas {
        assert_eq!(rig.readings(series).await.len(), 0, "everything is rolled up");
        compare(rig, series, &taken).await;
    }
}

fn config() -> Config {
    Config { retention_days: 3, ..Config::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn rollups_and_raw_readings_equal_a_recount(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        runtime.block_on(async { check(vec![Rig::sqlite(config()).await], steps).await });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rollups_equal_a_recount_on_postgresql() {
    let mut runner = TestRunner::deterministic();
    for _ in 0..6 {
        let steps = steps().new_tree(&mut runner).expect("steps").current();
        let Some(rig) = Rig::postgres(config()).await else { return };
        check(vec![rig], steps).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rollups_equal_a_recount_whichever_replica_does_what() {
    let mut runner = TestRunner::deterministic();
    for _ in 0..12 {
        let steps = steps().new_tree(&mut runner).expect("steps").current();
        let Some(rigs) = Rig::replicas(config(), 3).await else { return };
        check(rigs, steps).await;
    }
}

/// Ten days of a reading a minute, of which the first seven are rolled up.
async fn rolled(rig: &Rig) -> Arc<Series> {
    let series = rig.series("lab.a", 0).await;
    let readings: Vec<_> = (0..10 * 1440).map(|i| (NOW - 6 * DAY + i * 60 * SECOND, (i % 97) as f64)).collect();
    for some in readings.chunks(1440) {
        rig.send(&series, some).await;
        rig.seal(&series).await;
    }
    rig.expire().await;
    rig.advance_days(4);
    rig.expire().await;
    series
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rollups_cannot_tell_is_refused_and_not_guessed() {
    for rig in Rig::on_both(config()).await {
        let series = rolled(&rig).await;
        let first = rig.readings(&series).await[0].0;
        assert_eq!(first, NOW + DAY);
        let told = |grid: Grid, wanted: Wanted, range: (i64, i64)| {
            let (rig, series) = (&rig, &series);
            async move { summary(rig, series, grid, wanted, range).await }
        };
        let (all, new) = ((NOW - 6 * DAY, NOW + 4 * DAY), (first, NOW + 4 * DAY));
        let hourly = Grid::Fixed(4 * QUARTER);
        assert_eq!(told(hourly.clone(), deviation(), all).await.expect("told").len(), 240);
        let ranked = Wanted { percentiles: vec![50.0], ..Wanted::default() };
        let counter = Wanted { increase: true, ..Wanted::default() };
        for (grid, wanted, range) in [
            (Grid::Fixed(60 * SECOND), Wanted::default(), all),
            (hourly.clone(), ranked.clone(), all),
            (hourly.clone(), counter, all),
            (hourly.clone(), Wanted::default(), (all.0 + 120 * SECOND, all.1)),
            (Grid::Whole, Wanted::default(), (all.0, NOW - 7 * 60 * SECOND)),
        ] {
            let error = told(grid, wanted, range).await.expect_err("refused");
            assert_eq!((error.code(), error.reason()), (Code::Precondition, "ROLLED_UP"));
            assert!(error.metadata("rolled_up_until").is_some_and(|until| until.starts_with("2026-01-01T23:59:00")));
        }
        assert_eq!(told(hourly, ranked, new).await.expect("told").len(), 72);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_gone_from_blocks_and_rollups_and_its_space_is_free() {
    for rig in Rig::on_both(config()).await {
        let series = rolled(&rig).await;
        let raw = rig.readings(&series).await;
        let days =
            async |range| summary(&rig, &series, Grid::Fixed(DAY), deviation(), range).await.expect("told").len();
        // a range that divides a rollup deletes nothing
        let error = rig.delete(&series, NOW - 60 * SECOND..NOW + 5 * DAY).await.expect_err("refused");
        assert_eq!((error.code(), error.reason()), (Code::Precondition, "ROLLED_UP"));
        assert_eq!((days((i64::MIN, i64::MAX)).await, rig.readings(&series).await.len()), (10, raw.len()));
        // a part of the rollups, a hole within the raw readings
        assert_eq!(rig.delete(&series, NOW - 3 * DAY..NOW - DAY - QUARTER).await.expect("deleted"), 2 * 1440 - 15);
        assert_eq!(days((i64::MIN, i64::MAX)).await, 9);
        let hole = raw[100].0..raw[1500].0;
        assert_eq!(rig.delete(&series, hole.clone()).await.expect("deleted"), 1400);
        let left: Vec<_> = raw.iter().filter(|reading| !hole.contains(&reading.0)).copied().collect();
        assert_eq!(rig.readings(&series).await, left);
        // what is not sealed, and the latest of all
        rig.send(&series, &[(NOW + 4 * DAY, 1.0), (NOW + 4 * DAY + 1, 2.0)]).await;
        assert_eq!(rig.delete(&series, NOW + 4 * DAY + 1..i64::MAX).await.expect("deleted"), 1);
        assert_eq!(series.tail.lock().newest(), Some(NOW + 4 * DAY));
        // deleted, it is new again
        assert_eq!(rig.send(&series, &[(NOW + 4 * DAY + 1, 2.0)]).await.duplicates(), 0);
        assert_eq!(
            rig.delete(&series, i64::MIN..i64::MAX).await.expect("deleted"),
            5 * 1440 + 15 + left.len() as u64 + 2
        );
        assert_eq!((days((i64::MIN, i64::MAX)).await, rig.readings(&series).await.len()), (0, 0));
        assert_eq!(crate::db::damage::count_blocks(&rig.engine.databases).await, 0);
        let mut read = rig.engine.databases.main.read(&sensormesh_types::Scope::system()).await.expect("read");
        let stored = crate::db::series::list(&mut read, 0).await.expect("list").remove(0);
        assert_eq!((stored.tail.latest, stored.tail.sealed_span), (None, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rollups_are_calibrated_where_a_line_is() {
    for rig in Rig::on_both(config()).await {
        let series = rolled(&rig).await;
        let range = (NOW - 6 * DAY, NOW - 4 * DAY);
        let raw = summary(&rig, &series, Grid::Fixed(DAY), deviation(), range).await.expect("told");
        let version = |from, function| Version { number: 1, from, to: None, function, unit: String::new() };
        let line = Function::Linear { gain: -2.0, offset: 1.0 };
        for (calibration, fits) in [
            (version(i64::MIN, line.clone()), true),
            (version(NOW - 5 * DAY, line.clone()), true),
            (version(NOW - 5 * DAY + 60 * SECOND, line), false),
            (version(i64::MIN, Function::Polynomial(vec![0.0, 0.0, 1.0])), false),
        ] {
            let from = calibration.from;
            rig.engine.catalog.put_calibration("default", "lab.a", Calibration::of(vec![calibration]));
            let told = summary(&rig, &series, Grid::Fixed(DAY), deviation(), range).await;
            if !fits {
                assert_eq!(told.expect_err("refused").reason(), "ROLLED_UP");
                continue;
            }
            let told = told.expect("told");
            let (told, raw) = (told.get(1).expect("a day").rollup, raw.get(1).expect("a day").rollup);
            let (a, b) = (told.aggregate, raw.aggregate);
            assert_eq!((a.min, a.max), (1.0 - 2.0 * b.max, 1.0 - 2.0 * b.min));
            let deviations = told.deviation().zip(raw.deviation()).expect("finite");
            assert!((deviations.0 - 2.0 * deviations.1).abs() < 1e-9, "{from}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rollups_have_a_retention_of_their_own() {
    for rig in Rig::on_both(Config { rollup_15min_days: 30, rollup_daily_days: 200, ..config() }).await {
        let series = rolled(&rig).await;
        let days = async || {
            let range = (NOW - 6 * DAY, NOW - 4 * DAY);
            summary(&rig, &series, Grid::Fixed(DAY), Wanted::default(), range).await.expect("told").len()
        };
        let quarters = async || {
            let range = (NOW - 6 * DAY, NOW - 4 * DAY);
            summary(&rig, &series, Grid::Fixed(QUARTER), Wanted::default(), range).await.map(|found| found.len())
        };
        assert_eq!((days().await, quarters().await.expect("told")), (2, 192));
        rig.advance_days(32);
        rig.expire().await;
        assert_eq!((days().await, quarters().await.expect_err("gone").reason()), (2, "ROLLED_UP"));
        rig.advance_days(300);
        rig.expire().await;
        assert_eq!((days().await, quarters().await.expect("nothing is left")), (0, 0));
    }
}
