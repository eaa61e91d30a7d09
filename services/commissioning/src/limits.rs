//! What a sensor's readings are held to in one test: what the test says, else its profile, else what is usual.

use std::time::Duration;

use sensormesh_proto::commissioning::v1::StartTestRequest;
use sensormesh_types::{quantity, time};
use serde::{Deserialize, Serialize};

use crate::sensor::{Quality, Traits};

/// So many equal readings in a row are a stuck sensor, where nobody says.
const FLAT: u32 = 20;
/// A gap is longer than so many intervals, where nobody says.
const GAP: u32 = 3;
/// The share of the range that noise may have, where nobody says.
const NOISE: f64 = 0.01;
/// So many readings of each sensor are enough, where nobody says.
pub const READINGS: u32 = 30;
/// A test by itself is no shorter than this (1 min), and no longer (1 h), in microseconds.
const SHORTEST: i64 = 60_000_000;
const LONGEST: i64 = 3_600_000_000;
/// How long one is whose sensors' intervals nobody knows (5 min).
const UNKNOWN: i64 = 300_000_000;
/// Quantities whose values may stay the same for long.
const RESTING: &[&str] = &[
    "battery",
    "count",
    "current",
    "data_rate",
    "data_size",
    "distance",
    "energy",
    "illuminance",
    "irradiance",
    "occupancy",
    "power",
    "speed",
    "volume",
];
/// Quantities that jump without noise.
const JUMPING: &[&str] = &[
    "count",
    "current",
    "data_rate",
    "data_size",
    "distance",
    "energy",
    "illuminance",
    "irradiance",
    "occupancy",
    "power",
    "ratio",
    "signal_strength",
    "sound_level",
    "speed",
    "volume",
    "wind_direction",
];

/// The limits of one sensor in one test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// What is measured; empty = not known.
    pub quantity: String,
    /// The unit, a UCUM code.
    pub unit: String,
    /// The smallest value allowed.
    pub min: Option<f64>,
    /// The greatest value allowed.
    pub max: Option<f64>,
    /// Nanoseconds between readings.
    pub interval: Option<i64>,
    /// A gap is longer than so many of them.
    pub gap_intervals: u32,
    /// Values that differ by no more are the same.
    pub flat_tolerance: f64,
    /// So many of them in a row are a stuck sensor; 0 = it is not judged.
    pub flat_count: u32,
    /// The most noise allowed; `None` = it is not judged.
    pub max_noise: Option<f64>,
    /// So many readings must come; 0 = any number.
    pub required: u32,
}

impl Limits {
    /// The limits of a sensor with these traits, completed from its profile, and quality.
    pub fn new(request: &StartTestRequest, traits: &Traits, quality: &Quality) -> Self {
        let plausible = quantity::by_name(&traits.quantity).filter(|usual| usual.unit == traits.unit);
        let min = request.range_min.or(traits.min).or(plausible.map(|usual| usual.range.0));
        let max = request.range_max.or(traits.max).or(plausible.map(|usual| usual.range.1));
        let has = |list: &[&str]| list.contains(&traits.quantity.as_str());
        let usual_flat = if has(RESTING) { 0 } else { FLAT };
        let usual_noise = min.zip(max).map(|(min, max)| (max - min) * NOISE).filter(|_| !has(JUMPING));
        Self {
            quantity: traits.quantity.clone(),
            unit: traits.unit.clone(),
            min,
            max,
            interval: request.expected_interval.as_ref().and_then(nanos).or(traits.interval),
            gap_intervals: Some(quality.gap_intervals).filter(|gap| *gap > 0).unwrap_or(GAP),
            flat_tolerance: quality.flat_tolerance,
            flat_count: [request.flat_readings, quality.flat_count].into_iter().find(|n| *n > 0).unwrap_or(usual_flat),
            max_noise: request.max_noise.or(usual_noise),
            required: request.readings,
        }
    }

    /// Whether a value is outside the range.
    pub fn excludes(&self, value: f64) -> bool {
        self.min.is_some_and(|min| value < min) || self.max.is_some_and(|max| value > max)
    }

    /// The longest time between readings that is no gap, nanoseconds.
    pub fn patience(&self) -> Option<i64> {
        self.interval.map(|interval| interval.saturating_mul(self.gap_intervals.into()))
    }
}

