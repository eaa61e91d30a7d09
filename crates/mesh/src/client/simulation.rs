//! Breaker and retry budget through random days: an upstream that comes and goes, calls that overlap, callers that leave. No
//! time passes; the seed is printed, and `CHANCE_SEED` repeats a run.

use std::collections::BTreeMap;
use std::time::Duration;

use sensormesh_observability::metrics;
use sensormesh_testkit::chance::Chance;
use tokio::time::Instant;

use super::Resilience;
use super::breaker::{Breaker, BreakerMode, Permit};
use super::retry::Budget;

/// Random days of each test, and what happens in one.
const DAYS: u64 = 200;
const STEPS: usize = 2_000;

/// A call under way: when it ends, unless its caller leaves.
struct Call {
    permit: Permit,
    trial: bool,
    leaves: bool,
}

fn rules(chance: &mut Chance) -> Resilience {
    Resilience {
        breaker_failures: 1 + u32::try_from(chance.below(8)).expect("small"),
        breaker_calls: 1 + u32::try_from(chance.below(40)).expect("small"),
        breaker_pause: chance.millis(10, 2_000),
        breaker_pause_max: chance.millis(2_000, 60_000),
        retry_share: chance.fraction(),
        retries_per_second: chance.fraction() * 20.0,
        ..Resilience::default()
    }
}

fn day(number: u64, mut chance: Chance) {
    let rules = rules(&mut chance);
    let breaker = Breaker::new(&rules, metrics::upstream("edge", "simulated"));
    let mut now = Instant::now();
    let mut under_way: BTreeMap<(Instant, usize), Call> = BTreeMap::new();
    let mut up = true;
    for step in 0..STEPS {
        now += chance.millis(0, 100);
        if chance.below(100) == 0 {
            up = !up;
        }
        let later = under_way.split_off(&(now, usize::MAX));
        for ((ended, _), call) in std::mem::replace(&mut under_way, later) {
            if !call.leaves {
                call.permit.tell(up, ended);
            }
        }
        let before = breaker.state(now).0;
        match breaker.admit(now) {
            Ok(permit) => {
                let trial = before != BreakerMode::Closed;
                assert_ne!(before, BreakerMode::Open, "day {number}, step {step}: let through although it is open");
                let trials = under_way.values().filter(|call| call.trial).count();
                // of an earlier time: a breaker that was closed meanwhile knows nothing of them
                assert!(!trial || trials == 0, "day {number}, step {step}: {trials} trials at once");
                let ends = (now + chance.millis(0, 500), step);
                under_way.insert(ends, Call { permit, trial, leaves: chance.below(10) == 0 });
            }
            Err(wait) => {
                assert_ne!(before, BreakerMode::Closed, "day {number}, step {step}: refused although it is closed");
                let longest = rules.breaker_pause_max.mul_f64(1.2).max(rules.breaker_pause);
                assert!(wait <= longest, "day {number}, step {step}: {wait:?}");
            }
        }
        if chance.below(500) == 0 {
            breaker.reset();
            // those under way are of another time
            under_way.values_mut().for_each(|call| call.trial = false);
            assert_eq!(breaker.state(now).0, BreakerMode::Closed);
        }
    }
    // well again for good: closed as soon as the longest pause is over, and it stays so
    drop(under_way);
    now += rules.breaker_pause_max.mul_f64(1.2) + Duration::from_millis(1);
    breaker.admit(now).unwrap_or_else(|wait| panic!("day {number}: refused for {wait:?}")).tell(true, now);
    for _ in 0..20 {
        breaker.admit(now).unwrap_or_else(|wait| panic!("day {number}: refused for {wait:?}")).tell(true, now);
    }
    assert_eq!(breaker.state(now).0, BreakerMode::Closed, "day {number}");
}

#[tokio::test(start_paused = true)]
async fn a_breaker_keeps_its_word_on_every_random_day() {
    let chance = Chance::new("breaker");
    (0..DAYS).for_each(|number| day(number, chance.fork(number)));
}

#[tokio::test(start_paused = true)]
async fn retries_are_never_more_than_their_share_on_any_random_day() {
    let chance = Chance::new("retry budget");
    for number in 0..DAYS {
        let mut chance = chance.fork(number);
        let rules = rules(&mut chance);
        let budget = Budget::new(&rules);
        let (began, mut calls, mut retries) = (Instant::now(), 0_u32, 0_u32);
        let mut now = began;
        for step in 0..STEPS {
            now += chance.millis(0, 50);
            for _ in 0..chance.below(5) {
                budget.call(now);
                calls += 1;
            }
            for _ in 0..chance.below(8) {
                retries += u32::from(budget.take(now));
            }
            // what was there at the start, what calls earned, what time earned
            let earned =
                f64::from(calls) * rules.retry_share + (1.0 + (now - began).as_secs_f64()) * rules.retries_per_second;
            assert!(f64::from(retries) <= earned + 1e-6, "day {number}, step {step}: {retries} of {earned}");
        }
    }
}
