//! Several replicas on one PostgreSQL: each follows the log of readings, and what the one that seals has sealed.
//!
//! Any replica writes, one after the other: its turn is the lock of the log's head. In its turn it first reads what others
//! wrote, so that it judges duplicates and revisions by everything there is. Without a turn the log is read every
//! [`FOLLOW`]. So each replica has all tails and latest readings, and serves reads and live streams by itself.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use prost::Message as _;
use sensormesh_series::{Quality, Reading};
use sensormesh_store::{Entry, EventKind, Tx, WatchRequest};
use sensormesh_types::{Author, Result, Scope};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::db;
use crate::db::series::Stored;
use crate::engine::State;

/// How often the log is asked for what other replicas wrote, and how often where nobody has written anything for a second.
const FOLLOW: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_millis(100);
/// How often it is asked up to where it is cut.
const LOOK: Duration = Duration::from_secs(1);
/// A replica that could not follow for so long cannot vouch for the latest readings.
const LOST: Duration = Duration::from_secs(5);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a series is waited for that is being sealed here.
const SEALING: Duration = Duration::from_millis(10);
/// How long a writer waits for its turn before its senders are told to try again. A replica that is paused in its turn keeps
/// it for 3 s.
const PATIENCE: Duration = Duration::from_secs(6);

/// What the service's own log calls new numbers of series.
const NUMBERED: &str = "series.numbered";
/// What it calls series that were sealed; the payload is a [`SealedSome`].
const SEALED: &str = "series.sealed";

/// What it calls a series whose raw readings have gone; the payload is a [`Rolled`].
const ROLLED: &str = "series.rolled";

/// What it calls a series of which readings were deleted because somebody asked for it; the payload is a [`Deleted`].
const DELETED: &str = "series.deleted";

/// Who says so.
const ACTOR: &str = "service:telemetry";

/// What a series is sealed up to.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Sealed {
    /// The series.
    #[prost(uint32, tag = "1")]
    pub series: u32,
    /// The place in the log.
    #[prost(uint64, tag = "2")]
    pub upto: u64,
    /// The first time in its blocks.
    #[prost(sint64, tag = "3")]
    pub start: i64,
    /// The last time in its blocks.
    #[prost(sint64, tag = "4")]
    pub end: i64,
}

/// What one transaction sealed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct SealedSome {
    #[prost(message, repeated, tag = "1")]
    series: Vec<Sealed>,
}

/// Up to which time a series is left as rollups only.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Rolled {
    #[prost(uint32, tag = "1")]
    series: u32,
    #[prost(sint64, tag = "2")]
    end: i64,
}

/// That readings of a series were deleted.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Deleted {
    #[prost(uint32, tag = "1")]
    series: u32,
    /// How often some were.
    #[prost(uint64, tag = "2")]
    deletions: u64,
    /// The last reading that is left in blocks.
    #[prost(message, optional, tag = "3")]
    latest: Option<Last>,
}

/// A reading as it is told.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct Last {
    #[prost(sint64, tag = "1")]
    time: i64,
    #[prost(fixed64, tag = "2")]
    bits: u64,
    #[prost(uint32, tag = "3")]
    quality: u32,
}

/// A writer's turn: nobody else writes the log until it ends, and everything before it has been read.
pub struct Turn {
    /// The transaction that the turn lasts as long as.
    pub tx: Tx,
    /// Held until what is written is in memory, so that it is not read from the log as another's.
    pub order: OwnedMutexGuard<()>,
}

impl State {
    /// Waits for the turn to write. UNAVAILABLE where others take too long.
    pub async fn turn(&self) -> Result<Turn> {
        if self.followed.lock().elapsed() > LOOK {
            self.catch_up().await?; // what takes long is read before others have to wait for it
        }
        let until = Instant::now() + PATIENCE;
        let (tx, head) = loop {
            let mut tx = self.databases.log.tx(&Scope::system()).await?;
            match db::log::take_turn(&mut tx).await {
                Ok(head) => break (tx, head),
                Err(error) if error.reason() == "DATABASE_BUSY" && Instant::now() < until => {}
                Err(error) => return Err(error),
            }
        };
        let order = Arc::clone(&self.order).lock_owned().await;
        if head.mark.seq > self.hub.head() {
            self.read_on().await?;
        }
        Ok(Turn { tx, order })
    }

    /// Whether this replica has all that was written up to now, or lately: where several write, it must hear of it.
    pub fn follows(&self) -> bool {
        !self.is_shared() || self.followed.lock().elapsed() < LOST
    }

    /// The series with tests whose readings others have stored since the last call.
    pub fn take_foreign(&self) -> HashSet<u32> {
        std::mem::take(&mut *self.foreign.lock())
    }

    /// Lets go of what is in blocks, once the log has been read up to there.
    async fn let_go(&self, sealed: &Sealed) -> Result<()> {
        if self.catalog.series(sealed.series).is_none() {
            return Ok(()); // it is read with what is sealed of it, as soon as it is met
        }
        if self.hub.head() < sealed.upto {
            self.catch_up().await?;
        }
        while !self.forget_sealed(sealed.series, sealed.upto, (sealed.start, sealed.end)) {
            sleep(SEALING).await;
        }
        Ok(())
    }
}

