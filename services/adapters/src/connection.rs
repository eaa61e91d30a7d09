//! A connection: how it is set, what waits in it, and how it does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sensormesh_proto::adapters::v1 as proto;
use sensormesh_proto::telemetry::v1::Reading;
use sensormesh_types::{Error, Result, time};
use tokio::sync::{Notify, watch};

use crate::queue::{Batch, Counts, Queue, Value};
use crate::source::{Catalog, Description, Measured};

/// The shortest interval of reading.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest interval of reading.
const LONGEST: Duration = Duration::from_secs(3600);
/// For how long readings may be on their way before the connection counts as waiting.
const USUAL_DELAY: i64 = 10_000_000_000;

/// What an operator sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether it should run.
    pub enabled: bool,
    /// How often it reads its source.
    pub interval: Duration,
}

impl Settings {
    /// Fails where the interval is out of bounds.
    pub fn check(&self) -> Result<()> {
        if (SHORTEST..=LONGEST).contains(&self.interval) {
            return Ok(());
        }
        Err(Error::invalid("connection.interval", "must be from 1 s to 1 h"))
    }
}

/// One source of readings. Shared by what reads it, what delivers its readings, and the calls about it.
pub struct Connection {
    /// Its id.
    pub id: &'static str,
    /// The adapter that serves it.
    pub adapter: &'static str,
    /// The tenant its readings belong to.
    pub tenant: String,
    /// The device it reads.
    pub device: &'static str,
    settings: watch::Sender<Settings>,
    /// Held by who changes the settings, from reading them until they are stored and set.
    pub changing: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
    pushed: Notify,
}

struct State {
    queue: Queue,
    catalog: Catalog,
    /// Ids of sensors that `devices` has ever answered for.
    known: BTreeSet<String>,
    /// Those it has answered for since the start: somebody may have deleted the others.
    registered: BTreeSet<String>,
    /// Why the source cannot be read.
    unreadable: Option<String>,
    /// Telemetry takes readings at present.
    delivering: bool,
    /// Why it does not.
    undelivered: Option<String>,
    /// When a reading was last acknowledged, nanoseconds since the Unix epoch.
    last: Option<i64>,
}

impl Connection {
    /// A connection that has read nothing.
    pub fn new(
        (id, adapter): (&'static str, &'static str),
        tenant: String,
        device: &'static str,
        settings: Settings,
        known: BTreeSet<String>,
        queue: Queue,
    ) -> Self {
        let state = State {
            queue,
            catalog: Catalog::default(),
            known,
            registered: BTreeSet::new(),
            unreadable: None,
            delivering: false,
            undelivered: None,
            last: None,
        };
        let settings = watch::Sender::new(settings);
        let (changing, pushed) = (Arc::default(), Notify::new());
        Self { id, adapter, tenant, device, settings, changing, state: Mutex::new(state), pushed }
    }

    /// How it is set, and every change of that.
    pub fn settings(&self) -> watch::Receiver<Settings> {
        self.settings.subscribe()
    }

    /// Sets it.
    pub fn set(&self, settings: Settings) {
        self.settings.send_replace(settings);
    }

    /// Takes what was read at a time, nanoseconds since the Unix epoch.
    ///
    /// A sensor that has come up and that `devices` does not know yet is left out, so that it does not hold up the others;
    /// only where none is known, everything waits.
    pub fn take(&self, at: i64, measured: &Measured) {
        let mut state = self.state.lock();
        state.unreadable = None;
        let none_known = state.known.is_empty();
        let mut values = Vec::with_capacity(measured.len());
        for (description, value) in measured {
            let sensor = state.catalog.number(description);
            if none_known || state.known.contains(&description.id) {
                values.push(Value { sensor, value: *value });
            }
        }
        state.queue.push(at, values);
        drop(state);
        self.pushed.notify_one();
    }

    /// Notes that the source could not be read.
    pub fn unreadable(&self, why: impl Into<String>) {
        self.state.lock().unreadable = Some(why.into());
    }

