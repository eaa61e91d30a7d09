//! What a load sends: every reading follows from a seed, so that nobody has to keep it to know it.

use std::ops::Range;

use anyhow::{Result, ensure};
use sensormesh_proto::telemetry::v1::channel::Values;
use sensormesh_proto::telemetry::v1::{Channel, Doubles, Group, Reading, ReadingBatch, Scaled};
use sensormesh_series::wire;
use sensormesh_types::{random, time};
use serde::{Deserialize, Serialize};

/// Nanoseconds from a sensor's reading to its next: so short that no load outruns the clock.
pub const STEP: i64 = 10_000;
/// How long before its beginning a load's readings start, nanoseconds.
const BEFORE: i64 = 3_600_000_000_000;
/// Of so many sensors one has values of any bits; the others measure in hundredths.
const ANY_BITS: u32 = 10;

/// The shape of a load. Its sensors are divided among lanes, each of which sends one batch after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What values are made from, and what its device is called by.
    pub seed: u32,
    /// Sensors of all lanes.
    pub sensors: u32,
    /// Senders.
    pub lanes: u32,
    /// Readings of a batch.
    pub batch: u32,
    /// The time of every sensor's first reading, nanoseconds since the Unix epoch.
    pub base: i64,
}

/// A batch's readings: these of a lane's sensors at these ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Numbers of sensors.
    pub sensors: Range<u32>,
    /// Counts a sensor's readings from 0.
    pub ticks: Range<u64>,
}

impl Plan {
    /// A new load that begins now.
    pub fn new(sensors: u32, lanes: u32, batch: u32, now: i64) -> Result<Self> {
        let base = (now - BEFORE) / STEP * STEP;
        let plan = Self { seed: u32::from_le_bytes(random::bytes()), sensors, lanes, batch, base };
        plan.check()?;
        Ok(plan)
    }

    /// Fails where sensors cannot be divided among lanes and batches.
    pub fn check(&self) -> Result<()> {
        let (sensors, lanes) = (self.sensors, self.lanes);
        ensure!(
            lanes > 0 && sensors > 0 && sensors.is_multiple_of(lanes),
            "{sensors} sensors cannot be divided among {lanes} lanes"
        );
        let own = self.own();
        let fits = self.batch > 0 && (self.batch.is_multiple_of(own) || own.is_multiple_of(self.batch));
        ensure!(fits, "a lane has {own} sensors; a batch must be a multiple or a part of that");
        Ok(())
    }

    /// Sensors of a lane.
    fn own(&self) -> u32 {
        self.sensors / self.lanes
    }

    /// The device that the sensors belong to.
    pub fn device(&self) -> String {
        format!("load-{:08x}", self.seed)
    }

    /// The id of a sensor.
    pub fn sensor_id(&self, sensor: u32) -> String {
        format!("{}.s{sensor}", self.device())
    }

    /// The number of the sensor with this id.
    pub fn sensor(&self, id: &str) -> Option<u32> {
        let number = id.strip_prefix(&self.device())?.strip_prefix(".s")?.parse().ok()?;
        (number < self.sensors).then_some(number)
    }

    /// The sensors of a lane.
    pub fn sensors_of(&self, lane: u32) -> Range<u32> {
        lane * self.own()..(lane + 1) * self.own()
    }

    /// The lane that sends a sensor's readings.
    pub fn lane_of(&self, sensor: u32) -> u32 {
        sensor / self.own()
    }

    /// How sensors and ticks are divided: sensors of a batch, ticks of a batch, batches of a tick.
    fn divided(&self) -> (u32, u64, u64) {
        let own = self.own();
        if self.batch >= own {
            (own, u64::from(self.batch / own), 1)
        } else {
            (self.batch, 1, u64::from(own / self.batch))
        }
    }

    /// What a batch of a lane has.
    pub fn span(&self, lane: u32, batch: u64) -> Span {
        let (width, ticks, parts) = self.divided();
        let first = lane * self.own() + u32::try_from(batch % parts).unwrap_or(0) * width;
        let tick = batch / parts * ticks;
        Span { sensors: first..first + width, ticks: tick..tick + ticks }
    }

    /// The batch that has a sensor's reading.
    pub fn batch_of(&self, sensor: u32, tick: u64) -> u64 {
        let (width, ticks, parts) = self.divided();
        tick / ticks * parts + u64::from(sensor % self.own() / width)
    }

    /// The first tick of a sensor that is in the batch or a later one.
    pub fn first_tick(&self, sensor: u32, batch: u64) -> u64 {
        let (width, ticks, parts) = self.divided();
        let part = u64::from(sensor % self.own() / width);
        (batch + parts - 1 - part) / parts * ticks
    }

    /// The time of a tick.
    pub fn time(&self, tick: u64) -> i64 {
        self.base + i64::try_from(tick).unwrap_or(i64::MAX / STEP) * STEP
    }

    /// The tick at that time, if it is one.
    pub fn tick(&self, time: i64) -> Option<u64> {
        let after = time - self.base;
        if after % STEP == 0 { u64::try_from(after / STEP).ok() } else { None }
    }

