//! One sensor's readings, ordered by time.

use std::ops::Range;

use crate::Quality;

/// One value at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Nanoseconds since the Unix epoch.
    pub time: i64,
    /// The value as measured.
    pub value: f64,
    /// What is known of its quality.
    pub quality: Quality,
}

/// What putting a reading into a column did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upsert {
    /// There was none at that time.
    Inserted,
    /// The same value was there already; its quality is the new one.
    Same,
    /// Another value was there; the new one took its place.
    Revised,
}

/// One sensor's readings: times strictly increasing, a value and a quality for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Column {
    times: Vec<i64>,
    values: Vec<f64>,
    /// Empty while every quality is the usual one.
    qualities: Vec<Quality>,
}

impl Column {
    /// A column with room for this many readings.
    pub fn with_capacity(readings: usize) -> Self {
        Self { times: Vec::with_capacity(readings), values: Vec::with_capacity(readings), qualities: Vec::new() }
    }

    /// A column of these readings; `None` unless the times increase strictly and the lengths agree.
    /// `qualities` may be empty: then all are usual.
    pub fn from_parts(times: Vec<i64>, values: Vec<f64>, qualities: Vec<Quality>) -> Option<Self> {
        let fits = times.len() == values.len() && (qualities.is_empty() || qualities.len() == times.len());
        (fits && is_increasing(&times)).then_some(Self { times, values, qualities })
    }

    /// How many readings.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The times, nanoseconds since the Unix epoch, strictly increasing.
    pub fn times(&self) -> &[i64] {
        &self.times
    }

    /// The values, in the order of the times.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The qualities, in the order of the times; empty where all are usual.
    pub fn qualities(&self) -> &[Quality] {
        &self.qualities
    }

    /// The quality of the reading at `index`.
    pub fn quality(&self, index: usize) -> Quality {
        self.qualities.get(index).copied().unwrap_or_default()
    }

    /// Whether every reading takes part in aggregates.
    pub fn all_count(&self) -> bool {
        self.qualities.iter().all(|q| q.counts())
    }

    /// The time of the first reading.
    pub fn start(&self) -> Option<i64> {
        self.times.first().copied()
    }

    /// The time of the last reading.
    pub fn end(&self) -> Option<i64> {
        self.times.last().copied()
    }

    /// The reading at `index`.
    pub fn get(&self, index: usize) -> Option<Reading> {
        Some(Reading { time: *self.times.get(index)?, value: *self.values.get(index)?, quality: self.quality(index) })
    }

    /// The last reading.
    pub fn last(&self) -> Option<Reading> {
        self.get(self.len().checked_sub(1)?)
    }

    /// The reading at this time.
    pub fn find(&self, time: i64) -> Option<Reading> {
        self.get(self.times.binary_search(&time).ok()?)
    }

