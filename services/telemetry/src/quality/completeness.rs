//! How many of the readings that a sensor should have sent are there, and when there were none.

/// Gaps that are listed; more are counted.
const MOST_GAPS: usize = 1000;

/// One interval. Times are nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Where it starts.
    pub start: i64,
    /// Where the next one starts, or the range ends.
    pub end: i64,
    /// How many readings should be there.
    pub expected: u64,
    /// How many are there.
    pub received: u64,
}

/// A time without readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last reading before it, or the start of the range.
    pub start: i64,
    /// The first reading after it, or the end of the range.
    pub end: i64,
    /// How many readings are missing.
    pub missing: u64,
}

/// Counts one sensor's readings, the oldest first, in buckets that follow each other.
#[derive(Clone, Debug)]
pub struct Meter {
    interval: Option<i64>,
    buckets: Vec<Bucket>,
    at: usize,
    /// The latest reading so far; `None` = the start of the range, where a gap may begin, or nothing known before it.
    last: Option<i64>,
    /// The start of the range, in the part of it that begins there.
    range_start: Option<i64>,
    gaps: Vec<Gap>,
    left_out: u64,
}

impl Meter {
    /// A meter of buckets with these borders, of which there is one more than there are buckets. The range begins at
    /// `origin`; a reading is expected every `interval` nanoseconds from there on.
    pub fn new(borders: &[i64], origin: i64, interval: Option<i64>) -> Self {
        let due = |at: i64| interval.map_or(0, |interval| at.saturating_sub(origin) / interval.max(1)) as u64;
        let bucket = |pair: &[i64]| Bucket {
            start: pair[0],
            end: pair[1],
            expected: due(pair[1]).saturating_sub(due(pair[0])),
            received: 0,
        };
        Self {
            interval: interval.map(|interval| interval.max(1)),
            buckets: borders.windows(2).map(bucket).collect(),
            at: 0,
            last: None,
            range_start: borders.first().copied().filter(|first| *first == origin),
            gaps: Vec::new(),
            left_out: 0,
        }
    }

    /// Counts a reading that lies in one of the buckets, or is the first one after them: that one only ends a gap.
    pub fn add(&mut self, time: i64) {
        match (self.last, self.range_start) {
            (Some(last), _) => self.gap(last, time, |steps| steps.saturating_sub(1)),
            (None, Some(start)) => self.gap(start, time, |steps| steps),
            (None, None) => {}
        }
        self.last = Some(time);
        while self.buckets.get(self.at).is_some_and(|bucket| bucket.end <= time) {
            self.at += 1;
        }
        if let Some(bucket) = self.buckets.get_mut(self.at) {
            bucket.received += 1;
        }
    }

    /// There is no reading from the last one on up to the end of the range.
    pub fn end(&mut self, end: i64) {
        if let Some(start) = self.last.or(self.range_start) {
            self.gap(start, end, |_| 0);
            // a reading at the very end is not expected yet
            let passed = end.saturating_sub(start).saturating_sub(1).max(0) as u64;
            if let (Some(gap), Some(interval)) = (self.gaps.last_mut().filter(|gap| gap.end == end), self.interval) {
                gap.missing = passed / interval as u64 + u64::from(self.last.is_none());
            }
        }
    }

    /// The buckets, the gaps, and how many more gaps there were.
    pub fn finish(self) -> (Vec<Bucket>, Vec<Gap>, u64) {
        (self.buckets, self.gaps, self.left_out)
    }

    fn gap(&mut self, start: i64, end: i64, missing: impl Fn(u64) -> u64) {
        let Some(interval) = self.interval else { return };
        let passed = end.saturating_sub(start);
        if passed <= interval.saturating_add(interval / 2) {
            return;
        }
        if self.gaps.len() == MOST_GAPS {
            self.left_out += 1;
            return;
        }
        let steps = (passed.saturating_add(interval / 2) / interval) as u64;
        self.gaps.push(Gap { start, end, missing: missing(steps) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn measured(borders: &[i64], interval: i64, times: &[i64]) -> (Vec<Bucket>, Vec<Gap>, u64) {
        let mut meter = Meter::new(borders, borders[0], Some(interval));
        times.iter().for_each(|time| meter.add(*time));
        meter.end(borders[borders.len() - 1]);
        meter.finish()
    }

    #[test]
    fn gaps_begin_with_the_last_reading_before_them() {
        let (buckets, gaps, _) = measured(&[0, 100, 200], 10, &[30, 40, 50, 61, 120, 130, 145, 150]);
        let counts: Vec<_> = buckets.iter().map(|bucket| (bucket.expected, bucket.received)).collect();
        assert_eq!(counts, [(10, 4), (10, 4)]);
        let gap = |start, end, missing| Gap { start, end, missing };
        assert_eq!(gaps, [gap(0, 30, 3), gap(61, 120, 5), gap(150, 200, 4)]);
        assert_eq!(measured(&[0, 100], 10, &[]).1, [gap(0, 100, 10)]);
    }

    #[test]
    fn of_a_sensor_without_an_interval_nothing_is_expected() {
        let mut meter = Meter::new(&[0, 100], 0, None);
        meter.add(50);
        meter.end(100);
        let (buckets, gaps, _) = meter.finish();
        assert_eq!((buckets[0].expected, buckets[0].received, gaps.len()), (0, 1, 0));
    }

    proptest! {
        #[test]
        fn what_is_missing_of_a_regular_series_is_what_was_taken_out(
            there in prop::collection::vec(any::<bool>(), 1..200),
            interval in 2i64..1000,
            width in 1usize..50,
        ) {
            let times: Vec<i64> = (0..there.len()).filter(|i| there[*i]).map(|i| i as i64 * interval).collect();
            let end = there.len() as i64 * interval;
            let mut borders: Vec<i64> = (0..there.len()).step_by(width).map(|i| i as i64 * interval).collect();
            borders.push(end);
            let (buckets, gaps, left_out) = measured(&borders, interval, &times);
            prop_assert_eq!(buckets.iter().map(|b| b.expected).sum::<u64>(), there.len() as u64);
            prop_assert_eq!(buckets.iter().map(|b| b.received).sum::<u64>(), times.len() as u64);
            prop_assert_eq!(left_out, 0);
            // one reading missing at an end leaves no more than an interval, which is no gap
            let missing = gaps.iter().map(|gap| gap.missing).sum::<u64>();
            let absent = (there.len() - times.len()) as u64;
            prop_assert!(missing <= absent && absent <= missing + 2, "{} of {}: {:?}", missing, absent, gaps);
        }
    }
}
