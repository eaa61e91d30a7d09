//! The breaker of a database: when the connection keeps failing, calls fail at once instead of queueing behind it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sensormesh_types::{Clock, Error, Result};
use tokio::time::Instant;

/// Consecutive connection-class failures that open it.
const LIMIT: u32 = 3;
/// How long it stays open the first time, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Whether calls reach the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They do.
    Closed,
    /// They fail at once until `retry_at`.
    Open,
    /// One call is trying whether the database is back.
    HalfOpen,
}

impl State {
    /// The word for it: `closed`, `open`, `half_open`.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }
}

/// What the breaker of a database knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether calls reach the database.
    pub state: State,
    /// Consecutive connection-class failures.
    pub failures: u32,
    /// When the next call is let through, in microseconds since the Unix epoch, while it is open.
    pub retry_at: Option<i64>,
    /// What failed last, for operators.
    pub last_error: Option<String>,
}

impl Health {
    /// Whether the database answers as far as is known.
    pub fn ok(&self) -> bool {
        self.state == State::Closed && self.failures == 0
    }
}

/// Counts failures and lets calls through or not.
#[derive(Clone)]
pub(crate) struct Breaker(Arc<Mutex<Inner>>);

struct Inner {
    state: State,
    failures: u32,
    pause: Duration,
    retry_at: Instant,
    last_error: Option<String>,
}

/// Leave to call. A probe that is dropped without a verdict gives its leave back.
pub(crate) struct Leave {
    probe: Option<Breaker>,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            state: State::Closed,
            failures: 0,
            pause: FIRST_PAUSE,
            retry_at: Instant::now(),
            last_error: None,
        })))
    }

    /// Leave to call the database, or the failure at once.
    pub(crate) fn admit(&self) -> Result<Leave> {
        let mut inner = self.0.lock();
        match inner.state {
            State::Closed => Ok(Leave { probe: None }),
            State::Open if Instant::now() >= inner.retry_at => {
                inner.state = State::HalfOpen;
                Ok(Leave { probe: Some(self.clone()) })
            }
            State::Open => Err(refused(inner.retry_at.saturating_duration_since(Instant::now()))),
            State::HalfOpen => Err(refused(Duration::from_millis(200))),
        }
    }

    pub(crate) fn succeeded(&self) {
        let mut inner = self.0.lock();
        if inner.failures > 0 || inner.state != State::Closed {
            inner.state = State::Closed;
            inner.failures = 0;
            inner.pause = FIRST_PAUSE;
            inner.last_error = None;
        }
    }

    pub(crate) fn failed(&self, error: &Error) {
        let mut inner = self.0.lock();
        inner.failures = inner.failures.saturating_add(1);
        inner.last_error = Some(format!("{error:?}"));
        if inner.state == State::HalfOpen || (inner.state == State::Closed && inner.failures >= LIMIT) {
            inner.state = State::Open;
            inner.retry_at = Instant::now() + inner.pause;
            inner.pause = (inner.pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub(crate) fn state(&self) -> State {
        self.0.lock().state
    }

    /// Lets the next call through, whatever happened before.
    pub(crate) fn reset(&self) {
        let mut inner = self.0.lock();
        inner.state = State::Closed;
        inner.failures = 0;
        inner.pause = FIRST_PAUSE;
    }

    pub(crate) fn health(&self, clock: &Clock) -> Health {
        let inner = self.0.lock();
        let wait = inner.retry_at.saturating_duration_since(Instant::now());
        let retry_at = (inner.state == State::Open)
            .then(|| clock.now_micros().saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)));
        Health { state: inner.state, failures: inner.failures, retry_at, last_error: inner.last_error.clone() }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some(breaker) = self.probe.take() {
            let mut inner = breaker.0.lock();
            if inner.state == State::HalfOpen {
                inner.state = State::Open;
                inner.retry_at = Instant::now();
            }
        }
    }
}

fn refused(wait: Duration) -> Error {
    Error::unavailable("DATABASE_DOWN", "the database has been failing; it is tried again shortly", wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> Error {
        Error::unavailable("DATABASE_DOWN", "gone", Duration::ZERO)
    }

    #[tokio::test(start_paused = true)]
    async fn three_failures_open_it_and_one_probe_closes_it() {
        let breaker = Breaker::new();
        for _ in 0..LIMIT {
            breaker.admit().expect("closed");
            breaker.failed(&down());
        }
        assert!(breaker.admit().is_err());
        assert_eq!(breaker.health(&Clock::fixed(0)).state, State::Open);
        tokio::time::advance(FIRST_PAUSE).await;
        let probe = breaker.admit().expect("one probe");
        assert!(breaker.admit().is_err(), "only one at a time");
        breaker.succeeded();
        drop(probe);
        assert!(breaker.health(&Clock::fixed(0)).ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_probe_doubles_the_pause_and_a_dropped_one_does_not_wedge_it() {
        let breaker = Breaker::new();
        for _ in 0..LIMIT {
            breaker.failed(&down());
        }
        tokio::time::advance(FIRST_PAUSE).await;
        let probe = breaker.admit().expect("probe");
        breaker.failed(&down());
        drop(probe);
        tokio::time::advance(FIRST_PAUSE).await;
        assert!(breaker.admit().is_err(), "twice the pause");
        tokio::time::advance(FIRST_PAUSE).await;
        drop(breaker.admit().expect("probe"));
        assert!(breaker.admit().is_ok(), "the dropped probe gave its leave back");
    }
}
