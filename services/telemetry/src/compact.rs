//! Small blocks, and blocks that lie over each other, made into fewer whole ones.
//!
//! Of two blocks with a reading at the same time the one with the greater `part` holds. So blocks are merged only together
//! with every other one that shares a time with them, and what comes of it takes the greatest `part` among them: readings
//! that are sealed later have a greater one. The blocks are replaced in one transaction; whoever looked them up before finds
//! them gone and looks again ([`crate::history`]).

use std::sync::Arc;

use sensormesh_series::{Column, merge};
use sensormesh_types::{Code, Error, Result, Scope};

use crate::catalog::Series;
use crate::db;
use crate::db::block::Sealed;
use crate::engine::State;
use crate::retention;
use crate::seal;

/// Readings of a whole block: eight times as many as are sealed at once. On the real series of `bench.py --only disk` the file
/// of blocks then has 1.53 bytes a reading, against 1.63 with blocks of 4,096.
pub const WHOLE: usize = 8192;
/// A block with at least so many is left alone.
const ENOUGH: usize = WHOLE * 3 / 4;
/// One with no more has not been merged before.
const FRESH: usize = WHOLE * 3 / 16;
/// So many fresh neighbours are merged, so that few small blocks are left where a series is slow to fill a whole one.
const SOME: usize = 4;
/// Readings that are merged at once; 24 bytes each while it lasts.
const MOST: usize = 1 << 18;

/// What is known of a block without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its first and last time.
    pub span: (i64, i64),
    /// Its readings.
    pub n: usize,
}

/// What to merge: places of blocks among those looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The blocks, together all that share a time with any of them.
    pub places: Vec<usize>,
    /// What lies at this time or later stays by itself: there is too much to be merged at once.
    pub cut: Option<i64>,
}

/// The first blocks of a series that are worth merging: some that lie over each other, neighbours that fill a block, or some
/// fresh ones; neighbours only as far as they together span no more than `longest` nanoseconds.
pub fn plan(blocks: &[Known], longest: Option<i64>) -> Option<Plan> {
    let mut neighbours = Plan::default();
    let mut readings = 0;
    for run in merge::runs(&blocks.iter().map(|block| block.span).collect::<Vec<_>>()) {
        if run.len() > 1 {
            return Some(bounded(blocks, run));
        }
        let n = run.iter().map(|place| blocks[*place].n).sum::<usize>();
        if n >= ENOUGH {
            (neighbours, readings) = (Plan::default(), 0);
            continue;
        }
        let first = neighbours.places.first().unwrap_or(&run[0]);
        let span = blocks[run[0]].span.1.saturating_sub(blocks[*first].span.0);
        if longest.is_some_and(|longest| span > longest) {
            (neighbours, readings) = (Plan::default(), 0);
        }
        neighbours.places.extend(run);
        readings += n;
        if readings >= WHOLE {
            return Some(neighbours);
        }
        let fresh = neighbours.places.iter().rev().take(SOME).filter(|place| blocks[**place].n <= FRESH).count();
        if fresh == SOME {
            let places = neighbours.places.split_off(neighbours.places.len() - SOME);
            return Some(Plan { places, cut: None });
        }
    }
    None
}

/// A run of blocks, cut at the time by which there is enough.
fn bounded(blocks: &[Known], run: Vec<usize>) -> Plan {
    let mut readings = 0;
    for place in &run {
        readings += blocks[*place].n;
        let start = blocks[*place].span.0;
        // behind the first start, so that something lies before the cut
        if readings > MOST && start > blocks[run[0]].span.0 {
            let places = run.iter().copied().filter(|place| blocks[*place].span.0 < start).collect();
            return Plan { places, cut: Some(start) };
        }
    }
    Plan { places: run, cut: None }
}

/// Merges what is worth merging of a series. Answers how many blocks went into others.
pub async fn compact(state: &State, series: &Arc<Series>) -> Result<usize> {
    let mut merged = 0;
    loop {
        state.ownership.check()?;
        // nothing else changes blocks meanwhile
        let _rewriting = state.rewriting.lock().await;
        let mut read = state.databases.main.read(&Scope::system()).await?;
        let blocks = db::block::list(&mut read, series).await?;
        let known: Vec<Known> = blocks.iter().map(|(span, n)| Known { span: (span.start, span.end), n: *n }).collect();
        let longest = retention::longest_block(state, series);
        let Some(Plan { places, cut }) = plan(&known, longest) else { return Ok(merged) };
        let old: Vec<_> = places.iter().map(|place| blocks[*place].0).collect();
        let mut sources = Vec::with_capacity(old.len());
        for span in &old {
            sources.extend(db::block::load(&mut read, series, *span).await?);
        }
        drop(read);
        let made = tokio::task::spawn_blocking(move || make(sources, cut)).await.map_err(Error::internal)??;
        let mut tx = state.databases.main.tx(&Scope::system()).await?;
        db::series::lock(&mut tx, series).await?;
        for span in &old {
            // one that has gone since was merged by another replica, or deleted
            if !db::block::delete(&mut tx, series, *span).await? {
                return Err(Error::new(Code::Conflict, "BLOCK_GONE", "the blocks changed while they were merged"));
            }
        }
        for (part, block) in &made {
            db::block::insert(&mut tx, series, *part, block).await?;
        }
        tx.commit().await?;
        merged += old.len();
    }
}

