//! Readings that are deleted because somebody asks for it: out of blocks, which are written anew without them, and out of
//! rollups.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use sensormesh_series::{Reading, merge};
use sensormesh_store::Tx;
use sensormesh_types::{Code, Error, Result, Scope};

use crate::catalog::Series;
use crate::db;
use crate::db::block::Span;
use crate::db::retention::Left;
use crate::engine::State;
use crate::history::History;
use crate::{compact, ownership, rollup, seal};

/// Blocks that are read and written in one transaction, unless more of them overlap.
const BLOCKS_AT_ONCE: usize = 64;
/// How often it is tried to have what is there sealed, and the pause between: another sealing may be on its way.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// Deletes a series' readings of a range that were acknowledged before; answers how many. Fails with ROLLED_UP, and deletes
/// nothing, where the range divides a rollup.
pub async fn delete(state: &Arc<State>, series: &Arc<Series>, range: Range<i64>) -> Result<u64> {
    state.ownership.check()?;
    if range.is_empty() {
        return Ok(0);
    }
    seal_present(state, series).await?;
    let mut deleted = delete_rollups(state, series, &range).await?;
    let mut from = range.start;
    loop {
        let _rewriting = state.rewriting.lock().await;
        let mut tx = state.databases.main.tx(&Scope::system()).await?;
        let spans = db::block::spans(&mut tx, series, from, range.end.saturating_sub(1)).await?;
        let runs = merge::runs(&spans.iter().map(|span| (span.start, span.end)).collect::<Vec<_>>());
        let (mut blocks, mut done) = (0, true);
        for run in &runs {
            if blocks >= BLOCKS_AT_ONCE {
                done = false;
                break;
            }
            let run: Vec<Span> = run.iter().map(|place| spans[*place]).collect();
            deleted += cut_out(&mut tx, series, &run, &range).await?;
            blocks += run.len();
            from = run.iter().map(|span| span.end.saturating_add(1)).fold(from, i64::max);
        }
        let left = {
            let tail = series.tail.lock();
            Left { sealed: tail.sealed_seq, rolled_end: tail.rolled_end }
        };
        let (start, noted) = db::retention::note_left(&mut tx, series, left).await?;
        if !noted {
            return Err(ownership::elsewhere());
        }
        tx.commit().await?;
        series.tail.lock().starts_at(start, left.rolled_end);
        if done {
            set_latest(state, series, &range).await?;
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

async fn delete_rollups(state: &State, series: &Series, range: &Range<i64>) -> Result<u64> {
    let Some(end) = series.tail.lock().rolled_end.filter(|end| *end >= range.start) else { return Ok(0) };
    let _rewriting = state.rewriting.lock().await;
    let mut tx = state.databases.main.tx(&Scope::system()).await?;
    let deleted = rollup::cut_out(&mut tx, series, range, end).await?;
    tx.commit().await?;
    Ok(deleted)
}

/// Where the latest reading was deleted, the one before is it.
async fn set_latest(state: &State, series: &Arc<Series>, range: &Range<i64>) -> Result<()> {
    let latest = series.tail.lock().latest;
    let Some(gone) = latest.filter(|latest| range.contains(&latest.time)) else { return Ok(()) };
    let mut history = History::open(state, series, (i64::MIN, i64::MAX)).await?.raw(true);
    let mut last: Option<Reading> = None;
    for run in (0..history.runs()).rev() {
        last = history.load(run).await?.last();
        if last.is_some() {
            break;
        }
    }
    drop(history);
    let mut tx = state.databases.main.tx(&Scope::system()).await?;
    db::series::note_latest(&mut tx, series, last).await?;
    tx.commit().await?;
    let mut tail = series.tail.lock();
    if tail.latest == Some(gone) {
        tail.latest = last;
    }
    Ok(())
}
