//! A test: how far it is, how long it runs, and what its sensors come to together.

use std::collections::BTreeSet;

use sensormesh_proto::commissioning::v1::{StartTestRequest, TestResult, TestedSensor};

use crate::limits::Limits;
use crate::tally::Tally;
use crate::words::count;

/// Silence of telemetry for longer is an interruption, microseconds: it sends a bookmark every 5 s.
const SILENCE: i64 = 7_000_000;
/// A shorter one is not worth mentioning where the stream was opened anew.
const HICCUP: i64 = 1_000_000;
/// So many interruptions are told apart; the last ones grow together.
const MOST_BREAKS: usize = 64;

/// How far it is. The numbers are those of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for its turn, or for telemetry.
    Queued = 1,
    /// It counts readings.
    Running = 2,
    /// It is over.
    Done = 3,
    /// Somebody ended it.
    Cancelled = 4,
}

impl State {
    /// The state with this number.
    pub fn from_i32(number: i32) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Done, Self::Cancelled].into_iter().find(|state| *state as i32 == number)
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }
}

/// A test. Times are microseconds since the Unix epoch; 0 = not yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// The tenant it belongs to.
    pub tenant: String,
    /// Its id.
    pub id: String,
    /// What was asked for.
    pub request: StartTestRequest,
    /// The site of all its sensors; empty = none or several.
    pub site: String,
    /// How far it is.
    pub state: State,
    /// Who started it.
    pub actor: String,
    /// How long it runs at most, microseconds.
    pub duration: i64,
    /// So many readings of each sensor are enough.
    pub readings: u32,
    /// When it was asked for.
    pub created: i64,
    /// When it began to count.
    pub started: i64,
    /// When it was over.
    pub ended: i64,
    /// When telemetry was last heard.
    pub heard: i64,
    /// When it will be over.
    pub due: i64,
    /// When telemetry was not heard, from and to.
    pub breaks: Vec<(i64, i64)>,
    /// Readings were missed: telemetry no longer knew where the test was.
    pub missed: bool,
    /// Why it has no sensor; empty = it has.
    pub note: String,
}

/// A sensor of a test.
#[derive(Clone, Debug)]
pub struct Tested {
    /// The sensor.
    pub sensor: String,
    /// The device that carries it.
    pub device: String,
    /// What people call it.
    pub name: String,
    /// The site it belongs to.
    pub site: String,
    /// What its readings are held to.
    pub limits: Limits,
    /// What they were like.
    pub tally: Tally,
    /// What it came to, once the test is over.
    pub result: Option<TestedSensor>,
}

impl Test {
    /// It begins to count.
    pub fn begin(&mut self, now: i64) {
        self.state = State::Running;
        (self.started, self.heard) = (now, now);
        self.due = now.saturating_add(self.duration);
    }

    /// Telemetry was heard; `anew` = on a stream that was lost before. Time without it does not count.
    pub fn hear(&mut self, now: i64, anew: bool) {
        let silence = now - self.heard;
        if silence > if anew { HICCUP } else { SILENCE } {
            self.due = self.due.saturating_add(silence);
            let full = self.breaks.len() == MOST_BREAKS;
            match self.breaks.last_mut().filter(|(_, end)| full || *end == self.heard) {
                Some(last) => last.1 = now,
                None => self.breaks.push((self.heard, now)),
            }
        }
        self.heard = self.heard.max(now);
    }

    /// When telemetry was not heard, nanoseconds.
    pub fn breaks_ns(&self) -> Vec<(i64, i64)> {
        self.breaks.iter().map(|(from, to)| (from.saturating_mul(1000), to.saturating_mul(1000))).collect()
    }

    /// How long telemetry was not heard, microseconds.
    pub fn interrupted(&self) -> i64 {
        self.breaks.iter().map(|(from, to)| to - from).sum()
    }
}

