//! History of a metric: the readings of the sensors that were it, each for its time, summarised together.

use std::collections::BTreeMap;

use crate::placement::Placement;

const SECOND: i64 = 1_000_000_000;
/// The intervals in which the rest of a bucket is asked for where a placement starts within it, the finest first.
const STEPS: [i64; 4] = [SECOND, 60 * SECOND, 3600 * SECOND, 86_400 * SECOND];

/// A stay of one sensor as the metric: from `start`, up to but not including `end`, nanoseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stay {
    /// The sensor.
    pub sensor: String,
    /// From when; `None` = from its first reading.
    pub start: Option<i64>,
    /// Until when; `None` = to its last reading.
    pub end: Option<i64>,
}

/// The parts of placements that lie in a range. The range starts with the bucket that holds `start`.
pub fn stays(placements: &[Placement], start: Option<i64>, end: Option<i64>) -> Vec<Stay> {
    let mut stays = Vec::with_capacity(placements.len());
    for placement in placements {
        let from = Some(placement.start).filter(|start| *start != 0).max(start);
        let until = match (placement.end, end) {
            (Some(own), Some(end)) => Some(own.min(end)),
            (own, end) => own.or(end),
        };
        if until.is_none_or(|until| from.is_none_or(|from| from < until)) {
            stays.push(Stay { sensor: placement.sensor.clone(), start: from, end: until });
        }
    }
    stays
}

/// The start of the bucket that holds a time.
pub fn bucket_start(time: i64, interval: i64) -> i64 {
    time.saturating_sub(time.rem_euclid(interval))
}

/// What to ask telemetry for to get a stretch exactly: the same interval throughout, or finer ones for the rest of a
/// bucket in which the stretch starts, because a summary starts with a whole bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The length of telemetry's buckets.
    pub interval: i64,
    /// From when; `None` = from the first reading.
    pub start: Option<i64>,
    /// Until when; `None` = to the last reading.
    pub end: Option<i64>,
}

/// Splits a stay into stretches whose starts are bucket starts of their intervals. Exact to the second in which the stay
/// starts: that one is taken whole.
pub fn stretches(stay: &Stay, interval: i64) -> Vec<Stretch> {
    let Some(mut at) = stay.start else {
        return vec![Stretch { interval, start: None, end: stay.end }];
    };
    let mut stretches = Vec::new();
    let first_whole = bucket_start(at, interval).saturating_add(interval);
    if bucket_start(at, interval) != at {
        let rest_end = stay.end.map_or(first_whole, |end| end.min(first_whole));
        at = bucket_start(at, SECOND);
        for (index, step) in STEPS.iter().enumerate() {
            let next = STEPS.get(index + 1).map_or(i64::MAX, |coarser| {
                let start = bucket_start(at, *coarser);
                if start == at { at } else { start.saturating_add(*coarser) }
            });
            let until = next.min(rest_end);
            if at < until {
                stretches.push(Stretch { interval: *step, start: Some(at), end: Some(until) });
                at = until;
            }
        }
        at = first_whole;
    }
    if stay.end.is_none_or(|end| at < end) {
        stretches.push(Stretch { interval, start: Some(at), end: stay.end });
    }
    stretches
}

/// The summary of some readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The smallest.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// Their arithmetic mean.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    fn add(&mut self, other: Summary) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

/// Buckets by their start, summed over everything that is added.
#[derive(Clone, Debug)]
pub struct Merged {
    interval: i64,
    buckets: BTreeMap<i64, Summary>,
    /// Buckets from here on may lack readings, because a list of buckets was cut.
    complete_before: i64,
}

impl Merged {
    /// No buckets yet, of this length.
    pub fn new(interval: i64) -> Self {
        Self { interval, buckets: BTreeMap::new(), complete_before: i64::MAX }
    }

    /// Adds what was summarised from `time` on, for at most one bucket.
    pub fn add(&mut self, time: i64, summary: Summary) {
        if summary.count > 0 {
            self.buckets.entry(bucket_start(time, self.interval)).and_modify(|own| own.add(summary)).or_insert(summary);
        }
    }

    /// Notes that a list was cut after its bucket at `time`.
    pub fn cut_after(&mut self, time: i64) {
        let next = bucket_start(time, self.interval).saturating_add(self.interval);
        self.complete_before = self.complete_before.min(next);
    }

