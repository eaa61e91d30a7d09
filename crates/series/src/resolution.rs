//! To how many decimals values are kept.

use crate::block::decimal::{POWERS, restore};

/// Values of more digits are left as they are: a `f64` holds 15 for certain.
const GREATEST: f64 = 1e15;

/// A number of decimals, 0 to 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution(u8);

impl Resolution {
    /// So many decimals; `None` for more than 9.
    pub fn of(decimals: u32) -> Option<Self> {
        u8::try_from(decimals).ok().filter(|decimals| usize::from(*decimals) < POWERS.len()).map(Self)
    }

    /// How many decimals.
    pub fn decimals(self) -> u32 {
        self.0.into()
    }

    /// The nearest value of so many decimals, of two the one further from zero. A value is taken for the decimal number of
    /// up to 15 digits that it stands for: `1.005`, which as a `f64` is a little less, is `1.01`, as in whole thousandths.
    /// What was rounded stays what it is when it is rounded again.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // at most 1e15 in size
    pub fn round(self, value: f64) -> f64 {
        let power = POWERS[usize::from(self.0)];
        // the quotient that the value came from and this product can each have lost half a step
        let whole = (value * power * (1.0 + f64::EPSILON)).round();
        if whole.abs() <= GREATEST { restore(whole as i64, power) } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to(decimals: u32) -> Resolution {
        Resolution::of(decimals).expect("decimals")
    }

    #[test]
    fn the_nearest_value_is_taken_and_of_two_the_greater_one() {
        let rounded = [21.449_999, 21.45, 21.55, -21.45, 0.04, -0.04].map(|value| to(1).round(value));
        assert_eq!(rounded, [21.4, 21.5, 21.6, -21.5, 0.0, 0.0]);
        assert!(to(1).round(-0.0).is_sign_positive());
        assert_eq!((to(2).round(1.005), to(2).round(8.575), to(0).round(0.5)), (1.01, 8.58, 1.0));
        assert_eq!((Resolution::of(9).map(Resolution::decimals), Resolution::of(10)), (Some(9), None));
    }

    #[test]
    fn what_has_no_such_decimals_stays() {
        for value in [1e300, -4e15, 123_456_789.123_456_78, f64::INFINITY, f64::MAX] {
            assert_eq!(to(9).round(value).to_bits(), value.to_bits(), "{value}");
        }
        assert!(to(2).round(f64::NAN).is_nan());
    }

    proptest! {
        #[test]
        fn what_is_rounded_stays(bits in any::<u64>(), near in -1e9..1e9f64, whole in -2_000_000_000_000_000i64..2_000_000_000_000_000, decimals in 0u32..10) {
            for value in [f64::from_bits(bits), near, restore(whole, POWERS[decimals as usize])] {
                let once = to(decimals).round(value);
                prop_assert_eq!(to(decimals).round(once).to_bits(), once.to_bits(), "{}", value);
            }
        }

        #[test]
        fn nothing_is_further_off_than_half_a_step(value in -1e6..1e6f64, decimals in 0u32..10) {
            let half = 0.5 / POWERS[decimals as usize];
            prop_assert!((to(decimals).round(value) - value).abs() <= half + value.abs() * 4.0 * f64::EPSILON);
        }

        #[test]
        fn whole_numbers_and_a_power_of_ten_are_rounded_as_whole_numbers(
            whole in -999_999_000_000_000i64..999_999_000_000_000, shift in 0u32..50, decimals in 0u32..10,
            to_decimals in 0u32..10, beside in -1i64..=1,
        ) {
            let step = 10i64.pow(decimals.saturating_sub(to_decimals));
            let any = whole >> shift;
            let middle = any / step * step + any.signum() * step / 2;
            for whole in [any, middle + beside] {
                let value = restore(whole, POWERS[decimals as usize]);
                let rounded = restore((whole + whole.signum() * (step / 2)) / step, POWERS[decimals.min(to_decimals) as usize]);
                prop_assert_eq!(to(to_decimals).round(value).to_bits(), rounded.to_bits(), "{}", value);
            }
        }
    }
}
