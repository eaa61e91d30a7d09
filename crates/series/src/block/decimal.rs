//! Floating-point numbers that are really whole numbers and a power of ten, as most sensors send them.

/// The powers of ten that are tried.
pub(crate) const POWERS: [f64; 10] = [1., 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// Beyond it not every whole number is a `f64`.
const GREATEST: f64 = 4e15;

/// Of how many values one may be no decimal number before scaling is given up.
const EXCEPTIONS_ONE_IN: usize = 32;

/// A scaling of a block's values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scaling {
    /// The values are whole numbers divided by `10^exponent`.
    pub exponent: u8,
    /// The quotient is rounded to `f32` and widened: the way of senders that compute in `f32`.
    pub narrow: bool,
    /// The whole numbers; where a value is an exception, that of the value before.
    pub wholes: Vec<i64>,
    /// The places of the values that the scaling does not restore bit by bit.
    pub exceptions: Vec<usize>,
}

/// The value that a whole number stands for.
#[inline]
#[allow(clippy::cast_precision_loss)] // at most 4e15 in size, or checked by the caller
pub(crate) fn restore(whole: i64, power: f64) -> f64 {
    whole as f64 / power
}

/// The same for values that were rounded to `f32`.
#[inline]
#[allow(clippy::cast_possible_truncation)] // that is the point
pub(crate) fn restore_narrow(whole: i64, power: f64) -> f64 {
    f64::from(restore(whole, power) as f32)
}

/// Scales values exactly, by the smallest power of ten that does; `None` where none does.
pub(crate) fn exact(values: &[f64]) -> Option<(u32, Vec<i64>)> {
    (0..POWERS.len()).find_map(|exponent| {
        let scaling = scale(values, exponent, false, 0)?;
        Some((u32::from(scaling.exponent), scaling.wholes))
    })
}

/// Scales values with as few exceptions as possible; `None` where there would be too many.
pub(crate) fn best(values: &[f64]) -> Option<Scaling> {
    let mut limit = values.len() / EXCEPTIONS_ONE_IN;
    let mut best: Option<Scaling> = None;
    for narrow in [false, true] {
        for exponent in 0..POWERS.len() {
            if let Some(scaling) = scale(values, exponent, narrow, limit) {
                if scaling.exceptions.is_empty() {
                    return Some(scaling);
                }
                limit = scaling.exceptions.len() - 1;
                best = Some(scaling);
            }
        }
    }
    best
}

#[allow(clippy::cast_possible_truncation)] // at most 4e15 in size
fn scale(values: &[f64], exponent: usize, narrow: bool, limit: usize) -> Option<Scaling> {
    let power = *POWERS.get(exponent)?;
    let mut wholes = Vec::with_capacity(values.len());
    let mut exceptions = Vec::new();
    let mut before = 0i64;
    for (place, value) in values.iter().enumerate() {
        let rounded = (value * power).round();
        let fits = rounded.abs() <= GREATEST && {
            let whole = rounded as i64;
            let back = if narrow { restore_narrow(whole, power) } else { restore(whole, power) };
            back.to_bits() == value.to_bits()
        };
        if fits {
            before = rounded as i64;
        } else if exceptions.len() == limit {
            return None;
        } else {
            exceptions.push(place);
        }
        wholes.push(before);
    }
    Some(Scaling { exponent: exponent as u8, narrow, wholes, exceptions })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_power_that_fits_is_taken() {
        let scaling = best(&[612.0, 613.5, 0.25]).expect("decimal");
        assert_eq!((scaling.exponent, scaling.narrow, scaling.wholes), (2, false, vec![61_200, 61_350, 25]));
    }

    #[test]
    fn widened_floats_are_recognised() {
        let values: Vec<f64> = [48.82f32, 72.755, 26.6687].iter().map(|v| f64::from(*v)).collect();
        let scaling = best(&values).expect("narrow decimal");
        assert!(scaling.narrow);
        assert_eq!(scaling.exponent, 4);
    }

    #[test]
    fn one_odd_value_of_many_is_an_exception() {
        let mut values: Vec<f64> = (0..64).map(|i| f64::from(i) / 10.0).collect();
        values[7] = -0.0;
        let scaling = best(&values).expect("decimal");
        assert_eq!(scaling.exceptions, [7]);
        assert_eq!(scaling.wholes[7], scaling.wholes[6]);
        assert!(best(&[std::f64::consts::PI]).is_none());
    }
}
