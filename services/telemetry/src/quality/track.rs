//! The last neighbours of one series, and what the tests say of a reading that comes after them.

use std::collections::VecDeque;

use sensormesh_series::{Column, Flag, Quality, Reading, Test};

use super::Tests;

/// The end of a series as its tests need it: a function of its last [`Tests::reach`] neighbours and nothing else, so that
/// it is the same after a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    tests: Tests,
    /// Times and values of the last neighbours, the newest at the end.
    window: VecDeque<(i64, f64)>,
    /// What is known of the newest neighbour.
    quality: Quality,
    /// The last so many neighbours differ by no more than the flat line's tolerance, from the least to the greatest.
    run: usize,
    span: (f64, f64),
    /// The time of the newest reading, neighbour or not.
    newest: Option<i64>,
}

/// What was found in readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Findings {
    /// A quality was changed.
    pub changed: bool,
    /// A reading from before these, which turned out to be a spike.
    pub before: Option<Reading>,
}

impl Track {
    /// The end of a series that has these readings, of which the last [`Tests::reach`] neighbours are enough.
    pub fn new(tests: Tests, stored: &Column) -> Self {
        let mut track = Self {
            tests,
            window: VecDeque::new(),
            quality: Quality::USUAL,
            run: 0,
            span: (0.0, 0.0),
            newest: stored.end(),
        };
        let neighbours = stored.iter().rev().filter(|r| is_neighbour(r.quality)).take(tests.reach());
        for reading in neighbours {
            if track.window.is_empty() {
                track.quality = reading.quality;
            }
            track.window.push_front((reading.time, reading.value));
        }
        track.recount();
        track
    }

    /// How many of these readings are neighbours of others.
    pub fn neighbours(column: &Column) -> usize {
        (0..column.len()).filter(|index| is_neighbour(column.quality(*index))).count()
    }

    /// The tests it is kept for.
    pub fn tests(&self) -> &Tests {
        &self.tests
    }

    /// Puts new readings to the tests and writes down what they find. `qualities` is empty while all are usual. Readings need
    /// not be in order: each is compared with those before it in time; one that is older than the newest so far is put only
    /// to the test of the range.
    pub fn judge(&mut self, times: &[i64], values: &[f64], qualities: &mut Vec<Quality>, in_order: bool) -> Findings {
        let mut findings = Findings::default();
        // where the newest neighbour stands among these readings; before them at first
        let mut place = None;
        if in_order {
            for index in 0..times.len() {
                self.step(index, times, values, qualities, &mut place, &mut findings);
            }
        } else {
            let mut order: Vec<usize> = (0..times.len()).collect();
            order.sort_by_key(|index| times[*index]);
            for index in order {
                self.step(index, times, values, qualities, &mut place, &mut findings);
            }
        }
        findings
    }

    #[inline]
    fn step(
        &mut self,
        index: usize,
        times: &[i64],
        values: &[f64],
        qualities: &mut Vec<Quality>,
        place: &mut Option<usize>,
        findings: &mut Findings,
    ) {
        let (time, value) = (times[index], values[index]);
        let told = qualities.get(index).copied().unwrap_or_default();
        let mut quality = told;
        if is_neighbour(told) {
            if value < self.tests.usual.0 || value > self.tests.usual.1 {
                quality = quality.found(Flag::Suspect, Test::GrossRange);
            }
            if self.newest >= Some(time) {
                if self.tests.need_neighbours() {
                    quality = quality.not_evaluated();
                }
                self.insert(time, value, quality);
            } else {
                if let Some(spike) = self.spike(value) {
                    let before = self.quality.found(spike, Test::Spike);
                    if before != self.quality {
                        self.found_before(before, values.len(), *place, qualities, findings);
                    }
                }
                quality = self.compare(time, value, quality);
                self.push(time, value, quality);
                *place = Some(index);
            }
        } else {
            self.newest = self.newest.max(Some(time));
        }
        if quality != told {
            set(qualities, values.len(), index, quality);
            findings.changed = true;
        }
    }

    /// What the newest neighbour turns out to be once `value` follows it (test 6).
    #[inline]
    fn spike(&self, value: f64) -> Option<Flag> {
        if self.tests.spike_suspect == f64::INFINITY && self.tests.spike_fail == f64::INFINITY {
            return None;
        }
        let mut neighbours = self.window.iter().rev();
        let ((_, middle), (_, before)) = (neighbours.next()?, neighbours.next()?);
        // halved first: the sum of two great values may be beyond what a number can be
        let off = (middle - (before / 2.0 + value / 2.0)).abs();
        if off > self.tests.spike_fail {
            Some(Flag::Fail)
        } else {
            (off > self.tests.spike_suspect).then_some(Flag::Suspect)
        }
    }

