//! How long readings are kept: so many days from their time or their arrival, whichever is later.
//!
//! When a reading arrived is not kept with it. A block says up to which place in the log its readings go, and once a day it
//! is noted which place the log has reached; so what is backfilled today stays as long as what is measured today.
//! Blocks that overlap go together, and only when nothing of them is too young and no unsealed reading could revise them.

use std::sync::Arc;

use sensormesh_series::{Column, merge};
use sensormesh_store::Tx;
use sensormesh_types::{Code, Result, Scope};

use crate::catalog::Series;
use crate::db;
use crate::db::block::Span;
use crate::db::rollup::Level;
use crate::engine::State;
use crate::{ownership, replicas, rollup, seal};

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// Answers to batches are kept this long, in seconds: a day longer than a batch may be repeated.
const ANSWERS: i64 = 8 * DAY;
/// Answers that one transaction removes.
const ANSWERS_AT_ONCE: u32 = 1_000;
/// Blocks that one transaction removes, unless more of them overlap each other.
const BLOCKS_AT_ONCE: u32 = 256;
/// Series whose unsealed readings are sealed at once because they are getting old.
const SEALED_AT_ONCE: usize = 256;

/// For how many days a series' raw readings are kept; `None` = for ever.
pub fn days(state: &State, series: &Series) -> Option<i64> {
    let days = match series.retention_days() {
        0 => state.config.retention_days,
        days => days,
    };
    (days > 0).then_some(i64::from(days))
}

/// The longest time that a block of a series should span, nanoseconds: its last reading holds the first one back.
pub fn longest_block(state: &State, series: &Series) -> Option<i64> {
    days(state, series).map(|days| (days * DAY / 8).max(DAY).saturating_mul(SECOND))
}

/// Deletes what is past its time, a little at a time, and gives its space back to the disk.
pub async fn expire(state: &Arc<State>) -> Result<()> {
    state.ownership.check()?;
    let now = state.clock.now_seconds();
    expire_answers(state, (now - ANSWERS).saturating_mul(1_000_000)).await?;
    seal_old(state, now).await?;
    let mut tx = state.databases.main.tx(&Scope::system()).await?;
    db::retention::note_arrival(&mut tx, now.saturating_mul(1_000_000)).await?;
    tx.commit().await?;
    let mut deleted = 0;
    for series in state.catalog.all_series() {
        if let Some(days) = days(state, &series) {
            deleted += match expire_series(state, &series, now - days * DAY).await {
                Err(error) if error.code() == Code::Corrupt => {
                    tracing::error!(
                        ?error,
                        "readings past their retention stay: the rollups they belong to are damaged"
                    );
                    0
                }
                // this replica has yet to hear what another one did to the series
                Err(error) if error.reason() == "NOT_OWNER" && state.ownership.is_held() => 0,
                done => done?,
            };
        }
    }
    deleted += expire_rollups(state, now).await?;
    if deleted > 0 {
        tracing::info!(blocks = deleted, "readings beyond their retention were deleted");
        state.databases.main.give_back().await?;
    }
    Ok(())
}

async fn expire_answers(state: &State, before: i64) -> Result<()> {
    loop {
        let mut tx = state.databases.log.tx(&Scope::system()).await?;
        let more = db::answer::expire(&mut tx, before, ANSWERS_AT_ONCE).await?;
        tx.commit().await?;
        if !more {
            return Ok(());
        }
    }
}

/// Seals what has waited so long that its block would be kept much longer than its first reading has to be.
async fn seal_old(state: &Arc<State>, now: i64) -> Result<()> {
    let old = |series: &Arc<Series>| {
        let longest = longest_block(state, series)?;
        let first = series.tail.lock().open_start()?;
        (first < now.saturating_mul(SECOND).saturating_sub(longest)).then(|| Arc::clone(series))
    };
    let old: Vec<_> = state.catalog.all_series().iter().filter_map(old).collect();
    for some in old.chunks(SEALED_AT_ONCE) {
        seal::seal(state, some.to_vec()).await?;
    }
    Ok(())
}

