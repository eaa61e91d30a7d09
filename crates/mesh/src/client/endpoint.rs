//! One address of an upstream: its connections, its load, its health.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::Shared;
use parking_lot::Mutex;
use sensormesh_types::random;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connect::{Connector, NotConnected};
use super::resolve::Address;
use super::wire::Sender;

/// Connections for unary calls. The second is opened only when the first is busy.
const CALL_CONNECTIONS: usize = 2;
/// Unary calls at once that make a connection busy.
const BUSY: usize = 64;
/// Unary calls in a row that got no answer in time, after which a connection is not trusted any more.
const SILENT_CALLS: u32 = 2;
/// The first and the longest pause between attempts to reach an endpoint that is down.
const PROBE_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The first and the longest time out of the rotation.
const EJECTIONS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

pub(crate) struct Endpoint {
    pub(crate) address: Address,
    connector: Arc<Connector>,
    in_flight: AtomicUsize,
    calls: [Arc<Slot>; CALL_CONNECTIONS],
    streams: Mutex<Vec<Arc<Slot>>>,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    /// It cannot be connected to; a task tries again and again.
    down: bool,
    failures: u32,
    ejections: u32,
    ejected_until: Option<Instant>,
}

type Opened = Result<Connection, NotConnected>;
type Opening = Shared<oneshot::Receiver<Opened>>;

/// Room for one connection, opened when it is first needed and again when it is gone.
#[derive(Default)]
struct Slot {
    /// Long streams are on it, not calls.
    streams: bool,
    state: Mutex<SlotState>,
    in_use: AtomicUsize,
    silent: AtomicU32,
}

#[derive(Default)]
struct SlotState {
    open: Option<Connection>,
    opening: Option<Opening>,
    /// Connections opened so far.
    count: u64,
}

impl Endpoint {
    pub(crate) fn new(address: Address, connector: Arc<Connector>) -> Arc<Self> {
        Arc::new(Self {
            address,
            connector,
            in_flight: AtomicUsize::new(0),
            calls: std::array::from_fn(|_| Arc::default()),
            streams: Mutex::default(),
            health: Mutex::default(),
        })
    }

