//! Wall-clock time as a parameter, so that a test can set it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the time of day comes from. Durations and timeouts use `tokio::time::Instant` instead.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands still at `micros` (microseconds since the Unix epoch) until it is moved.
    pub fn fixed(micros: i64) -> Self {
        Self(Some(Arc::new(AtomicI64::new(micros))))
    }

    /// Microseconds since the Unix epoch: the time of book-keeping.
    pub fn now_micros(&self) -> i64 {
        match &self.0 {
            Some(fixed) => fixed.load(Ordering::SeqCst),
            None => i64::try_from(since_epoch().as_micros()).unwrap_or(i64::MAX),
        }
    }

    /// Nanoseconds since the Unix epoch: the time of readings.
    pub fn now_nanos(&self) -> i64 {
        match &self.0 {
            Some(_) => self.now_micros().saturating_mul(1000),
            None => i64::try_from(since_epoch().as_nanos()).unwrap_or(i64::MAX),
        }
    }

    /// Seconds since the Unix epoch: the time of tokens.
    pub fn now_seconds(&self) -> i64 {
        self.now_micros().div_euclid(1_000_000)
    }

    /// Moves a fixed clock; the machine's clock stays.
    pub fn advance(&self, by: std::time::Duration) {
        if let Some(fixed) = &self.0 {
            fixed.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}

#[allow(clippy::disallowed_methods)] // the one place that reads the machine's clock
fn since_epoch() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
