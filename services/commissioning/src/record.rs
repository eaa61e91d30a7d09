//! Tests as the contract has them, and the log entries that tell of them.

use prost::Message;
use sensormesh_proto::commissioning::v1 as proto;
use sensormesh_proto::commissioning::v1::{TestResult, TestedSensor};
use sensormesh_store::{Entry, Tx};
use sensormesh_types::{self as types, Caller, time};

use crate::checks::{Seen, judge as checks_of, overall};
use crate::test::{State, Test, Tested, together};
use crate::words;

/// Who makes a change.
#[derive(Clone, Debug)]
pub struct Author {
    tenant: String,
    by: types::Author,
}

impl Author {
    /// The caller.
    pub fn of(caller: &Caller) -> Self {
        Self { tenant: caller.tenant().to_owned(), by: caller.author() }
    }

    /// The service itself.
    pub fn service(tenant: &str) -> Self {
        Self { tenant: tenant.to_owned(), by: types::Author::named("service:commissioning") }
    }
}

/// Tells what became of a test: `test.created`, `test.started`, `test.done`, `test.cancelled`. The sensors are left out.
pub fn test(tx: &mut Tx, author: &Author, kind: &str, test: &Test, results: &[TestedSensor]) {
    let view = View { now: test.ended.max(test.started).max(test.created), lost: false, heard: 0 };
    let payload = proto::Test { sensors: Vec::new(), ..encode(test, results.to_vec(), &view) };
    let entry = Entry {
        site: test.site.clone(),
        kind: kind.to_owned(),
        subject: test.id.clone(),
        author: author.by.clone(),
        payload: payload.encode_to_vec(),
        ..Entry::default()
    };
    tx.append_for(&*author.tenant, entry);
}

/// What is known at present. Times are microseconds.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The time.
    pub now: i64,
    /// Telemetry cannot be heard.
    pub lost: bool,
    /// When it was last heard, for whatever test.
    pub heard: i64,
}

/// Telemetry that was not heard for so long (12 s; it sends a bookmark every 5 s) is lost, microseconds.
const PATIENCE: i64 = 12_000_000;

/// What a sensor came to, or what is known of it at this time in microseconds.
pub fn judge(test: &Test, tested: &Tested, now: i64) -> TestedSensor {
    if let Some(result) = &tested.result {
        return result.clone();
    }
    let (tally, limits) = (&tested.tally, &tested.limits);
    let breaks = test.breaks_ns();
    // before it was due it cannot be blamed for silence that nobody waited for
    let until = if test.state == State::Done { now.min(test.due) } else { now };
    let seen = Seen {
        tally,
        limits,
        started: test.started.saturating_mul(1000),
        until: until.saturating_mul(1000).max(tally.last),
        breaks: &breaks,
        over: test.state == State::Done,
    };
    let checks = if test.started == 0 { Vec::new() } else { checks_of(&seen) };
    let (result, summary) = match checks.is_empty() {
        true => (TestResult::Unspecified, String::new()),
        false => overall(&checks),
    };
    #[allow(clippy::cast_possible_truncation)] // a duration
    let nanos = |nanos: Option<f64>| nanos.and_then(|nanos| duration(nanos as i64));
    let some = tally.readings > 0;
    let intervals = tally.intervals.count > 0;
    TestedSensor {
        sensor_id: tested.sensor.clone(),
        name: if tested.name.is_empty() { tested.sensor.clone() } else { tested.name.clone() },
        device_id: tested.device.clone(),
        site_id: tested.site.clone(),
        quantity: limits.quantity.clone(),
        unit: limits.unit.clone(),
        result: result.into(),
        summary,
        checks,
        readings: tally.readings,
        older_readings: tally.older,
        first_time: some.then(|| time::from_nanos(tally.first)),
        last_time: some.then(|| time::from_nanos(tally.last)),
        min: tally.min,
        max: tally.max,
        mean: some.then_some(tally.values.mean),
        standard_deviation: tally.values.deviation(),
        noise: tally.noise().map(|(noise, _)| noise),
        out_of_range: tally.out_of_range,
        longest_flat: tally.longest_flat,
        mean_interval: nanos(intervals.then_some(tally.intervals.mean)),
        longest_interval: intervals.then_some(tally.longest_interval).and_then(duration),
        jitter: nanos(tally.intervals.deviation()),
        gaps: tally.gaps,
    }
}

/// A test as the contract has it, with those of its sensors that the reader sees.
pub fn encode(test: &Test, sensors: Vec<TestedSensor>, view: &View) -> proto::Test {
    let heard = view.heard.max(test.heard).max(test.created);
    let stale = !test.state.is_over() && (view.lost || view.now.saturating_sub(heard) > PATIENCE);
    let (result, found) = match test.state {
        _ if sensors.is_empty() => (TestResult::NoSensor, test.note.clone()),
        State::Cancelled => {
            let (result, found) = together(&sensors);
            (if result == TestResult::Failed { result } else { TestResult::Unspecified }, found)
        }
        _ => together(&sensors),
    };
    let at = |micros: i64| (micros != 0).then(|| time::from_micros(micros));
    proto::Test {
        test_id: test.id.clone(),
        sensor_type: test.request.sensor_type.clone(),
        device_id: test.request.device_id.clone(),
        site_id: test.site.clone(),
        state: test.state as i32,
        result: result.into(),
        summary: summary(test, found, stale, view.now),
        duration: duration(test.duration.saturating_mul(1000)),
        readings: test.readings,
        create_time: at(test.created),
        start_time: at(test.started),
        end_time: at(test.ended),
        due_time: at(if test.state == State::Running && !stale { test.due } else { 0 }),
        interrupted: duration(test.interrupted().saturating_mul(1000)),
        stale,
        as_of: Some(time::from_micros(if stale { heard } else { view.now })),
        started_by: test.actor.clone(),
        sensors,
    }
}

fn summary(test: &Test, found: String, stale: bool, now: i64) -> String {
    let mut words = match test.state {
        State::Queued if stale => format!("{found}: waits for telemetry, which cannot be heard"),
        State::Queued => format!("{found}: waits for its turn"),
        State::Running if stale => format!("{found}: interrupted, telemetry cannot be heard; it goes on by itself"),
        State::Running => {
            format!("{found}, at most {} more", words::duration((test.due - now).saturating_mul(1000)))
        }
        State::Done => found,
        State::Cancelled => format!("cancelled; {found}"),
    };
    if test.missed {
        words.push_str("; readings were missed, because telemetry's log was cut or restored: test again");
    } else if test.state.is_over() && !test.breaks.is_empty() {
        let long = words::duration(test.interrupted().saturating_mul(1000));
        words.push_str(&format!("; telemetry was not heard for {long}"));
    }
    words
}

fn duration(nanos: i64) -> Option<prost_types::Duration> {
    u64::try_from(nanos).ok().map(|nanos| time::from_duration(std::time::Duration::from_nanos(nanos)))
}
