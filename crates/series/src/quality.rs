//! What is known of a reading's quality, in one byte.
//!
//! A byte below 128 is a flag alone, under the number it has in the contract. From 128 on it also says which tests gave the
//! flag: bit 6 = fail (else suspect, or not evaluated where no test is named), bit 5 = the time is that of receipt, bits 0
//! to 4 = the tests. Each meaning has one byte, so that equal qualities are equal bytes.

/// One of the tests of real-time quality control that are made here, by its name in QARTOD (U.S. Integrated Ocean Observing
/// System, *Manual for Real-Time Quality Control of In-situ Temperature and Salinity Data*, section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Test {
    /// Test 4: the value lies outside what is possible (fail) or usual (suspect).
    GrossRange = 1,
    /// Test 6: the value stands out from both its neighbours.
    Spike = 2,
    /// Test 7: the value changed too fast.
    RateOfChange = 4,
    /// Test 8: the value has not changed for too many readings.
    FlatLine = 8,
    /// Test 1: the reading before is too long ago.
    Gap = 16,
}

impl Test {
    /// All of them, in the order of the contract.
    pub const ALL: [Test; 5] = [Test::GrossRange, Test::Spike, Test::RateOfChange, Test::FlatLine, Test::Gap];
}

/// A flag of QARTOD, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flag {
    /// Nothing was found wrong.
    Pass,
    /// The tests could not be made.
    NotEvaluated,
    /// A test found it unusual.
    Suspect,
    /// A test found it wrong.
    Fail,
    /// No value was measured.
    Missing,
}

/// What is known of a reading's quality: the worst flag, and the tests that gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Quality(pub u8);

const NAMED: u8 = 0x80;
const FAILED: u8 = 0x40;
const RECEIPT: u8 = 0x20;
const TESTS: u8 = 0x1f;

impl Quality {
    /// Nothing was found wrong: what almost every reading has.
    pub const USUAL: Quality = Quality(0);
    /// The tests could not be made.
    pub const NOT_EVALUATED: Quality = Quality(2);
    /// Told to be unusual by who sent it.
    pub const SUSPECT: Quality = Quality(3);
    /// Outside the sensor's range. Kept, and left out of aggregates.
    pub const OUT_OF_RANGE: Quality = Quality(4);
    /// Its time is that of receipt because the sender gave none.
    pub const TIME_OF_RECEIPT: Quality = Quality(5);
    /// Told to be wrong by who sent it. Kept, and left out of aggregates.
    pub const FAIL: Quality = Quality(6);
    /// No value was measured.
    pub const MISSING: Quality = Quality(9);

    /// Whether a reading of this quality takes part in aggregates: one that failed or is missing does not.
    #[inline]
    pub fn counts(self) -> bool {
        self.0 & (NAMED | FAILED) != NAMED | FAILED
            && self != Quality::OUT_OF_RANGE
            && self != Quality::FAIL
            && self != Quality::MISSING
    }

    /// The worst flag.
    pub fn flag(self) -> Flag {
        match self.0 {
            2 => Flag::NotEvaluated,
            3 => Flag::Suspect,
            4 | 6 => Flag::Fail,
            9 => Flag::Missing,
            byte if byte & (NAMED | FAILED) == NAMED | FAILED => Flag::Fail,
            byte if byte & NAMED != 0 && byte & TESTS != 0 => Flag::Suspect,
            byte if byte & NAMED != 0 => Flag::NotEvaluated,
            _ => Flag::Pass,
        }
    }

    /// Whether a test gave the worst flag.
    #[inline]
    pub fn is_by(self, test: Test) -> bool {
        self.tests() & test as u8 != 0
    }

    /// Whether the reading's time is that of receipt.
    pub fn is_time_of_receipt(self) -> bool {
        self == Quality::TIME_OF_RECEIPT || self.0 & (NAMED | RECEIPT) == NAMED | RECEIPT
    }

    /// The quality after a test that gave a flag: the worse of both, with every test that gave it.
    #[must_use]
    pub fn found(self, flag: Flag, test: Test) -> Self {
        let before = self.flag();
        if flag < before {
            return self;
        }
        let tests = if flag == before { self.tests() | test as u8 } else { test as u8 };
        Self::of(flag, tests, self.is_time_of_receipt())
    }

