//! What is left of readings when they are gone: summaries of 15 minutes and of days in UTC, in columns.
//!
//! Beside count, sum, extremes, first and last a rollup knows the sum of squares about its mean, so that standard deviations
//! of longer intervals follow from it. Rollups of disjoint readings add up to the rollup of all of them.

use sensormesh_types::{Code, Error, Result};

use crate::{Aggregate, Column, Reading, block, bucket_start, varint};

/// The length of the shorter rollups, nanoseconds: 15 minutes.
pub const QUARTER: i64 = 900_000_000_000;
/// The length of the longer ones, nanoseconds: a day.
pub const DAY: i64 = 86_400_000_000_000;

/// More rollups than are ever encoded together; who says more is damaged.
const MOST: u64 = 1 << 16;

/// The summary of some readings that take part in aggregates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rollup {
    /// Count, sum, extremes, first and last.
    pub aggregate: Aggregate,
    /// The sum of the squared distances from the mean. About zero it would lose its digits where values are large and alike.
    pub squares: f64,
}

impl Rollup {
    /// The rollup of readings in order of time, by Welford's method; `None` where there are none.
    pub fn of(readings: impl IntoIterator<Item = Reading>) -> Option<Self> {
        let (mut aggregate, mut count, mut mean, mut squares) = (None::<Aggregate>, 0.0, 0.0, 0.0);
        for Reading { time, value, .. } in readings {
            match &mut aggregate {
                Some(aggregate) => aggregate.add(time, value),
                None => aggregate = Some(Aggregate::of(time, value)),
            }
            count += 1.0;
            let from_mean: f64 = value - mean;
            mean += from_mean / count;
            squares += from_mean * (value - mean);
        }
        aggregate.map(|aggregate| Self { aggregate, squares })
    }

    /// The rollups of a column's readings that take part in aggregates, for each interval of `width` nanoseconds, by time.
    pub fn of_column(column: &Column, width: i64) -> Vec<Self> {
        let mut rollups = Vec::new();
        let counted: Vec<_> = column.iter().filter(|reading| reading.quality.counts()).collect();
        let start = |reading: &Reading| bucket_start(reading.time, width);
        for part in counted.chunk_by(|one, next| start(one) == start(next)) {
            rollups.extend(Self::of(part.iter().copied()));
        }
        rollups
    }

    /// The start of its interval, where that is `width` nanoseconds long.
    pub fn start(&self, width: i64) -> i64 {
        bucket_start(self.aggregate.first.0, width)
    }

    /// Adds the rollup of other readings. The squares by Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for
    /// Computing Sample Variances" (1979).
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53 readings
    pub fn merge(&mut self, other: &Rollup) {
        let (one, two) = (self.aggregate.count as f64, other.aggregate.count as f64);
        let apart = other.aggregate.mean() - self.aggregate.mean();
        self.squares += other.squares + apart * apart * (one * two / (one + two));
        self.aggregate.merge(&other.aggregate);
    }

    /// The standard deviation as a population; `None` where squares leave the range of numbers.
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53 readings
    pub fn deviation(&self) -> Option<f64> {
        Some((self.squares / self.aggregate.count as f64).sqrt()).filter(|deviation| deviation.is_finite())
    }

    /// The rollup of the same readings, each value multiplied by `gain` and then moved by `offset`; `None` where that is not
    /// finite.
    pub fn on_line(self, gain: f64, offset: f64) -> Option<Self> {
        let Self { aggregate, squares } = self;
        Some(Self { aggregate: aggregate.on_line(gain, offset)?, squares: squares * gain * gain })
    }
}

/// Adds rollups to others of the same width; both are ordered by time, and so is what comes out.
pub fn merged(kept: &[Rollup], new: &[Rollup], width: i64) -> Vec<Rollup> {
    let mut all: Vec<Rollup> = kept.iter().chain(new).copied().collect();
    all.sort_by_key(|rollup| rollup.start(width)); // stable: what was kept stays first
    widened(&all, width)
}

