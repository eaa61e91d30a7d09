//! Summaries of readings: in intervals of a fixed length, or of a calendar.

mod buckets;
mod detail;
mod grid;

pub use buckets::{Bucket, Buckets, Summaries};
pub use detail::{Detail, Increase, Wanted};
pub use grid::{Grid, Unit, bucket_start};

use crate::{Column, Reading};

/// A sum whose rounding error does not grow with the number of terms: Neumaier's variant of Kahan's algorithm, with what an
/// addition loses by Knuth's TwoSum, which has no branch.
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
        let added = total - self.total;
        self.lost += (self.total - (total - added)) + (term - added);
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
        if column.qualities().is_empty() {
            return Self::of_ordered(column.times(), column.values());
        }
        Self::of_readings(column.iter().filter(|reading| reading.quality.counts()))
    }

    /// The summary of readings; `None` where there are none.
    pub(crate) fn of_readings(mut readings: impl Iterator<Item = Reading>) -> Option<Self> {
        let first = readings.next()?;
        let mut aggregate = Self::of(first.time, first.value);
        readings.for_each(|reading| aggregate.add(reading.time, reading.value));
        Some(aggregate)
    }

    /// The summary of values at times that increase; `None` where there are none.
    pub(crate) fn of_ordered(times: &[i64], values: &[f64]) -> Option<Self> {
        let first = (*times.first()?, *values.first()?);
        let last = (*times.last()?, *values.last()?);
        let (mut sum, mut min, mut max) = (Sum::default(), first.1, first.1);
        for value in values {
            sum.add(*value);
            // no `f64::min`: it asks twice, for NaN
            min = if *value < min { *value } else { min };
            max = if *value > max { *value } else { max };
        }
        Some(Self { count: values.len() as u64, sum, min, max, first, last })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_keeps_what_plain_addition_loses() {
        let mut sum = Sum::default();
        for term in [1e16, 1.0, -1e16] {
            sum.add(term);
        }
        assert_eq!(sum.value(), 1.0);
    }
}