    /// The first `size` buckets that nothing is missing from, and where the next page starts if there may be more.
    pub fn page(self, size: usize) -> (Vec<(i64, Summary)>, Option<i64>) {
        let cut = self.complete_before;
        let mut complete = self.buckets.into_iter().filter(|(start, _)| *start < cut);
        let page: Vec<_> = complete.by_ref().take(size).collect();
        let next = complete.next().map(|(start, _)| start);
        (page, next.or(Some(cut).filter(|cut| *cut != i64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600 * SECOND;

    fn summary(count: u64, mean: f64) -> Summary {
        Summary { count, sum: mean * count as f64, min: mean - 1.0, max: mean + 1.0 }
    }

    fn placement(sensor: &str, start: i64, end: Option<i64>) -> Placement {
        Placement { sensor: sensor.into(), room: "lab".into(), metric: "co2".into(), start, end, site: String::new() }
    }

    #[test]
    fn a_mean_across_sensors_is_weighted_by_their_readings() {
        let mut merged = Merged::new(HOUR);
        merged.add(0, summary(3, 10.0));
        merged.add(HOUR / 2, summary(1, 50.0));
        merged.add(HOUR, summary(2, 7.0));
        merged.add(2 * HOUR, Summary { count: 0, ..summary(1, 0.0) });
        let (page, next) = merged.page(10);
        assert_eq!(page.len(), 2);
        assert_eq!(page[0].1, Summary { count: 4, sum: 80.0, min: 9.0, max: 51.0 });
        assert_eq!(page[0].1.mean(), 20.0);
        assert_eq!(next, None);
    }

    #[test]
    fn a_page_ends_before_buckets_that_may_be_incomplete() {
        let mut merged = Merged::new(HOUR);
        for hour in 0..4 {
            merged.add(hour * HOUR, summary(1, 1.0));
        }
        merged.cut_after(HOUR);
        merged.add(9 * HOUR, summary(1, 1.0));
        assert_eq!(merged.clone().page(1).1, Some(HOUR));
        let (page, next) = merged.page(10);
        assert_eq!((page.len(), next), (2, Some(2 * HOUR)));
    }

    #[test]
    fn a_stay_is_the_common_part_of_placement_and_range() {
        let placements = [placement("a", 0, Some(50)), placement("b", 50, None)];
        let all = stays(&placements, None, None);
        assert_eq!((all[0].start, all[0].end, all[1].start, all[1].end), (None, Some(50), Some(50), None));
        let some = stays(&placements, Some(20), Some(70));
        assert_eq!((some[0].start, some[0].end, some[1].start, some[1].end), (Some(20), Some(50), Some(50), Some(70)));
        assert_eq!(stays(&placements, Some(50), None).len(), 1);
        assert_eq!(stays(&placements, None, Some(50)).len(), 1);
    }

    #[test]
    fn a_stay_that_starts_within_a_bucket_is_asked_for_in_finer_steps() {
        let start = 10 * HOUR + 29 * 60 * SECOND + 58 * SECOND;
        let stay = Stay { sensor: "a".into(), start: Some(start), end: None };
        let stretches = stretches(&stay, HOUR);
        let minute = 60 * SECOND;
        assert_eq!(
            stretches,
            [
                Stretch { interval: SECOND, start: Some(start), end: Some(10 * HOUR + 30 * minute) },
                Stretch { interval: minute, start: Some(10 * HOUR + 30 * minute), end: Some(11 * HOUR) },
                Stretch { interval: HOUR, start: Some(11 * HOUR), end: None },
            ]
        );
    }

    #[test]
    fn stretches_never_leave_a_stay_nor_overlap() {
        for interval in [SECOND, 7 * SECOND, 60 * SECOND, HOUR, 24 * HOUR, 366 * 24 * HOUR] {
            for start in [1, 59 * SECOND, HOUR - 1, 5 * 24 * HOUR + 13 * SECOND, 365 * 24 * HOUR + 1] {
                for length in [1, 5 * SECOND, HOUR, 3 * 24 * HOUR, 400 * 24 * HOUR] {
                    let stay = Stay { sensor: "a".into(), start: Some(start), end: Some(start + length) };
                    let mut at = bucket_start(start, SECOND);
                    for stretch in stretches(&stay, interval) {
                        assert_eq!(stretch.start, Some(at), "{interval} {start} {length}");
                        assert_eq!(bucket_start(at, stretch.interval), at, "{interval} {start} {length}");
                        at = stretch.end.expect("an end");
                    }
                    assert_eq!(at, start + length, "{interval} {start} {length}");
                }
            }
        }
    }

    #[test]
    fn an_aligned_or_open_stay_is_one_stretch() {
        for start in [None, Some(2 * HOUR)] {
            let stay = Stay { sensor: "a".into(), start, end: Some(9 * HOUR) };
            assert_eq!(stretches(&stay, HOUR), [Stretch { interval: HOUR, start, end: Some(9 * HOUR) }]);
        }
    }
}