    /// A spike was found at the newest neighbour: among these readings, or before them.
    fn found_before(
        &mut self,
        quality: Quality,
        readings: usize,
        place: Option<usize>,
        qualities: &mut Vec<Quality>,
        findings: &mut Findings,
    ) {
        self.quality = quality;
        match place {
            Some(place) => {
                set(qualities, readings, place, quality);
                findings.changed = true;
            }
            None => {
                let newest = self.window.back();
                findings.before = newest.map(|(time, value)| Reading { time: *time, value: *value, quality });
            }
        }
    }

    /// What the tests find that compare a reading with those before it (tests 1, 7 and 8).
    #[inline]
    #[allow(clippy::cast_precision_loss)] // of a span of time in seconds nothing that matters is lost
    fn compare(&mut self, time: i64, value: f64, mut quality: Quality) -> Quality {
        let Some((last_time, last)) = self.window.back().copied() else {
            return if self.tests.need_neighbours() { quality.not_evaluated() } else { quality };
        };
        let passed = time.saturating_sub(last_time);
        if passed > self.tests.gap {
            quality = quality.found(Flag::Suspect, Test::Gap);
        }
        if (value - last).abs() > self.tests.change_per_second * (passed as f64 / 1e9) {
            quality = quality.found(Flag::Suspect, Test::RateOfChange);
        }
        let run = self.run_with(value);
        if run >= self.tests.flat_fail {
            quality = quality.found(Flag::Fail, Test::FlatLine);
        } else if run >= self.tests.flat_suspect {
            quality = quality.found(Flag::Suspect, Test::FlatLine);
        }
        quality
    }

    /// How many readings up to and with this value are unchanged.
    #[inline]
    fn run_with(&mut self, value: f64) -> usize {
        let span = (self.span.0.min(value), self.span.1.max(value));
        if self.run > 0 && span.1 - span.0 <= self.tests.flat_tolerance {
            (self.run, self.span) = (self.run + 1, span);
        } else {
            self.restart(value, self.window.len());
        }
        self.run
    }

    /// Counts the run that ends with `value` anew, back over the first `upto` neighbours.
    fn restart(&mut self, value: f64, upto: usize) {
        (self.run, self.span) = (1, (value, value));
        for (_, earlier) in self.window.iter().take(upto).rev() {
            let span = (self.span.0.min(*earlier), self.span.1.max(*earlier));
            if span.1 - span.0 > self.tests.flat_tolerance {
                return;
            }
            (self.run, self.span) = (self.run + 1, span);
        }
    }

    fn recount(&mut self) {
        match self.window.back().copied() {
            Some((_, value)) => self.restart(value, self.window.len() - 1),
            None => self.run = 0,
        }
    }

    #[inline]
    fn push(&mut self, time: i64, value: f64, quality: Quality) {
        if self.window.is_empty() {
            (self.run, self.span) = (1, (value, value));
        }
        if self.window.len() == self.tests.reach() {
            self.window.pop_front();
        }
        self.window.push_back((time, value));
        self.quality = quality;
        self.newest = Some(time);
    }

    /// A late reading, or a revision, takes its place among the neighbours.
    fn insert(&mut self, time: i64, value: f64, quality: Quality) {
        let full = self.window.len() == self.tests.reach();
        let at = self.window.partition_point(|(earlier, _)| *earlier < time);
        if self.window.get(at).is_some_and(|(there, _)| *there == time) {
            self.window[at].1 = value;
        } else if at == 0 && full {
            return;
        } else {
            self.window.insert(at, (time, value));
            if full {
                self.window.pop_front();
            }
        }
        if self.window.back().is_some_and(|(newest, _)| *newest == time) {
            self.quality = quality;
        }
        self.recount();
    }
}

/// Whether a reading is a neighbour of others: not one out of range, nor one without a value.
fn is_neighbour(quality: Quality) -> bool {
    quality != Quality::MISSING && (quality.counts() || !quality.is_by(Test::GrossRange))
}

fn set(qualities: &mut Vec<Quality>, readings: usize, index: usize, quality: Quality) {
    qualities.resize(readings, Quality::USUAL);
    qualities[index] = quality;
}

#[cfg(test)]
mod tests;
