//! Verifies the checksums of everything that is stored, slowly and for ever, and names what is damaged.
//!
//! Reads verify what they read, so nothing damaged is ever served; this finds it while there still is a backup. Where a pass
//! is follows from the time of day: so much of the period has gone by, so many of the series are done. A restart begins
//! nothing anew, and each replica verifies what it owns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sensormesh_mesh::{Condition, Shutdown};
use sensormesh_observability::metrics;
use sensormesh_store::Read;
use sensormesh_types::{Code, Result, Scope, time};

use crate::catalog::{Catalog, Series};
use crate::db::rollup::Level;
use crate::db::{self, Databases};
use crate::engine::State;

/// Blocks or batches that are read in one transaction, and the pause after them: at most 6,400 blocks a second.
const AT_ONCE: u32 = 64;
const PAUSE: Duration = Duration::from_millis(10);
/// How often it is looked what is due.
const LOOK: Duration = Duration::from_secs(10);
/// The log is cut after a day; it is verified as often.
const LOG_EVERY: i64 = 86_400;
/// How many damaged places health names; the log names all.
const NAMED: usize = 3;

/// Where something is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A block: its series, the level (0 = readings, 1 and 2 = rollups), the time it starts and the place in the log it goes up to.
    Block(u32, i32, i64, i64),
    /// A batch in the log.
    Batch(u64),
}

/// What is known to be damaged, by place, in words. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Damaged(Arc<Mutex<BTreeMap<Place, String>>>);

impl Damaged {
    /// How readings on disk do, for health.
    pub fn condition(&self) -> Condition {
        let places = self.0.lock();
        if places.is_empty() {
            return Condition::Well;
        }
        let named: Vec<_> = places.values().take(NAMED).map(String::as_str).collect();
        let more = if places.len() > NAMED { ", …" } else { "" };
        Condition::Degraded(format!("{} damaged, not served, to be restored: {}{more}", places.len(), named.join(", ")))
    }

    /// Takes over what was found of what was just verified; what was known of it before and was not found again is whole or gone.
    fn found(&self, verified: impl Fn(&Place) -> bool, found: Found) {
        let mut places = self.0.lock();
        places.retain(|place, _| !verified(place));
        for (place, what) in found {
            tracing::error!(%what, "readings on disk are damaged; they are not served: restore them from a backup");
            places.insert(place, what);
        }
        metrics::scrub().damaged(places.len() as u64);
    }
}

/// What is damaged, in words.
type Found = Vec<(Place, String)>;

/// Verifies every rollup at once, without an engine; what is damaged, in words.
pub async fn rollups(databases: &Databases) -> Result<Vec<String>> {
    let (catalog, mut found) = (Catalog::default(), Found::new());
    let mut read = databases.main.read(&Scope::system()).await?;
    for stored in db::series::list(&mut read, 0).await? {
        let series = catalog.put_series(&stored.tenant, &stored.sensor_id, stored.number, stored.tail);
        let mut after = Some(db::scrub::Key::LAST_RAW);
        while after.is_some() {
            after = verify_blocks(&mut read, &series, after, &mut found).await?;
        }
    }
    Ok(found.into_iter().map(|(_, what)| what).collect())
}

/// Verifies what is due, until stopping is asked for. A pass takes `scrub_days`; 0 = none is made.
pub async fn run(state: Arc<State>, shutdown: Shutdown) -> Result<()> {
    let period = i64::from(state.config.scrub_days) * 86_400;
    if period == 0 {
        shutdown.cut(std::future::pending::<()>()).await;
        return Ok(());
    }
    let mut done = state.clock.now_seconds();
    let mut logged = None;
    while shutdown.cut(tokio::time::sleep(LOOK)).await.is_some() {
        let now = state.clock.now_seconds();
        // what was missed for longer than a pass is not caught up
        done = done.clamp(now - period, now);
        for series in due(state.catalog.all_series(), (done, now), period) {
            if shutdown.cut(verify_series(&state, &series)).await.transpose()?.is_none() {
                return Ok(());
            }
        }
        done = now;
        if logged.is_none_or(|at| now - at >= LOG_EVERY) {
            if shutdown.cut(verify_log(&state)).await.transpose()?.is_none() {
                return Ok(());
            }
            logged = Some(now);
        }
    }
    Ok(())
}