/// The blocks that take the place of others, each with its `part`.
fn make(sources: Vec<merge::Source>, cut: Option<i64>) -> Result<Vec<(u64, Sealed)>> {
    let mut made = Vec::new();
    let mut whole = Vec::with_capacity(sources.len());
    let part = |rank: i64| u64::try_from(rank).map_err(Error::internal);
    for source in sources {
        match cut {
            Some(cut) if source.column.end() >= Some(cut) => {
                let at = source.column.times().partition_point(|time| *time < cut);
                let rest = source.column.slice(at..source.column.len());
                for block in blocks(&rest)? {
                    made.push((part(source.rank)?, block));
                }
                whole.push(merge::Source { rank: source.rank, column: source.column.slice(0..at) });
            }
            _ => whole.push(source),
        }
    }
    let greatest = part(whole.iter().map(|source| source.rank).max().unwrap_or_default())?;
    for block in blocks(&merge::join(whole))? {
        made.push((greatest, block));
    }
    Ok(made)
}

fn blocks(column: &Column) -> Result<Vec<Sealed>> {
    if column.is_empty() { Ok(Vec::new()) } else { seal::cut(column, WHOLE) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensormesh_series::merge::Source;
    use sensormesh_series::{Quality, block};

    use super::*;

    fn known(blocks: &[(i64, i64, usize)]) -> Vec<Known> {
        blocks.iter().map(|(start, end, n)| Known { span: (*start, *end), n: *n }).collect()
    }

    fn planned(blocks: &[(i64, i64, usize)]) -> Option<Vec<usize>> {
        plan(&known(blocks), None).map(|plan| plan.places)
    }

    const QUARTER: usize = WHOLE / 4;

    #[test]
    fn neighbours_are_merged_once_they_fill_a_block() {
        assert_eq!(planned(&[(0, 9, QUARTER), (10, 19, QUARTER), (20, 29, QUARTER)]), None);
        let many: Vec<_> = (0..5).map(|i| (10 * i, 10 * i + 9, QUARTER)).collect();
        assert_eq!(planned(&many), Some(vec![0, 1, 2, 3]));
        // a whole block between them keeps them apart
        assert_eq!(planned(&[(0, 9, WHOLE / 2), (10, 19, WHOLE), (20, 29, WHOLE / 2)]), None);
        assert_eq!(planned(&[(0, 9, WHOLE), (10, 19, WHOLE + 1000)]), None);
        // fresh ones before that
        let fresh: Vec<_> = (0..6).map(|i| (10 * i, 10 * i + 9, if i == 1 { WHOLE / 4 } else { 1024 })).collect();
        assert_eq!(planned(&fresh), Some(vec![2, 3, 4, 5]));
        // nor are those merged of which the last would keep the first too long
        assert_eq!(plan(&known(&many), Some(39)).map(|plan| plan.places), Some(vec![0, 1, 2, 3]));
        assert_eq!(plan(&known(&many), Some(38)), None);
    }

    #[test]
    fn blocks_that_lie_over_each_other_are_merged_whatever_their_size() {
        assert_eq!(planned(&[(0, 9, WHOLE), (10, 19, WHOLE), (12, 12, 1)]), Some(vec![1, 2]));
    }

    #[test]
    fn a_run_that_is_too_long_is_merged_in_parts() {
        let blocks: Vec<_> = (0..1000).map(|i| (i, i + 100_000, 1024)).collect();
        let plan = plan(&known(&blocks), None).expect("a plan");
        assert_eq!((plan.places.len(), plan.cut), (256, Some(256)));
    }

    /// A block as it lies in the database.
    type Stored = (i64, Column);

    fn dump(blocks: &[Stored]) -> Vec<(i64, u64)> {
        let sources = blocks.iter().map(|(rank, column)| Source { rank: *rank, column: column.clone() }).collect();
        merge::join(sources).iter().map(|r| (r.time, r.value.to_bits())).collect()
    }

    proptest! {
        /// Whatever is merged, and cut wherever: the readings stay, the latest revision of each.
        #[test]
        fn merging_changes_no_reading(
            seals in prop::collection::vec(prop::collection::btree_map(0i64..60, any::<i16>(), 1..12), 1..8),
            cut in prop::option::of(1i64..60),
        ) {
            let mut stored: Vec<Stored> = Vec::new();
            for (part, seal) in seals.iter().enumerate() {
                let mut column = Column::default();
                for (time, value) in seal {
                    column.upsert(*time, f64::from(*value), Quality::USUAL);
                }
                stored.push((part as i64 + 1, column));
                let before = dump(&stored);
                let spans: Vec<_> = stored.iter().map(|(_, c)| (c.start().unwrap(), c.end().unwrap())).collect();
                let runs = merge::runs(&spans);
                let run = &runs[part % runs.len()];
                // with a cut, all that lies before it
                let places: Vec<usize> = run.iter().copied().filter(|p| cut.is_none_or(|cut| spans[*p].0 < cut)).collect();
                if places.is_empty() {
                    continue;
                }
                let sources = places.iter().map(|p| Source { rank: stored[*p].0, column: stored[*p].1.clone() }).collect();
                let made = make(sources, cut).expect("made");
                let mut place = 0;
                stored.retain(|_| { place += 1; !places.contains(&(place - 1)) });
                for (part, sealed) in made {
                    let column = block::decode(&sealed.header, &sealed.data).expect("decoded");
                    prop_assert_eq!((column.start(), column.end(), column.len()), (Some(sealed.start), Some(sealed.end), sealed.n));
                    stored.push((part as i64, column));
                }
                prop_assert_eq!(dump(&stored), before);
            }
        }
    }
}
