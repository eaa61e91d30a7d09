//! How many calls at once are good for a service, found by how long they take.
//!
//! The method is additive increase and multiplicative decrease, as in TCP and in `AIMDLimit` of Netflix'
//! [concurrency-limits](https://github.com/Netflix/concurrency-limits), whose factor of 0.9 it has. What tells that there
//! are too many is the time that calls take, each compared with what its own method usually takes. As in Envoy's
//! [adaptive concurrency](https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/adaptive_concurrency_filter)
//! that is learned only while few calls run, so that a load that lasts is never taken for usual.
//!
//! A method that is slow by nature is compared with itself. One that has become slow, because it waits for something or has
//! more to do, is outvoted by the others: the limit falls only when most calls that end take too long. Where all of them do,
//! it falls down to its floor; so few calls count as usual whatever they take, and it rises again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// How often the limit changes.
const WINDOW: Duration = Duration::from_millis(100);
/// It waits for so many calls to end before it judges them, but not longer than this.
const ENOUGH: u32 = 10;
const LONGEST: Duration = Duration::from_secs(1);
/// A call takes too long when it takes so many times what is usual and this more: a queue so short does no harm.
const TOLERANCE: u64 = 2;
const QUEUE: Duration = Duration::from_millis(50);
/// What is left of the limit when most calls take too long.
const BACKOFF: f64 = 0.9;
/// How much of what is usual is of the last call: one of so many.
const WEIGHT: i64 = 64;

/// How long a method takes while few calls run, microseconds; 0 = not known yet.
#[derive(Debug, Default)]
pub(super) struct Usual(AtomicU32);

/// How a call ended that had a place.
pub(super) struct Ended {
    /// How long it ran.
    pub(super) took: Duration,
    /// How many ran when it began or when it was answered, whichever are more, itself included.
    pub(super) beside: u32,
    /// By an answer, and not by an error, its deadline or its caller.
    pub(super) answered: bool,
}

/// The limit of one service. It has no clock: time is told.
#[derive(Debug)]
pub(super) struct Limit {
    floor: u32,
    ceiling: u32,
    current: AtomicU32,
    judged: AtomicU32,
    slow: AtomicU32,
    opened: Instant,
    /// When the window began, microseconds after `opened`.
    window: AtomicU64,
}

impl Limit {
    /// Begins at the ceiling and never leaves `floor..=ceiling`; a floor above the ceiling is the ceiling.
    pub(super) fn new(floor: u32, ceiling: u32, now: Instant) -> Self {
        Self {
            floor: floor.min(ceiling),
            ceiling,
            current: AtomicU32::new(ceiling),
            judged: AtomicU32::new(0),
            slow: AtomicU32::new(0),
            opened: now,
            window: AtomicU64::new(0),
        }
    }

    pub(super) fn current(&self) -> u32 {
        self.current.load(Relaxed)
    }

    /// It is lower than it may be.
    pub(super) fn is_lowered(&self) -> bool {
        self.current() < self.ceiling
    }

    /// Learns from a call of a method that has ended.
    pub(super) fn note(&self, usual: &Usual, call: &Ended) {
        let took = u32::try_from(call.took.as_micros()).unwrap_or(u32::MAX);
        let known = usual.0.load(Relaxed);
        if call.answered && (known == 0 || call.beside <= self.floor) {
            let change = if known == 0 { took.into() } else { (i64::from(took) - i64::from(known)) / WEIGHT };
            let learned = u32::try_from(i64::from(known) + change).unwrap_or(known);
            // two that learn at once: the later one wins, which does not matter among so many
            usual.0.store(learned.max(1), Relaxed);
        }
        if call.beside > self.floor && known > 0 {
            let slow = u64::from(took) > u64::from(known) * TOLERANCE + QUEUE.as_micros() as u64;
            // without an answer it is not known how long it would have taken
            self.judged.fetch_add((slow || call.answered).into(), Relaxed);
            self.slow.fetch_add(slow.into(), Relaxed);
        }
    }