/// The rollups of wider intervals that shorter ones, ordered by time, lie in.
pub fn widened(rollups: &[Rollup], width: i64) -> Vec<Rollup> {
    let mut wide: Vec<Rollup> = Vec::new();
    for rollup in rollups {
        match wide.last_mut() {
            Some(last) if last.start(width) == rollup.start(width) => last.merge(rollup),
            _ => wide.push(*rollup),
        }
    }
    wide
}

/// Encodes rollups that are ordered by time, column by column with the block codec; each column carries a CRC32C.
#[allow(clippy::cast_precision_loss)] // counts and distances in time up to 2^53 are exact
pub fn encode(rollups: &[Rollup]) -> Result<Vec<u8>> {
    let firsts: Vec<i64> = rollups.iter().map(|rollup| rollup.aggregate.first.0).collect();
    let mut out = Vec::with_capacity(rollups.len() * 24 + 64);
    put(&mut out, &block::encode_times(&firsts)?);
    let columns: [fn(&Rollup) -> f64; COLUMNS] = [
        |rollup| rollup.aggregate.count as f64,
        |rollup| rollup.aggregate.sum.value(),
        |rollup| rollup.squares,
        |rollup| rollup.aggregate.min,
        |rollup| rollup.aggregate.max,
        |rollup| rollup.aggregate.first.1,
        |rollup| rollup.aggregate.last.1,
        |rollup| (rollup.aggregate.last.0 - rollup.aggregate.first.0) as f64,
    ];
    for column in columns {
        let values: Vec<f64> = rollups.iter().map(column).collect();
        put(&mut out, &block::encode_values(&values)?);
    }
    Ok(out)
}

const COLUMNS: usize = 8;

/// Decodes what [`encode`] made. `Corrupt` where it was damaged.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked to be whole numbers in range
pub fn decode(mut bytes: &[u8]) -> Result<Vec<Rollup>> {
    let firsts = block::decode_times(take(&mut bytes)?)?;
    let mut columns = Vec::with_capacity(COLUMNS);
    for _ in 0..COLUMNS {
        let column = block::decode_values(take(&mut bytes)?)?;
        if column.len() != firsts.len() {
            return Err(corrupt("its columns differ in length"));
        }
        columns.push(column);
    }
    if !bytes.is_empty() {
        return Err(corrupt("something follows it"));
    }
    let rollup = |place: usize| {
        let at = |column: usize| columns[column][place];
        let whole = |number: f64| (number >= 0.0 && number.fract() == 0.0 && number < 9e15).then_some(number as i64);
        let (count, way) = (whole(at(0)).filter(|count| *count > 0)?, whole(at(7))?);
        let first = firsts[place];
        let mut aggregate = Aggregate::of(first, at(1));
        aggregate.count = count.unsigned_abs();
        (aggregate.min, aggregate.max) = (at(3), at(4));
        (aggregate.first, aggregate.last) = ((first, at(5)), (first.checked_add(way)?, at(6)));
        Some(Rollup { aggregate, squares: at(2) })
    };
    (0..firsts.len()).map(|place| rollup(place).ok_or_else(|| corrupt("its numbers make no sense"))).collect()
}

fn put(out: &mut Vec<u8>, section: &[u8]) {
    varint::put(out, section.len() as u64);
    out.extend_from_slice(section);
}

fn take<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = varint::take(bytes).filter(|length| *length <= MOST * 16).and_then(|n| usize::try_from(n).ok());
    let (section, rest) = length.and_then(|n| bytes.split_at_checked(n)).ok_or_else(|| corrupt("it is cut off"))?;
    *bytes = rest;
    Ok(section)
}

