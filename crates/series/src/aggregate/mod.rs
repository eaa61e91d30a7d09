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
    /// What was taken out of `total` because it would have left the range of `f64`, in units of [`FAR`].
    far: f64,
}

/// 2^1023, half of the power of two that is the first beyond `f64`.
const FAR: f64 = f64::from_bits(2046 << 52);
/// 2^-64: values of the greatest that are multiplied by it can be added.
const NEAR: f64 = f64::from_bits((1023 - 64) << 52);

impl Sum {
    /// Adds one term.
    #[inline]
    pub fn add(&mut self, term: f64) {
        let total = self.total + term;
        if total.is_infinite() && term.is_finite() && self.total.is_finite() {
            return self.add_far(term);
        }
        let added = total - self.total;
        self.lost += (self.total - (total - added)) + (term - added);
        self.total = total;
    }

    /// Adds a term that would make the total infinite: 2^1024 is taken out of it first, which leaves it finite.
    #[cold]
    fn add_far(&mut self, term: f64) {
        let step = FAR.copysign(term);
        self.far += 2_f64.copysign(term);
        [-step, -step, term].into_iter().for_each(|term| self.add(term));
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: Sum) {
        self.add(other.total);
        self.lost += other.lost;
        self.far += other.far;
    }

    /// The sum divided by a number of at least 1.
    fn over(self, divisor: f64) -> f64 {
        if self.far == 0.0 {
            return self.value() / divisor;
        }
        let near = self.total * NEAR + self.lost * NEAR + self.far * (FAR * NEAR);
        near / divisor / NEAR
    }

    /// The sum; infinite or NaN only where the terms' true sum leaves the range of `f64`.
    pub fn value(self) -> f64 {
        if self.far != 0.0 {
            return self.over(1.0);
        }
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

    /// The arithmetic mean; finite, whatever the sum is.
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53 readings
    pub fn mean(&self) -> f64 {
        self.sum.over(self.count as f64).max(self.min).min(self.max)
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

    #[test]
    fn a_mean_is_finite_where_the_sum_is_not() {
        let mean = |values: &[f64]| {
            let times: Vec<i64> = (0..values.len() as i64).collect();
            let whole = Aggregate::of_ordered(&times, values).expect("some");
            let mut merged = Aggregate::of(0, values[0]);
            values[1..].iter().zip(1..).for_each(|(value, time)| merged.merge(&Aggregate::of(time, *value)));
            assert_eq!((merged.mean(), merged.sum.value()), (whole.mean(), whole.sum.value()), "{values:?}");
            (whole.mean(), whole.sum.value())
        };
        assert_eq!(mean(&[f64::MAX; 2]), (f64::MAX, f64::INFINITY));
        assert_eq!(mean(&[-f64::MAX; 1000]), (-f64::MAX, f64::NEG_INFINITY));
        assert_eq!(mean(&[f64::MAX, f64::MAX / 2.0]), (f64::MAX * 0.75, f64::INFINITY));
        assert_eq!(mean(&[f64::MAX, f64::MAX, -f64::MAX]), (f64::MAX / 3.0, f64::MAX));
        assert_eq!(mean(&[f64::MAX, 4.0, f64::MAX, -f64::MAX, -f64::MAX]), (0.8, 4.0));
    }
}
