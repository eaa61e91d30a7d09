//! What the readings of one sensor have been like since its test began: counted as they come, in little space.

use serde::{Deserialize, Serialize};

use crate::limits::Limits;

/// A reading as it came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// When it was measured, nanoseconds since the Unix epoch.
    pub time: i64,
    /// The value.
    pub value: f64,
    /// Telemetry found it outside the sensor's range.
    pub out_of_range: bool,
}

/// The test that it came in. Times are nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct Around<'t> {
    /// When the test began.
    pub started: i64,
    /// When the reading arrived.
    pub now: i64,
    /// When telemetry was not heard, from and to.
    pub breaks: &'t [(i64, i64)],
}

/// Count, mean and sum of squares about the mean (B. P. Welford 1962).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    squares: f64,
}

/// The counts of one sensor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Readings measured since the test began.
    pub readings: u64,
    /// Readings that came and had been measured before.
    pub older: u64,
    /// How old the last of those was when it came, nanoseconds.
    pub older_by: i64,
    /// When the first reading was measured.
    pub first: i64,
    /// When the newest one was measured.
    pub last: i64,
    /// The newest value, as bits, so that it is the same when it is read again.
    last_bits: u64,
    /// The smallest value.
    pub min: Option<f64>,
    /// The greatest value.
    pub max: Option<f64>,
    /// The values.
    pub values: Moments,
    /// Squares of successive differences, summed, and how many.
    differences: (u64, f64),
    /// Readings outside the range.
    pub out_of_range: u64,
    /// Equal readings in a row, now.
    flat: u32,
    /// The most equal readings in a row.
    pub longest_flat: u32,
    /// Their value, as bits.
    flat_bits: u64,
    /// The times between readings, nanoseconds.
    pub intervals: Moments,
    /// The longest of them.
    pub longest_interval: i64,
    /// How many of them were gaps.
    pub gaps: u64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1;
        let off = value - self.mean;
        #[allow(clippy::cast_precision_loss)] // a count of readings
        let count = self.count as f64;
        self.mean += off / count;
        self.squares += off * (value - self.mean);
    }

    /// The standard deviation of the sample; `None` of fewer than two.
    pub fn deviation(&self) -> Option<f64> {
        #[allow(clippy::cast_precision_loss)] // a count of readings
        (self.count > 1).then(|| (self.squares / (self.count - 1) as f64).max(0.0).sqrt())
    }
}

impl Tally {
    /// Counts a reading. One that was measured before the test is only counted as such; one that is not newer than the
    /// newest (late, or sent again) is held to the range and says nothing of the sequence.
    pub fn take(&mut self, arrival: Arrival, limits: &Limits, around: &Around<'_>) {
        let Arrival { time, value, out_of_range } = arrival;
        if time < around.started {
            self.older += 1;
            self.older_by = around.now - time;
            return;
        }
        if self.readings > 0 && time == self.last && value.to_bits() == self.last_bits {
            return;
        }
        self.readings += 1;
        self.values.add(value);
        self.min = Some(self.min.map_or(value, |min| min.min(value)));
        self.max = Some(self.max.map_or(value, |max| max.max(value)));
        // telemetry knows the sensor's range only, and the test may have another
        let unlimited = limits.min.is_none() && limits.max.is_none();
        if limits.excludes(value) || (unlimited && out_of_range) {
            self.out_of_range += 1;
        }
        if self.readings == 1 {
            self.first = time;
            self.turn(value);
        } else if time > self.last {
            self.follow(time, value, limits, around.breaks);
        } else {
            self.first = self.first.min(time);
            return;
        }
        (self.last, self.last_bits) = (time, value.to_bits());
    }

    /// A reading that is newer than all before it.
    fn follow(&mut self, time: i64, value: f64, limits: &Limits, breaks: &[(i64, i64)]) {
        let before = f64::from_bits(self.last_bits);
        if (value - before).abs() <= limits.flat_tolerance {
            self.flat += 1;
            if self.flat > self.longest_flat {
                (self.longest_flat, self.flat_bits) = (self.flat, value.to_bits());
            }
        } else {
            self.turn(value);
        }
        // what came before an interruption and what came after it are not neighbours
        if excused(self.last, time, limits, breaks) {
            return;
        }
        self.differences = (self.differences.0 + 1, self.differences.1 + (value - before).powi(2));
        let interval = time - self.last;
        #[allow(clippy::cast_precision_loss)] // a day has 47 bits of nanoseconds
        self.intervals.add(interval as f64);
        self.longest_interval = self.longest_interval.max(interval);
        if limits.patience().is_some_and(|patience| interval > patience) {
            self.gaps += 1;
        }
    }

    /// Another value than before.
    fn turn(&mut self, value: f64) {
        self.flat = 1;
        if self.longest_flat == 0 {
            (self.longest_flat, self.flat_bits) = (1, value.to_bits());
        }
    }

