//! Readings sorted into intervals, each summarised.

use sensormesh_types::{Error, Result};

use super::detail::Gathering;
use super::{Aggregate, Detail, Grid, Wanted};
use crate::{Column, Reading, Rollup};

/// The most readings of which percentiles are computed in one interval: 32 MiB of memory.
const MOST_RANKED: usize = 4 << 20;

/// One interval's summary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket<'a> {
    /// Where the interval starts, nanoseconds since the Unix epoch.
    pub start: i64,
    /// The summary of its readings; the squares are there where the deviation was wanted.
    pub rollup: &'a Rollup,
    /// What else was wanted.
    pub detail: &'a Detail,
}

/// The summaries of the intervals that hold readings, the oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summaries {
    starts: Vec<i64>,
    rollups: Vec<Rollup>,
    /// One for each interval where details were wanted; else empty.
    details: Vec<Detail>,
}

/// Sorts readings into intervals and summarises each. Every reading must be added once; where more than an [`Aggregate`] is
/// wanted, in order of time.
#[derive(Clone, Debug)]
pub struct Buckets {
    grid: Grid,
    wanted: Wanted,
    /// By the start of their intervals.
    found: Summaries,
    /// The details of the last interval that readings were added to.
    gathering: Option<(i64, Gathering)>,
    /// The last reading, where steps between readings count.
    before: Option<(i64, f64)>,
}

impl Buckets {
    /// Intervals of a grid. The one interval of [`Grid::Whole`] starts with its first reading.
    pub fn of(grid: Grid, wanted: Wanted) -> Self {
        Self { grid, wanted, found: Summaries::default(), gathering: None, before: None }
    }

    /// Intervals of `width` nanoseconds, aligned to the Unix epoch.
    pub fn aligned(width: i64) -> Self {
        Self::of(Grid::Fixed(width.max(1)), Wanted::default())
    }

    /// One interval for everything; it starts with its first reading.
    pub fn whole() -> Self {
        Self::of(Grid::Whole, Wanted::default())
    }

    /// The reading before the first one that is added: a counter's first step starts there.
    pub fn after(mut self, before: Option<(i64, f64)>) -> Self {
        self.before = before;
        self
    }

    /// The start of the interval that holds `time`; for the one interval of everything a constant.
    pub fn start_of(&self, time: i64) -> i64 {
        self.grid.start_of(time)
    }

    /// Whether a summary of readings from `start` to `end`, both included, says all that is wanted: they fall into one
    /// interval, and nothing is wanted that takes every reading.
    pub fn holds(&self, start: i64, end: i64) -> bool {
        self.wanted.is_nothing() && self.start_of(start) == self.start_of(end)
    }

    /// The same of a rollup, which also knows the squares.
    pub fn fits(&self, rollup: &Rollup) -> bool {
        let (start, end) = (rollup.aggregate.first.0, rollup.aggregate.last.0);
        self.wanted.is_rolled() && self.start_of(start) == self.start_of(end)
    }

    /// Whether the first `size` intervals and one more have all their readings where none before `next` follow.
    pub fn are_complete(&self, size: usize, next: i64) -> bool {
        self.found.starts.get(size).is_some_and(|start| *start < self.start_of(next))
    }

    /// How many intervals hold readings.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Adds the readings of a column that take part in aggregates. Fails where percentiles are wanted and an interval holds more
    /// than 4,194,304 readings.
    pub fn add_column(&mut self, column: &Column) -> Result<()> {
        let (times, mut at) = (column.times(), 0);
        let Some(first) = times.first() else { return Ok(()) };
        let (mut start, mut end) = self.grid.span(*first);
        while at < times.len() {
            if times[at] >= end {
                (start, end) = self.grid.span_after((start, end), times[at]);
            }
            let until = at + if end == i64::MAX { times.len() - at } else { until(&times[at..], end) };
            let counted = || (at..until).filter_map(|i| column.get(i)).filter(|r| r.quality.counts());
            let rollup = if self.wanted.deviation {
                Rollup::of(counted())
            } else {
                let aggregate = if column.qualities().is_empty() {
                    Aggregate::of_ordered(&times[at..until], &column.values()[at..until])
                } else {
                    Aggregate::of_readings(counted())
                };
                aggregate.map(|aggregate| Rollup { aggregate, squares: 0.0 })
            };
            if let Some(rollup) = rollup {
                self.merge(start, &rollup);
                if !self.wanted.is_rolled() {
                    self.gather(start, counted())?;
                }
            }
            at = until;
        }
        Ok(())
    }

    /// Adds readings that were summarised before. They must fall into one interval ([`Buckets::holds`]).
    pub fn add_whole(&mut self, aggregate: &Aggregate) {
        self.merge(self.start_of(aggregate.first.0), &Rollup { aggregate: *aggregate, squares: 0.0 });
    }

