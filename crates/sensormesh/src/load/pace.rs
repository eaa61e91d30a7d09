//! When a lane's next batch is due.

use std::time::Duration;

use tokio::time::Instant;

use super::plan::Plan;

/// The pace of one lane.
#[derive(Clone, Debug)]
pub struct Pace {
    start: Instant,
    /// Between two batches; `None` = each is due as soon as it can be sent.
    interval: Option<Duration>,
    lanes: u32,
    sent: u32,
}

impl Pace {
    /// Of all lanes together so many readings a second.
    pub fn new(rate: Option<f64>, plan: &Plan) -> Self {
        let seconds = |rate: f64| f64::from(plan.batch) * f64::from(plan.lanes) / rate;
        let interval = rate.filter(|rate| *rate > 0.0).map(|rate| Duration::from_secs_f64(seconds(rate)));
        Self { start: Instant::now(), interval, lanes: plan.lanes, sent: 0 }
    }

    /// The same for one lane: they take turns.
    pub fn of(&self, lane: u32) -> Self {
        let turn = self.interval.map_or(Duration::ZERO, |interval| interval * lane / self.lanes);
        Self { start: self.start + turn, ..self.clone() }
    }

    /// When the next batch is due.
    pub fn due(&self) -> Instant {
        self.interval.map_or(self.start, |interval| self.start + interval * self.sent)
    }

    /// It was sent.
    pub fn sent(&mut self) {
        self.sent += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lanes_take_turns_and_keep_the_rate_together() {
        let plan = Plan { seed: 0, sensors: 4, lanes: 4, batch: 10, base: 0 };
        let all = Pace::new(Some(100.0), &plan);
        let (mut first, mut last) = (all.of(0), all.of(3));
        let after = |pace: &Pace| (pace.due() - all.start).as_millis();
        assert_eq!((after(&first), after(&last)), (0, 300));
        first.sent();
        last.sent();
        last.sent();
        assert_eq!((after(&first), after(&last)), (400, 1100));
        let unpaced = Pace::new(None, &plan).of(2);
        assert_eq!(unpaced.due(), unpaced.start);
    }
}