/// The site that all have; empty = none, or several.
pub fn common_site<'s>(sites: impl Iterator<Item = &'s str>) -> String {
    let sites: BTreeSet<&str> = sites.collect();
    let mut sites = sites.into_iter();
    match (sites.next(), sites.next()) {
        (Some(site), None) => site.to_owned(),
        _ => String::new(),
    }
}

/// What sensors come to together: failed with the first of them, passed with the last.
pub fn together(sensors: &[TestedSensor]) -> (TestResult, String) {
    let of = |result: TestResult| sensors.iter().filter(move |sensor| sensor.result() == result);
    let all = count(sensors.len() as u64, "sensor");
    let failed: Vec<&str> = of(TestResult::Failed).take(5).map(|sensor| sensor.sensor_id.as_str()).collect();
    let more = of(TestResult::Failed).count() - failed.len();
    if failed.is_empty() {
        if of(TestResult::Unspecified).next().is_some() {
            return (TestResult::Unspecified, format!("{all} under test"));
        }
        return (TestResult::Passed, format!("{all} passed"));
    }
    let more_words = if more > 0 { format!(" and {more} more") } else { String::new() };
    let number = failed.len() + more;
    (TestResult::Failed, format!("{number} of {all} failed: {}{more_words}", failed.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn test() -> Test {
        let mut test = Test {
            tenant: "acme".into(),
            id: "t".into(),
            request: StartTestRequest::default(),
            site: String::new(),
            state: State::Queued,
            actor: String::new(),
            duration: 60 * SECOND,
            readings: 30,
            created: 0,
            started: 0,
            ended: 0,
            heard: 0,
            due: 0,
            breaks: Vec::new(),
            missed: false,
            note: String::new(),
        };
        test.begin(10 * SECOND);
        test
    }

    #[test]
    fn time_without_telemetry_does_not_count() {
        let mut test = test();
        assert_eq!(test.due, 70 * SECOND);
        test.hear(15 * SECOND, false);
        test.hear(20 * SECOND, false);
        assert!(test.breaks.is_empty(), "a bookmark every 5 s is no silence");
        test.hear(30 * SECOND, false);
        test.hear(33 * SECOND, true);
        assert_eq!((test.breaks.as_slice(), test.due), ([(20 * SECOND, 33 * SECOND)].as_slice(), 83 * SECOND));
        test.hear(33 * SECOND + 200_000, true);
        assert_eq!(test.interrupted(), 13 * SECOND, "a stream that is opened anew at once is no interruption");
    }

    #[test]
    fn interruptions_are_bounded() {
        let mut test = test();
        for i in 1..200 {
            test.hear((10 + 20 * i) * SECOND, true);
            test.hear((10 + 20 * i + 1) * SECOND, false);
        }
        assert_eq!(test.breaks.len(), MOST_BREAKS);
    }

    #[test]
    fn one_sensor_that_fails_fails_the_test() {
        let sensor = |id: &str, result: TestResult| TestedSensor {
            sensor_id: id.into(),
            result: result.into(),
            ..Default::default()
        };
        let (good, bad) = (sensor("a", TestResult::Passed), sensor("b", TestResult::Failed));
        assert_eq!(together(&[good.clone(), bad.clone()]), (TestResult::Failed, "1 of 2 sensors failed: b".into()));
        assert_eq!(together(std::slice::from_ref(&good)), (TestResult::Passed, "1 sensor passed".into()));
        assert_eq!(together(&[good, sensor("c", TestResult::Unspecified)]).0, TestResult::Unspecified);
        let many: Vec<_> = (0..7).map(|_| bad.clone()).collect();
        assert!(together(&many).1.ends_with("b, b, b, b, b and 2 more"));
    }

    #[test]
    fn a_test_has_the_site_that_all_its_sensors_have() {
        assert_eq!(common_site(["north", "north"].into_iter()), "north");
        assert_eq!(common_site(["north", ""].into_iter()), "");
        assert_eq!(common_site([].into_iter()), "");
    }
}
