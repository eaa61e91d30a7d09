//! Tests of the verdict: each check with a sensor that passes, one that fails, and one that cannot be judged.

use super::*;
use crate::tally::{Around, Arrival};

const SECOND: i64 = 1_000_000_000;

fn limits() -> Limits {
    Limits {
        quantity: "temperature".into(),
        unit: "Cel".into(),
        min: Some(0.0),
        max: Some(50.0),
        interval: Some(SECOND),
        gap_intervals: 3,
        flat_tolerance: 0.0,
        flat_count: 10,
        max_noise: Some(0.5),
        required: 0,
    }
}

/// The checks of a test from 0 s to `until` s, by these readings.
fn verdict(limits: &Limits, readings: &[(f64, f64)], until: i64, breaks: &[(i64, i64)]) -> Vec<(TestResult, String)> {
    let mut tally = Tally::default();
    for &(seconds, value) in readings {
        #[allow(clippy::cast_possible_truncation)]
        let time = (seconds * 1e9) as i64;
        let arrival = Arrival { time, value, out_of_range: false };
        tally.take(arrival, limits, &Around { started: 0, now: until * SECOND, breaks });
    }
    let seen = Seen { tally: &tally, limits, started: 0, until: until * SECOND, breaks, over: true };
    judge(&seen).into_iter().map(|check| (check.result(), check.summary)).collect()
}

fn results(verdict: &[(TestResult, String)]) -> Vec<TestResult> {
    verdict.iter().map(|(result, _)| *result).collect()
}

/// Every second a little up or down.
fn healthy(count: i32) -> Vec<(f64, f64)> {
    (0..count).map(|i| (f64::from(i), 21.0 + f64::from(i % 3) * 0.1)).collect()
}

const REPORTING: usize = 0;
const RANGE: usize = 1;
const STUCK: usize = 2;
const INTERVAL: usize = 3;
const NOISE: usize = 4;

#[test]
fn a_healthy_sensor_passes_every_check() {
    let verdict = verdict(&limits(), &healthy(30), 30, &[]);
    assert_eq!(results(&verdict), [TestResult::Passed; 5], "{verdict:?}");
    assert_eq!(verdict[RANGE].1, "30 readings from 21 to 21.2 °C, within 0 to 50 °C");
}

#[test]
fn a_silent_sensor_fails_and_the_rest_is_not_judged() {
    let verdict = verdict(&limits(), &[], 60, &[]);
    let rest = TestResult::NotJudged;
    assert_eq!(results(&verdict), [TestResult::Failed, rest, rest, rest, rest], "{verdict:?}");
    assert!(verdict[REPORTING].1.contains("no reading arrived in 60 s"));
}

#[test]
fn a_sensor_whose_clock_is_behind_is_told_from_a_silent_one() {
    let verdict = verdict(&limits(), &[(-600.0, 21.0), (-599.0, 21.0)], 60, &[]);
    assert_eq!(verdict[REPORTING].0, TestResult::Failed);
    assert!(verdict[REPORTING].1.contains("clock"), "{}", verdict[REPORTING].1);
}

#[test]
fn too_few_readings_fail_only_where_a_number_was_asked_for() {
    let asked = Limits { required: 5, ..limits() };
    assert_eq!(verdict(&asked, &healthy(4), 4, &[])[REPORTING].0, TestResult::Failed);
    assert_eq!(verdict(&asked, &healthy(5), 5, &[])[REPORTING].0, TestResult::Passed);
    assert_eq!(verdict(&limits(), &healthy(4), 4, &[])[REPORTING].0, TestResult::Passed);
}

#[test]
fn one_reading_outside_the_range_fails() {
    let mut readings = healthy(30);
    readings[7].1 = -127.0;
    let found = verdict(&limits(), &readings, 30, &[]);
    assert_eq!(found[RANGE].0, TestResult::Failed);
    assert!(
        found[RANGE].1.starts_with("1 of 30 readings lay outside 0 to 50 °C; they were from -127"),
        "{}",
        found[RANGE].1
    );
    let open = Limits { min: None, max: None, ..limits() };
    assert_eq!(verdict(&open, &readings, 30, &[])[RANGE].0, TestResult::NotJudged);
    let edge: Vec<_> = healthy(10).into_iter().map(|(time, _)| (time, 50.0)).collect();
    assert_eq!(verdict(&limits(), &edge, 10, &[])[RANGE].0, TestResult::Passed, "the limit itself is allowed");
}

#[test]
fn equal_readings_in_a_row_are_a_stuck_sensor() {
    let flat = |count: i32| (0..count).map(|i| (f64::from(i), 21.5)).collect::<Vec<_>>();
    assert_eq!(verdict(&limits(), &flat(10), 10, &[])[STUCK].0, TestResult::Failed);
    assert_eq!(verdict(&limits(), &flat(9), 9, &[])[STUCK].0, TestResult::NotJudged);
    let mut moved = flat(18);
    moved[9].1 = 21.6;
    assert_eq!(verdict(&limits(), &moved, 18, &[])[STUCK].0, TestResult::Passed, "9, 1 and 8 in a row");
    let rests = Limits { flat_count: 0, ..limits() };
    assert_eq!(verdict(&rests, &flat(30), 30, &[])[STUCK].0, TestResult::NotJudged);
    let tolerant = Limits { flat_tolerance: 0.3, ..limits() };
    assert_eq!(verdict(&tolerant, &healthy(10), 10, &[])[STUCK].0, TestResult::Failed, "within the tolerance");
}

