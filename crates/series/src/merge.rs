//! One column out of many that may overlap: blocks, late blocks, the tail.

use crate::Column;

/// Readings of one series that were stored together.
#[derive(Clone, Debug)]
pub struct Source {
    /// Of two sources with a reading at the same time the one with the greater rank holds.
    pub rank: i64,
    /// The readings.
    pub column: Column,
}

/// Joins sources: each reading once, the latest revision of it.
pub fn join(mut sources: Vec<Source>) -> Column {
    sources.sort_by_key(|source| (source.rank, source.column.start()));
    let mut sources = sources.into_iter();
    let mut joined = sources.next().map(|source| source.column).unwrap_or_default();
    for source in sources {
        joined.overlay(&source.column);
    }
    joined
}

/// Splits spans `(start, end)`, ends included, into runs that do not touch each other: of each run the places of its spans.
///
/// A run of one span is alone: nothing else can revise its readings.
pub fn runs(spans: &[(i64, i64)]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|i| spans[*i]);
    let mut runs: Vec<Vec<usize>> = Vec::new();
    let mut reach = i64::MIN;
    for place in order {
        let (start, end) = spans[place];
        match runs.last_mut() {
            Some(run) if start <= reach => run.push(place),
            _ => runs.push(vec![place]),
        }
        reach = reach.max(end);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Quality;

    fn source(rank: i64, readings: &[(i64, f64)]) -> Source {
        let mut column = Column::default();
        for (time, value) in readings {
            column.upsert(*time, *value, Quality::USUAL);
        }
        Source { rank, column }
    }

    #[test]
    fn the_latest_revision_holds_in_whatever_order_sources_come() {
        let joined =
            join(vec![source(2, &[(2, 20.0)]), source(1, &[(1, 1.0), (2, 2.0), (3, 3.0)]), source(3, &[(9, 9.0)])]);
        assert_eq!(joined.times(), &[1, 2, 3, 9]);
        assert_eq!(joined.values(), &[1.0, 20.0, 3.0, 9.0]);
        assert!(join(Vec::new()).is_empty());
    }

    #[test]
    fn spans_that_touch_are_one_run() {
        assert_eq!(runs(&[(10, 20), (0, 5), (20, 30), (31, 40)]), vec![vec![1], vec![0, 2], vec![3]]);
        assert_eq!(runs(&[(0, 100), (5, 6), (50, 60)]), vec![vec![0, 1, 2]]);
    }
}
