//! What a failure below gRPC means to the caller.
//!
//! tonic reports a dead connection as `Unknown`, a call cut with it as `Cancelled`, a connection that the peer closed for
//! being noisy as `ResourceExhausted`, and its own timeout as `Cancelled`. A caller cannot act on that: here the first
//! three are UNAVAILABLE with a hint when to try again, and the last is DEADLINE_EXCEEDED.

use std::error::Error as StdError;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use sensormesh_types::{Code, Error};
use tonic::Status;

/// When to try again after a connection was refused or lost.
const SOON: Duration = Duration::from_secs(1);

/// Nothing answers at any of the upstream's addresses.
pub(crate) fn unreachable(upstream: &str, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::unavailable("UPSTREAM_UNREACHABLE", format!("{upstream} unreachable"), SOON)
        .with("upstream", upstream)
        .caused_by(cause)
}

/// The connection broke while the call was under way: whether it had an effect is unknown.
pub(crate) fn lost(upstream: &str, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::unavailable("UPSTREAM_LOST", format!("connection to {upstream} lost"), SOON)
        .with("upstream", upstream)
        .caused_by(cause)
}

/// The breaker refuses the call.
pub(crate) fn circuit_open(upstream: &str, wait: Duration) -> Error {
    let wait = wait.max(Duration::from_millis(1));
    Error::unavailable("CIRCUIT_OPEN", format!("{upstream} failed too often and is left alone for now"), wait)
        .with("upstream", upstream)
}

/// Too many calls to the upstream wait for an answer already.
pub(crate) fn crowded(upstream: &str) -> Error {
    Error::exhausted("TOO_MANY_CALLS", format!("too many calls to {upstream} at once"), SOON).with("upstream", upstream)
}

/// The time of the call is over.
pub(crate) fn late(upstream: &str) -> Error {
    Error::new(Code::Timeout, "DEADLINE_EXCEEDED", format!("{upstream} did not answer in time"))
        .with("upstream", upstream)
}

/// Whether the peer certainly did not process the call: it refused the stream, or went away before taking it.
pub(crate) fn not_processed(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::REFUSED_STREAM)
        || (error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
}

/// Whether an UNAVAILABLE or ABORTED answer speaks of a service behind the one that was asked: then that one did its best, has
/// retried already, and is not to blame.
pub(crate) fn is_of_another(headers: &HeaderMap, upstream: &str) -> bool {
    let error = Status::from_header_map(headers).map(Error::from);
    error.is_some_and(|e| e.metadata("upstream").is_some_and(|named| named != upstream))
}

/// Notes in an UNAVAILABLE or ABORTED answer whose it is, where it does not say: whoever it is passed on to knows then that it
/// was asked again already, and does not ask a second time as often.
pub(crate) fn name(headers: &mut HeaderMap, upstream: &str) {
    let Some(status) = Status::from_header_map(headers) else { return };
    let error = Error::from(status);
    if error.metadata("upstream").is_some() {
        return;
    }
    let mut named = HeaderMap::new();
    if Status::from(error.with("upstream", upstream)).add_header(&mut named).is_ok() {
        headers.extend(named);
    }
}

/// The status in an answer's headers or trailers, if it has one: the code, and for tonic's own timeout the right one.
pub(crate) fn code(headers: &HeaderMap) -> Option<i32> {
    let status = headers.get("grpc-status")?.to_str().ok()?.parse::<i32>().ok()?;
    Some(if status == 1 && timed_out(headers) { 4 } else { status })
}

/// Corrects an answer that says `Cancelled` where it means that time was up.
pub(crate) fn correct(headers: &mut HeaderMap) {
    if headers.get("grpc-status").is_some_and(|s| s == "1") && timed_out(headers) {
        headers.insert("grpc-status", HeaderValue::from_static("4"));
    }
}

fn timed_out(headers: &HeaderMap) -> bool {
    headers.get("grpc-message").is_some_and(|m| m == "Timeout%20expired" || m == "Timeout expired")
}

/// What an HTTP answer without a gRPC status means, as the gRPC protocol maps it; 0 where it may be well.
pub(crate) fn code_of_http(status: http::StatusCode) -> i32 {
    match status.as_u16() {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_upstream_says_when_to_try_again() {
        let status = Status::from(unreachable("devices", "connection refused"));
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(status.message(), "devices unreachable");
        let error = Error::from(status);
        assert_eq!(error.retry_after(), Some(SOON));
        assert_eq!(error.reason(), "UPSTREAM_UNREACHABLE");
    }

    #[test]
    fn a_failure_behind_the_upstream_is_told_from_its_own() {
        let mut headers = HeaderMap::new();
        Status::from(unreachable("telemetry", "refused")).add_header(&mut headers).expect("headers");
        assert!(is_of_another(&headers, "rooms"));
        assert!(!is_of_another(&headers, "telemetry"));
        let mut headers = HeaderMap::new();
        Status::unavailable("draining").add_header(&mut headers).expect("headers");
        assert!(!is_of_another(&headers, "rooms"));
    }

    #[test]
    fn an_answer_that_does_not_say_who_failed_is_told() {
        let mut headers = HeaderMap::new();
        headers.insert("x-other", HeaderValue::from_static("kept"));
        Status::unavailable("no database").add_header(&mut headers).expect("headers");
        name(&mut headers, "rooms");
        assert!(is_of_another(&headers, "edge") && !is_of_another(&headers, "rooms"));
        name(&mut headers, "edge");
        assert!(!is_of_another(&headers, "rooms"), "who said so first stays");
        let status = Status::from_header_map(&headers).expect("a status");
        assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "no database"));
        assert_eq!(headers.get_all("grpc-status").iter().count(), 1);
        assert_eq!(headers["x-other"], "kept");
    }

    #[test]
    fn tonics_own_timeout_is_a_passed_deadline() {
        let mut headers = HeaderMap::new();
        Status::cancelled("Timeout expired").add_header(&mut headers).expect("headers");
        assert_eq!(code(&headers), Some(4));
        correct(&mut headers);
        assert_eq!(headers["grpc-status"], "4");
        let mut headers = HeaderMap::new();
        Status::cancelled("the user left").add_header(&mut headers).expect("headers");
        correct(&mut headers);
        assert_eq!(code(&headers), Some(1));
    }
}