    /// The value of the most equal readings in a row.
    pub fn flat_value(&self) -> f64 {
        f64::from_bits(self.flat_bits)
    }

    /// The standard deviation from successive differences (J. von Neumann and others 1941), and from how many.
    pub fn noise(&self) -> Option<(f64, u64)> {
        let (count, squares) = self.differences;
        #[allow(clippy::cast_precision_loss)] // a count of readings
        (count > 0).then(|| ((squares / (2.0 * count as f64)).sqrt(), count))
    }
}

/// Whether the sensor cannot be blamed for silence between two times: telemetry was not heard then, or a moment before or after.
pub fn excused(from: i64, to: i64, limits: &Limits, breaks: &[(i64, i64)]) -> bool {
    let slack = limits.interval.unwrap_or(1_000_000_000);
    breaks.iter().any(|(begin, end)| from < end.saturating_add(slack) && to > begin.saturating_sub(slack))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn limits() -> Limits {
        Limits { max: Some(100.0), interval: Some(SECOND), gap_intervals: 3, ..Limits::default() }
    }

    fn tally(readings: &[(i64, f64)], breaks: &[(i64, i64)]) -> Tally {
        let mut tally = Tally::default();
        for &(seconds, value) in readings {
            let arrival = Arrival { time: seconds * SECOND, value, out_of_range: false };
            tally.take(arrival, &limits(), &Around { started: 0, now: seconds * SECOND, breaks });
        }
        tally
    }

    #[test]
    fn mean_and_deviations_are_those_of_the_readings() {
        let tally = tally(&[(0, 2.0), (1, 4.0), (2, 4.0), (3, 6.0)], &[]);
        assert_eq!((tally.readings, tally.min, tally.max), (4, Some(2.0), Some(6.0)));
        assert!((tally.values.mean - 4.0).abs() < 1e-12);
        assert!((tally.values.deviation().expect("4") - (8.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((tally.noise().expect("3").0 - (8.0f64 / 6.0).sqrt()).abs() < 1e-12);
        assert_eq!(tally.longest_flat, 2);
    }

    #[test]
    fn slow_change_is_no_noise() {
        let ramp: Vec<(i64, f64)> = (0..100).map(|i| (i, 20.0 + f64::from(i as i32) * 0.1)).collect();
        let tally = tally(&ramp, &[]);
        assert!(tally.values.deviation().expect("many") > 2.0);
        assert!(tally.noise().expect("many").0 < 0.1);
    }

    #[test]
    fn gaps_are_counted_unless_telemetry_was_not_heard() {
        let readings = [(0, 1.0), (1, 2.0), (4, 3.0), (8, 4.0), (9, 5.0)];
        let tally = tally(&readings, &[]);
        assert_eq!((tally.gaps, tally.longest_interval), (1, 4 * SECOND));
        let tally = self::tally(&readings, &[(5 * SECOND, 7 * SECOND)]);
        assert_eq!((tally.gaps, tally.longest_interval, tally.intervals.count), (0, 3 * SECOND, 3));
    }

    #[test]
    fn the_range_of_the_test_holds_and_telemetrys_word_where_there_is_none() {
        let around = Around { started: 0, now: 0, breaks: &[] };
        let flagged = Arrival { time: 0, value: 70.0, out_of_range: true };
        let mut tally = Tally::default();
        tally.take(flagged, &limits(), &around);
        assert_eq!(tally.out_of_range, 0);
        tally.take(Arrival { time: 1, value: 101.0, out_of_range: false }, &limits(), &around);
        assert_eq!(tally.out_of_range, 1);
        let mut tally = Tally::default();
        tally.take(flagged, &Limits::default(), &around);
        assert_eq!(tally.out_of_range, 1);
    }

    #[test]
    fn what_was_measured_before_or_is_sent_again_is_not_counted() {
        let mut tally = tally(&[(5, 1.0), (5, 1.0), (4, 150.0)], &[]);
        assert_eq!((tally.readings, tally.out_of_range, tally.intervals.count), (2, 1, 0));
        assert_eq!((tally.first, tally.last), (4 * SECOND, 5 * SECOND));
        let old = Arrival { time: -10 * SECOND, value: 1.0, out_of_range: false };
        tally.take(old, &limits(), &Around { started: 0, now: 6 * SECOND, breaks: &[] });
        assert_eq!((tally.readings, tally.older, tally.older_by), (2, 1, 16 * SECOND));
    }

    #[test]
    fn a_tally_that_is_kept_as_text_is_the_same_again() {
        let tally = tally(&[(0, 0.1 + 0.2), (1, 1.0 / 3.0)], &[]);
        let text = serde_json::to_string(&tally).expect("text");
        let again: Tally = serde_json::from_str(&text).expect("a tally");
        assert_eq!((again.last_bits, again.flat_bits), (tally.last_bits, tally.flat_bits));
        assert!((again.values.mean - tally.values.mean).abs() < 1e-12);
    }
}