    /// By how much the limit changes, where it is time for that.
    pub(super) fn turn(&self, now: Instant) -> Option<i64> {
        let now = now.saturating_duration_since(self.opened).as_micros() as u64;
        let began = self.window.load(Relaxed);
        let passed = Duration::from_micros(now.saturating_sub(began));
        let too_few = || (1..ENOUGH).contains(&self.judged.load(Relaxed)) && passed < LONGEST;
        if passed < WINDOW || too_few() || self.window.compare_exchange(began, now, Relaxed, Relaxed).is_err() {
            return None;
        }
        let (judged, slow) = (self.judged.swap(0, Relaxed), self.slow.swap(0, Relaxed));
        let before = self.current();
        let mut limit = f64::from(before);
        let quiet = if slow > judged / 2 {
            limit *= BACKOFF;
            passed.saturating_sub(LONGEST)
        } else {
            passed
        };
        // a pause was as many quiet windows; more than a thousand would change nothing
        for _ in 0..(quiet.as_millis() / WINDOW.as_millis()).min(1_000) {
            limit = (limit + limit.sqrt()).min(self.ceiling.into());
        }
        let after = (limit as u32).clamp(self.floor, self.ceiling);
        self.current.store(after, Relaxed);
        (after != before).then(|| i64::from(after) - i64::from(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: u32 = 16;
    const CEILING: u32 = 1024;
    /// One call alone.
    const ALONE: Duration = Duration::from_millis(5);

    /// A service of which two calls run at once and the others wait, and whom it is told of.
    struct Served {
        limit: Limit,
        now: Instant,
    }

    impl Served {
        fn new() -> Self {
            let now = Instant::now();
            Self { limit: Limit::new(FLOOR, CEILING, now), now }
        }

        /// Lets time pass in which `demand` callers always want something; each call is of the method that `which` says
        /// for its number, and takes as long as the others that run let it.
        fn run<'a>(&mut self, time: Duration, demand: u32, which: impl Fn(u32) -> (&'a Usual, Duration)) {
            let end = self.now + time;
            let mut number = 0;
            while self.now < end {
                let beside = demand.min(self.limit.current());
                self.now += ALONE / beside.min(2);
                let (usual, more) = which(number);
                number += 1;
                let took = ALONE * beside.div_ceil(2) + more;
                self.limit.note(usual, &Ended { took, beside, answered: true });
                self.limit.turn(self.now);
            }
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn it_converges_when_calls_take_longer_and_recovers_when_they_do_not() {
        let (mut served, usual) = (Served::new(), Usual::default());
        let each = |_| (&usual, Duration::ZERO);
        served.run(seconds(5), 2, each);
        assert_eq!(served.limit.current(), CEILING, "nothing is wrong");
        // 60 ms are too long: 24 at once
        served.run(seconds(30), 1_000, each);
        for _ in 0..100 {
            served.run(Duration::from_millis(100), 1_000, each);
            let limit = served.limit.current();
            assert!((FLOOR..=36).contains(&limit), "{limit}");
        }
        served.run(seconds(10), 2, each);
        assert_eq!(served.limit.current(), CEILING);
    }

    #[test]
    fn a_pause_is_as_good_as_quick_calls() {
        let (mut served, usual) = (Served::new(), Usual::default());
        let each = |_| (&usual, Duration::ZERO);
        served.run(seconds(1), 2, each);
        served.run(seconds(30), 1_000, each);
        assert!(served.limit.is_lowered());
        let before = i64::from(served.limit.current());
        assert_eq!(served.limit.turn(served.now + seconds(60)), Some(i64::from(CEILING) - before));
    }

    #[test]
    fn it_never_falls_below_its_floor_where_calls_are_slow_for_another_reason() {
        let (mut served, usual) = (Served::new(), Usual::default());
        served.run(seconds(2), 2, |_| (&usual, Duration::ZERO));
        let mut lowest = CEILING;
        for _ in 0..600 {
            served.run(Duration::from_millis(100), 1_000, |_| (&usual, seconds(1)));
            lowest = lowest.min(served.limit.current());
        }
        assert_eq!(lowest, FLOOR);
        assert!(served.limit.current() > FLOOR, "what takes so long with few calls, too, is usual by now");
    }

    #[test]
    fn a_method_that_becomes_slow_is_outvoted_and_one_that_is_slow_is_compared_with_itself() {
        let (mut served, quick, export) = (Served::new(), Usual::default(), Usual::default());
        let share = |slow: Duration| {
            let (quick, export) = (&quick, &export);
            move |number: u32| if number.is_multiple_of(3) { (export, slow) } else { (quick, Duration::ZERO) }
        };
        served.run(seconds(5), 2, share(seconds(2)));
        served.run(seconds(20), 20, share(seconds(3)));
        assert_eq!(served.limit.current(), CEILING, "a little slower than they are");
        served.run(seconds(20), 20, share(seconds(30)));
        assert_eq!(served.limit.current(), CEILING, "much slower, and not most of the calls");
    }

    #[test]
    fn calls_without_an_answer_count_where_they_took_too_long() {
        let now = Instant::now();
        let (limit, usual) = (Limit::new(FLOOR, CEILING, now), Usual::default());
        limit.note(&usual, &Ended { took: ALONE, beside: 1, answered: true });
        let ended = |took| Ended { took, beside: 100, answered: false };
        (0..50).for_each(|_| limit.note(&usual, &ended(Duration::ZERO)));
        assert_eq!(limit.turn(now + WINDOW), None, "refused at once: nothing is known");
        (0..50).for_each(|_| limit.note(&usual, &ended(seconds(1))));
        assert!(limit.turn(now + WINDOW * 2).is_some_and(|change| change < 0));
        limit.note(&usual, &ended(seconds(1)));
        assert_eq!(limit.turn(now + WINDOW * 3), None, "too few to judge by");
        assert!(
            limit.turn(now + WINDOW * 2 + LONGEST).is_some_and(|change| change < 0),
            "after a second they are enough"
        );
    }

    #[test]
    fn a_floor_at_the_ceiling_leaves_the_limit_where_it_is() {
        let now = Instant::now();
        let (limit, usual) = (Limit::new(64, 8, now), Usual::default());
        (0..100).for_each(|_| limit.note(&usual, &Ended { took: seconds(9), beside: 8, answered: true }));
        assert_eq!(limit.turn(now + seconds(5)), None);
        assert_eq!(limit.current(), 8);
    }
}
