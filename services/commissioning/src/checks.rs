//! The verdict: a sensor's tally, held to its limits, in words for whoever stands beside it.

use sensormesh_proto::commissioning::v1::{CheckKind, TestCheck, TestResult};

use crate::limits::Limits;
use crate::tally::{Tally, excused};
use crate::words::{count, duration, number, value};

/// Fewer intervals say nothing of how regular they are.
const LEAST_INTERVALS: u64 = 2;
/// Fewer differences say nothing of noise.
const LEAST_DIFFERENCES: u64 = 9;
/// The mean interval may be so many times the expected one.
const SLOWEST: f64 = 1.5;
/// One that is shorter by more is mentioned.
const FASTEST: f64 = 0.5;
/// The share of the expected interval that its standard deviation may be.
const JITTER: f64 = 0.5;

/// What a test has seen of a sensor. Times are nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'t> {
    /// The counts.
    pub tally: &'t Tally,
    /// What they are held to.
    pub limits: &'t Limits,
    /// When the test began.
    pub started: i64,
    /// When it was over, or now.
    pub until: i64,
    /// When telemetry was not heard, from and to.
    pub breaks: &'t [(i64, i64)],
    /// The test is over. Before, only what cannot become good again is said.
    pub over: bool,
}

type Verdict = (TestResult, String);

fn passed(words: String) -> Verdict {
    (TestResult::Passed, words)
}

fn failed(words: String) -> Verdict {
    (TestResult::Failed, words)
}

fn not_judged(words: impl Into<String>) -> Verdict {
    (TestResult::NotJudged, words.into())
}

/// The checks of one sensor.
pub fn judge(seen: &Seen<'_>) -> Vec<TestCheck> {
    let checks = [
        (CheckKind::Reporting, seen.reporting(), false),
        (CheckKind::Range, seen.range(), true),
        (CheckKind::Stuck, seen.stuck(), true),
        (CheckKind::Interval, seen.interval(), false),
        (CheckKind::Noise, seen.noise(), false),
    ];
    let check = |(kind, (result, summary), lasts): (CheckKind, Verdict, bool)| {
        let known = seen.over || (lasts && result == TestResult::Failed);
        let result = if known { result } else { TestResult::Unspecified };
        TestCheck { kind: kind.into(), result: result.into(), summary }
    };
    checks.into_iter().map(check).collect()
}