    /// The quality of a reading whose tests could not be made, unless something is known of it.
    #[must_use]
    pub fn not_evaluated(self) -> Self {
        if self.flag() > Flag::Pass { self } else { Self::of(Flag::NotEvaluated, 0, self.is_time_of_receipt()) }
    }

    /// The quality with this flag by these tests. That a time is of receipt is not kept where nobody knows which test found
    /// a value suspect, or where there is no value.
    pub fn new(flag: Flag, tests: impl IntoIterator<Item = Test>, time_of_receipt: bool) -> Self {
        Self::of(flag, tests.into_iter().fold(0, |set, test| set | test as u8), time_of_receipt)
    }

    fn of(flag: Flag, tests: u8, receipt: bool) -> Self {
        let with = if receipt { NAMED | RECEIPT } else { NAMED };
        match (flag, tests) {
            (Flag::Pass, _) if receipt => Self::TIME_OF_RECEIPT,
            (Flag::Pass, _) => Self::USUAL,
            (Flag::NotEvaluated, _) if receipt => Self(with),
            (Flag::NotEvaluated, _) => Self::NOT_EVALUATED,
            (Flag::Suspect, 0) => Self::SUSPECT,
            (Flag::Suspect, tests) => Self(with | tests),
            (Flag::Fail, 0) if !receipt => Self::FAIL,
            (Flag::Fail, tests) if !receipt && tests == Test::GrossRange as u8 => Self::OUT_OF_RANGE,
            (Flag::Fail, tests) => Self(with | FAILED | tests),
            (Flag::Missing, _) => Self::MISSING,
        }
    }

    fn tests(self) -> u8 {
        if self == Quality::OUT_OF_RANGE {
            Test::GrossRange as u8
        } else if self.0 & NAMED != 0 {
            self.0 & TESTS
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_worst_flag_holds_with_every_test_that_gave_it() {
        let found = Quality::USUAL.found(Flag::Suspect, Test::Spike).found(Flag::Suspect, Test::FlatLine);
        assert_eq!(found.flag(), Flag::Suspect);
        assert!(found.is_by(Test::Spike) && found.is_by(Test::FlatLine) && !found.is_by(Test::Gap));
        assert!(found.counts());
        let failed = found.found(Flag::Fail, Test::Spike).found(Flag::Suspect, Test::Gap);
        assert_eq!(failed, Quality::USUAL.found(Flag::Fail, Test::Spike));
        assert!(!failed.counts());
        assert_eq!(Quality::USUAL.found(Flag::Fail, Test::GrossRange), Quality::OUT_OF_RANGE);
        assert_eq!(Quality::MISSING.found(Flag::Fail, Test::Spike), Quality::MISSING);
        assert_eq!(Quality(1).found(Flag::Suspect, Test::Gap).flag(), Flag::Suspect);
    }

    #[test]
    fn a_time_of_receipt_stays_one_whatever_is_found() {
        let found = Quality::TIME_OF_RECEIPT.found(Flag::Fail, Test::GrossRange);
        assert!(found.is_time_of_receipt() && found.is_by(Test::GrossRange) && !found.counts());
        let unknown = Quality::TIME_OF_RECEIPT.not_evaluated();
        assert!(unknown.is_time_of_receipt() && unknown.flag() == Flag::NotEvaluated && unknown.counts());
        assert_eq!(Quality::OUT_OF_RANGE.not_evaluated(), Quality::OUT_OF_RANGE);
    }

    proptest! {
        #[test]
        fn a_quality_is_what_its_parts_make_it(fail: bool, receipt: bool, tests in 1u8..32) {
            let flag = if fail { Flag::Fail } else { Flag::Suspect };
            let quality = Quality::new(flag, Test::ALL.into_iter().filter(|test| tests & *test as u8 != 0), receipt);
            prop_assert_eq!(quality.flag(), flag);
            prop_assert_eq!(quality.is_time_of_receipt(), receipt);
            prop_assert_eq!(quality.counts(), !fail);
            for test in Test::ALL {
                prop_assert_eq!(quality.is_by(test), tests & test as u8 != 0);
            }
        }
    }
}