fn corrupt(what: &str) -> Error {
    Error::new(Code::Corrupt, "ROLLUP_CORRUPT", format!("a block of rollups is damaged: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Quality;
    use proptest::prelude::*;

    fn column(readings: impl IntoIterator<Item = (i64, f64)>) -> Column {
        let mut column = Column::default();
        for (time, value) in readings {
            column.upsert(time, value, Quality::USUAL);
        }
        column
    }

    #[test]
    fn a_deviation_keeps_its_digits_where_values_are_large() {
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0].map(|value| 1e9 + value);
        let column = column((0..).zip(values));
        let parts = Rollup::of_column(&column, 3);
        let whole = widened(&parts, 1000);
        assert_eq!((parts.len(), whole.len()), (3, 1));
        assert!((whole[0].deviation().expect("finite") - 2.0).abs() < 1e-6);
        let moved = whole[0].on_line(-3.0, 7.0).expect("finite");
        assert!((moved.deviation().expect("finite") - 6.0).abs() < 1e-6);
        let huge = Rollup::of_column(&super::tests::column([(0, 1e200), (1, -1e200)]), 10);
        assert_eq!(huge[0].deviation(), None);
    }

    #[test]
    fn what_failed_is_left_out() {
        let mut column = column([(1, 1.0), (2, 3.0)]);
        column.upsert(3, 99.0, Quality::OUT_OF_RANGE);
        let rollups = Rollup::of_column(&column, 10);
        assert_eq!((rollups.len(), rollups[0].aggregate.count, rollups[0].aggregate.max), (1, 2, 3.0));
        assert!(Rollup::of_column(&Column::default(), 10).is_empty());
    }

    #[test]
    fn a_day_of_a_usual_sensor_takes_few_bytes() {
        let readings = (0..17_280)
            .map(|i| (i * 5_000_000_000, ((f64::from(i as i32) / 900.0).sin() * 40.0).round() / 10.0 + 21.0));
        let rollups = Rollup::of_column(&column(readings), QUARTER);
        let bytes = encode(&rollups).expect("encoded").len();
        assert!(rollups.len() == 96 && bytes < 96 * 20, "{bytes} bytes");
    }

    fn readings() -> impl Strategy<Value = std::collections::BTreeMap<i64, f64>> {
        prop::collection::btree_map(-3000i64..3000, (-4000i32..4000).prop_map(|n| f64::from(n) / 8.0), 0..120)
    }

    proptest! {
        #[test]
        fn parts_add_up_to_the_whole(readings in readings(), picks in prop::collection::vec(any::<bool>(), 120), width in 1i64..900) {
            let (one, two): (Vec<_>, Vec<_>) = readings.iter().zip(&picks).partition(|(_, pick)| **pick);
            let part = |part: Vec<((&i64, &f64), &bool)>| Rollup::of_column(&column(part.iter().map(|((t, v), _)| (**t, **v))), width);
            let added = merged(&part(one), &part(two), width);
            let whole = Rollup::of_column(&column(readings), width);
            prop_assert_eq!(added.len(), whole.len());
            for (added, whole) in added.iter().zip(&whole) {
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs().max(1.0);
                prop_assert_eq!(added.aggregate.count, whole.aggregate.count);
                prop_assert_eq!(added.aggregate.sum.value(), whole.aggregate.sum.value());
                prop_assert_eq!((added.aggregate.min, added.aggregate.max), (whole.aggregate.min, whole.aggregate.max));
                prop_assert_eq!((added.aggregate.first, added.aggregate.last), (whole.aggregate.first, whole.aggregate.last));
                prop_assert!(close(added.squares, whole.squares), "{} {}", added.squares, whole.squares);
            }
        }

        #[test]
        fn rollups_come_back_as_they_were_and_damage_is_found(readings in readings(), flip in any::<prop::sample::Index>(), bit in 0u8..8) {
            let rollups = Rollup::of_column(&column(readings), 100);
            let bytes = encode(&rollups).expect("encoded");
            prop_assert_eq!(&decode(&bytes).expect("decoded"), &rollups);
            let mut damaged = bytes.clone();
            damaged[flip.index(bytes.len())] ^= 1 << bit;
            prop_assert_eq!(decode(&damaged).expect_err("damaged").code(), Code::Corrupt);
        }
    }
}
