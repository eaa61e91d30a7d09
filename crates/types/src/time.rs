//! Times and durations between the contracts' messages and our integers.

use std::time::Duration;

use jiff::tz::TimeZone;
use prost_types::{Duration as ProtoDuration, Timestamp};

use crate::{Error, Result};

/// Nanoseconds since the Unix epoch as a `Timestamp`.
pub fn from_nanos(nanos: i64) -> Timestamp {
    Timestamp {
        seconds: nanos.div_euclid(1_000_000_000),
        nanos: i32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}

/// Microseconds since the Unix epoch as a `Timestamp`.
pub fn from_micros(micros: i64) -> Timestamp {
    Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0),
    }
}

/// A `Timestamp` as nanoseconds since the Unix epoch; `None` outside 1677 to 2262 or with impossible nanos.
pub fn to_nanos(time: &Timestamp) -> Option<i64> {
    if !(0..1_000_000_000).contains(&time.nanos) {
        return None;
    }
    time.seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(time.nanos))
}

/// A field's `Timestamp` as nanoseconds since the Unix epoch. INVALID, naming the field, where that has no such number.
pub fn nanos(field: &str, time: &Timestamp) -> Result<i64> {
    to_nanos(time).ok_or_else(|| Error::invalid(field, no_nanos(time)))
}

/// Why a time has no number of nanoseconds, for the caller.
pub fn no_nanos(time: &Timestamp) -> &'static str {
    if (0..1_000_000_000).contains(&time.nanos) {
        "must lie between 1677-09-22 and 2262-04-11: times are kept as nanoseconds in 64 bits"
    } else {
        "must have `nanos` from 0 to 999,999,999"
    }
}

/// A `Duration` message as a duration; `None` where it is negative or impossible.
pub fn to_duration(duration: &ProtoDuration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|n| *n < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

/// A duration as a `Duration` message.
pub fn from_duration(duration: Duration) -> ProtoDuration {
    ProtoDuration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// Nanoseconds since the Unix epoch as RFC 3339 text in UTC.
pub fn rfc3339(nanos: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanos)).map_or_else(|_| nanos.to_string(), |t| t.to_string())
}

/// Nanoseconds since the Unix epoch as RFC 3339 text with the offset of a time zone: `2026-03-29T03:00:00+02:00`.
pub fn rfc3339_in(nanos: i64, zone: &TimeZone) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanos));
    time.map_or_else(|_| nanos.to_string(), |time| time.display_with_offset(zone.to_offset(time)).to_string())
}

/// The time zone that a field names as IANA does; UTC where it is empty. The system's zones are preferred to the built-in ones.
pub fn zone(field: &str, name: &str) -> Result<TimeZone> {
    if name.is_empty() {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|error| {
        Error::invalid(field, "is no time zone of the IANA database, as `Europe/Berlin` is one").caused_by(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_has_no_nanoseconds_is_told_why() {
        let told = |seconds, nanos_of| nanos("end_time", &Timestamp { seconds, nanos: nanos_of });
        assert_eq!(told(1, 5).expect("a time"), 1_000_000_005);
        let far = told(10_413_792_000, 0).expect_err("the year 2300");
        assert_eq!(far.fields()[0].field, "end_time");
        assert!(far.message().contains("2262-04-11"), "{far}");
        assert!(told(1, -1).expect_err("no time").message().contains("`nanos`"));
    }

    #[test]
    fn a_time_has_the_offset_its_zone_had_then() {
        let berlin = zone("time_zone", "Europe/Berlin").expect("a zone");
        assert_eq!(rfc3339_in(1_774_746_000_000_000_000 - 1, &berlin), "2026-03-29T01:59:59.999999999+01:00");
        assert_eq!(rfc3339_in(1_774_746_000_000_000_000, &berlin), "2026-03-29T03:00:00+02:00");
        let utc = zone("time_zone", "").expect("a zone");
        assert_eq!(rfc3339_in(0, &utc), "1970-01-01T00:00:00+00:00");
    }

    #[test]
    fn what_is_no_zone_is_refused() {
        for name in ["Mars/Olympus", "../../etc/passwd", "+02:00", " "] {
            let error = zone("time_zone", name).expect_err(name);
            assert_eq!(error.fields()[0].field, "time_zone", "{name}");
        }
    }
}