/// Tells the other replicas what a transaction seals.
pub fn tell_sealed(tx: &mut Tx, series: Vec<Sealed>) {
    let payload = SealedSome { series }.encode_to_vec();
    tx.append_for("", Entry { kind: SEALED.to_owned(), author: Author::named(ACTOR), payload, ..Entry::default() });
}

/// Tells the other replicas up to which time a series is left as rollups only.
pub fn tell_rolled(tx: &mut Tx, series: u32, end: i64) {
    let payload = Rolled { series, end }.encode_to_vec();
    tx.append_for("", Entry { kind: ROLLED.to_owned(), author: Author::named(ACTOR), payload, ..Entry::default() });
}

/// Tells the other replicas that readings of a series were deleted out of blocks, and which is the last one there now.
pub fn tell_deleted(tx: &mut Tx, series: u32, deletions: u64, latest: Option<Reading>) {
    let last = |r: Reading| Last { time: r.time, bits: r.value.to_bits(), quality: r.quality.0.into() };
    let payload = Deleted { series, deletions, latest: latest.map(last) }.encode_to_vec();
    tx.append_for("", Entry { kind: DELETED.to_owned(), author: Author::named(ACTOR), payload, ..Entry::default() });
}

/// Tells the other replicas that a transaction numbers series.
pub fn tell_numbered(tx: &mut Tx) {
    tx.append_for("", Entry { kind: NUMBERED.to_owned(), author: Author::named(ACTOR), ..Entry::default() });
}

/// Follows the other replicas until `stop`.
pub fn follow(state: &Arc<State>, stop: &CancellationToken) {
    spawn(stop, follow_log(Arc::downgrade(state)));
    spawn(stop, follow_sealing(Arc::downgrade(state)));
}

fn spawn(stop: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(work).await });
}

async fn follow_log(state: Weak<State>) {
    let mut looked = Instant::now();
    let mut moved = (Instant::now(), 0);
    loop {
        sleep(if moved.0.elapsed() < LOOK { FOLLOW } else { IDLE }).await;
        let Some(state) = state.upgrade() else { return };
        let mut done = state.catch_up().await;
        if state.hub.head() != moved.1 {
            moved = (Instant::now(), state.hub.head());
        }
        if done.is_ok() && looked.elapsed() > LOOK {
            looked = Instant::now();
            done = state.look_where_cut().await;
        }
        match done {
            Ok(()) => *state.followed.lock() = Instant::now(),
            Err(error) => {
                tracing::warn!(?error, "the log of readings cannot be followed");
                drop(state);
                sleep(PAUSE).await;
            }
        }
    }
}

/// What was sealed, rolled up and deleted while nobody followed stands in the snapshot.
async fn follow_sealing(state: Weak<State>) {
    loop {
        let Some(store) = state.upgrade().map(|state| state.databases.main.clone()) else { return };
        let request = WatchRequest::new("", Scope::system());
        let mut events = store.watch(request, |read| db::series::list(read, 0).boxed());
        while let Some(event) = events.next().await {
            let Some(state) = state.upgrade() else { return };
            let taken = match event {
                Ok(event) => take(&state, event.kind).await,
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                tracing::warn!(?error, "what other replicas seal cannot be followed");
                break;
            }
        }
        sleep(PAUSE).await;
    }
}

async fn take(state: &State, event: EventKind<Stored>) -> Result<()> {
    match event {
        EventKind::Snapshot(stored) => {
            let (series, there) = (stored.number, stored.tail);
            if let Some(end) = there.ended() {
                let start = there.sealed_span.map_or(end, |(start, _)| start);
                state.let_go(&Sealed { series, upto: there.sealed_seq, start, end }).await?;
            }
            if let Some(series) = state.catalog.series(series) {
                let mut tail = series.tail.lock();
                tail.rolled_end = tail.rolled_end.max(there.rolled_end);
                tail.note_deleted(there.deletions, there.latest);
            }
            Ok(())
        }
        EventKind::Entry(entry) if entry.kind == NUMBERED => state.meet_series().await,
        EventKind::Entry(entry) if entry.kind == SEALED => {
            let sealed = SealedSome::decode(&entry.payload[..]).map_err(sensormesh_types::Error::internal)?;
            for sealed in &sealed.series {
                state.let_go(sealed).await?;
            }
            Ok(())
        }
        EventKind::Entry(entry) if entry.kind == ROLLED => {
            let rolled = Rolled::decode(&entry.payload[..]).map_err(sensormesh_types::Error::internal)?;
            if let Some(series) = state.catalog.series(rolled.series) {
                let mut tail = series.tail.lock();
                tail.rolled_end = tail.rolled_end.max(Some(rolled.end));
            }
            Ok(())
        }
        EventKind::Entry(entry) if entry.kind == DELETED => {
            let deleted = Deleted::decode(&entry.payload[..]).map_err(sensormesh_types::Error::internal)?;
            if let Some(series) = state.catalog.series(deleted.series) {
                series.tail.lock().note_deleted(deleted.deletions, deleted.latest.map(reading));
            }
            Ok(())
        }
        EventKind::Entry(_) | EventKind::Bookmark { .. } => Ok(()),
    }
}

fn reading(last: Last) -> Reading {
    // a quality is a byte
    Reading { time: last.time, value: f64::from_bits(last.bits), quality: Quality(last.quality as u8) }
}