    /// Adds readings that are left as a rollup only. They must fit ([`Buckets::fits`]); the order is of no matter.
    pub fn add_rollup(&mut self, rollup: &Rollup) {
        self.merge(self.start_of(rollup.aggregate.first.0), rollup);
    }

    fn merge(&mut self, start: i64, rollup: &Rollup) {
        let Summaries { starts, rollups, details } = &mut self.found;
        let detailed = !self.wanted.is_rolled();
        if starts.last().is_none_or(|last| *last < start) {
            starts.push(start);
            rollups.push(*rollup);
            details.extend(detailed.then(Detail::default));
            return;
        }
        match starts.binary_search(&start) {
            Ok(place) => rollups[place].merge(rollup),
            Err(place) => {
                starts.insert(place, start);
                rollups.insert(place, *rollup);
                if detailed {
                    details.insert(place, Detail::default());
                }
            }
        }
    }

    fn gather(&mut self, start: i64, readings: impl Iterator<Item = Reading>) -> Result<()> {
        if self.gathering.as_ref().is_none_or(|(open, _)| *open != start) {
            self.close();
        }
        let (_, gathering) = self.gathering.get_or_insert_with(|| (start, Gathering::default()));
        for reading in readings {
            gathering.add(&self.wanted, (reading.time, reading.value), self.before);
            self.before = Some((reading.time, reading.value));
        }
        if gathering.kept() > MOST_RANKED {
            let message = "an interval holds more than 4,194,304 readings; ask for shorter ones or a shorter range";
            return Err(Error::invalid("percentiles", message));
        }
        Ok(())
    }

    /// Works out the details of the interval that was open: no readings of it follow.
    fn close(&mut self) {
        if let Some((start, gathering)) = self.gathering.take()
            && let Ok(place) = self.found.starts.binary_search(&start)
        {
            self.found.details[place] = gathering.finish(&self.wanted);
        }
    }

    /// What was found.
    pub fn finish(mut self) -> Summaries {
        self.close();
        if self.grid == Grid::Whole {
            self.found.starts.iter_mut().zip(&self.found.rollups).for_each(|(start, r)| *start = r.aggregate.first.0);
        }
        self.found
    }
}

impl Summaries {
    /// How many intervals hold readings.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Where the intervals start, nanoseconds since the Unix epoch.
    pub fn starts(&self) -> &[i64] {
        &self.starts
    }

    /// The interval at a place in the order of time.
    pub fn get(&self, place: usize) -> Option<Bucket<'_>> {
        Some(self.bucket(place, *self.starts.get(place)?, self.rollups.get(place)?))
    }

    /// The interval that starts at a time.
    pub fn find(&self, start: i64) -> Option<Bucket<'_>> {
        self.get(self.starts.binary_search(&start).ok()?)
    }

    /// The intervals in the order of time.
    pub fn iter(&self) -> impl Iterator<Item = Bucket<'_>> + Clone {
        let heads = self.starts.iter().zip(&self.rollups).enumerate();
        heads.map(|(place, (start, rollup))| self.bucket(place, *start, rollup))
    }

    fn bucket<'a>(&'a self, place: usize, start: i64, rollup: &'a Rollup) -> Bucket<'a> {
        const NONE: &Detail = &Detail { percentiles: Vec::new(), increase: None };
        Bucket { start, rollup, detail: self.details.get(place).unwrap_or(NONE) }
    }
}

