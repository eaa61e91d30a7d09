//! Readings that are deleted because somebody asks for it: out of blocks, which are written anew without them, and out of
//! rollups.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use sensormesh_series::{Reading, merge};
use sensormesh_store::{Entry, Tx};
use sensormesh_types::{Code, Error, Result, Scope};

use crate::catalog::Series;
use crate::db;
use crate::db::block::Span;
use crate::engine::State;
use crate::{compact, replicas, rollup, seal};

/// Blocks that are read and written in one transaction, unless more of them overlap.
const BLOCKS_AT_ONCE: usize = 64;
/// How often it is tried to have what is there sealed, and the pause between: another sealing may be on its way.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// Deletes a series' readings of a range that this replica knows of; answers how many. Fails with
/// ROLLED_UP, and deletes nothing, where the range divides a rollup. Every replica may: whoever changes a series' blocks locks
/// the series, and the others are told. Each transaction tells the audit how many readings it deletes, with what `entry` makes of
/// that.
pub async fn delete(
    state: &Arc<State>,
    series: &Arc<Series>,
    range: Range<i64>,
    entry: impl Fn(u64) -> Entry,
) -> Result<u64> {
    if range.is_empty() {
        return Ok(0);
    }
    seal_present(state, series).await?;
    let mut deleted = delete_rollups(state, series, &range, &entry).await?;
    let mut from = range.start;
    loop {
        let rewriting = Arc::clone(&state.rewriting).lock_owned().await;
        let mut tx = state.databases.main.tx(&Scope::system()).await?;
        let stored = db::series::lock(&mut tx, series).await?;
        let spans = db::block::spans(&mut tx, series, from, range.end.saturating_sub(1)).await?;
        let runs = merge::runs(&spans.iter().map(|span| (span.start, span.end)).collect::<Vec<_>>());
        let (mut blocks, mut gone, mut done) = (0, 0, true);
        for run in &runs {
            if blocks >= BLOCKS_AT_ONCE {
                done = false;
                break;
            }
            let run: Vec<Span> = run.iter().map(|place| spans[*place]).collect();
            gone += cut_out(&mut tx, series, &run, &range).await?;
            blocks += run.len();
            from = run.iter().map(|span| span.end.saturating_add(1)).fold(from, i64::max);
        }
        let start = db::retention::note_left(&mut tx, series, stored.rolled_end).await?;
        let latest = latest_left(&mut tx, series, stored.latest, &range).await?;
        let deletions = stored.deletions + 1;
        db::series::note_deleted(&mut tx, series, deletions, latest).await?;
        if state.is_shared() {
            replicas::tell_deleted(&mut tx, series.number, deletions, latest);
        }
        tell_audit(&mut tx, series, gone, &entry);
        let in_memory = Arc::clone(series);
        tx.commit_and(move || {
            let mut tail = in_memory.tail.lock();
            tail.starts_at(start, stored.rolled_end);
            tail.note_deleted(deletions, latest);
            drop(rewriting);
        })
        .await?;
        deleted += gone;
        if done {
            return Ok(deleted);
        }
    }
}

