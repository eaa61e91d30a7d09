//! How long a call may take: the least of what its caller, the call it is made for and its contract allow.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::Context;

/// The header that carries the time left.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What a call without a contract may take.
const UNKNOWN: Duration = Duration::from_secs(10);

/// A stream ends at its server after the contract's time, cleanly; the client gives it this much longer.
const STREAM_MARGIN: Duration = Duration::from_secs(5);

/// The most that a call leaves to the call it is made for, to answer with what it got.
const RESERVE_MAX: Duration = Duration::from_secs(2);

/// When the answer is of no more use.
///
/// `None` where there is no time left at all: the call is then not made. `contract` is the method's own limit.
pub(crate) fn deadline(
    now: Instant,
    explicit: Option<Duration>,
    context: Option<&Context>,
    contract: Option<Duration>,
    streams: bool,
) -> Option<Instant> {
    let mut left = contract.unwrap_or(UNKNOWN);
    if streams {
        left += STREAM_MARGIN;
    }
    if let Some(explicit) = explicit {
        left = left.min(explicit);
    }
    if let Some(outer) = context.and_then(|c| c.deadline) {
        let rest = outer.saturating_duration_since(now);
        left = left.min(rest - (rest / 10).min(RESERVE_MAX));
    }
    (!left.is_zero()).then(|| now + left)
}

/// Reads `grpc-timeout`: at most eight digits and a unit.
pub(crate) fn parse(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Writes the time left as `grpc-timeout`, in the finest unit that eight digits hold.
pub(crate) fn header(left: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let text = if left.as_micros() <= MOST {
        format!("{}u", left.as_micros())
    } else if left.as_millis() <= MOST {
        format!("{}m", left.as_millis())
    } else {
        format!("{}S", u128::from(left.as_secs()).min(MOST))
    };
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("0n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(explicit: Option<u64>, context: Option<u64>, contract: Option<u64>, streams: bool) -> Option<Duration> {
        let now = Instant::now();
        let millis = Duration::from_millis;
        let context = context.map(|ms| Context { deadline: Some(now + millis(ms)), ..Context::default() });
        deadline(now, explicit.map(millis), context.as_ref(), contract.map(millis), streams).map(|d| d - now)
    }

    #[test]
    fn the_least_of_the_three_holds() {
        assert_eq!(left(None, None, Some(3000), false), Some(Duration::from_secs(3)));
        assert_eq!(left(Some(500), None, Some(3000), false), Some(Duration::from_millis(500)));
        assert_eq!(left(Some(9000), None, Some(3000), false), Some(Duration::from_secs(3)));
        assert_eq!(left(None, Some(1000), Some(3000), false), Some(Duration::from_millis(900)));
        assert_eq!(left(None, None, None, false), Some(UNKNOWN));
    }

    #[test]
    fn every_hop_has_less_time_than_the_one_before() {
        let first = left(None, Some(1000), Some(10_000), false).expect("time");
        let second =
            left(None, Some(u64::try_from(first.as_millis()).expect("ms")), Some(10_000), false).expect("time");
        assert!(second < first && first < Duration::from_secs(1), "{first:?} {second:?}");
    }

    #[test]
    fn a_spent_budget_makes_no_call() {
        assert_eq!(left(None, Some(0), Some(3000), false), None);
        assert_eq!(left(Some(0), None, Some(3000), false), None);
    }

    #[test]
    fn a_stream_outlives_its_contract_by_a_margin() {
        assert_eq!(left(None, None, Some(3_600_000), true), Some(Duration::from_secs(3605)));
    }

    #[test]
    fn a_timeout_reads_back_what_was_written() {
        for timeout in [Duration::from_micros(1500), Duration::from_secs(10), Duration::from_secs(7200)] {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, header(timeout));
            assert_eq!(parse(&headers), Some(timeout));
        }
    }

    #[test]
    fn what_is_no_timeout_is_ignored() {
        for text in ["", "u", "5", "123456789u", "5x", "-5S"] {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, HeaderValue::from_static(text));
            assert_eq!(parse(&headers), None, "{text}");
        }
    }
}