/// How many of these times, the first among them, lie before `end`. Steps that double find a few of them as fast as many.
fn until(times: &[i64], end: i64) -> usize {
    let mut reach = 1;
    while times.get(reach).is_some_and(|time| *time < end) {
        reach *= 2;
    }
    let from = reach / 2 + 1;
    let rest = &times[from.min(times.len())..reach.min(times.len())];
    from.min(times.len()) + rest.partition_point(|time| *time < end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Quality;
    use proptest::prelude::*;

    #[test]
    fn an_intervals_end_is_found_however_many_readings_it_has() {
        let times: Vec<i64> = (0..40).collect();
        for end in 1..50 {
            assert_eq!(until(&times, end), usize::try_from(end.min(40)).expect("small"));
        }
    }

    #[test]
    fn readings_out_of_range_are_left_out() {
        let mut column = Column::default();
        column.upsert(1, 10.0, Quality::USUAL);
        column.upsert(2, 9999.0, Quality::OUT_OF_RANGE);
        column.upsert(3, 20.0, Quality::TIME_OF_RECEIPT);
        let wanted = Wanted { deviation: true, percentiles: vec![100.0], increase: true };
        let mut buckets = Buckets::of(Grid::Whole, wanted);
        buckets.add_column(&column).expect("few");
        let found = buckets.finish();
        let bucket = found.get(0).expect("one");
        let aggregate = bucket.rollup.aggregate;
        assert_eq!((bucket.start, aggregate.count, aggregate.mean(), aggregate.max), (1, 2, 15.0, 20.0));
        assert_eq!((bucket.rollup.deviation(), &bucket.detail.percentiles), (Some(5.0), &vec![20.0]));
        assert_eq!(bucket.detail.increase.map(|increase| (increase.total, increase.nanos)), Some((10.0, 2)));
    }

    /// NumPy's text of the definition: the value at the rank (n − 1) · p, between two ranks in proportion.
    fn naive_percentile(values: &[f64], p: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() - 1) as f64 * p / 100.0;
        let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
        low + (high - low) * rank.fract()
    }

    proptest! {
        #[test]
        fn buckets_equal_a_naive_recount(
            readings in prop::collection::btree_map(-5_000i64..5_000, (-1e6..1e6f64, prop::sample::select(vec![0u8, 0, 0, 4])), 1..300),
            width in 1i64..2_000,
            cut in 0usize..300,
            detailed in any::<bool>(),
        ) {
            let mut column = Column::default();
            for (time, (value, quality)) in &readings {
                column.upsert(*time, *value, Quality(*quality));
            }
            let cut = cut.min(column.len());
            let wanted = Wanted { deviation: detailed, increase: detailed, percentiles: if detailed { vec![0.0, 12.5, 50.0, 99.0] } else { vec![] } };
            let mut buckets = Buckets::of(Grid::Fixed(width), wanted.clone());
            for part in [column.slice(0..cut), column.slice(cut..column.len())] {
                let (start, end) = (part.start().unwrap_or(0), part.end().unwrap_or(0));
                match Aggregate::of_column(&part) {
                    Some(whole) if buckets.holds(start, end) => buckets.add_whole(&whole),
                    _ => buckets.add_column(&part).expect("few"),
                }
            }
            let counted: Vec<_> = readings.iter().filter(|(_, (_, q))| *q == 0).map(|(t, (v, _))| (*t, *v)).collect();
            let mut starts: Vec<i64> = counted.iter().map(|(t, _)| t.div_euclid(width) * width).collect();
            starts.dedup();
            let found = buckets.finish();
            let got: Vec<_> = found.iter().collect();
            prop_assert_eq!(got.iter().map(|b| b.start).collect::<Vec<_>>(), starts);
            let mut risen = 0.0;
            for bucket in &got {
                let inside: Vec<_> = counted.iter().filter(|(t, _)| t.div_euclid(width) * width == bucket.start).collect();
                let values: Vec<f64> = inside.iter().map(|(_, v)| *v).collect();
                let sum: f64 = values.iter().sum();
                let a = bucket.rollup.aggregate;
                prop_assert_eq!(a.count, inside.len() as u64);
                prop_assert!((a.sum.value() - sum).abs() <= 1e-6);
                prop_assert_eq!(a.min, values.iter().copied().fold(f64::INFINITY, f64::min));
                prop_assert_eq!(a.max, values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
                prop_assert_eq!(a.first, *inside[0]);
                prop_assert_eq!(a.last, *inside[inside.len() - 1]);
                if !detailed {
                    prop_assert_eq!(bucket.detail, &Detail::default());
                    continue;
                }
                let mean = sum / values.len() as f64;
                let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
                prop_assert!((bucket.rollup.deviation().expect("finite") - variance.sqrt()).abs() <= 1e-6);
                for (p, got) in wanted.percentiles.iter().zip(&bucket.detail.percentiles) {
                    prop_assert!((got - naive_percentile(&values, *p)).abs() <= 1e-6);
                }
                prop_assert_eq!(bucket.detail.percentiles.len(), 4);
                let steps = counted.windows(2).filter(|pair| pair[1].0.div_euclid(width) * width == bucket.start);
                let steps: Vec<f64> = steps.map(|pair| if pair[1].1 < pair[0].1 { pair[1].1.max(0.0) } else { pair[1].1 - pair[0].1 }).collect();
                prop_assert_eq!(bucket.detail.increase.is_some(), !steps.is_empty());
                let total = bucket.detail.increase.map_or(0.0, |increase| increase.total);
                prop_assert!((total - steps.iter().sum::<f64>()).abs() <= 1e-6);
                risen += total;
            }
            if detailed {
                let mut whole = Buckets::of(Grid::Whole, wanted);
                whole.add_column(&column).expect("few");
                let total = whole.finish().get(0).and_then(|bucket| bucket.detail.increase).map_or(0.0, |increase| increase.total);
                prop_assert!((risen - total).abs() <= 1e-6, "the parts add up");
            }
        }
    }
}