/// Seals until everything that is there now is in blocks.
async fn seal_present(state: &Arc<State>, series: &Arc<Series>) -> Result<()> {
    let upto = series.tail.lock().upto();
    for _ in 0..TRIES {
        if series.tail.lock().sealed_seq >= upto {
            return Ok(());
        }
        if seal::seal(state, vec![Arc::clone(series)]).await? == 0 {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Err(Error::unavailable("SEALING", "the readings are being sealed; try again in a moment", Duration::from_secs(1)))
}

/// Writes blocks that overlap anew without their readings of a range; answers how many readings those were. A damaged block
/// within the range is deleted; one that reaches beyond it stays, and is the error.
async fn cut_out(tx: &mut Tx, series: &Series, run: &[Span], range: &Range<i64>) -> Result<u64> {
    let mut sources = Vec::with_capacity(run.len());
    for span in run {
        let whole = range.contains(&span.start) && range.contains(&span.end);
        let source = match db::block::load(tx, series, *span).await {
            Err(error) if error.code() == Code::Corrupt && whole => {
                tracing::error!(?error, "a damaged block is deleted as it was asked for");
                None
            }
            source => source?,
        };
        db::block::delete(tx, series, *span).await?;
        let Some(source) = source else { continue };
        let column = &source.column;
        let gone = column.range(range.start, range.end);
        for kept in [column.slice(0..gone.start), column.slice(gone.end..column.len())] {
            if !kept.is_empty() {
                for block in seal::cut(&kept, compact::WHOLE)? {
                    db::block::insert(tx, series, span.part.unsigned_abs(), &block).await?;
                }
            }
        }
        sources.push(source);
    }
    let joined = merge::join(sources);
    Ok(joined.range(range.start, range.end).len() as u64)
}

async fn delete_rollups(
    state: &State,
    series: &Series,
    range: &Range<i64>,
    entry: &impl Fn(u64) -> Entry,
) -> Result<u64> {
    let rewriting = Arc::clone(&state.rewriting).lock_owned().await;
    let mut tx = state.databases.main.tx(&Scope::system()).await?;
    let rolled_end = db::series::lock(&mut tx, series).await?.rolled_end;
    let Some(end) = rolled_end.filter(|end| *end >= range.start) else { return Ok(0) };
    let deleted = rollup::cut_out(&mut tx, series, range, end).await?;
    tell_audit(&mut tx, series, deleted, entry);
    tx.commit_and(move || drop(rewriting)).await?;
    Ok(deleted)
}

fn tell_audit(tx: &mut Tx, series: &Series, deleted: u64, entry: impl Fn(u64) -> Entry) {
    if deleted > 0 {
        tx.append_for(&*series.tenant, entry(deleted));
    }
}

/// The latest reading once those of a range are gone from blocks: where it was one of them, the last one that is left there.
async fn latest_left(
    tx: &mut Tx,
    series: &Series,
    latest: Option<Reading>,
    range: &Range<i64>,
) -> Result<Option<Reading>> {
    if latest.is_none_or(|latest| !range.contains(&latest.time)) {
        return Ok(latest);
    }
    let Some(end) = db::block::end(tx, series).await? else { return Ok(None) };
    let mut sources = Vec::new();
    for span in db::block::spans(tx, series, end, end).await? {
        sources.extend(db::block::load(tx, series, span).await?);
    }
    Ok(merge::join(sources).last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::rig::{NOW, Rig};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_replica_that_has_not_heard_of_a_deletion_seals_nothing() {
        for rig in Rig::on_both(Config::default()).await {
            let series = rig.series("lab.a", 0).await;
            rig.send(&series, &[(NOW, 1.0), (NOW + 1, 2.0)]).await;
            rig.seal(&series).await;
            rig.send(&series, &[(NOW + 2, 3.0)]).await;
            let sealing = series.tail.lock().clone().begin_sealing().expect("something to seal");
            let stale = series.tail.lock().once_sealed(&sealing);
            let note = async |note| {
                let mut tx = rig.engine.databases.main.tx(&Scope::system()).await.expect("tx");
                db::series::note_sealed(&mut tx, &series, &note).await.expect("asked") // and taken back
            };
            assert!(note(stale).await, "nobody did anything");
            assert_eq!(rig.delete(&series, NOW + 1..NOW + 2).await.expect("deleted"), 1);
            let before = series.tail.lock().sealed_seq;
            assert!(!note(crate::tail::Note { before, ..stale }).await, "some were deleted");
            assert!(!note(crate::tail::Note { deletions: 1, ..stale }).await, "some were sealed");
            assert!(note(crate::tail::Note { before, deletions: 1, ..stale }).await, "it has heard of both");
        }
    }
}
