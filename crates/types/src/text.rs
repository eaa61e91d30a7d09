//! Durations and sizes as people write them in configuration and flags: `30s`, `64 MiB`.

use std::time::Duration;

use crate::{Error, Result};

const DURATIONS: [(&str, u64); 6] =
    [("us", 1), ("ms", 1000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000)];

const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// A hundred years: what is longer is a mistake, and more than clocks and timers can be set to.
const LONGEST: Duration = Duration::from_secs(36_525 * 86_400);

/// Reads `250ms`, `30s`, `10m`, `24h`, `7d`; at most a hundred years.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let wrong = |why: &str| Error::invalid("duration", format!("{text:?} is {why}"));
    let duration = parse(text, &DURATIONS).map(Duration::from_micros);
    let duration = duration.ok_or_else(|| wrong("not a duration like \"250ms\", \"30s\" or \"7d\""))?;
    if duration > LONGEST { Err(wrong("longer than a hundred years")) } else { Ok(duration) }
}

/// Reads `4096 B`, `64 KiB`, `256 MiB`, as bytes.
pub fn parse_size(text: &str) -> Result<u64> {
    parse(text, &SIZES)
        .ok_or_else(|| Error::invalid("size", format!("{text:?} is not a size like \"4096 B\" or \"64 MiB\"")))
}

/// Writes a duration so that `parse_duration` reads it back, in the largest unit that fits.
pub fn format_duration(duration: Duration) -> String {
    format(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), &DURATIONS, "")
}

/// Writes a size so that `parse_size` reads it back.
pub fn format_size(bytes: u64) -> String {
    format(bytes, &SIZES, " ")
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn format(value: u64, units: &[(&str, u64)], space: &str) -> String {
    let (name, factor) = units
        .iter()
        .filter(|(_, f)| value.is_multiple_of(*f) && value >= *f)
        .max_by_key(|(_, f)| *f)
        .unwrap_or(&units[0]);
    format!("{}{space}{name}", value / factor)
}

/// For `#[serde(with = "types::text::duration")]`.
pub mod duration {
    use super::{Duration, format_duration, parse_duration};
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes a duration as text.
    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format_duration(*duration))
    }

    /// Reads a duration from text.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// For `#[serde(with = "types::text::size")]`, bytes as `u64`.
pub mod size {
    use super::{format_size, parse_size};
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes a size as text.
    pub fn serialize<S: Serializer>(bytes: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format_size(*bytes))
    }

    /// Reads a size from text.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        parse_size(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["250ms", "30s", "10m", "7d", "90s"] {
            let duration = parse_duration(text).expect(text);
            assert_eq!(parse_duration(&format_duration(duration)).expect("read back"), duration);
        }
        assert_eq!(format_size(64 << 20), "64 MiB");
        assert_eq!(parse_size("64 MiB").expect("size"), 64 << 20);
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        assert!(parse_duration("30").is_err());
        assert!(parse_duration("fast").is_err());
        assert!(parse_duration("36525d").is_ok() && parse_duration("36526d").is_err());
        assert!(parse_size("99999999999 GiB").is_err());
    }
}
