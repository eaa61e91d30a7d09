//! Fewer points that look the same: Largest-Triangle-Three-Buckets, from Sveinn Steinarsson, "Downsampling Time Series for
//! Visual Representation" (University of Iceland, 2013), section 4.2.

use sensormesh_types::{Error, Result};

/// The most readings of one of the method's buckets: two are kept, 32 MiB of memory.
const LARGEST: u64 = 1 << 20;

type Point = (i64, f64);

/// Picks the points of a chart out of readings that come in order of time. The first and the last are always among them. Two
/// buckets of readings are in memory, not all of them, for which it must be known how many readings there are.
#[derive(Clone, Debug)]
pub struct Lttb {
    total: u64,
    points: u64,
    seen: u64,
    /// The number of the bucket that is being filled, from 0; the last reading is one of its own.
    bucket: u64,
    /// The first index after it.
    end: u64,
    current: Vec<Point>,
    next: Vec<Point>,
    picked: Vec<Point>,
}

impl Lttb {
    /// At most `points` of `total` readings. Fails for fewer than 3 points, and where a bucket would hold more than 1,048,576
    /// readings.
    pub fn new(total: u64, points: usize) -> Result<Self> {
        let wanted = points as u64;
        if wanted < 3 {
            return Err(Error::invalid("max_points", "must be at least 3"));
        }
        if total / (wanted - 2) > LARGEST {
            let message = "is too few for so many readings; ask for more points or a shorter range";
            return Err(Error::invalid("max_points", message).with("readings", total.to_string()));
        }
        let picked = Vec::with_capacity(points.min(usize::try_from(total).unwrap_or(points)));
        let (current, next) = (Vec::new(), Vec::new());
        let mut lttb = Self { total, points: wanted, seen: 0, bucket: 0, end: 0, current, next, picked };
        lttb.end = lttb.bound(1);
        Ok(lttb)
    }

    /// The index at which a bucket starts, exactly: ⌊k · (n − 2) / (m − 2)⌋ + 1.
    fn bound(&self, bucket: u64) -> u64 {
        let start = u128::from(bucket) * u128::from(self.total.saturating_sub(2)) / u128::from(self.points - 2);
        u64::try_from(start).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Takes the next reading.
    pub fn add(&mut self, time: i64, value: f64) {
        let index = self.seen;
        self.seen += 1;
        if index == 0 || (self.total <= self.points && (self.picked.len() as u64) < self.points) {
            self.picked.push((time, value));
            return;
        }
        // the bucket after the last one takes the last reading, and what came since the count
        while index >= self.end && self.bucket < self.points - 2 {
            self.turn();
        }
        if self.bucket == self.points - 2 {
            self.next.clear();
        }
        self.next.push((time, value));
    }

    /// Picks from the bucket before the one that has become full, which takes its place.
    fn turn(&mut self) {
        self.pick();
        self.current = std::mem::take(&mut self.next);
        self.bucket += 1;
        self.end = self.bound(self.bucket + 1);
    }

    /// Picks the reading of the current bucket that spans the largest triangle with the one picked before and the average of the
    /// next bucket.
    #[allow(clippy::cast_precision_loss)] // distances on a chart
    fn pick(&mut self) {
        let Some(&before) = self.picked.last() else { return };
        let Some(&(mut best)) = self.current.first() else { return };
        let x = |time: i64| time.saturating_sub(before.0) as f64;
        let count = self.next.len().max(1) as f64;
        let ahead_x = self.next.iter().map(|(time, _)| x(*time)).sum::<f64>() / count;
        let ahead_y = self.next.iter().map(|(_, value)| value).sum::<f64>() / count;
        let mut largest = -1.0;
        for point in &self.current {
            let area = (-ahead_x * (point.1 - before.1) + x(point.0) * (ahead_y - before.1)).abs();
            if area > largest {
                (largest, best) = (area, *point);
            }
        }
        self.picked.push(best);
    }

    /// The points, in order of time.
    pub fn finish(mut self) -> Vec<Point> {
        let last = self.next.last().or(self.current.last()).copied();
        if !self.next.is_empty() {
            self.pick();
        }
        if self.picked.len() as u64 == self.points && last.is_some() {
            self.picked.pop();
        }
        self.picked.extend(last);
        self.picked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The thesis' pseudo code, over everything at once.
    fn naive(data: &[Point], points: usize) -> Vec<Point> {
        if data.len() <= points {
            return data.to_vec();
        }
        let bound = |k: usize| k * (data.len() - 2) / (points - 2) + 1;
        let mut picked = vec![data[0]];
        for k in 0..points - 2 {
            let ahead = &data[bound(k + 1)..bound(k + 2).min(data.len())];
            let before = picked[k];
            let mean_x = ahead.iter().map(|p| (p.0 - before.0) as f64).sum::<f64>() / ahead.len() as f64;
            let mean_y = ahead.iter().map(|p| p.1).sum::<f64>() / ahead.len() as f64;
            let area = |p: &Point| (-mean_x * (p.1 - before.1) + (p.0 - before.0) as f64 * (mean_y - before.1)).abs();
            let bucket = &data[bound(k)..bound(k + 1)];
            let best = bucket.iter().fold(bucket[0], |best, p| if area(p) > area(&best) { *p } else { best });
            picked.push(best);
        }
        picked.push(data[data.len() - 1]);
        picked
    }

    fn run(data: &[Point], counted: usize, points: usize) -> Vec<Point> {
        let mut lttb = Lttb::new(counted as u64, points).expect("enough points");
        data.iter().for_each(|(time, value)| lttb.add(*time, *value));
        lttb.finish()
    }

    #[test]
    fn a_peak_is_kept() {
        let mut data: Vec<Point> = (0..1000).map(|i| (i, 0.0)).collect();
        data[617].1 = 100.0;
        let picked = run(&data, 1000, 20);
        assert_eq!(picked.len(), 20);
        assert!(picked.contains(&(617, 100.0)));
        assert_eq!((picked[0], picked[19]), ((0, 0.0), (999, 0.0)));
    }

    #[test]
    fn too_few_points_are_refused() {
        assert!(Lttb::new(10, 2).is_err());
        assert!(Lttb::new(100_000_000, 3).is_err());
        assert!(Lttb::new(100_000_000, 1000).is_ok());
        assert!(run(&[], 0, 3).is_empty());
    }

    proptest! {
        #[test]
        fn points_are_those_of_the_thesis(
            steps in prop::collection::vec((1i64..9, -1e3..1e3f64), 0..400),
            points in 3usize..60,
        ) {
            let mut time = 0;
            let data: Vec<Point> = steps.iter().map(|(step, value)| { time += step; (time, *value) }).collect();
            prop_assert_eq!(run(&data, data.len(), points), naive(&data, points));
        }

        #[test]
        fn the_ends_are_kept_and_the_bound_holds_though_the_count_was_wrong(
            readings in 1usize..300,
            counted in 0usize..300,
            points in 3usize..60,
        ) {
            let data: Vec<Point> = (0..readings).map(|i| (i as i64, (i * 7919 % 101) as f64)).collect();
            let picked = run(&data, counted, points);
            prop_assert!(picked.len() <= points);
            prop_assert_eq!((picked[0], picked[picked.len() - 1]), (data[0], data[readings - 1]));
            prop_assert!(picked.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }
}