    /// The readings, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Reading> + ExactSizeIterator + '_ {
        (0..self.len()).map(|i| Reading { time: self.times[i], value: self.values[i], quality: self.quality(i) })
    }

    /// The places of the readings from `start` up to but not including `end`.
    pub fn range(&self, start: i64, end: i64) -> Range<usize> {
        let from = self.times.partition_point(|t| *t < start);
        let to = self.times.partition_point(|t| *t < end);
        from..to.max(from)
    }

    /// The readings at these places.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self {
            times: self.times[range.clone()].to_vec(),
            values: self.values[range.clone()].to_vec(),
            qualities: if self.qualities.is_empty() { Vec::new() } else { self.qualities[range].to_vec() },
        }
    }

    /// The same times with other values. `change` gets the times, the values, and the qualities, which are empty while all
    /// are usual.
    #[must_use]
    pub fn with_values(mut self, change: impl FnOnce(&[i64], &mut [f64], &mut Vec<Quality>)) -> Self {
        change(&self.times, &mut self.values, &mut self.qualities);
        debug_assert!(self.qualities.is_empty() || self.qualities.len() == self.times.len());
        self
    }

    /// Appends readings that are all usual and newer than every one before: the fast path.
    ///
    /// The caller vouches for the order; a debug build checks it.
    pub fn append(&mut self, times: &[i64], values: &[f64]) {
        debug_assert_eq!(times.len(), values.len());
        debug_assert!(is_increasing(times) && times.first().is_none_or(|t| self.end().is_none_or(|end| end < *t)));
        self.times.extend_from_slice(times);
        self.values.extend_from_slice(values);
        if !self.qualities.is_empty() {
            self.qualities.resize(self.times.len(), Quality::USUAL);
        }
    }

    /// Puts one reading in its place; one that was there at the same time gives way.
    pub fn upsert(&mut self, time: i64, value: f64, quality: Quality) -> Upsert {
        let index = match self.times.last() {
            Some(last) if *last >= time => match self.times.binary_search(&time) {
                Ok(index) => return self.replace(index, value, quality),
                Err(index) => index,
            },
            _ => self.times.len(),
        };
        self.times.insert(index, time);
        self.values.insert(index, value);
        if !self.qualities.is_empty() {
            self.qualities.insert(index, quality);
        } else if quality != Quality::USUAL {
            self.qualities.resize(self.times.len(), Quality::USUAL);
            self.qualities[index] = quality;
        }
        Upsert::Inserted
    }

    fn replace(&mut self, index: usize, value: f64, quality: Quality) -> Upsert {
        let same = self.values[index].to_bits() == value.to_bits();
        self.values[index] = value;
        if self.qualities.is_empty() && quality != Quality::USUAL {
            self.qualities.resize(self.times.len(), Quality::USUAL);
        }
        // also of the same value: what follows a reading may say more of it than was known when it came
        if let Some(kept) = self.qualities.get_mut(index) {
            *kept = quality;
        }
        if same { Upsert::Same } else { Upsert::Revised }
    }

    /// Lays `newer` over this column: where both have a reading at the same time, the newer one holds.
    pub fn overlay(&mut self, newer: &Column) {
        let Some(start) = newer.start() else { return };
        if self.end().is_none_or(|end| end < start) {
            self.concat(newer);
            return;
        }
        let older = std::mem::take(self);
        let keep = older.times.partition_point(|t| *t < start);
        *self = older.slice(0..keep);
        let (mut i, mut j) = (keep, 0);
        while i < older.len() || j < newer.len() {
            let take_newer = match (older.times.get(i), newer.times.get(j)) {
                (Some(a), Some(b)) => {
                    i += usize::from(a == b);
                    b <= a
                }
                (None, _) => true,
                (_, None) => false,
            };
            let (from, index) = if take_newer { (newer, &mut j) } else { (&older, &mut i) };
            self.push(from.times[*index], from.values[*index], from.quality(*index));
            *index += 1;
        }
    }

    fn concat(&mut self, newer: &Column) {
        let before = self.len();
        self.times.extend_from_slice(&newer.times);
        self.values.extend_from_slice(&newer.values);
        if !self.qualities.is_empty() || !newer.qualities.is_empty() {
            self.qualities.resize(before, Quality::USUAL);
            self.qualities.extend_from_slice(&newer.qualities);
            self.qualities.resize(self.times.len(), Quality::USUAL);
        }
    }

    fn push(&mut self, time: i64, value: f64, quality: Quality) {
        self.times.push(time);
        self.values.push(value);
        if !self.qualities.is_empty() || quality != Quality::USUAL {
            self.qualities.resize(self.times.len() - 1, Quality::USUAL);
            self.qualities.push(quality);
        }
    }
}

/// Whether each time is later than the one before.
pub(crate) fn is_increasing(times: &[i64]) -> bool {
    times.windows(2).all(|pair| pair[0] < pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn column(readings: &BTreeMap<i64, (f64, u8)>) -> Column {
        let mut column = Column::default();
        for (time, (value, quality)) in readings {
            column.upsert(*time, *value, Quality(*quality));
        }
        column
    }

    #[test]
    fn a_reading_sent_again_is_the_same_and_with_another_value_a_revision() {
        let mut column = Column::default();
        assert_eq!(column.upsert(5, 1.0, Quality::USUAL), Upsert::Inserted);
        assert_eq!(column.upsert(5, 1.0, Quality::USUAL), Upsert::Same);
        assert_eq!(column.upsert(3, 0.5, Quality::OUT_OF_RANGE), Upsert::Inserted);
        assert_eq!(column.upsert(5, 2.0, Quality::USUAL), Upsert::Revised);
        assert_eq!(column.find(5).expect("reading").value, 2.0);
        assert_eq!(column.quality(0), Quality::OUT_OF_RANGE);
        assert_eq!(column.quality(1), Quality::USUAL);
        assert!(!column.all_count());
    }

    #[test]
    fn ranges_are_half_open() {
        let column = column(&(0..10).map(|i| (i * 10, (i as f64, 0))).collect());
        assert_eq!(column.range(10, 30), 1..3);
        assert_eq!(column.range(11, 30), 2..3);
        assert_eq!(column.range(30, 10), 3..3);
        assert_eq!(column.slice(1..3).times(), &[10, 20]);
    }

    proptest! {
        #[test]
        fn overlaying_equals_inserting_into_a_map(
            older in prop::collection::btree_map(-50i64..50, (-5.0..5.0f64, prop::sample::select(vec![0u8, 0, 4, 5])), 0..40),
            newer in prop::collection::btree_map(-50i64..50, (-5.0..5.0f64, prop::sample::select(vec![0u8, 0, 4])), 0..40),
        ) {
            let mut laid = column(&older);
            laid.overlay(&column(&newer));
            let mut map = older;
            map.extend(newer);
            let read: Vec<_> = laid.iter().map(|r| (r.time, (r.value, r.quality.0))).collect();
            prop_assert_eq!(read, map.into_iter().collect::<Vec<_>>());
        }
    }
}
