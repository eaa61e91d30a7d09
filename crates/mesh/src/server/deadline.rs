//! How long a call may take: what the caller asks for, capped by the contract.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

/// When a call ends whatever happens, and when its handler should have ended it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    /// The hard end.
    pub(super) end: Instant,
    /// The contract's age of a stream ends it, cleanly, and not the caller's deadline.
    pub(super) clean: bool,
    /// What the handler sees: for a stream a little earlier than the end, so that it can say where to resume.
    pub(super) seen: Instant,
}

/// The most that a stream's handler has for its farewell.
const FAREWELL: Duration = Duration::from_secs(2);

impl Deadline {
    /// The deadline of a call that began at `now`. `cap` is the contract's.
    pub(super) fn new(now: Instant, headers: &HeaderMap, cap: Duration, streams: bool) -> Self {
        let asked = crate::client::deadline::parse(headers);
        let allowed = asked.map_or(cap, |asked| asked.min(cap));
        let clean = streams && asked.is_none_or(|asked| asked >= cap);
        let seen = if streams { allowed - (allowed / 10).min(FAREWELL) } else { allowed };
        Self { end: now + allowed, clean, seen: now + seen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(timeout: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-timeout"), timeout.parse().expect("value"))])
    }

    #[tokio::test(start_paused = true)]
    async fn the_caller_may_ask_for_less_than_the_contract_allows_and_not_for_more() {
        let now = Instant::now();
        let cap = Duration::from_secs(10);
        let left = |headers: &HeaderMap| Deadline::new(now, headers, cap, false).end - now;
        assert_eq!(left(&headers("500m")), Duration::from_millis(500));
        assert_eq!(left(&headers("1H")), cap);
        assert_eq!(left(&headers("rubbish")), cap);
        assert_eq!(left(&HeaderMap::new()), cap);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_cleanly_at_its_age_and_not_at_the_callers_deadline() {
        let now = Instant::now();
        let cap = Duration::from_secs(3600);
        let aged = Deadline::new(now, &HeaderMap::new(), cap, true);
        assert!(aged.clean);
        assert_eq!(aged.seen, aged.end - FAREWELL);
        assert!(!Deadline::new(now, &headers("5S"), cap, true).clean);
    }
}
