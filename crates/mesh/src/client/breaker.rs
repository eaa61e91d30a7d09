//! The circuit breaker of one upstream.
//!
//! Closed it lets every call through and counts. After enough failures it opens: calls are refused at once, without
//! load on the upstream and without waiting. When its pause is over it lets one trial through; the trial closes it or
//! doubles the pause. What counts as a failure is the caller's to say: the upstream is unreachable, silent or broken, not
//! that it refused a request.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sensormesh_observability::metrics;
use sensormesh_types::random;
use tokio::time::Instant;

use super::Resilience;

/// Whether a breaker lets calls through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerMode {
    /// Lets calls through.
    Closed,
    /// Refuses calls until its pause is over.
    Open,
    /// Lets one trial through.
    HalfOpen,
}

impl BreakerMode {
    /// The word in health reports: `closed`, `open`, `half_open`.
    pub fn as_str(self) -> &'static str {
        match self {
            BreakerMode::Closed => "closed",
            BreakerMode::Open => "open",
            BreakerMode::HalfOpen => "half_open",
        }
    }
}

/// One breaker as health reports show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerState {
    /// What it guards: the name of a service.
    pub upstream: String,
    /// Whether it lets calls through.
    pub mode: BreakerMode,
    /// Failures in a row.
    pub failures: u32,
    /// When it lets the next trial through, microseconds since the Unix epoch; `None` while it is closed.
    pub retry_at: Option<i64>,
}

/// Slices of the window in which calls are counted.
const SLICES: u32 = 10;

#[derive(Default)]
struct Slice {
    number: u128,
    calls: u32,
    failures: u32,
}

enum Mode {
    Closed,
    Open { until: Instant },
    Trial { running: bool },
}

struct State {
    mode: Mode,
    in_a_row: u32,
    /// Pauses since it was last closed.
    opened: u32,
    slices: VecDeque<Slice>,
    /// Results of calls admitted before this count are of another time and change nothing.
    era: u64,
}

pub(crate) struct Breaker {
    rules: Resilience,
    started: Instant,
    shown: metrics::Upstream,
    state: Mutex<State>,
}

impl Breaker {
    pub(crate) fn new(rules: &Resilience, shown: metrics::Upstream) -> Arc<Self> {
        shown.breaker(0);
        let state = State { mode: Mode::Closed, in_a_row: 0, opened: 0, slices: VecDeque::new(), era: 0 };
        Arc::new(Self { rules: rules.clone(), started: Instant::now(), shown, state: Mutex::new(state) })
    }

    /// Lets a call through, or says how long to wait before asking again.
    pub(crate) fn admit(self: &Arc<Self>, now: Instant) -> Result<Permit, Duration> {
        let mut state = self.state.lock();
        let trial = match state.mode {
            Mode::Closed => false,
            Mode::Open { until } => {
                if now < until {
                    return Err(until - now);
                }
                state.mode = Mode::Trial { running: true };
                self.shown.breaker(1);
                true
            }
            Mode::Trial { running: true } => return Err(self.rules.breaker_pause),
            Mode::Trial { running: false } => {
                state.mode = Mode::Trial { running: true };
                true
            }
        };
        Ok(Permit { breaker: self.clone(), trial, era: state.era, told: false })
    }

    /// Counts a failure of a call that was admitted and answered long ago: a stream that broke.
    pub(crate) fn broke(&self, now: Instant) {
        let mut state = self.state.lock();
        if matches!(state.mode, Mode::Closed) {
            self.count(&mut state, false, now);
        }
    }

    /// Closes it at once and forgets everything.
    pub(crate) fn reset(&self) {
        let mut state = self.state.lock();
        self.close(&mut state);
    }

    /// What it is now: mode, failures in a row, time to the next trial.
    pub(crate) fn state(&self, now: Instant) -> (BreakerMode, u32, Option<Duration>) {
        let state = self.state.lock();
        match state.mode {
            Mode::Closed => (BreakerMode::Closed, state.in_a_row, None),
            Mode::Open { until } => {
                let wait = until.saturating_duration_since(now);
                let mode = if wait.is_zero() { BreakerMode::HalfOpen } else { BreakerMode::Open };
                (mode, state.in_a_row, Some(wait))
            }
            Mode::Trial { .. } => (BreakerMode::HalfOpen, state.in_a_row, Some(Duration::ZERO)),
        }
    }

    fn close(&self, state: &mut State) {
        state.mode = Mode::Closed;
        state.in_a_row = 0;
        state.opened = 0;
        state.slices.clear();
        state.era += 1;
        self.shown.breaker(0);
    }

    fn open(&self, state: &mut State, now: Instant) {
        let longest = self.rules.breaker_pause.saturating_mul(1 << state.opened.min(16));
        let pause = longest.min(self.rules.breaker_pause_max).mul_f64(0.8 + 0.4 * random::fraction());
        state.mode = Mode::Open { until: now + pause };
        state.opened = state.opened.saturating_add(1);
        state.slices.clear();
        state.era += 1;
        self.shown.breaker(2);
    }

