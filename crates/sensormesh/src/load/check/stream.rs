//! Whether the live stream showed each reading once and each sensor's in order.

use std::collections::BTreeSet;

use super::{Fault, Verdict};
use crate::load::history::{History, State};

/// Takes what a stream shows. A lane sends a batch only behind all that are open, so each sensor's readings must come in the
/// order in which they were sent.
pub struct Stream {
    sensors: Vec<Sensor>,
    /// Readings taken.
    pub readings: u64,
    verdict: Verdict,
}

#[derive(Default)]
struct Sensor {
    /// Shown from here on; what is older may have been stored before the stream began.
    from: u64,
    next: u64,
    /// Left out so far.
    missing: BTreeSet<u64>,
}

impl Stream {
    /// A stream that began before anything more was sent than this history has.
    pub fn new(history: &History) -> Self {
        let plan = &history.plan;
        let sensor = |sensor| {
            let from = plan.first_tick(sensor, history.sent(plan.lane_of(sensor)).len() as u64);
            Sensor { from, next: from, missing: BTreeSet::new() }
        };
        Self { sensors: (0..plan.sensors).map(sensor).collect(), readings: 0, verdict: Verdict::default() }
    }

    /// A reading was shown.
    pub fn reading(&mut self, history: &History, sensor: u32, time: i64, value: f64) {
        let (plan, verdict) = (&history.plan, &mut self.verdict);
        let tick = plan.tick(time);
        let (Some(tick), Some(known)) = (tick, self.sensors.get_mut(sensor as usize)) else {
            return verdict.note(Fault::Phantom, || format!("shown of sensor {sensor} at {time} ns, never sent"));
        };
        if tick < known.from {
            return;
        }
        self.readings += 1;
        let lane = plan.lane_of(sensor);
        let state = |tick| history.state(lane, plan.batch_of(sensor, tick));
        if matches!(state(tick), State::Never | State::Failed) {
            return verdict
                .note(Fault::Phantom, || format!("shown reading {tick} of sensor {sensor}, {:?}", state(tick)));
        }
        if plan.value(sensor, tick).to_bits() != value.to_bits() {
            verdict.note(Fault::Mismatch, || format!("shown reading {tick} of sensor {sensor} as {value}"));
        }
        if tick >= known.next {
            known.missing.extend((known.next..tick).filter(|tick| state(*tick) != State::Failed));
            known.next = tick + 1;
        } else if known.missing.remove(&tick) {
            verdict
                .note(Fault::Reorder, || format!("shown reading {tick} of sensor {sensor} behind {}", known.next - 1));
        } else {
            verdict.note(Fault::Rewind, || format!("shown reading {tick} of sensor {sensor} again"));
        }
    }

    /// The stream could not go on from its cursor.
    pub fn cursor_gone(&mut self, why: &str) {
        self.verdict.note(Fault::Rewind, || format!("the stream's cursor was refused: {why}"));
    }

    /// Whether something acknowledged was not shown yet.
    pub fn is_behind(&self, history: &History) -> bool {
        (0..).zip(&self.sensors).any(|(sensor, known)| known.left_out(history, sensor).next().is_some())
    }

    /// What was found, when nothing more will be shown.
    pub fn verdict(&self, history: &History) -> Verdict {
        let mut verdict = self.verdict.clone();
        for (sensor, known) in (0..).zip(&self.sensors) {
            for tick in known.left_out(history, sensor) {
                verdict.note(Fault::Gap, || format!("reading {tick} of sensor {sensor} was not shown"));
            }
        }
        verdict
    }
}

impl Sensor {
    /// Acknowledged readings that were not shown.
    fn left_out(&self, history: &History, sensor: u32) -> impl Iterator<Item = u64> {
        let plan = &history.plan;
        let lane = plan.lane_of(sensor);
        let end = plan.first_tick(sensor, history.sent(lane).len() as u64);
        let unseen = self.missing.iter().copied().chain(self.next..end);
        unseen.filter(move |tick| history.state(lane, plan.batch_of(sensor, *tick)) == State::Ok)
    }
}
