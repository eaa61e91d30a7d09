//! Quality control of readings as they come, after QARTOD (U.S. Integrated Ocean Observing System, *Manual for Real-Time
//! Quality Control of In-situ Temperature and Salinity Data*, section 3.3): gap (test 1), gross range (test 4), spike
//! (test 6), rate of change (test 7), flat line (test 8).
//!
//! The fail limits of the gross range are the sensor's range and are looked at by the doors ([`crate::validate`]). All else
//! needs a reading's neighbours: the writer looks at it once it knows what is new ([`Flagger`]), for sensors whose profile
//! asks for it, and keeps the last neighbours of each ([`Track`]).

pub mod completeness;
mod flagger;
mod track;

use sensormesh_proto::devices::v1 as devices;

pub use flagger::Flagger;
pub use track::Track;

/// The tests of a sensor's readings beside that of its range. A limit that no value passes switches its test off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tests {
    /// Values outside are suspect.
    pub usual: (f64, f64),
    /// A value that differs by more from the mean of its two neighbours is suspect.
    pub spike_suspect: f64,
    /// A value that differs by more from the mean of its two neighbours fails.
    pub spike_fail: f64,
    /// A value that changed by more in a second is suspect.
    pub change_per_second: f64,
    /// Values that differ by no more count as unchanged.
    pub flat_tolerance: f64,
    /// From so many unchanged values in a row on, each is suspect.
    pub flat_suspect: usize,
    /// From so many unchanged values in a row on, each fails.
    pub flat_fail: usize,
    /// A reading whose predecessor is older by more nanoseconds is suspect.
    pub gap: i64,
}

impl Tests {
    /// Tests that find nothing.
    pub const NONE: Tests = Tests {
        usual: (f64::NEG_INFINITY, f64::INFINITY),
        spike_suspect: f64::INFINITY,
        spike_fail: f64::INFINITY,
        change_per_second: f64::INFINITY,
        flat_tolerance: 0.0,
        flat_suspect: usize::MAX,
        flat_fail: usize::MAX,
        gap: i64::MAX,
    };

    /// The tests of the contract, for a sensor that is expected to report every `interval` nanoseconds; `None` where they
    /// test nothing.
    pub fn from_proto(told: &devices::QualityTests, interval: Option<i64>) -> Option<Self> {
        let limit = |limit: f64| if limit > 0.0 { limit } else { f64::INFINITY };
        let count = |count: u32| if count > 1 { count as usize } else { usize::MAX };
        let gap = interval.filter(|_| told.gap_intervals > 0).and_then(|i| i.checked_mul(told.gap_intervals.into()));
        let tests = Self {
            usual: (told.suspect_min.unwrap_or(f64::NEG_INFINITY), told.suspect_max.unwrap_or(f64::INFINITY)),
            spike_suspect: limit(told.spike_suspect),
            spike_fail: limit(told.spike_fail),
            change_per_second: limit(told.max_change_per_second),
            flat_tolerance: told.flat_tolerance,
            flat_suspect: count(told.flat_suspect_count),
            flat_fail: count(told.flat_fail_count),
            gap: gap.unwrap_or(i64::MAX),
        };
        (Self { flat_tolerance: 0.0, ..tests } != Self::NONE).then_some(tests)
    }

    /// Whether any test compares a reading with others.
    pub fn need_neighbours(&self) -> bool {
        Self { usual: Self::NONE.usual, flat_tolerance: 0.0, ..*self } != Self::NONE
    }

    /// How many neighbours before a reading the tests look at: no more than 1,000.
    pub fn reach(&self) -> usize {
        let flat = [self.flat_suspect, self.flat_fail].into_iter().filter(|count| *count != usize::MAX).max();
        flat.unwrap_or(0).clamp(2, 1000)
    }
}
