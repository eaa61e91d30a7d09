//! What a reading must be, whatever door it comes through.

use sensormesh_proto::telemetry::v1::Verdict;
use sensormesh_series::{Flag, Quality, Test};

use crate::catalog::Sensor;

const SECOND: i64 = 1_000_000_000;
/// How far ahead of the server's clock a reading may lie.
const AHEAD: i64 = 300 * SECOND;
/// How far back a reading may lie: seven years.
const BACK: i64 = 7 * 31_557_600 * SECOND;
/// How far back recorded data may lie: 1990-01-01.
const RECORDED_SINCE: i64 = 631_152_000 * SECOND;

/// Most characters of a sensor's id.
const ID_LENGTH: usize = 128;

/// The times a reading may have.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    from: i64,
    to: i64,
    backfill: bool,
}

impl Window {
    /// The window at `now`, nanoseconds since the Unix epoch.
    pub fn at(now: i64, backfill: bool) -> Self {
        let from = if backfill { RECORDED_SINCE } else { now.saturating_sub(BACK) };
        Self { from, to: now.saturating_add(AHEAD), backfill }
    }

    /// Why a time cannot be taken.
    pub fn refuses(&self, time: i64) -> Option<Verdict> {
        if time > self.to {
            Some(Verdict::Future)
        } else if time < self.from {
            Some(Verdict::TooOld)
        } else {
            None
        }
    }

    /// The same in words.
    pub fn words(&self, verdict: Verdict) -> &'static str {
        match (verdict, self.backfill) {
            (Verdict::Future, _) => "is more than 5 minutes ahead of the server's clock",
            (_, false) => "is more than 7 years back; recorded data is sent with `backfill`",
            (_, true) => "is before 1990",
        }
    }
}

/// The stable word for why a reading is refused.
pub fn word(verdict: Verdict) -> &'static str {
    verdict.as_str_name().trim_start_matches("VERDICT_")
}

/// The device that a sensor is of by its name, which is what a bridge is admitted by.
pub fn device_of(sensor_id: &str) -> &str {
    sensor_id.split_once('.').map_or(sensor_id, |(device, _)| device)
}

/// Whether it can be a sensor's id: up to 128 letters, digits, `_`, `-`, `:` and `.`, the first a letter or a digit.
pub fn is_sensor_id(id: &str) -> bool {
    id.len() <= ID_LENGTH
        && id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b':' | b'.'))
}

/// A value as it is kept: rounded where the sensor's profile says to how many decimals.
pub fn rounded(sensor: &Sensor, value: f64) -> f64 {
    sensor.resolution.map_or(value, |resolution| resolution.round(value))
}

/// The same for the values of a channel, of which the sender may have said how many `decimals` they have at most; answers
/// whether any was changed.
pub fn round(sensor: &Sensor, decimals: Option<u32>, values: &mut [f64]) -> bool {
    let Some(resolution) = sensor.resolution else { return false };
    if decimals.is_some_and(|decimals| decimals <= resolution.decimals()) {
        return false;
    }
    values.iter_mut().fold(false, |changed, value| {
        let sent = std::mem::replace(value, resolution.round(*value));
        changed | (value.to_bits() != sent.to_bits())
    })
}

/// The quality of a reading after the server's own tests.
pub fn quality(sensor: &Sensor, value: f64, told: Quality) -> Quality {
    if sensor.is_out_of_range(value) { told.found(Flag::Fail, Test::GrossRange) } else { told }
}

/// Marks the values of a channel that lie outside the sensor's range; answers whether there were any.
pub fn mark_out_of_range(sensor: &Sensor, values: &[f64], qualities: &mut Vec<Quality>) -> bool {
    if !sensor.has_range() || !values.iter().any(|value| sensor.is_out_of_range(*value)) {
        return false;
    }
    qualities.resize(values.len(), Quality::USUAL);
    for (quality, value) in qualities.iter_mut().zip(values) {
        if sensor.is_out_of_range(*value) {
            *quality = quality.found(Flag::Fail, Test::GrossRange);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_times_from_seven_years_back_to_five_minutes_ahead_are_taken() {
        let now = 1_800_000_000 * SECOND;
        let window = Window::at(now, false);
        assert_eq!(window.refuses(now + AHEAD), None);
        assert_eq!(window.refuses(now + AHEAD + 1), Some(Verdict::Future));
        assert_eq!(window.refuses(now - BACK), None);
        assert_eq!(window.refuses(now - BACK - 1), Some(Verdict::TooOld));
        let recorded = Window::at(now, true);
        assert_eq!(recorded.refuses(RECORDED_SINCE), None);
        assert_eq!(recorded.refuses(RECORDED_SINCE - 1), Some(Verdict::TooOld));
    }

    #[test]
    fn ids_are_those_of_the_devices_contract() {
        for id in ["lab.co2", "a", "9:x-y_z", &"a".repeat(128)] {
            assert!(is_sensor_id(id), "{id}");
        }
        for id in ["", ".co2", "lab co2", "lab/co2", "läb", &"a".repeat(129)] {
            assert!(!is_sensor_id(id), "{id}");
        }
    }

    #[test]
    fn values_out_of_range_are_marked_and_kept() {
        let sensor = Sensor { min: Some(0.0), max: Some(100.0), ..Sensor::default() };
        let mut qualities = Vec::new();
        assert!(!mark_out_of_range(&sensor, &[0.0, 100.0], &mut qualities));
        assert!(qualities.is_empty());
        assert!(mark_out_of_range(&sensor, &[50.0, -0.1], &mut qualities));
        assert_eq!(qualities, [Quality::USUAL, Quality::OUT_OF_RANGE]);
        assert_eq!(quality(&sensor, 101.0, Quality::USUAL), Quality::OUT_OF_RANGE);
    }
}