/// How many readings of each sensor are enough.
pub fn readings(request: &StartTestRequest) -> u32 {
    if request.readings == 0 { READINGS } else { request.readings }
}

/// How long a test runs at most, microseconds: as long as is asked for, or as the slowest sensor needs.
pub fn duration<'l>(request: &StartTestRequest, limits: impl Iterator<Item = &'l Limits>) -> i64 {
    if let Some(asked) = request.duration.as_ref().and_then(time::to_duration) {
        return i64::try_from(asked.as_micros()).unwrap_or(i64::MAX);
    }
    let usual =
        |limits: &Limits| quantity::by_name(&limits.quantity).map(|q| i64::from(q.interval_seconds) * 1_000_000);
    let needed = |limits: &Limits| {
        let interval = limits.interval.map(|nanos| nanos / 1000).or_else(|| usual(limits));
        interval.map_or(UNKNOWN, |micros| micros.saturating_mul(i64::from(readings(request)) + 2))
    };
    limits.map(needed).max().unwrap_or(0).clamp(SHORTEST, LONGEST)
}

fn nanos(duration: &prost_types::Duration) -> Option<i64> {
    time::to_duration(duration).map(|duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits(quantity: &str, interval: Option<i64>) -> Traits {
        let usual = quantity::by_name(quantity).expect("known");
        Traits { interval, ..Traits::usual(usual) }
    }

    #[test]
    fn the_test_says_more_than_the_profile_and_the_profile_more_than_what_is_usual() {
        let quality = Quality { flat_tolerance: 0.1, flat_count: 7, gap_intervals: 5 };
        let plain = StartTestRequest::default();
        let limits = Limits::new(&plain, &traits("humidity", None), &Quality::default());
        assert_eq!((limits.flat_count, limits.gap_intervals, limits.max_noise), (20, 3, Some(1.0)));
        let limits = Limits::new(&plain, &traits("humidity", None), &quality);
        assert_eq!((limits.flat_count, limits.gap_intervals, limits.max), (7, 5, Some(100.0)));
        let asked = StartTestRequest {
            range_max: Some(60.0),
            flat_readings: 4,
            max_noise: Some(0.2),
            expected_interval: Some(time::from_duration(Duration::from_secs(2))),
            ..Default::default()
        };
        let limits = Limits::new(&asked, &traits("humidity", Some(1)), &quality);
        assert_eq!((limits.min, limits.max, limits.flat_count), (Some(0.0), Some(60.0), 4));
        assert_eq!((limits.max_noise, limits.interval), (Some(0.2), Some(2_000_000_000)));
    }

    #[test]
    fn what_may_rest_or_jump_is_judged_only_when_somebody_says_how() {
        let limits = Limits::new(&StartTestRequest::default(), &traits("power", None), &Quality::default());
        assert_eq!((limits.flat_count, limits.max_noise), (0, None));
        let asked = StartTestRequest { flat_readings: 50, max_noise: Some(3.0), ..Default::default() };
        let limits = Limits::new(&asked, &traits("power", None), &Quality::default());
        assert_eq!((limits.flat_count, limits.max_noise), (50, Some(3.0)));
        for name in RESTING.iter().chain(JUMPING) {
            assert!(quantity::by_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_test_is_as_long_as_the_slowest_sensor_needs() {
        let plain = StartTestRequest::default();
        let of = |interval| Limits::new(&plain, &traits("temperature", interval), &Quality::default());
        let seconds = |limits: &[Limits]| duration(&plain, limits.iter()) / 1_000_000;
        assert_eq!(seconds(&[of(Some(1_000_000_000))]), 60);
        assert_eq!(seconds(&[of(Some(1_000_000_000)), of(Some(10_000_000_000))]), 320);
        assert_eq!(seconds(&[of(None)]), 1920, "as is usual for the quantity");
        assert_eq!(seconds(&[of(Some(600_000_000_000))]), 3600);
        assert_eq!(seconds(&[Limits::default()]), 300);
        let asked = StartTestRequest { duration: Some(time::from_duration(Duration::from_secs(7))), ..plain.clone() };
        assert_eq!(duration(&asked, [of(None)].iter()), 7_000_000);
    }
}