    /// The value of a reading.
    pub fn value(&self, sensor: u32, tick: u64) -> f64 {
        let random = mix(mix(u64::from(self.seed) << 32 | u64::from(sensor)) ^ tick);
        if sensor % ANY_BITS != ANY_BITS - 1 {
            return (2000 + random % 1000) as f64 / 100.0;
        }
        match random % 16 {
            0 => -0.0,
            1 => f64::from_bits(random >> 13),
            _ => {
                let value = f64::from_bits(random);
                if value.is_finite() { value } else { f64::from_bits(random & !(1 << 62)) }
            }
        }
    }

    /// The id that a batch has however often it is sent.
    pub fn batch_id(&self, lane: u32, batch: u64) -> String {
        format!("{}-{lane}-{batch}", self.device())
    }

    /// A batch in columns; `series` are the numbers of the lane's sensors.
    pub fn columns(&self, lane: u32, batch: u64, series: &[u32]) -> ReadingBatch {
        let Span { sensors, ticks } = self.span(lane, batch);
        let first = self.sensors_of(lane).start;
        let channels = sensors.map(|sensor| {
            let values: Vec<f64> = ticks.clone().map(|tick| self.value(sensor, tick)).collect();
            let values = match wire::deltas(&values) {
                Some((decimals, deltas)) => Values::Scaled(Scaled { decimals, deltas }),
                None => Values::Doubles(Doubles { values }),
            };
            let series = series.get((sensor - first) as usize).copied().unwrap_or_default();
            Channel { series, values: Some(values), ..Channel::default() }
        });
        let group = Group {
            start_ns: self.time(ticks.start),
            tick_ns: STEP.unsigned_abs(),
            steps: ticks.clone().skip(1).map(|_| 1).collect(),
            channels: channels.collect(),
        };
        let groups = vec![prost::Message::encode_to_vec(&group).into()];
        ReadingBatch { number: batch + 1, batch_id: self.batch_id(lane, batch), groups }
    }

    /// A batch in rows.
    pub fn rows(&self, lane: u32, batch: u64) -> Vec<Reading> {
        let Span { sensors, ticks } = self.span(lane, batch);
        let row = |sensor, tick| Reading {
            sensor_id: self.sensor_id(sensor),
            time: Some(time::from_nanos(self.time(tick))),
            value: Some(self.value(sensor, tick)),
            ..Reading::default()
        };
        ticks.flat_map(|tick| sensors.clone().map(move |sensor| row(sensor, tick))).collect()
    }
}

/// SplitMix64's output function: every bit of the result depends on every bit of what is given.
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn plans() -> Vec<Plan> {
        let plan = |lanes, batch| Plan { seed: 7, sensors: 20, lanes, batch, base: 0 };
        vec![plan(2, 30), plan(2, 10), plan(2, 5), plan(2, 1), plan(20, 1), plan(1, 40)]
    }

    #[test]
    fn every_reading_is_in_one_batch_which_is_told_from_it() {
        for plan in plans() {
            plan.check().expect("it can be divided");
            let mut seen = BTreeSet::new();
            for lane in 0..plan.lanes {
                for batch in 0..60 {
                    let Span { sensors, ticks } = plan.span(lane, batch);
                    assert_eq!(u64::from(plan.batch), sensors.len() as u64 * (ticks.end - ticks.start));
                    for (sensor, tick) in sensors.flat_map(|sensor| ticks.clone().map(move |tick| (sensor, tick))) {
                        assert!(seen.insert((sensor, tick)), "{plan:?} {sensor} {tick}");
                        assert_eq!((plan.lane_of(sensor), plan.batch_of(sensor, tick)), (lane, batch), "{plan:?}");
                        assert!(plan.first_tick(sensor, batch) <= tick && plan.first_tick(sensor, batch + 1) > tick);
                        assert_eq!(plan.tick(plan.time(tick)), Some(tick));
                    }
                }
            }
        }
    }

    #[test]
    fn sensors_that_cannot_be_divided_are_refused() {
        assert!(Plan::new(10, 3, 10, 0).is_err());
        assert!(Plan::new(20, 2, 15, 0).is_err());
        assert!(Plan::new(20, 2, 0, 0).is_err());
    }

    #[test]
    fn values_are_finite_and_differ() {
        let plan = &plans()[0];
        for sensor in 0..20 {
            let values: BTreeSet<u64> = (0..1000).map(|tick| plan.value(sensor, tick).to_bits()).collect();
            assert!(values.iter().all(|bits| f64::from_bits(*bits).is_finite()));
            assert!(values.len() > 500, "{}", values.len());
        }
        assert_ne!(plan.value(0, 5).to_bits(), plan.value(1, 5).to_bits());
    }

    #[test]
    fn columns_and_rows_say_the_same() {
        for plan in plans() {
            let lane = plan.lanes - 1;
            let series: Vec<u32> = plan.sensors_of(lane).collect();
            let batch = plan.columns(lane, 3, &series);
            let group = wire::Group::read(&batch.groups[0]).expect("a group");
            let times = group.times().expect("times");
            let mut columns = BTreeSet::new();
            for channel in group.channels() {
                let channel = channel.expect("a channel");
                for (time, value) in times.iter().zip(channel.values().expect("values")) {
                    columns.insert((plan.sensor_id(channel.series), *time, value.to_bits()));
                }
            }
            let rows = plan.rows(lane, 3).into_iter().map(|row| {
                let time = time::to_nanos(&row.time.expect("a time")).expect("in range");
                (row.sensor_id, time, row.value.expect("a value").to_bits())
            });
            assert_eq!(columns, rows.collect::<BTreeSet<_>>());
        }
    }
}
