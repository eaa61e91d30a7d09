//! Summaries of readings in intervals aligned to the Unix epoch.

use std::collections::BTreeMap;

use crate::{Column, Reading};

/// A sum whose rounding error does not grow with the number of terms (Neumaier's variant of Kahan's algorithm).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    total: f64,
    lost: f64,
}

impl Sum {
    /// Adds one term.
    #[inline]
    pub fn add(&mut self, term: f64) {
        let total = self.total + term;
        self.lost +=
            if self.total.abs() >= term.abs() { (self.total - total) + term } else { (term - total) + self.total };
        self.total = total;
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: Sum) {
        self.add(other.total);
        self.lost += other.lost;
    }

    /// The sum; infinite or NaN only where the terms' true sum leaves the range of `f64`.
    pub fn value(self) -> f64 {
        let value = self.total + self.lost;
        if value.is_nan() { self.total } else { value }
    }
}

/// Count, sum, extremes, first and last of some readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aggregate {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: Sum,
    /// The smallest value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
    /// The earliest one's time and value.
    pub first: (i64, f64),
    /// The latest one's time and value.
    pub last: (i64, f64),
}

impl Aggregate {
    /// The summary of a single reading.
    pub fn of(time: i64, value: f64) -> Self {
        let mut sum = Sum::default();
        sum.add(value);
        Self { count: 1, sum, min: value, max: value, first: (time, value), last: (time, value) }
    }

    /// The summary of the readings of a column that take part in aggregates.
    pub fn of_column(column: &Column) -> Option<Self> {
        let mut aggregate = None;
        for reading in column.iter().filter(|r| r.quality.counts()) {
            add(&mut aggregate, reading);
        }
        aggregate
    }

    /// The arithmetic mean.
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53 readings
    pub fn mean(&self) -> f64 {
        self.sum.value() / self.count as f64
    }

    /// Adds one reading.
    #[inline]
    pub fn add(&mut self, time: i64, value: f64) {
        self.count += 1;
        self.sum.add(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if time < self.first.0 {
            self.first = (time, value);
        }
        if time >= self.last.0 {
            self.last = (time, value);
        }
    }

    /// The summary of the same readings, each value multiplied by `gain` and then moved by `offset`; `None` where that is
    /// not finite. Every member is named, so that one that is added cannot be forgotten here.
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53 readings
    pub fn on_line(self, gain: f64, offset: f64) -> Option<Self> {
        let Self { count, sum, min, max, first, last } = self;
        let line = |value: f64| value * gain + offset;
        let mut moved = Sum::default();
        moved.add(sum.value() * gain);
        moved.add(offset * count as f64);
        let (min, max) = if gain < 0.0 { (line(max), line(min)) } else { (line(min), line(max)) };
        let (first, last) = ((first.0, line(first.1)), (last.0, line(last.1)));
        let finite = min.is_finite() && max.is_finite() && moved.value().is_finite();
        finite.then_some(Self { count, sum: moved, min, max, first, last })
    }

    /// Adds the summary of other readings.
    pub fn merge(&mut self, other: &Aggregate) {
        self.count += other.count;
        self.sum.merge(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        if other.first.0 < self.first.0 {
            self.first = other.first;
        }
        if other.last.0 >= self.last.0 {
            self.last = other.last;
        }
    }
}

fn add(aggregate: &mut Option<Aggregate>, reading: Reading) {
    match aggregate {
        Some(aggregate) => aggregate.add(reading.time, reading.value),
        None => *aggregate = Some(Aggregate::of(reading.time, reading.value)),
    }
}

/// The start of the interval of `width` nanoseconds that holds `time`: a multiple of the width, also before 1970.
pub fn bucket_start(time: i64, width: i64) -> i64 {
    let width = width.max(1);
    time.checked_sub(time.rem_euclid(width)).unwrap_or(i64::MIN)
}

/// One interval's summary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Where the interval starts, nanoseconds since the Unix epoch.
    pub start: i64,
    /// The summary of its readings.
    pub aggregate: Aggregate,
}

/// Sorts readings into intervals and summarises each. Every reading must be added once.
#[derive(Clone, Debug)]
pub struct Buckets {
    /// Nanoseconds; `None` = one interval for everything.
    width: Option<i64>,
    buckets: BTreeMap<i64, Aggregate>,
}

impl Buckets {
    /// Intervals of `width` nanoseconds, aligned to the Unix epoch.
    pub fn aligned(width: i64) -> Self {
        Self { width: Some(width.max(1)), buckets: BTreeMap::new() }
    }

    /// One interval for everything; it starts with its first reading.
    pub fn whole() -> Self {
        Self { width: None, buckets: BTreeMap::new() }
    }

    /// The start of the interval that holds `time`; for the one interval of everything a constant.
    pub fn start_of(&self, time: i64) -> i64 {
        self.width.map_or(i64::MIN, |width| bucket_start(time, width))
    }

    /// Whether readings from `start` to `end`, both included, fall into one interval.
    pub fn holds(&self, start: i64, end: i64) -> bool {
        self.start_of(start) == self.start_of(end)
    }

