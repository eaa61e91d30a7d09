//! What a sensor of a room shows: its latest reading, and whether that is old.

use sensormesh_proto::rooms::v1::RoomMetric;
use sensormesh_types::quantity::{self, Quantity};
use sensormesh_types::time;

/// The interval of a sensor that nobody knows anything about: 60 s.
const USUAL_INTERVAL: i64 = 60_000_000_000;
/// After how many expected intervals without a reading a sensor is stale.
const PATIENCE: i64 = 3;

/// A reading of one sensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// When it was measured, nanoseconds since the Unix epoch.
    pub time: i64,
    /// The value, in the sensor's unit.
    pub value: f64,
    /// Telemetry found it outside the sensor's range.
    pub out_of_range: bool,
}

impl Reading {
    /// Whether it takes the place of another as what the sensor shows: it is newer, or a correction.
    pub fn replaces(&self, other: Option<&Reading>) -> bool {
        other.is_none_or(|other| {
            self.time > other.time || (self.time == other.time && self.value.to_bits() != other.value.to_bits())
        })
    }
}

/// What is known of a sensor, or of the profile it takes its traits from. Empty and absent = not said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traits {
    /// What is measured.
    pub quantity: String,
    /// The unit, a UCUM code.
    pub unit: String,
    /// The smallest value that can be true.
    pub min: Option<f64>,
    /// The greatest value that can be true.
    pub max: Option<f64>,
    /// Nanoseconds between readings.
    pub interval: Option<i64>,
}

impl Traits {
    /// These traits, and what they leave open from the profile and then from what is usual for the quantity.
    #[must_use]
    pub fn completed(&self, profile: Option<&Traits>) -> Traits {
        let mut traits = self.clone();
        if let Some(profile) = profile {
            traits.fill(profile);
        }
        if traits.quantity.is_empty() && !traits.unit.is_empty() {
            traits.quantity = quantity::ucum(&traits.unit).1.unwrap_or_default().to_owned();
        }
        if let Some(usual) = quantity::by_name(&traits.quantity) {
            if traits.unit.is_empty() {
                usual.unit.clone_into(&mut traits.unit);
            }
            traits.interval = traits.interval.or(Some(i64::from(usual.interval_seconds) * 1_000_000_000));
        }
        traits
    }

    /// What is usual for a quantity.
    pub fn usual(quantity: &Quantity) -> Self {
        Self {
            quantity: quantity.name.to_owned(),
            unit: quantity.unit.to_owned(),
            min: Some(quantity.range.0),
            max: Some(quantity.range.1),
            interval: Some(i64::from(quantity.interval_seconds) * 1_000_000_000),
        }
    }

    fn fill(&mut self, from: &Traits) {
        if self.quantity.is_empty() {
            self.quantity.clone_from(&from.quantity);
        }
        // a range is in a unit: another unit's says nothing
        if self.unit.is_empty() || self.unit == from.unit {
            self.unit.clone_from(&from.unit);
            self.min = self.min.or(from.min);
            self.max = self.max.or(from.max);
        }
        self.interval = self.interval.or(from.interval);
    }

    /// Whether a reading of that time is old at `now`.
    pub fn is_stale(&self, time: i64, now: i64) -> bool {
        let patience = self.interval.unwrap_or(USUAL_INTERVAL).saturating_mul(PATIENCE);
        now.saturating_sub(time) > patience
    }

    fn excludes(&self, value: f64) -> bool {
        self.min.is_some_and(|min| value < min) || self.max.is_some_and(|max| value > max)
    }
}

/// What a room says of one of its sensors. `followed` = readings can be followed at present; nothing is fresh otherwise.
pub fn show(
    metric: &str,
    sensor: &str,
    traits: &Traits,
    reading: Option<&Reading>,
    now: i64,
    followed: bool,
) -> RoomMetric {
    RoomMetric {
        metric: metric.to_owned(),
        sensor_id: sensor.to_owned(),
        value: reading.map(|reading| reading.value),
        unit: traits.unit.clone(),
        time: reading.map(|reading| time::from_nanos(reading.time)),
        stale: !followed || reading.is_none_or(|reading| traits.is_stale(reading.time, now)),
        quantity: traits.quantity.clone(),
        out_of_range: reading.is_some_and(|reading| reading.out_of_range || traits.excludes(reading.value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn reading(time: i64, value: f64) -> Reading {
        Reading { time, value, out_of_range: false }
    }

    #[test]
    fn a_reading_is_stale_after_three_intervals() {
        let traits = Traits { interval: Some(10 * SECOND), ..Traits::default() };
        let at = |now| show("co2", "lab.co2", &traits, Some(&reading(0, 1.0)), now, true).stale;
        assert!(!at(30 * SECOND));
        assert!(at(30 * SECOND + 1));
        assert!(show("co2", "lab.co2", &traits, Some(&reading(0, 1.0)), 1, false).stale);
        assert!(show("co2", "lab.co2", &traits, None, 1, true).stale);
    }

    #[test]
    fn an_unknown_interval_is_a_minute() {
        let traits = Traits::default().completed(None);
        assert!(!traits.is_stale(0, 180 * SECOND) && traits.is_stale(0, 181 * SECOND));
    }

    #[test]
    fn what_a_sensor_leaves_open_comes_from_its_profile_and_then_from_the_quantity() {
        let profile = Traits {
            quantity: "temperature".into(),
            unit: "Cel".into(),
            min: Some(-20.0),
            max: Some(60.0),
            interval: None,
        };
        let sensor = Traits { max: Some(50.0), ..Traits::default() }.completed(Some(&profile));
        assert_eq!((sensor.unit.as_str(), sensor.min, sensor.max), ("Cel", Some(-20.0), Some(50.0)));
        assert_eq!(sensor.interval, Some(60 * SECOND));
        let fahrenheit = Traits { unit: "[degF]".into(), ..Traits::default() }.completed(Some(&profile));
        assert_eq!((fahrenheit.unit.as_str(), fahrenheit.max), ("[degF]", None));
        let bare = Traits { unit: "W".into(), ..Traits::default() }.completed(None);
        assert_eq!((bare.quantity.as_str(), bare.interval), ("power", Some(10 * SECOND)));
    }

    #[test]
    fn a_value_outside_the_range_is_shown_and_marked() {
        let traits = Traits { min: Some(0.0), max: Some(100.0), ..Traits::default() };
        let shown = |value| show("h", "lab.h", &traits, Some(&reading(0, value)), 0, true);
        assert!(shown(100.5).out_of_range && !shown(100.0).out_of_range);
        assert_eq!(shown(100.5).value, Some(100.5));
    }

    #[test]
    fn an_older_reading_and_a_repeated_one_replace_nothing() {
        let shown = reading(5, 1.0);
        assert!(reading(6, 1.0).replaces(Some(&shown)));
        assert!(reading(5, 2.0).replaces(Some(&shown)));
        assert!(!reading(5, 1.0).replaces(Some(&shown)));
        assert!(!reading(4, 9.0).replaces(Some(&shown)));
        assert!(reading(4, 9.0).replaces(None));
    }
}
