//! The packed forms of the contracts: times as steps, values as whole numbers and a power of ten.

mod group;

use sensormesh_types::{Error, Result};

use crate::block::decimal;

pub use group::{Channel, Group};

/// The tick that `tick_ns = 0` stands for: one millisecond.
pub const DEFAULT_TICK: u64 = 1_000_000;

/// The times of a group: the first one and, in ticks, the way from each to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Nanoseconds since the Unix epoch.
    pub start: i64,
    /// Nanoseconds; 0 = one millisecond.
    pub tick: u64,
    /// One fewer than there are readings.
    pub steps: Vec<i64>,
}

/// The times that steps stand for. Refuses times beyond what `i64` nanoseconds can say.
pub fn times(start: i64, tick: u64, steps: &[i64]) -> Result<Vec<i64>> {
    times_of(start, tick, steps.len(), steps.iter().map(|step| Ok(*step)))
}

fn times_of(start: i64, tick: u64, len: usize, steps: impl Iterator<Item = Result<i64>>) -> Result<Vec<i64>> {
    let too_far = || Error::invalid("steps", "lead to a time beyond 1677 to 2262");
    let tick = i64::try_from(if tick == 0 { DEFAULT_TICK } else { tick }).map_err(|_| too_far())?;
    let mut times = Vec::with_capacity(len + 1);
    let mut time = start;
    times.push(time);
    for step in steps {
        time = step?.checked_mul(tick).and_then(|way| time.checked_add(way)).ok_or_else(too_far)?;
        times.push(time);
    }
    Ok(times)
}

/// Packs times into steps with the greatest tick that fits them all. Times may go back; `None` where there are none or the
/// way between two of them is too far.
pub fn steps(times: &[i64]) -> Option<Steps> {
    let start = *times.first()?;
    let mut steps = Vec::with_capacity(times.len() - 1);
    let mut tick = 0u64;
    for pair in times.windows(2) {
        let way = pair[1].checked_sub(pair[0])?;
        tick = gcd(tick, way.unsigned_abs());
        steps.push(way);
    }
    let tick = if tick == 0 || tick > i64::MAX as u64 { 1 } else { tick };
    if tick != 1 {
        let divisor = tick as i64;
        steps.iter_mut().for_each(|way| *way /= divisor);
    }
    Some(Steps { start, tick, steps })
}

pub(crate) fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The values that deltas stand for: `(deltas[0] + … + deltas[i]) / 10^decimals`.
pub fn values(decimals: u32, deltas: &[i64]) -> Result<Vec<f64>> {
    values_of(decimals, deltas.len(), deltas.iter().map(|delta| Ok(*delta)))
}

fn values_of(decimals: u32, len: usize, deltas: impl Iterator<Item = Result<i64>>) -> Result<Vec<f64>> {
    let power =
        *decimal::POWERS.get(decimals as usize).ok_or_else(|| Error::invalid("decimals", "must be at most 9"))?;
    let mut values = Vec::with_capacity(len);
    let mut whole = 0i64;
    for delta in deltas {
        whole = whole.checked_add(delta?).ok_or_else(|| Error::invalid("deltas", "add up to more than 64 bits"))?;
        values.push(decimal::restore(whole, power));
    }
    Ok(values)
}

/// Packs values into whole numbers and a power of ten where that restores every bit and is likely smaller.
pub fn deltas(values: &[f64]) -> Option<(u32, Vec<i64>)> {
    let (exponent, mut wholes) = decimal::exact(values)?;
    let mut before = 0i64;
    for whole in &mut wholes {
        let delta = whole.checked_sub(before)?;
        before = *whole;
        *whole = delta;
    }
    Some((exponent, wholes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_missing_tick_is_a_millisecond() {
        assert_eq!(times(5, 0, &[1, 2]).expect("times"), [5, 1_000_005, 3_000_005]);
    }

    #[test]
    fn steps_beyond_the_calendar_are_refused() {
        assert!(times(i64::MAX, 1, &[1]).is_err());
        assert!(times(0, u64::MAX, &[1]).is_err());
        assert!(times(0, 2, &[i64::MAX]).is_err());
    }

    #[test]
    fn decimals_are_packed_and_other_numbers_are_not() {
        assert_eq!(deltas(&[21.5, 21.75, 21.5]), Some((2, vec![2150, 25, -25])));
        assert_eq!(deltas(&[0.1 + 0.2]), None);
        assert_eq!(deltas(&[-0.0]), None);
        assert!(values(10, &[1]).is_err());
        assert!(values(0, &[i64::MAX, 1]).is_err());
    }

    proptest! {
        #[test]
        fn packed_times_come_back(times_ in prop::collection::vec(-4_000_000_000_000_000_000i64..4_000_000_000_000_000_000, 1..50)) {
            let packed = steps(&times_).expect("within range");
            prop_assert_eq!(times(packed.start, packed.tick, &packed.steps).expect("times"), times_);
        }

        #[test]
        fn packed_values_come_back(wholes in prop::collection::vec(-1_000_000i64..1_000_000, 1..50), decimals in 0u32..5) {
            let plain: Vec<f64> = wholes.iter().map(|w| decimal::restore(*w, decimal::POWERS[decimals as usize])).collect();
            let (decimals, packed) = deltas(&plain).expect("decimal");
            let restored = values(decimals, &packed).expect("values");
            prop_assert!(restored.iter().zip(&plain).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }
}
