//! Wall-clock time as a parameter, so that a test can set it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the time of day comes from. Durations and timeouts use `tokio::time::Instant` instead.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    Machine,
    /// Stands still, microseconds since the Unix epoch.
    Fixed(Arc<AtomicI64>),
    /// The machine's, so many microseconds ahead.
    Ahead(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Source::Machine)
    }

    /// A clock that stands still at `micros` (microseconds since the Unix epoch) until it is moved.
    pub fn fixed(micros: i64) -> Self {
        Self(Source::Fixed(Arc::new(AtomicI64::new(micros))))
    }

    /// A clock that runs as the machine's does and is wrong: so many microseconds ahead, or behind. [`Clock::shift`]
    /// changes how much.
    pub fn ahead(micros: i64) -> Self {
        Self(Source::Ahead(Arc::new(AtomicI64::new(micros))))
    }

    /// Microseconds since the Unix epoch: the time of book-keeping.
    pub fn now_micros(&self) -> i64 {
        match &self.0 {
            Source::Fixed(fixed) => fixed.load(Ordering::SeqCst),
            Source::Machine | Source::Ahead(_) => self.now_nanos().div_euclid(1000),
        }
    }

    /// Nanoseconds since the Unix epoch: the time of readings.
    pub fn now_nanos(&self) -> i64 {
        let machine = || i64::try_from(since_epoch().as_nanos()).unwrap_or(i64::MAX);
        match &self.0 {
            Source::Machine => machine(),
            Source::Fixed(_) => self.now_micros().saturating_mul(1000),
            Source::Ahead(by) => machine().saturating_add(by.load(Ordering::SeqCst).saturating_mul(1000)),
        }
    }

    /// Seconds since the Unix epoch: the time of tokens.
    pub fn now_seconds(&self) -> i64 {
        self.now_micros().div_euclid(1_000_000)
    }

    /// Moves a fixed clock, or one that is wrong; the machine's clock stays.
    pub fn advance(&self, by: std::time::Duration) {
        self.shift(i64::try_from(by.as_micros()).unwrap_or(i64::MAX));
    }

    /// Moves it as [`Clock::advance`] does, forward or back.
    pub fn shift(&self, micros: i64) {
        if let Source::Fixed(at) | Source::Ahead(at) = &self.0 {
            at.fetch_add(micros, Ordering::SeqCst);
        }
    }
}

#[allow(clippy::disallowed_methods)] // the one place that reads the machine's clock
fn since_epoch() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_runs_and_can_be_moved() {
        let hour = 3_600_000_000;
        let (right, wrong) = (Clock::system(), Clock::ahead(hour));
        let off = || wrong.now_micros() - right.now_micros();
        assert!((hour - 1_000_000..hour + 1_000_000).contains(&off()), "{}", off());
        wrong.clone().shift(-2 * hour);
        assert!((-hour - 1_000_000..1_000_000 - hour).contains(&off()), "{}", off());
        let before = wrong.now_nanos();
        assert!(wrong.now_nanos() >= before && wrong.now_nanos() / 1_000_000_000 <= wrong.now_seconds() + 1);
        right.shift(hour);
        assert!(right.now_micros() - wrong.now_micros() < 2 * hour, "the machine's is not ours to move");
    }
}