    fn count(&self, state: &mut State, good: bool, now: Instant) {
        let slice = (self.rules.breaker_window / SLICES).as_nanos().max(1);
        let number = now.saturating_duration_since(self.started).as_nanos() / slice;
        if state.slices.back().is_none_or(|s| s.number != number) {
            state.slices.push_back(Slice { number, ..Slice::default() });
        }
        while state.slices.front().is_some_and(|s| s.number + u128::from(SLICES) <= number) {
            state.slices.pop_front();
        }
        if let Some(last) = state.slices.back_mut() {
            last.calls = last.calls.saturating_add(1);
            last.failures = last.failures.saturating_add(u32::from(!good));
        }
        if good {
            state.in_a_row = 0;
            return;
        }
        state.in_a_row = state.in_a_row.saturating_add(1);
        let calls: u32 = state.slices.iter().map(|s| s.calls).sum();
        let failures: u32 = state.slices.iter().map(|s| s.failures).sum();
        let many =
            calls >= self.rules.breaker_calls && f64::from(failures) >= f64::from(calls) * self.rules.breaker_share;
        if state.in_a_row >= self.rules.breaker_failures || many {
            self.open(state, now);
        }
    }
}

/// A call that was let through. Dropped without a verdict it counts as nothing, and gives a trial back.
pub(crate) struct Permit {
    breaker: Arc<Breaker>,
    trial: bool,
    era: u64,
    told: bool,
}

impl Permit {
    /// Whether it decides if the breaker closes.
    pub(crate) fn is_trial(&self) -> bool {
        self.trial
    }

    /// Says how the call went.
    pub(crate) fn tell(mut self, good: bool, now: Instant) {
        self.told = true;
        let breaker = &self.breaker;
        let mut state = breaker.state.lock();
        if state.era != self.era {
            return;
        }
        match (self.trial, good) {
            (true, true) => breaker.close(&mut state),
            (true, false) => {
                state.in_a_row = state.in_a_row.saturating_add(1);
                breaker.open(&mut state, now);
            }
            (false, good) => breaker.count(&mut state, good, now),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.trial && !self.told {
            let mut state = self.breaker.state.lock();
            if state.era == self.era
                && let Mode::Trial { running } = &mut state.mode
            {
                *running = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A breaker and the time, which passes when the test says so.
    struct Bench {
        breaker: Arc<Breaker>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let breaker = Breaker::new(&Resilience::default(), metrics::upstream("rooms", "devices"));
            Self { breaker, now: Instant::now() }
        }

        fn wait(&mut self, millis: u64) {
            self.now += Duration::from_millis(millis);
        }

        fn admit(&self) -> Option<Permit> {
            self.breaker.admit(self.now).ok()
        }

        fn call(&self, good: bool) {
            self.admit().expect("let through").tell(good, self.now);
        }

        fn fail(&self, times: u32) {
            (0..times).for_each(|_| self.call(false));
        }

        fn mode(&self) -> BreakerMode {
            self.breaker.state(self.now).0
        }
    }

    #[test]
    fn five_failures_in_a_row_open_it() {
        let bench = Bench::new();
        bench.fail(4);
        bench.call(true);
        bench.fail(4);
        assert_eq!(bench.mode(), BreakerMode::Closed);
        bench.fail(1);
        assert_eq!(bench.mode(), BreakerMode::Open);
        assert!(bench.admit().is_none());
    }

    #[test]
    fn half_of_twenty_calls_within_the_window_open_it() {
        let bench = Bench::new();
        for call in 0..20 {
            assert_eq!(bench.mode(), BreakerMode::Closed, "after {call} calls");
            bench.call(call % 2 == 0);
        }
        assert_eq!(bench.mode(), BreakerMode::Open);
    }

    #[test]
    fn failures_older_than_the_window_do_not_count() {
        let mut bench = Bench::new();
        for call in 0..60 {
            bench.call(call % 2 == 0);
            bench.wait(1000);
        }
        assert_eq!(bench.mode(), BreakerMode::Closed);
    }

    #[test]
    fn one_trial_closes_it_or_doubles_the_pause() {
        let mut bench = Bench::new();
        bench.fail(5);
        bench.wait(1300);
        assert_eq!(bench.mode(), BreakerMode::HalfOpen);
        let trial = bench.admit().expect("the trial");
        assert!(bench.admit().is_none(), "one trial only");
        trial.tell(false, bench.now);
        assert_eq!(bench.mode(), BreakerMode::Open);
        bench.wait(1500);
        assert_eq!(bench.mode(), BreakerMode::Open, "the second pause is longer");
        bench.wait(1000);
        bench.call(true);
        assert_eq!(bench.mode(), BreakerMode::Closed);
    }

    #[test]
    fn a_trial_that_was_given_up_leaves_room_for_another() {
        let mut bench = Bench::new();
        bench.fail(5);
        bench.wait(1300);
        drop(bench.admit());
        assert!(bench.admit().is_some());
    }

    #[test]
    fn a_reset_closes_it_and_old_verdicts_are_void() {
        let bench = Bench::new();
        let slow = bench.admit().expect("let through");
        bench.fail(5);
        bench.breaker.reset();
        assert_eq!(bench.breaker.state(bench.now), (BreakerMode::Closed, 0, None));
        slow.tell(false, bench.now);
        assert_eq!(bench.breaker.state(bench.now), (BreakerMode::Closed, 0, None));
    }
}