    /// Waits until there is something new to deliver or to register.
    pub async fn pushed(&self) {
        self.pushed.notified().await;
    }

    /// The sensors that `devices` has not answered for since the start.
    pub fn unregistered(&self) -> Vec<Description> {
        let state = self.state.lock();
        state.catalog.iter().filter(|sensor| !state.registered.contains(&sensor.id)).cloned().collect()
    }

    /// Whether `devices` has ever answered for any sensor.
    pub fn knows_any(&self) -> bool {
        !self.state.lock().known.is_empty()
    }

    /// Notes that `devices` has answered for these.
    pub fn registered(&self, ids: impl IntoIterator<Item = String>) {
        let mut state = self.state.lock();
        for id in ids {
            state.known.insert(id.clone());
            state.registered.insert(id);
        }
    }

    /// The known sensors that have been read, with their numbers.
    pub fn sensors(&self) -> Vec<(usize, String)> {
        let state = self.state.lock();
        let known = state.catalog.iter().filter(|sensor| state.known.contains(&sensor.id));
        known.filter_map(|sensor| Some((state.catalog.find(&sensor.id)?, sensor.id.clone()))).collect()
    }

    /// The first batch that waits with a number greater than `number`, and its id.
    pub fn after(&self, number: u64) -> Option<(Batch, String)> {
        let state = self.state.lock();
        let batch = state.queue.after(number)?.clone();
        let id = state.queue.batch_id(batch.number);
        Some((batch, id))
    }

    /// Readings in whole batches from the oldest on, about `most`, and the number of the last batch. `None` = nothing waits.
    pub fn oldest(&self, most: usize) -> Option<(u64, Vec<Reading>)> {
        let state = self.state.lock();
        let mut through = None;
        let mut readings = Vec::new();
        for batch in state.queue.oldest_batches(most) {
            through = Some(batch.number);
            let named = |value: &Value| {
                Some(Reading {
                    sensor_id: state.catalog.get(value.sensor)?.id.clone(),
                    time: Some(time::from_nanos(batch.time)),
                    value: Some(value.value),
                    ..Reading::default()
                })
            };
            readings.extend(batch.values.iter().filter_map(named));
        }
        through.map(|through| (through, readings))
    }

    /// When the oldest reading that waits was taken, nanoseconds since the Unix epoch.
    pub fn oldest_time(&self) -> Option<i64> {
        self.state.lock().queue.oldest()
    }

    /// Notes that the batches up to `number` wait on the disk.
    pub fn put_aside(&self, number: u64) {
        self.state.lock().queue.put_aside(number);
    }

    /// Notes that readings that waited on the disk were given up.
    pub fn gave_up(&self, readings: u64) {
        self.state.lock().queue.settled(Counts { dropped: readings, ..Counts::default() });
    }

    /// Notes that readings that waited on the disk are durable or were refused.
    pub fn settled(&self, delivered: u64, refused: u64, now: i64) {
        let mut state = self.state.lock();
        state.queue.settled(Counts { delivered, refused, dropped: 0 });
        if delivered > 0 {
            state.last = Some(now);
        }
    }

    /// Notes that every batch up to `number` is durable, save `refused` of their readings.
    pub fn acknowledge(&self, number: u64, refused: u64, now: i64) {
        let mut state = self.state.lock();
        if state.queue.acknowledge(number, refused) > 0 {
            state.last = Some(now);
        }
        state.delivering = true;
        state.undelivered = None;
    }

    /// Notes that telemetry takes readings.
    pub fn delivering(&self) {
        self.state.lock().delivering = true;
    }

    /// Notes that readings cannot be delivered; `None` = nothing is wrong, it just ended.
    pub fn not_delivering(&self, why: Option<String>) {
        let mut state = self.state.lock();
        state.delivering = false;
        if why.is_some() {
            state.undelivered = why;
        }
    }