impl Seen<'_> {
    fn readings(&self) -> String {
        count(self.tally.readings, "reading")
    }

    fn reporting(&self) -> Verdict {
        let (tally, time) = (self.tally, duration(self.until - self.started));
        if tally.readings == 0 && tally.older > 0 {
            let older = count(tally.older, "reading");
            let behind = duration(tally.older_by);
            return failed(format!(
                "{older} arrived, but measured before the test began, {behind} ago: set the sensor's clock, or wait until it has \
                 sent what it had kept"
            ));
        }
        if tally.readings == 0 {
            return failed(format!(
                "no reading arrived in {time}: check power, radio or cable, and that it sends under this id"
            ));
        }
        if tally.readings < u64::from(self.limits.required) {
            return failed(format!("only {} of {} arrived in {time}", self.readings(), self.limits.required));
        }
        passed(format!("{} arrived in {time}", self.readings()))
    }

    fn range(&self) -> Verdict {
        let (tally, limits) = (self.tally, self.limits);
        let unit = |v: f64| value(v, &limits.unit);
        let allowed = match (limits.min, limits.max) {
            (Some(min), Some(max)) => format!("{} to {}", number(min), unit(max)),
            (Some(min), None) => format!("{} or more", unit(min)),
            (None, Some(max)) => format!("{} or less", unit(max)),
            (None, None) if tally.out_of_range == 0 => {
                return not_judged("no range is known: give one in the sensor's profile or in the test");
            }
            (None, None) => "the sensor's range".to_owned(),
        };
        let Some((low, high)) = tally.min.zip(tally.max) else { return not_judged("no reading to judge") };
        let span = if low.to_bits() == high.to_bits() {
            format!("all at {}", unit(low))
        } else {
            format!("from {} to {}", number(low), unit(high))
        };
        if tally.out_of_range > 0 {
            let out = tally.out_of_range;
            return failed(format!("{out} of {} lay outside {allowed}; they were {span}", self.readings()));
        }
        passed(format!("{} {span}, within {allowed}", self.readings()))
    }

    fn stuck(&self) -> Verdict {
        let (tally, limits) = (self.tally, self.limits);
        if limits.flat_count == 0 {
            return not_judged("what it measures may rest: say in the test how many equal readings are too many");
        }
        if tally.longest_flat >= limits.flat_count {
            let at = value(tally.flat_value(), &limits.unit);
            return failed(format!(
                "{} readings in a row were {at}: it may be stuck; change what it measures (warm it, breathe on it) and test \
                 again",
                tally.longest_flat
            ));
        }
        if tally.readings < u64::from(limits.flat_count) {
            return not_judged(format!(
                "{} are too few to tell, {} are needed: test longer",
                self.readings(),
                limits.flat_count
            ));
        }
        passed(format!("never more than {} equal in a row", count(tally.longest_flat.into(), "reading")))
    }

    fn interval(&self) -> Verdict {
        let (tally, limits) = (self.tally, self.limits);
        #[allow(clippy::cast_possible_truncation)] // a duration
        let words = |nanos: f64| duration(nanos as i64);
        let mean = tally.intervals.mean;
        let Some((expected, patience)) = limits.interval.zip(limits.patience()) else {
            let came = if tally.intervals.count > 0 {
                format!("; readings came every {}", words(mean))
            } else {
                String::new()
            };
            return not_judged(format!(
                "nobody says how often it reports{came}: give it a profile, or say it in the test"
            ));
        };
        if tally.readings == 0 {
            return not_judged("no reading to judge");
        }
        // silence at either end is a gap as well
        let ends = [(self.started, tally.first), (tally.last, self.until)];
        let silent = ends
            .into_iter()
            .filter(|(from, to)| to.saturating_sub(*from) > patience && !excused(*from, *to, limits, self.breaks));
        let silence = silent.map(|(from, to)| to - from).max().unwrap_or(0);
        let gaps = tally.gaps + u64::from(silence > 0);
        if gaps > 0 {
            let longest = duration(tally.longest_interval.max(silence));
            return failed(format!(
                "{}, the longest {longest}, where a reading is expected every {}: check radio or cable",
                count(gaps, "gap"),
                duration(expected)
            ));
        }
        if tally.intervals.count < LEAST_INTERVALS {
            return not_judged(format!("{} are too few to tell: test longer", self.readings()));
        }
        #[allow(clippy::cast_precision_loss)] // a duration
        let (expected, jitter) = (expected as f64, tally.intervals.deviation().unwrap_or(0.0));
        let every = format!("every {} on average, expected every {}", words(mean), words(expected));
        if mean > expected * SLOWEST {
            return failed(format!("too seldom: {every}"));
        }
        if mean < expected * FASTEST {
            return passed(format!("more often than expected: {every}"));
        }
        if jitter > expected * JITTER {
            return failed(format!("irregular: {every}, ± {}", words(jitter)));
        }
        passed(format!("{every}, ± {}", words(jitter)))
    }

    fn noise(&self) -> Verdict {
        let limits = self.limits;
        let unit = |v: f64| value(v, &limits.unit);
        let measured = self.tally.noise();
        let Some(most) = limits.max_noise else {
            let was = measured.map(|(noise, _)| format!("; it was {}", unit(noise))).unwrap_or_default();
            return not_judged(format!("no limit is known{was}: say in the test how much is too much"));
        };
        match measured {
            Some((noise, differences)) if differences >= LEAST_DIFFERENCES => {
                let words = format!("{} from reading to reading, at most {}", unit(noise), unit(most));
                if noise > most {
                    failed(format!("{words}: check the cable, the supply, and what stands close to the sensor"))
                } else {
                    passed(words)
                }
            }
            _ => not_judged(format!("{} are too few to tell: test longer", self.readings())),
        }
    }
}

/// What the checks of a sensor come to, and why.
pub fn overall(checks: &[TestCheck]) -> Verdict {
    let of = |result: TestResult| checks.iter().filter(move |check| check.result == i32::from(result));
    let mut failures = of(TestResult::Failed).map(|check| check.summary.as_str()).peekable();
    if failures.peek().is_some() {
        return failed(failures.collect::<Vec<_>>().join("; "));
    }
    if of(TestResult::Unspecified).next().is_some() {
        let reporting = checks.first().map(|check| check.summary.clone()).unwrap_or_default();
        return (TestResult::Unspecified, reporting);
    }
    let (good, open) = (of(TestResult::Passed).count() as u64, of(TestResult::NotJudged).count());
    let open = if open == 0 { String::new() } else { format!(", {open} could not be judged") };
    passed(format!("{} passed{open}", count(good, "check")))
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