/// The series whose turn comes after `done` and not after `now`, in seconds: the n-th of all when n of them have had their part
/// of the period.
fn due(mut all: Vec<Arc<Series>>, (done, now): (i64, i64), period: i64) -> Vec<Arc<Series>> {
    all.sort_by_key(|series| series.number);
    let count = all.len() as i64;
    let turn = |time: i64| i64::try_from(i128::from(time) * i128::from(count) / i128::from(period)).unwrap_or(i64::MAX);
    let (from, to) = (turn(done), turn(now).min(turn(done) + count));
    (from..to).filter_map(|turn| all.get(usize::try_from(turn.rem_euclid(count)).ok()?).cloned()).collect()
}

/// Verifies every block of a series, a few at a time.
pub async fn verify_series(state: &State, series: &Arc<Series>) -> Result<()> {
    let (mut found, mut after) = (Found::new(), None);
    loop {
        let mut read = state.databases.main.read(&Scope::system()).await?;
        let Some(last) = verify_blocks(&mut read, series, after, &mut found).await? else { break };
        after = Some(last);
        drop(read);
        tokio::time::sleep(PAUSE).await;
    }
    state.damaged.found(|place| matches!(place, Place::Block(number, ..) if *number == series.number), found);
    Ok(())
}

/// Verifies the log as far as it is not cut.
async fn verify_log(state: &State) -> Result<()> {
    let (mut found, mut after) = (Found::new(), state.trimmed());
    loop {
        let mut read = state.databases.log.read(&Scope::system()).await?;
        let Some(last) = verify_batches(&mut read, after, &mut found).await? else { break };
        after = last;
        drop(read);
        tokio::time::sleep(PAUSE).await;
    }
    state.damaged.found(|place| matches!(place, Place::Batch(_)), found);
    Ok(())
}

/// Verifies the next blocks of a series behind one; answers the last of them, `None` where there are no more.
async fn verify_blocks(
    read: &mut Read,
    series: &Series,
    after: Option<db::scrub::Key>,
    found: &mut Found,
) -> Result<Option<db::scrub::Key>> {
    let keys = db::scrub::blocks(read, series, after, AT_ONCE).await?;
    for key in &keys {
        let verified = match key.level {
            1 => db::rollup::load(read, series, Level::Quarters, (key.span.start, key.span.start)).await.map(|_| ()),
            2 => db::rollup::load(read, series, Level::Days, (key.span.start, key.span.start)).await.map(|_| ()),
            _ => db::block::load(read, series, key.span).await.map(|_| ()),
        };
        match verified {
            Err(error) if error.code() == Code::Corrupt => {
                let (tenant, sensor, from) = (&series.tenant, &series.sensor_id, time::rfc3339(key.span.start));
                let (level, part) = (key.level, key.span.part);
                let what = format!("{sensor} of {tenant} from {from} (level {level}, part {part}): {error}");
                found.push((Place::Block(series.number, level, key.span.start, part), what));
            }
            verified => verified?,
        }
    }
    metrics::scrub().verified.add(keys.len() as u64);
    Ok(keys.last().copied())
}

/// Verifies the next batches of the log behind a place; answers the last place, `None` where there are no more.
async fn verify_batches(read: &mut Read, after: u64, found: &mut Found) -> Result<Option<u64>> {
    let batches = db::log::page(read, after, AT_ONCE).await?;
    for batch in &batches {
        let seq = batch.mark.seq;
        if !batch.is_intact() {
            found.push((Place::Batch(seq), format!("batch {seq} of the log, of {}", batch.tenant)));
        }
    }
    metrics::scrub().verified.add(batches.len() as u64);
    Ok(batches.last().map(|last| last.mark.seq))
}

#[cfg(test)]
mod tests;
