//! What a summary says beyond count, sum, extremes, first and last: it takes every reading to know.

use super::Sum;

/// What of a [`Detail`] is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The standard deviation.
    pub deviation: bool,
    /// These percentiles, each from 0 to 100.
    pub percentiles: Vec<f64>,
    /// By how much a counter rose.
    pub increase: bool,
}

impl Wanted {
    /// Whether an [`Aggregate`](super::Aggregate) says all that is wanted.
    pub fn is_nothing(&self) -> bool {
        !self.deviation && self.is_rolled()
    }

    /// Whether a [`Rollup`](crate::Rollup) says all that is wanted.
    pub fn is_rolled(&self) -> bool {
        self.percentiles.is_empty() && !self.increase
    }
}

/// What a summary says beyond its [`Aggregate`](super::Aggregate); what was not wanted is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detail {
    /// The percentiles, in the order in which they were asked for.
    pub percentiles: Vec<f64>,
    /// By how much a counter rose; `None` where there is one reading and none before it.
    pub increase: Option<Increase>,
}

/// By how much a counter rose, and in which time.
///
/// The increase is the sum of the steps from each reading to the next. A reading that is lower than the one before is a reset,
/// as in Prometheus' `increase`: the counter began at 0 again, and its new value is the step. The step into an interval counts
/// for the interval in which it ends, so that the increases of intervals that follow each other add up to that of the whole.
/// Unlike Prometheus nothing is extrapolated to the interval's bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Increase {
    /// The sum of the steps.
    pub total: f64,
    /// The time from the reading before the first step to the last reading, nanoseconds.
    pub nanos: i64,
}

impl Increase {
    /// The increase per second, over the time that the steps took.
    #[allow(clippy::cast_precision_loss)] // a rate is no more exact than a float
    pub fn per_second(&self) -> f64 {
        self.total / (self.nanos as f64 / 1e9)
    }
}

/// Gathers the details of one interval, reading by reading in order of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathering {
    values: Vec<f64>,
    steps: u64,
    risen: Sum,
    nanos: i64,
}

impl Gathering {
    /// Takes a reading; `before` is the one before it, in this interval or an earlier one.
    pub(super) fn add(&mut self, wanted: &Wanted, (time, value): (i64, f64), before: Option<(i64, f64)>) {
        if !wanted.percentiles.is_empty() {
            self.values.push(value);
        }
        if let Some((then, was)) = before.filter(|_| wanted.increase) {
            self.steps += 1;
            self.risen.add(if value >= was { value - was } else { value.max(0.0) });
            self.nanos = self.nanos.saturating_add(time.saturating_sub(then));
        }
    }

    /// How many values are kept in memory.
    pub(super) fn kept(&self) -> usize {
        self.values.len()
    }

    pub(super) fn finish(mut self, wanted: &Wanted) -> Detail {
        self.values.sort_unstable_by(f64::total_cmp);
        Detail {
            percentiles: wanted.percentiles.iter().filter_map(|p| percentile(&self.values, *p)).collect(),
            increase: (self.steps > 0).then(|| Increase { total: self.risen.value(), nanos: self.nanos }),
        }
    }
}

/// The percentile `p` of sorted values by linear interpolation between the two nearest ranks: type 7 of Hyndman and Fan, "Sample
/// Quantiles in Statistical Packages" (1996), the usual one of R and NumPy. `None` where there are no values.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // ranks are small and positive
fn percentile(sorted: &[f64], p: f64) -> Option<f64> {
    let rank = (sorted.len().checked_sub(1)? as f64) * (p / 100.0).clamp(0.0, 1.0);
    let below = rank.floor() as usize;
    let (low, high) = (*sorted.get(below)?, *sorted.get(below + 1).or(sorted.get(below))?);
    let part = rank - rank.floor();
    let whole = high - low;
    Some(if part == 0.0 || low == high {
        low
    } else if whole.is_finite() {
        low + part * whole
    } else {
        low * (1.0 - part) + high * part
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(wanted: &Wanted, readings: &[(i64, f64)]) -> Detail {
        let (mut gathering, mut before) = (Gathering::default(), None);
        for reading in readings {
            gathering.add(wanted, *reading, before);
            before = Some(*reading);
        }
        gathering.finish(wanted)
    }

    #[test]
    fn percentiles_are_those_of_numpy() {
        let sorted = [15.0, 20.0, 35.0, 40.0, 50.0];
        // numpy.percentile([15, 20, 35, 40, 50], [0, 5, 30, 40, 50, 99, 100])
        for (p, expected) in
            [(0.0, 15.0), (5.0, 16.0), (30.0, 23.0), (40.0, 29.0), (50.0, 35.0), (99.0, 49.6), (100.0, 50.0)]
        {
            let got = percentile(&sorted, p).expect("values");
            assert!((got - expected).abs() < 1e-12, "{p}: {got}");
        }
        assert_eq!(percentile(&[7.0], 99.0), Some(7.0));
        assert_eq!(percentile(&[], 50.0), None);
        assert_eq!(percentile(&[f64::MIN, f64::MAX], 50.0), Some(0.0));
    }

    #[test]
    fn a_counter_that_began_again_counts_from_zero() {
        let wanted = Wanted { increase: true, ..Wanted::default() };
        let second = 1_000_000_000;
        let readings = [(0, 10.0), (second, 14.0), (2 * second, 3.0), (3 * second, 3.0), (4 * second, 1.0)];
        let increase = details(&wanted, &readings).increase.expect("steps");
        assert_eq!((increase.total, increase.nanos, increase.per_second()), (8.0, 4 * second, 2.0));
        assert_eq!(details(&wanted, &readings[..1]).increase, None);
    }
}
