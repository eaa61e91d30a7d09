//! Out of the log and into blocks.

use std::sync::Arc;

use sensormesh_series::block;
use sensormesh_types::{Error, Result, Scope};

use crate::catalog::Series;
use crate::db;
use crate::engine::{BLOCK_READINGS, State};
use crate::replicas::{self, Sealed};
use crate::tail::Sealing;

/// Series sealed in one transaction.
const AT_ONCE: usize = 256;

/// Batches cut from the log in one transaction.
const CUT_AT_ONCE: u64 = 2_000;

/// Seals every series that has a whole block. Answers how many readings were sealed.
pub async fn seal_ripe(state: &Arc<State>) -> Result<usize> {
    let mut sealed = 0;
    loop {
        let ripe = state.take_ripe(AT_ONCE);
        if ripe.is_empty() {
            return Ok(sealed);
        }
        sealed += seal(state, ripe).await?;
    }
}

/// Seals the series that hold the log back, whatever they have. Looks at every tail.
pub async fn seal_overdue(state: &Arc<State>) -> Result<usize> {
    let mut sealed = 0;
    for some in overdue(state).chunks(AT_ONCE) {
        sealed += seal(state, some.to_vec()).await?;
    }
    Ok(sealed)
}

/// The series whose unsealed readings lie too far back in the log.
fn overdue(state: &State) -> Vec<Arc<Series>> {
    let head = state.mark();
    let (bytes, readings) = (state.config.unsealed_bytes, state.config.unsealed_readings);
    let mut holding: Vec<_> = state
        .catalog
        .all_series()
        .into_iter()
        .filter_map(|series| {
            let oldest = series.tail.lock().oldest()?;
            Some((oldest, series))
        })
        .collect();
    holding.sort_by_key(|(oldest, _)| oldest.seq);
    let behind = |oldest: &crate::tail::Mark, part: u64| {
        head.bytes.saturating_sub(oldest.bytes) > bytes / part
            || head.readings.saturating_sub(oldest.readings) > readings / part
    };
    if !holding.first().is_some_and(|(oldest, _)| behind(oldest, 1)) {
        return Vec::new();
    }
    holding.into_iter().take_while(|(oldest, _)| behind(oldest, 2)).map(|(_, series)| series).collect()
}

/// Seals what these series have, whatever its size, but for those that another replica has sealed or deleted some of, which
/// this one has yet to hear of. Any replica may, though one by its lease does it for all.
pub async fn seal(state: &Arc<State>, series: Vec<Arc<Series>>) -> Result<usize> {
    let mut guard = Guard(Vec::with_capacity(series.len()));
    for series in series {
        let sealing = series.tail.lock().begin_sealing();
        if let Some(sealing) = sealing {
            guard.0.push((series, sealing));
        }
    }
    let columns: Vec<_> = guard.0.iter().map(|(_, sealing)| Arc::clone(&sealing.column)).collect();
    let blocks = tokio::task::spawn_blocking(move || {
        columns.iter().map(|column| cut(column, BLOCK_READINGS)).collect::<Result<Vec<_>>>()
    })
    .await
    .map_err(Error::internal)??;
    let rewriting = Arc::clone(&state.rewriting).lock_owned().await;
    let mut tx = state.databases.main.tx(&Scope::system()).await?;
    let mut told = Vec::new();
    let mut noted = Vec::with_capacity(blocks.len());
    for ((series, sealing), blocks) in guard.0.iter().zip(&blocks) {
        let note = series.tail.lock().once_sealed(sealing);
        // first: it keeps other replicas from changing the series until the commit
        noted.push(db::series::note_sealed(&mut tx, series, &note).await?);
        if noted.last() == Some(&false) {
            continue;
        }
        for block in blocks {
            db::block::insert(&mut tx, series, sealing.upto, block).await?;
        }
        if let Some((start, end)) = note.span.filter(|_| state.is_shared()) {
            told.push(Sealed { series: series.number, upto: sealing.upto, start, end });
        }
    }
    if !told.is_empty() {
        replicas::tell_sealed(&mut tx, told);
    }
    let each = guard.0.iter().zip(&noted);
    let sealed = each.filter(|(_, noted)| **noted).map(|((_, sealing), _)| sealing.column.len()).sum();
    // with what was committed memory has to agree, or the series is never sealed again
    let in_memory = Arc::clone(state);
    tx.commit_and(move || {
        for ((series, _), noted) in guard.0.drain(..).zip(noted) {
            let mut tail = series.tail.lock();
            if noted { tail.finish_sealing() } else { tail.undo_sealing() }
        }
        drop(rewriting);
        in_memory.note_sealed(sealed);
    })
    .await?;
    Ok(sealed)
}

/// Series that are being sealed: open again where that fails or is given up.
struct Guard(Vec<(Arc<Series>, Sealing)>);

impl Drop for Guard {
    fn drop(&mut self) {
        for (series, _) in &self.0 {
            series.tail.lock().undo_sealing();
        }
    }
}

/// Cuts a column into blocks of about so many readings, none much smaller than the others.
pub fn cut(column: &sensormesh_series::Column, readings: usize) -> Result<Vec<db::block::Sealed>> {
    let pieces = (column.len() / readings).max(1);
    let mut blocks = Vec::with_capacity(pieces);
    for piece in 0..pieces {
        let part = column.slice(column.len() * piece / pieces..column.len() * (piece + 1) / pieces);
        let (Some(start), Some(end)) = (part.start(), part.end()) else { continue };
        let block::Block { header, data } = block::encode(&part)?;
        blocks.push(db::block::Sealed { start, end, n: part.len(), header, data });
    }
    Ok(blocks)
}

/// Notes up to where the log is sealed, and cuts what is neither needed for a start nor for resuming a stream.
pub async fn cut_log(state: &State) -> Result<()> {
    let head = state.mark();
    let oldest = state.catalog.all_series().into_iter().filter_map(|s| s.tail.lock().oldest()).map(|m| m.seq).min();
    let sealed = oldest.map_or(head.seq, |oldest| oldest.saturating_sub(1).min(head.seq));
    let known = db::log::head(&mut state.databases.log.read(&Scope::system()).await?).await?;
    let since = state.clock.now_micros() - i64::try_from(state.config.log_max_age.as_micros()).unwrap_or(i64::MAX);
    let keep = {
        let mut read = state.databases.log.read(&Scope::system()).await?;
        db::log::first_to_keep(&mut read, since, known.mark.bytes, state.config.log_max_bytes).await?
    };
    let upto = keep.map_or(sealed, |keep| sealed.min(keep.saturating_sub(1)));
    if sealed > known.sealed {
        let mut tx = state.databases.log.tx(&Scope::system()).await?;
        db::log::note_sealed(&mut tx, sealed).await?;
        tx.commit().await?;
    }
    let mut more = upto > known.trimmed;
    // first: a reader that finds a gap asks here whether it is one
    state.note_trimmed(upto);
    while more {
        let mut tx = state.databases.log.tx(&Scope::system()).await?;
        more = db::log::trim(&mut tx, upto, CUT_AT_ONCE).await?;
        tx.commit().await?;
    }
    Ok(())
}