    /// How many intervals hold readings.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Adds the readings of a column that take part in aggregates.
    pub fn add_column(&mut self, column: &Column) {
        let (times, values, mut at) = (column.times(), column.values(), 0);
        while at < times.len() {
            let start = self.start_of(times[at]);
            let until = match self.width {
                Some(width) => {
                    start.checked_add(width).map_or(times.len(), |end| at + times[at..].partition_point(|t| *t < end))
                }
                None => times.len(),
            };
            let mut aggregate: Option<Aggregate> = None;
            if column.qualities().is_empty() {
                for index in at..until {
                    add(
                        &mut aggregate,
                        Reading { time: times[index], value: values[index], quality: crate::Quality::USUAL },
                    );
                }
            } else {
                for reading in (at..until).filter_map(|i| column.get(i)).filter(|r| r.quality.counts()) {
                    add(&mut aggregate, reading);
                }
            }
            if let Some(aggregate) = aggregate {
                self.add_whole(&aggregate);
            }
            at = until;
        }
    }

    /// Adds readings that were summarised before. They must fall into one interval ([`Buckets::holds`]).
    pub fn add_whole(&mut self, aggregate: &Aggregate) {
        let start = self.start_of(aggregate.first.0);
        self.buckets.entry(start).and_modify(|kept| kept.merge(aggregate)).or_insert(*aggregate);
    }

    /// The intervals that hold readings, the oldest first.
    pub fn finish(self) -> Vec<Bucket> {
        let whole = self.width.is_none();
        self.buckets
            .into_iter()
            .map(|(start, aggregate)| Bucket { start: if whole { aggregate.first.0 } else { start }, aggregate })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Quality;
    use proptest::prelude::*;

    #[test]
    fn buckets_before_the_epoch_start_below_their_readings() {
        assert_eq!(bucket_start(-1, 10), -10);
        assert_eq!(bucket_start(-10, 10), -10);
        assert_eq!(bucket_start(19, 10), 10);
        assert_eq!(bucket_start(i64::MIN, 1_000), i64::MIN);
    }

    #[test]
    fn a_sum_keeps_what_plain_addition_loses() {
        let mut sum = Sum::default();
        for term in [1e16, 1.0, -1e16] {
            sum.add(term);
        }
        assert_eq!(sum.value(), 1.0);
    }

    #[test]
    fn readings_out_of_range_are_left_out() {
        let mut column = Column::default();
        column.upsert(1, 10.0, Quality::USUAL);
        column.upsert(2, 9999.0, Quality::OUT_OF_RANGE);
        column.upsert(3, 20.0, Quality::TIME_OF_RECEIPT);
        let mut buckets = Buckets::whole();
        buckets.add_column(&column);
        let bucket = buckets.finish()[0];
        assert_eq!((bucket.start, bucket.aggregate.count, bucket.aggregate.mean()), (1, 2, 15.0));
        assert_eq!(bucket.aggregate.max, 20.0);
    }

    proptest! {
        #[test]
        fn buckets_equal_a_naive_recount(
            readings in prop::collection::btree_map(-5_000i64..5_000, (-1e6..1e6f64, prop::sample::select(vec![0u8, 0, 0, 4])), 1..300),
            width in 1i64..2_000,
            cut in 0usize..300,
        ) {
            let mut column = Column::default();
            for (time, (value, quality)) in &readings {
                column.upsert(*time, *value, Quality(*quality));
            }
            let cut = cut.min(column.len());
            let mut buckets = Buckets::aligned(width);
            for part in [column.slice(0..cut), column.slice(cut..column.len())] {
                let (start, end) = (part.start().unwrap_or(0), part.end().unwrap_or(0));
                match Aggregate::of_column(&part) {
                    Some(whole) if buckets.holds(start, end) => buckets.add_whole(&whole),
                    _ => buckets.add_column(&part),
                }
            }
            let counted: Vec<_> = readings.iter().filter(|(_, (_, q))| *q == 0).map(|(t, (v, _))| (*t, *v)).collect();
            let mut starts: Vec<i64> = counted.iter().map(|(t, _)| t.div_euclid(width) * width).collect();
            starts.dedup();
            let got = buckets.finish();
            prop_assert_eq!(got.iter().map(|b| b.start).collect::<Vec<_>>(), starts);
            for bucket in got {
                let inside: Vec<_> = counted.iter().filter(|(t, _)| t.div_euclid(width) * width == bucket.start).collect();
                let sum: f64 = inside.iter().map(|(_, v)| v).sum();
                let a = bucket.aggregate;
                prop_assert_eq!(a.count, inside.len() as u64);
                prop_assert!((a.sum.value() - sum).abs() <= 1e-6);
                prop_assert_eq!(a.min, inside.iter().map(|(_, v)| *v).fold(f64::INFINITY, f64::min));
                prop_assert_eq!(a.max, inside.iter().map(|(_, v)| *v).fold(f64::NEG_INFINITY, f64::max));
                prop_assert_eq!(a.first, *inside[0]);
                prop_assert_eq!(a.last, *inside[inside.len() - 1]);
            }
        }
    }
}