/// Deletes the blocks of a series that are older than `before`, in seconds. Answers how many.
async fn expire_series(state: &State, series: &Arc<Series>, before: i64) -> Result<u64> {
    let time = before.saturating_mul(SECOND);
    if series.tail.lock().sealed_span.is_none_or(|(start, _)| start >= time) {
        return Ok(0);
    }
    let mut read = state.databases.main.read(&Scope::system()).await?;
    let arrived = db::retention::arrived(&mut read, series, before.saturating_mul(1_000_000)).await?;
    drop(read);
    let Some(arrived) = arrived else { return Ok(0) };
    let (mut deleted, mut after, mut blocks) = (0, i64::MIN, BLOCKS_AT_ONCE);
    loop {
        // nothing seals until this is done, so what was found stays all there is
        let _rewriting = state.rewriting.lock().await;
        let mut tx = state.databases.main.tx(&Scope::system()).await?;
        let stored = db::series::lock(&mut tx, series).await?;
        {
            let tail = series.tail.lock();
            if (stored.sealed_seq, stored.deletions) != (tail.sealed_seq, tail.deletions) {
                return Err(ownership::elsewhere());
            }
        }
        let found = db::retention::oldest(&mut tx, series, after, time, blocks).await?;
        let more = found.len() == blocks as usize;
        let mut runs = merge::runs(&found.iter().map(|span| (span.start, span.end)).collect::<Vec<_>>());
        if more {
            runs.pop(); // there may be more of it
        }
        let mut due = Vec::new();
        for run in &runs {
            let run: Vec<Span> = run.iter().map(|place| found[*place]).collect();
            let (start, end) = bounds(&run);
            after = after.max(end);
            let young = run.iter().any(|span| span.end >= time || span.part > arrived);
            if !young && series.tail.lock().sources(start, end.saturating_add(1)).is_empty() {
                due.push(run);
            }
        }
        let mut gone = Column::default();
        for run in &due {
            gone.overlay(&take(&mut tx, series, run).await?);
            deleted += run.len() as u64;
        }
        rollup::absorb(&mut tx, series, &gone).await?;
        if due.is_empty() {
            tx.rollback().await?;
        } else {
            let rolled_end = stored.rolled_end.max(gone.end());
            let start = db::retention::note_left(&mut tx, series, rolled_end).await?;
            if let Some(end) = rolled_end.filter(|_| state.is_shared()) {
                replicas::tell_rolled(&mut tx, series.number, end);
            }
            tx.commit().await?;
            series.tail.lock().starts_at(start, rolled_end);
        }
        if !more {
            return Ok(deleted);
        }
        blocks = if runs.is_empty() { blocks.saturating_mul(2) } else { BLOCKS_AT_ONCE };
    }
}

/// Deletes the rollups that are past their own time. Answers how many blocks.
async fn expire_rollups(state: &State, now: i64) -> Result<u64> {
    let (quarters, days) = (state.config.rollup_15min_days, state.config.rollup_daily_days);
    let mut deleted = 0;
    // without its day nothing is found of a quarter
    for (level, kept) in [(Level::Quarters, quarters), (Level::Quarters, days), (Level::Days, days)] {
        let before = (now - i64::from(kept) * DAY).saturating_mul(SECOND);
        let rolled = |series: &Arc<Series>| kept > 0 && series.tail.lock().rolled_end.is_some();
        for series in state.catalog.all_series().iter().filter(|series| rolled(series)) {
            loop {
                let mut tx = state.databases.main.tx(&Scope::system()).await?;
                let blocks = db::rollup::delete_before(&mut tx, series, level, before, BLOCKS_AT_ONCE).await?;
                if blocks == 0 {
                    break;
                }
                tx.commit().await?;
                deleted += blocks;
            }
        }
    }
    Ok(deleted)
}

/// Reads the blocks of a run and deletes them. One that is damaged is named; nothing can be kept of it.
async fn take(tx: &mut Tx, series: &Series, run: &[Span]) -> Result<Column> {
    let mut sources = Vec::with_capacity(run.len());
    for span in run {
        match db::block::load(tx, series, *span).await {
            Ok(source) => sources.extend(source),
            Err(error) if error.code() == Code::Corrupt => {
                tracing::error!(?error, "a damaged block is past its retention: it is deleted and left out of rollups");
            }
            Err(error) => return Err(error),
        }
        db::block::delete(tx, series, *span).await?;
    }
    Ok(merge::join(sources))
}

/// The first and the last time of blocks.
fn bounds(run: &[Span]) -> (i64, i64) {
    let start = run.iter().map(|span| span.start).min().unwrap_or(i64::MAX);
    (start, run.iter().map(|span| span.end).max().unwrap_or(i64::MIN))
}

#[cfg(test)]
mod tests;
