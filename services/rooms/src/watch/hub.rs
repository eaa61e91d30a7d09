//! The latest reading of every sensor, and the last events of all tenants in a ring.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sensormesh_types::Clock;
use tokio::sync::watch;
use tokio::time::Instant;

use super::batch::Batch;
use crate::metrics::Reading;
use crate::model::Model;

/// How long telemetry may be out of reach before what rooms show is called stale: longer than a clean reconnect takes.
const GRACE: Duration = Duration::from_secs(2);

/// Something that happened, as viewers read it.
#[derive(Clone, Debug)]
pub enum Event {
    /// Readings arrived.
    Readings(Arc<Batch>),
    /// What is where has changed.
    Model,
    /// Telemetry's stream began anew: readings may have been missed, and the latest ones are all there is.
    Reset,
    /// Telemetry's log went on without readings.
    Passed,
}

/// An event and telemetry's cursor after it.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Telemetry's cursor after the event.
    pub cursor: Arc<str>,
    /// The event.
    pub event: Event,
}

/// What stands at a place of the ring.
#[derive(Debug)]
pub enum Next {
    /// The events from there on, a few.
    Slots(Vec<Slot>),
    /// Nothing yet: it is the end.
    End,
    /// It is no longer in the ring.
    Fallen,
}

/// The state at the end of the ring, taken at once.
#[derive(Debug)]
pub struct View {
    /// The end: the place of the next event.
    pub end: u64,
    /// Telemetry's cursor there.
    pub cursor: Arc<str>,
    /// The latest readings of the sensors asked for, in their order.
    pub latest: Vec<Option<Reading>>,
    /// Telemetry has answered at least once: what comes after this place is complete.
    pub known: bool,
    /// Readings can be followed at present.
    pub followed: bool,
    /// When that was last so, microseconds since the Unix epoch.
    pub as_of: i64,
}

/// Shared by everything in the service that shows readings. Clones are the same hub.
#[derive(Clone)]
pub struct Hub {
    state: Arc<Mutex<State>>,
    end: watch::Sender<u64>,
    clock: Clock,
}

struct State {
    model: Arc<Model>,
    latest: HashMap<Arc<str>, HashMap<Arc<str>, Reading>>,
    ring: VecDeque<Slot>,
    base: u64,
    base_cursor: Arc<str>,
    weight: usize,
    capacity: usize,
    /// Where to go on after one of telemetry's cursors.
    places: HashMap<Arc<str>, u64>,
    cursor: Arc<str>,
    /// Since when telemetry is out of reach; `None` = it is not.
    lost: Option<Instant>,
    heard: i64,
    /// Telemetry has answered at least once.
    known: bool,
}

impl Hub {
    /// A hub that has heard of nothing, whose ring holds about `capacity` readings.
    pub fn new(capacity: usize, clock: Clock) -> Self {
        let state = State {
            model: Arc::default(),
            latest: HashMap::new(),
            ring: VecDeque::new(),
            base: 0,
            base_cursor: "".into(),
            weight: 0,
            capacity,
            places: HashMap::new(),
            cursor: "".into(),
            lost: Some(Instant::now()),
            heard: clock.now_micros(),
            known: false,
        };
        Self { state: Arc::new(Mutex::new(state)), end: watch::Sender::new(0), clock }
    }

    /// Telemetry's cursor to go on from; empty = from the beginning.
    pub fn cursor(&self) -> String {
        self.state.lock().cursor.to_string()
    }

    /// Replaces every latest reading: telemetry's stream has started anew, and this is its snapshot.
    pub fn replace(&self, batches: &[Batch], cursor: &str) {
        let mut state = self.state.lock();
        state.latest.clear();
        batches.iter().for_each(|batch| state.remember(batch));
        state.known = true;
        state.push(Event::Reset, cursor);
        self.heard(&mut state);
    }

    /// Takes over readings that arrived.
    pub fn push(&self, batch: Batch, cursor: &str) {
        let mut state = self.state.lock();
        state.remember(&batch);
        state.push(Event::Readings(Arc::new(batch)), cursor);
        self.heard(&mut state);
    }

    /// Notes that telemetry's log went on.
    pub fn pass(&self, cursor: &str) {
        let mut state = self.state.lock();
        if *state.cursor != *cursor {
            state.push(Event::Passed, cursor);
        }
        self.heard(&mut state);
    }

