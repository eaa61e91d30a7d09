//! Whether what can be read is what was acknowledged.

use super::{Fault, Verdict};
use crate::load::history::{History, State};

/// Takes the readings of some sensors as they are read, each sensor's in the order of their times.
pub struct ReadBack<'a> {
    history: &'a History,
    /// The sensor that is being read, and the tick that comes next.
    at: Option<(u32, u64)>,
    /// Readings taken.
    pub readings: u64,
    verdict: Verdict,
}

impl<'a> ReadBack<'a> {
    /// Compares with this history.
    pub fn new(history: &'a History) -> Self {
        Self { history, at: None, readings: 0, verdict: Verdict::default() }
    }

    /// The sensor whose readings follow.
    pub fn begin(&mut self, sensor: u32) {
        self.end();
        self.at = Some((sensor, 0));
    }

    /// A reading of the sensor that was begun.
    pub fn reading(&mut self, time: i64, value: f64) {
        let Some((sensor, next)) = self.at else { return };
        self.readings += 1;
        let (history, verdict) = (self.history, &mut self.verdict);
        let plan = &history.plan;
        let Some(tick) = plan.tick(time) else {
            return verdict.note(Fault::Phantom, || format!("sensor {sensor} at {time} ns, which was never sent"));
        };
        if tick < next {
            return verdict.note(Fault::Duplicate, || format!("reading {tick} of sensor {sensor}"));
        }
        missing(history, sensor, next..tick, verdict);
        self.at = Some((sensor, tick + 1));
        let (lane, batch) = (plan.lane_of(sensor), plan.batch_of(sensor, tick));
        let state = history.state(lane, batch);
        if matches!(state, State::Never | State::Failed) {
            verdict.note(Fault::Phantom, || format!("reading {tick} of sensor {sensor}, batch {batch} is {state:?}"));
        } else if plan.value(sensor, tick).to_bits() != value.to_bits() {
            let sent = plan.value(sensor, tick);
            verdict.note(Fault::Mismatch, || format!("reading {tick} of sensor {sensor} is {value}, sent was {sent}"));
        }
    }

    fn end(&mut self) {
        if let Some((sensor, next)) = self.at.take() {
            let plan = &self.history.plan;
            let sent = self.history.sent(plan.lane_of(sensor)).len() as u64;
            missing(self.history, sensor, next..plan.first_tick(sensor, sent), &mut self.verdict);
        }
    }

    /// What was found, when everything was read.
    pub fn verdict(mut self) -> Verdict {
        self.end();
        self.verdict
    }
}

/// Readings that could not be read: those acknowledged are lost.
fn missing(history: &History, sensor: u32, ticks: std::ops::Range<u64>, verdict: &mut Verdict) {
    let lane = history.plan.lane_of(sensor);
    for tick in ticks {
        let batch = history.plan.batch_of(sensor, tick);
        if history.state(lane, batch) == State::Ok {
            verdict.note(Fault::Lost, || format!("reading {tick} of sensor {sensor}, in batch {batch} of lane {lane}"));
        }
    }
}