    /// How it is set and how it does, at a time in nanoseconds since the Unix epoch. `aside` = calls of it on the disk.
    pub fn describe(&self, aside: u64, now: i64) -> proto::Connection {
        let settings = *self.settings.borrow();
        let state = self.state.lock();
        let counts = state.queue.counts();
        proto::Connection {
            connection_id: self.id.to_owned(),
            adapter: self.adapter.to_owned(),
            enabled: settings.enabled,
            interval: Some(time::from_duration(settings.interval)),
            state: state.condition(settings.enabled, aside > 0, now) as i32,
            error: state.unreadable.clone().or_else(|| state.undelivered.clone()).unwrap_or_default(),
            delivered: counts.delivered,
            refused: counts.refused,
            waiting: state.queue.len() as u64,
            dropped: counts.dropped,
            last_time: state.last.map(time::from_nanos),
            device_ids: vec![self.device.to_owned()],
            spooled: aside,
        }
    }
}

impl State {
    fn condition(&self, enabled: bool, aside: bool, now: i64) -> proto::ConnectionState {
        let late = aside || self.queue.oldest().is_some_and(|oldest| now.saturating_sub(oldest) > USUAL_DELAY);
        if !enabled {
            proto::ConnectionState::Off
        } else if self.unreadable.is_some() {
            proto::ConnectionState::Failed
        } else if !self.delivering || late {
            proto::ConnectionState::Waiting
        } else {
            proto::ConnectionState::Running
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::ConnectionState as S;

    fn connection(known: &[&str]) -> Connection {
        let settings = Settings { enabled: true, interval: Duration::from_secs(2) };
        let known = known.iter().map(|id| (*id).to_owned()).collect();
        Connection::new(("host", "host"), "default".into(), "m", settings, known, Queue::new("q", 100))
    }

    fn measured(ids: &[&str]) -> Measured {
        ids.iter().map(|id| (Description { id: (*id).to_owned(), ..Description::default() }, 1.0)).collect()
    }

    #[test]
    fn its_state_follows_what_happens_to_it() {
        let connection = connection(&["m.a"]);
        let state = |now: i64| S::try_from(connection.describe(0, now).state).expect("state");
        connection.take(0, &measured(&["m.a"]));
        assert_eq!(state(1), S::Waiting);
        connection.delivering();
        assert_eq!(state(1), S::Running);
        assert_eq!(state(USUAL_DELAY + 1), S::Waiting);
        connection.acknowledge(1, 0, 5);
        assert_eq!(state(USUAL_DELAY + 1), S::Running);
        connection.not_delivering(Some("telemetry is down".into()));
        assert_eq!((state(2), connection.describe(0, 2).error), (S::Waiting, "telemetry is down".to_owned()));
        connection.unreadable("no sensors");
        assert_eq!((state(2), connection.describe(0, 2).error), (S::Failed, "no sensors".to_owned()));
        connection.set(Settings { enabled: false, interval: Duration::from_secs(2) });
        assert_eq!(state(2), S::Off);
        assert_eq!(connection.describe(0, 2).delivered, 1);
    }

    #[test]
    fn everything_waits_until_the_first_sensors_are_registered() {
        let connection = connection(&[]);
        connection.take(0, &measured(&["m.a", "m.b"]));
        assert_eq!(connection.describe(0, 0).waiting, 2);
        assert_eq!(connection.unregistered().len(), 2);
        connection.registered(["m.a".to_owned(), "m.b".to_owned()]);
        connection.take(1, &measured(&["m.a", "m.new"]));
        assert_eq!(connection.describe(0, 1).waiting, 3);
        assert_eq!(connection.unregistered().len(), 1);
    }

    #[test]
    fn an_interval_has_bounds() {
        for (seconds, allowed) in [(0, false), (1, true), (3600, true), (3601, false)] {
            let settings = Settings { enabled: true, interval: Duration::from_secs(seconds) };
            assert_eq!(settings.check().is_ok(), allowed, "{seconds}");
        }
    }
}