    /// Calls and streams under way.
    pub(crate) fn load(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it cannot be connected to at present.
    pub(crate) fn is_down(&self) -> bool {
        self.health.lock().down
    }

    /// Whether it is out of the rotation for failing calls.
    pub(crate) fn is_ejected(&self) -> bool {
        self.health.lock().ejected_until.is_some_and(|until| Instant::now() < until)
    }

    /// Takes a place on one of its connections: streams on connections of their own, so many on each.
    pub(crate) fn lease(self: &Arc<Self>, stream: bool) -> Lease {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let slot = if stream { self.stream_slot() } else { self.call_slot() };
        Lease { endpoint: Arc::clone(self), slot, stream }
    }

    fn call_slot(&self) -> Arc<Slot> {
        let [first, second] = &self.calls;
        let of = |slot: &Slot| slot.in_use.load(Ordering::Relaxed);
        let slot = if of(first) >= BUSY && of(second) < of(first) { second } else { first };
        slot.in_use.fetch_add(1, Ordering::Relaxed);
        Arc::clone(slot)
    }

    fn stream_slot(&self) -> Arc<Slot> {
        let most = usize::try_from(self.connector.rules().streams_per_connection.max(1)).unwrap_or(1);
        let mut slots = self.streams.lock();
        let free = slots.iter().find(|slot| slot.in_use.load(Ordering::Relaxed) < most);
        let slot = free.cloned().unwrap_or_else(|| {
            let slot = Arc::new(Slot { streams: true, ..Slot::default() });
            slots.push(Arc::clone(&slot));
            slot
        });
        slot.in_use.fetch_add(1, Ordering::Relaxed);
        slot
    }

    /// Counts a call that was answered.
    pub(crate) fn well(&self) {
        let mut health = self.health.lock();
        health.failures = 0;
        if health.ejected_until.is_none_or(|until| until <= Instant::now()) {
            health.ejections = 0;
            health.ejected_until = None;
        }
    }

    /// Counts a call that failed; whether there have been enough in a row to take it out.
    pub(crate) fn failed(&self, enough: u32) -> bool {
        let mut health = self.health.lock();
        health.failures = health.failures.saturating_add(1);
        health.failures >= enough
    }

    /// Takes it out of the rotation, longer each time.
    pub(crate) fn eject(&self) {
        let mut health = self.health.lock();
        let pause = EJECTIONS.0.saturating_mul(1 << health.ejections.min(8)).min(EJECTIONS.1);
        health.ejected_until = Some(Instant::now() + pause.mul_f64(0.8 + 0.4 * random::fraction()));
        health.ejections = health.ejections.saturating_add(1);
        health.failures = 0;
    }

    /// Notes whether it can be connected to; true where it just went down.
    fn reached(&self, reached: bool) -> bool {
        let was_down = std::mem::replace(&mut self.health.lock().down, !reached);
        !reached && !was_down
    }

    /// Doubts it because a connection broke: others are preferred until it was connected to again, which is tried at
    /// once.
    pub(crate) fn doubt(self: &Arc<Self>) {
        if self.reached(false) {
            Self::probe(Arc::downgrade(self), Duration::ZERO);
        }
    }

    /// Tries to connect again and again until it works or the endpoint is no longer wanted.
    fn probe(endpoint: Weak<Endpoint>, first_pause: Duration) {
        tokio::spawn(async move {
            let mut pause = first_pause;
            loop {
                tokio::time::sleep(pause.mul_f64(0.5 + random::fraction())).await;
                pause = (pause * 2).clamp(PROBE_PAUSES.0, PROBE_PAUSES.1);
                let Some(endpoint) = endpoint.upgrade() else { return };
                if !endpoint.is_down() {
                    return;
                }
                if connection(&endpoint, &endpoint.calls[0]).await.is_ok() {
                    endpoint.reached(true);
                    return;
                }
            }
        });
    }
}

/// The slot's connection. Whoever comes while it is being opened waits for the same attempt; giving up waiting does not
/// cut it.
async fn connection(endpoint: &Arc<Endpoint>, slot: &Arc<Slot>) -> Opened {
    let opening = {
        let mut state = slot.state.lock();
        if let Some(mut open) = state.open.clone()
            && !open.sender.is_closed()
        {
            return Ok(open);
        }
        state.open = None;
        match &state.opening {
            Some(opening) => opening.clone(),
            None => {
                let (done, opening) = oneshot::channel();
                let opening = opening.shared();
                state.opening = Some(opening.clone());
                tokio::spawn(open(Arc::downgrade(endpoint), Arc::clone(slot), done));
                opening
            }
        }
    };
    opening.await.unwrap_or_else(|_| Err(NotConnected::because("given up")))
}

async fn open(endpoint: Weak<Endpoint>, slot: Arc<Slot>, done: oneshot::Sender<Opened>) {
    let Some((connector, address)) = endpoint.upgrade().map(|e| (Arc::clone(&e.connector), e.address.clone())) else {
        return;
    };
    let result = connector.connect(&address, slot.streams).await;
    let opened = {
        let mut state = slot.state.lock();
        state.opening = None;
        state.count += 1;
        let opened = result.map(|sender| Connection { sender, number: state.count, slot: Arc::downgrade(&slot) });
        state.open = opened.as_ref().ok().cloned();
        opened
    };
    slot.silent.store(0, Ordering::Relaxed);
    if let Some(endpoint) = endpoint.upgrade()
        && endpoint.reached(opened.is_ok())
    {
        Endpoint::probe(Arc::downgrade(&endpoint), PROBE_PAUSES.0);
    }
    // nobody may be waiting any more
    let _ = done.send(opened);
}

/// One connection that was opened.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) sender: Sender,
    number: u64,
    slot: Weak<Slot>,
}

impl Connection {
    /// Notes that it answered.
    pub(crate) fn answered(&self) {
        if let Some(slot) = self.slot.upgrade() {
            slot.silent.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that it did not answer in time. Twice in a row, and later calls get another one: a peer that vanished is
    /// noticed before the keep-alive does.
    pub(crate) fn silent(&self) {
        if let Some(slot) = self.slot.upgrade()
            && slot.silent.fetch_add(1, Ordering::Relaxed) + 1 >= SILENT_CALLS
        {
            self.leave(&slot);
        }
    }

    /// Notes that it broke, so that later calls get another one. True for the first to say so: what broke with it is one
    /// failure, however many calls there were.
    pub(crate) fn broken(&self) -> bool {
        self.slot.upgrade().is_some_and(|slot| self.leave(&slot))
    }

    fn leave(&self, slot: &Slot) -> bool {
        let mut state = slot.state.lock();
        let mine = state.open.as_ref().is_some_and(|open| open.number == self.number);
        if mine {
            state.open = None;
        }
        mine
    }
}

/// A place on a connection, given back when it is dropped.
pub(crate) struct Lease {
    pub(crate) endpoint: Arc<Endpoint>,
    slot: Arc<Slot>,
    stream: bool,
}

impl Lease {
    /// The connection, opened if need be. An error means that nothing was sent.
    pub(crate) async fn connection(&self) -> Opened {
        connection(&self.endpoint, &self.slot).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.stream {
            self.slot.in_use.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let mut slots = self.endpoint.streams.lock();
        // one connection stays for the next stream, more are closed when they are empty
        if self.slot.in_use.fetch_sub(1, Ordering::Relaxed) == 1 && slots.len() > 1 {
            slots.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
        }
    }
}
