//! When a call is sent again, and how often in all.

use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
use sensormesh_types::random;
use tokio::time::Instant;

use super::Resilience;

/// The answer's header that says how many milliseconds to wait before a retry (gRFC A6).
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The longest pushback that is waited for; a longer one is handed to the caller as an error with its hint.
const PUSHBACK_MAX: Duration = Duration::from_secs(2);

/// Retries in all: a share of the calls made, and a few each second. A failing upstream gets little more load, not three
/// times as much. A call that was never processed is not in it: sending it elsewhere is no more load.
pub(crate) struct Budget {
    share: f64,
    per_second: f64,
    most: f64,
    state: Mutex<(f64, Instant)>,
}

impl Budget {
    pub(crate) fn new(rules: &Resilience) -> Self {
        let most = rules.retries_per_second.max(1.0) * 2.0;
        Self {
            share: rules.retry_share,
            per_second: rules.retries_per_second,
            most,
            state: Mutex::new((rules.retries_per_second, Instant::now())),
        }
    }

    /// Notes a call, which earns its share of a retry.
    pub(crate) fn call(&self, now: Instant) {
        let mut state = self.state.lock();
        self.refill(&mut state, now);
        state.0 = (state.0 + self.share).min(self.most);
    }

    /// Takes one retry, if there is one.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        self.refill(&mut state, now);
        let enough = state.0 >= 1.0;
        if enough {
            state.0 -= 1.0;
        }
        enough
    }

    fn refill(&self, state: &mut (f64, Instant), now: Instant) {
        let earned = now.saturating_duration_since(state.1).as_secs_f64() * self.per_second;
        *state = ((state.0 + earned).min(self.most), now);
    }
}

/// The pause before retry number `attempt` (from 0): random up to a bound that doubles. Full jitter.
pub(crate) fn pause(rules: &Resilience, attempt: u32) -> Duration {
    let bound = rules.retry_pause.saturating_mul(1 << attempt.min(16)).min(rules.retry_pause_max);
    bound.mul_f64(random::fraction())
}

/// What an answer says about sending the call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// Nothing: after the usual pause.
    Silent,
    /// After this long.
    Wait(Duration),
    /// Not at all.
    Never,
}

/// Reads the pushback of an answer: a negative or unreadable number forbids a retry, a long one leaves it to the caller.
pub(crate) fn pushback(headers: &HeaderMap) -> Pushback {
    let Some(value) = headers.get(PUSHBACK) else { return Pushback::Silent };
    match value.to_str().ok().and_then(|v| v.parse::<u64>().ok()).map(Duration::from_millis) {
        Some(wait) if wait <= PUSHBACK_MAX => Pushback::Wait(wait),
        _ => Pushback::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_calls_and_ten_a_second() {
        let budget = Budget::new(&Resilience::default());
        let mut now = Instant::now();
        while budget.take(now) {}
        for _ in 0..50 {
            budget.call(now);
        }
        let taken = (0..50).filter(|_| budget.take(now)).count();
        assert!((9..=10).contains(&taken), "{taken} retries for 50 calls");
        now += Duration::from_secs(1);
        let taken = (0..50).filter(|_| budget.take(now)).count();
        assert!((9..=11).contains(&taken), "{taken} retries in a second");
    }

    #[test]
    fn a_pause_is_never_longer_than_its_bound() {
        let rules = Resilience::default();
        for attempt in 0..20 {
            let bound = Duration::from_millis(50 * (1 << attempt.min(5))).min(Duration::from_secs(1));
            assert!(pause(&rules, attempt) <= bound);
        }
    }

    #[test]
    fn the_pushback_of_an_answer_is_honoured() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(PUSHBACK, http::HeaderValue::from_static(value));
            pushback(&headers)
        };
        assert_eq!(pushback(&HeaderMap::new()), Pushback::Silent);
        assert_eq!(of("250"), Pushback::Wait(Duration::from_millis(250)));
        assert_eq!(of("-1"), Pushback::Never);
        assert_eq!(of("soon"), Pushback::Never);
        assert_eq!(of("60000"), Pushback::Never);
    }
}
