//! Times and durations between the contracts' messages and our integers.

use std::time::Duration;

use prost_types::{Duration as ProtoDuration, Timestamp};

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