    /// Notes that telemetry is out of reach.
    pub fn lose(&self) {
        self.state.lock().lost.get_or_insert_with(Instant::now);
    }

    /// Changes what is where.
    pub fn change_model(&self, change: impl FnOnce(&mut Model)) {
        let mut state = self.state.lock();
        change(Arc::make_mut(&mut state.model));
        let cursor = Arc::clone(&state.cursor);
        state.push(Event::Model, &cursor);
        self.end.send_replace(state.end());
    }

    /// What is where.
    pub fn model(&self) -> Arc<Model> {
        Arc::clone(&self.state.lock().model)
    }

    /// Waits until what is where has been read from the database.
    pub async fn loaded(&self) {
        let mut end = self.end.subscribe();
        while self.model().version == 0 && end.changed().await.is_ok() {}
    }

    /// The state at the end, with the latest readings of some sensors of a tenant.
    pub fn view<'s>(&self, tenant: &str, sensors: impl IntoIterator<Item = &'s str>) -> View {
        let state = self.state.lock();
        let readings = state.latest.get(tenant);
        let latest = sensors.into_iter().map(|sensor| readings.and_then(|all| all.get(sensor)).copied()).collect();
        let followed = state.known && state.lost.is_none_or(|since| since.elapsed() < GRACE);
        let as_of = if followed { self.clock.now_micros() } else { state.heard };
        View { end: state.end(), cursor: Arc::clone(&state.cursor), latest, known: state.known, followed, as_of }
    }

    /// Where to go on after one of telemetry's cursors, if that is in the ring.
    pub fn place_after(&self, cursor: &str) -> Option<u64> {
        let state = self.state.lock();
        if state.known && *state.base_cursor == *cursor {
            return Some(state.base);
        }
        state.places.get(cursor).copied()
    }

    /// Up to 16 events from a place on.
    pub fn next(&self, place: u64) -> Next {
        let state = self.state.lock();
        let Some(offset) = place.checked_sub(state.base).and_then(|offset| usize::try_from(offset).ok()) else {
            return Next::Fallen;
        };
        if offset >= state.ring.len() {
            return Next::End;
        }
        Next::Slots(state.ring.iter().skip(offset).take(16).cloned().collect())
    }

    /// Sees every change of the ring's end.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    fn heard(&self, state: &mut State) {
        state.lost = None;
        state.heard = self.clock.now_micros();
        self.end.send_replace(state.end());
    }
}

impl State {
    fn end(&self) -> u64 {
        self.base + self.ring.len() as u64
    }

    fn remember(&mut self, batch: &Batch) {
        let latest = self.latest.entry(Arc::clone(&batch.tenant)).or_default();
        // looked up once for readings of a sensor that follow each other, as those of a column do
        for of_one in batch.samples.chunk_by(|a, b| Arc::ptr_eq(&a.sensor, &b.sensor)) {
            let Some((first, rest)) = of_one.split_first() else { continue };
            let known = latest.entry(Arc::clone(&first.sensor)).or_insert(first.reading);
            for sample in std::iter::once(first).chain(rest) {
                if sample.reading.replaces(Some(known)) {
                    *known = sample.reading;
                }
            }
        }
        for (sensor, left) in &batch.deleted {
            match left {
                Some(reading) => latest.insert(Arc::clone(sensor), *reading),
                None => latest.remove(sensor),
            };
        }
    }

    fn push(&mut self, event: Event, cursor: &str) {
        if *self.cursor != *cursor {
            self.cursor = cursor.into();
        }
        let slot = Slot { cursor: Arc::clone(&self.cursor), event };
        self.weight += slot.weight();
        self.ring.push_back(slot);
        self.places.insert(Arc::clone(&self.cursor), self.end());
        while self.weight > self.capacity && self.ring.len() > 1 {
            let Some(slot) = self.ring.pop_front() else { break };
            self.weight -= slot.weight();
            self.base += 1;
            if self.places.get(&slot.cursor).is_some_and(|place| *place <= self.base) {
                self.places.remove(&slot.cursor);
            }
            self.base_cursor = slot.cursor;
        }
    }
}

impl Slot {
    fn weight(&self) -> usize {
        match &self.event {
            Event::Readings(batch) => 4 + batch.samples.len() + batch.deleted.len(),
            Event::Model | Event::Reset | Event::Passed => 4,
        }
    }
}