#[test]
fn gaps_and_silence_at_either_end_fail_the_interval() {
    let mut gap = healthy(20);
    for reading in &mut gap[10..] {
        reading.0 += 4.0;
    }
    let found = verdict(&limits(), &gap, 24, &[]);
    assert_eq!(found[INTERVAL].0, TestResult::Failed);
    assert!(found[INTERVAL].1.starts_with("1 gap, the longest 5 s, where a reading is expected every 1 s"));
    assert_eq!(verdict(&limits(), &healthy(20), 24, &[])[INTERVAL].0, TestResult::Failed, "silent at the end");
    assert_eq!(verdict(&limits(), &healthy(20), 22, &[])[INTERVAL].0, TestResult::Passed);
    let late: Vec<_> = healthy(20).into_iter().map(|(time, value)| (time + 4.0, value)).collect();
    assert_eq!(verdict(&limits(), &late, 24, &[])[INTERVAL].0, TestResult::Failed, "silent at the start");
}

#[test]
fn silence_while_telemetry_was_not_heard_is_nobodys_fault() {
    let mut gap = healthy(20);
    for reading in &mut gap[10..] {
        reading.0 += 20.0;
    }
    let breaks = [(10 * SECOND, 29 * SECOND)];
    let found = verdict(&limits(), &gap, 40, &breaks);
    assert_eq!(results(&found), [TestResult::Passed; 5], "{found:?}");
}

#[test]
fn what_comes_too_seldom_or_irregularly_fails_the_interval() {
    let every = |step: f64| healthy(20).into_iter().map(|(time, value)| (time * step, value)).collect::<Vec<_>>();
    let slow = verdict(&limits(), &every(2.0), 40, &[]);
    assert_eq!(slow[INTERVAL].0, TestResult::Failed);
    assert!(
        slow[INTERVAL].1.starts_with("too seldom: every 2 s on average, expected every 1 s"),
        "{}",
        slow[INTERVAL].1
    );
    let fast = verdict(&limits(), &every(0.2), 4, &[]);
    assert_eq!(fast[INTERVAL].0, TestResult::Passed);
    assert!(fast[INTERVAL].1.starts_with("more often than expected"), "{}", fast[INTERVAL].1);
    let uneven: Vec<_> =
        (0..20).map(|i| (f64::from(i) * 1.25 + f64::from(i % 2) * 1.2, 21.0 + f64::from(i % 3))).collect();
    let found = verdict(&limits(), &uneven, 26, &[]);
    assert!(found[INTERVAL].1.starts_with("irregular"), "{}", found[INTERVAL].1);
    assert_eq!(found[INTERVAL].0, TestResult::Failed);
    assert_eq!(verdict(&limits(), &healthy(2), 2, &[])[INTERVAL].0, TestResult::NotJudged);
    let unknown = Limits { interval: None, ..limits() };
    assert_eq!(verdict(&unknown, &healthy(20), 20, &[])[INTERVAL].0, TestResult::NotJudged);
}

#[test]
fn noise_fails_and_slow_change_does_not() {
    let noisy: Vec<_> = (0..30).map(|i| (f64::from(i), 21.0 + f64::from(i % 2) * 1.5)).collect();
    let found = verdict(&limits(), &noisy, 30, &[]);
    assert_eq!(found[NOISE].0, TestResult::Failed);
    assert!(found[NOISE].1.starts_with("1.061 °C from reading to reading, at most 0.5 °C"), "{}", found[NOISE].1);
    let warming: Vec<_> = (0..30).map(|i| (f64::from(i), 10.0 + f64::from(i) * 0.5)).collect();
    assert_eq!(verdict(&limits(), &warming, 30, &[])[NOISE].0, TestResult::Passed);
    assert_eq!(verdict(&limits(), &healthy(9), 9, &[])[NOISE].0, TestResult::NotJudged);
}

#[test]
fn while_it_runs_only_what_cannot_become_good_again_is_said() {
    let mut tally = Tally::default();
    let limits = limits();
    let mut seen = |value: f64, time: i64| {
        let around = Around { started: 0, now: time, breaks: &[] };
        tally.take(Arrival { time, value, out_of_range: false }, &limits, &around);
        let seen = Seen { tally: &tally, limits: &limits, started: 0, until: 60 * SECOND, breaks: &[], over: false };
        judge(&seen)
    };
    assert!(seen(21.0, SECOND).iter().all(|check| check.result() == TestResult::Unspecified));
    let found = seen(99.0, 2 * SECOND);
    assert_eq!(found[RANGE].result(), TestResult::Failed);
    assert_eq!(overall(&found).0, TestResult::Failed);
    assert_eq!(found[INTERVAL].result(), TestResult::Unspecified, "though it was silent for long");
}

#[test]
fn a_sensor_passes_where_nothing_failed() {
    let check = |result: TestResult| TestCheck { kind: 1, result: result.into(), summary: "so it is".into() };
    let (good, open) = (check(TestResult::Passed), check(TestResult::NotJudged));
    assert_eq!(overall(&[good.clone(), open.clone()]), passed("1 check passed, 1 could not be judged".into()));
    assert_eq!(overall(&[good.clone(), check(TestResult::Failed), open]), failed("so it is".into()));
    assert_eq!(overall(&[good, check(TestResult::Unspecified)]).0, TestResult::Unspecified);
}
