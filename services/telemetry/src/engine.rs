//! What telemetry is made of: catalog, tails, ring, writer; and how it is put together again at start.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use prost::bytes::Bytes;
use sensormesh_store::{Cursors, Engine as Database, Read};
use sensormesh_types::{Clock, Code, Error, Result, Scope};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Config;
use crate::batch::{self, Deletion};
use crate::calibrations;
use crate::catalog::{Catalog, Series};
use crate::db::answer::{First, Name};
use crate::db::log::SHARD;
use crate::db::{self, Databases};
use crate::hub::{Entry, Hub};
use crate::ownership::Ownership;
use crate::replicas;
use crate::scrub::Damaged;
use crate::tail::{Mark, Tail};
use crate::writer::{Outcome, Request, Writer};

/// A series is sealed when this many of its readings are not.
pub const BLOCK_READINGS: usize = 1024;

/// Requests that may wait for the writer; then their senders wait.
const QUEUE: usize = 256;

/// Batches read from the log at once.
const PAGE: u32 = 64;

/// How often numbers are asked for again where other replicas number sensors at the same time.
const ATTEMPTS: u32 = 20;
const RETRY: Duration = Duration::from_millis(200);

/// Everything that telemetry knows and does, below its contract. Cheap to clone; the writer ends with the last clone.
#[derive(Clone)]
pub struct Engine {
    state: Arc<State>,
    requests: mpsc::Sender<Request>,
}

impl std::ops::Deref for Engine {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

/// What doors, writer, sealing and reads share.
pub struct State {
    /// The configuration.
    pub config: Config,
    /// The time of day.
    pub clock: Clock,
    /// The databases.
    pub databases: Databases,
    /// Sensors and series.
    pub catalog: Catalog,
    /// What became durable lately.
    pub hub: Hub,
    /// Writes and reads the cursors of the log of readings.
    pub cursors: Cursors,
    /// Whether this replica looks after the log.
    pub ownership: Ownership,
    /// What is known to be damaged on disk.
    pub damaged: Damaged,
    /// Held by who changes what blocks there are, so that nobody else does meanwhile.
    pub rewriting: Arc<tokio::sync::Mutex<()>>,
    /// Held while what stands in the log is put into memory.
    pub order: Arc<tokio::sync::Mutex<()>>,
    /// When this replica last knew all that others had written.
    pub followed: Mutex<Instant>,
    /// Series with quality tests that other replicas have stored readings of.
    pub foreign: Mutex<HashSet<u32>>,
    /// Tells the sealing that there is something to do.
    pub sealing: Notify,
    /// Tells the quarantine that sensors became known.
    pub releasing: Notify,
    mark: Mutex<Mark>,
    ripe: Mutex<HashSet<u32>>,
    unsealed: AtomicU64,
    sealed_some: Notify,
    trimmed: AtomicU64,
    /// Held while numbers are given; true = the database may have some that are not known here.
    numbering: tokio::sync::Mutex<bool>,
    /// Ends the following of other replicas.
    _stop: DropGuard,
}

/// Readings of the largest batch that the contract takes.
const LARGEST_BATCH: u64 = 10_000;

impl Engine {
    /// Opens the databases' contents: sensors and series from disk, tails from the log. Starts the writer.
    pub async fn open(config: Config, databases: Databases, clock: Clock) -> Result<Self> {
        let ownership = Ownership::seek(&databases.log).await?;
        let stop = CancellationToken::new();
        let head = db::log::head(&mut databases.log.read(&Scope::system()).await?).await?;
        let state = State {
            cursors: databases.log.cursors(),
            hub: Hub::new(usize::try_from(config.live_bytes).unwrap_or(usize::MAX), head.sealed),
            catalog: Catalog::default(),
            damaged: Damaged::default(),
            rewriting: Arc::default(),
            sealing: Notify::new(),
            releasing: Notify::new(),
            mark: Mutex::new(Mark { seq: head.sealed, ..head.mark }),
            ripe: Mutex::default(),
            unsealed: AtomicU64::new(0),
            sealed_some: Notify::new(),
            trimmed: AtomicU64::new(head.trimmed),
            numbering: tokio::sync::Mutex::default(),
            ownership,
            order: Arc::default(),
            followed: Mutex::new(Instant::now()),
            foreign: Mutex::default(),
            _stop: stop.clone().drop_guard(),
            config,
            clock,
            databases,
        };
        let state = Arc::new(state);
        let sealed = state.load_catalog().await?;
        state.catch_up().await?;
        if state.hub.head() < sealed {
            state.mark.lock().seq = sealed;
            state.hub.publish(Vec::new(), sealed);
        }
        if state.is_shared() {
            replicas::follow(&state, &stop);
        }
        let (requests, queue) = mpsc::channel(QUEUE);
        tokio::spawn(Writer::new(Arc::clone(&state), queue).run());
        Ok(Self { state, requests })
    }

    /// Makes readings durable and waits until they are.
    pub async fn submit(&self, request: Request, outcome: oneshot::Receiver<Result<Outcome>>) -> Result<Outcome> {
        self.enqueue(request, outcome).await?.await
    }

    /// Puts readings in the writer's queue, or refuses them where the disk has no room left; the future it answers ends when they are durable.
    pub async fn enqueue(
        &self,
        request: Request,
        outcome: oneshot::Receiver<Result<Outcome>>,
    ) -> Result<impl Future<Output = Result<Outcome>> + Send + 'static> {
        self.databases.log.room().admit()?;
        self.requests.send(request).await.map_err(|_| stopped())?;
        Ok(async move { outcome.await.map_err(|_| stopped())? })
    }

    /// What doors, writer, sealing and reads share.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }
}

impl State {
    /// Whether other replicas may write the log too.
    pub fn is_shared(&self) -> bool {
        self.databases.log.engine() == Database::Postgres
    }

    /// The end of the log as it can be read.
    pub fn mark(&self) -> Mark {
        *self.mark.lock()
    }

    /// The place up to which the log is cut.
    pub fn trimmed(&self) -> u64 {
        self.trimmed.load(Ordering::Acquire)
    }

    /// Notes that the log was cut.
    pub fn note_trimmed(&self, seq: u64) {
        self.trimmed.fetch_max(seq, Ordering::AcqRel);
    }

    /// The cursor of a place in the log.
    pub fn cursor(&self, seq: u64) -> String {
        self.cursors.encode(&[(SHARD as u32, seq)])
    }

    /// The place of a cursor. OUT_OF_RANGE where it lies behind the end of the log.
    pub async fn place(&self, cursor: &str) -> Result<u64> {
        let positions = self.cursors.decode(cursor)?;
        let seq = positions.iter().find(|(shard, _)| i64::from(*shard) == SHARD).map_or(0, |(_, seq)| *seq);
        if seq > self.hub.head() && self.is_shared() {
            self.catch_up().await?; // another replica gave it out, which was ahead of this one
        }
        if seq > self.hub.head() {
            let earliest = [(SHARD as u32, self.trimmed())];
            return Err(self.cursors.out_of_range("the cursor lies beyond the end of the log", &earliest));
        }
        Ok(seq)
    }

    /// Waits while too much is unsealed: the sealing must come after. What is overdue is told by how far back in the log it
    /// lies, which leaves out the last batch; so that is allowed on top, or nothing would ever end the wait.
    pub async fn room_for_more(&self) {
        let most = self.config.unsealed_readings.saturating_mul(2).saturating_add(LARGEST_BATCH);
        while self.unsealed.load(Ordering::Acquire) > most {
            let sealed = self.sealed_some.notified();
            self.sealing.notify_one();
            let _ = tokio::time::timeout(Duration::from_millis(500), sealed).await;
        }
    }

    /// The first batch of this name, from the log's database.
    pub async fn first(&self, name: &Name) -> Result<Option<First>> {
        let mut read = self.databases.log.read(&Scope::system()).await?;
        db::answer::find(&mut read, name).await
    }

    /// Puts batches that are durable into memory and shows them to everybody.
    pub fn apply(&self, entries: Vec<(Mark, Arc<Entry>)>, head: Mark) {
        let _applying = self.hub.applying();
        let mut ripe = Vec::new();
        let mut added = 0;
        for (mark, entry) in &entries {
            for group in &entry.groups {
                for channel in &group.channels {
                    let mut tail = channel.series.tail.lock();
                    if mark.seq <= tail.sealed_seq {
                        continue;
                    }
                    let before = tail.open_len();
                    tail.apply(&group.times, &channel.values, &channel.qualities, group.in_order, *mark);
                    added += tail.open_len() - before;
                    if tail.open_len() >= BLOCK_READINGS {
                        ripe.push(channel.series.number);
                    }
                }
            }
        }
        self.unsealed.fetch_add(added as u64, Ordering::AcqRel);
        *self.mark.lock() = head;
        self.hub.publish(entries.into_iter().map(|(_, entry)| entry).collect(), head.seq);
        if !ripe.is_empty() {
            self.ripe.lock().extend(ripe);
            self.sealing.notify_one();
        }
    }

    /// Some of the series that have a whole block to seal.
    pub fn take_ripe(&self, most: usize) -> Vec<Arc<Series>> {
        let mut ripe = self.ripe.lock();
        let taken: Vec<u32> = ripe.iter().copied().take(most).collect();
        ripe.retain(|number| !taken.contains(number));
        taken.into_iter().filter_map(|number| self.catalog.series(number)).collect()
    }

    /// Notes that readings were sealed.
    pub fn note_sealed(&self, readings: usize) {
        self.unsealed.fetch_sub(readings as u64, Ordering::AcqRel);
        self.sealed_some.notify_waiters();
    }

    /// Lets go of what another replica sealed of a series. False while some of it is being sealed here: ask again.
    pub fn forget_sealed(&self, number: u32, upto: u64, span: (i64, i64)) -> bool {
        let Some(series) = self.catalog.series(number) else { return true };
        let (forgotten, left) = {
            let mut tail = series.tail.lock();
            (tail.forget_sealed(upto, span), tail.open_len())
        };
        if forgotten.is_some_and(|readings| readings > 0) {
            self.note_sealed(forgotten.unwrap_or_default());
            if left < BLOCK_READINGS {
                self.ripe.lock().remove(&number);
            }
        }
        forgotten.is_some()
    }

    /// The series of sensors, with a number for each that has none yet.
    pub async fn number(&self, tenant: &str, sensor_ids: &[&str]) -> Result<Vec<Arc<Series>>> {
        let mut in_doubt = self.numbering.lock().await;
        let mut attempts = 0;
        loop {
            if *in_doubt {
                // with the one connection that writes, so that a commit still on its way is seen
                let mut tx = self.databases.main.tx(&Scope::system()).await?;
                self.load_series(&mut tx, self.catalog.greatest_number()).await?;
                *in_doubt = false;
            }
            attempts += 1;
            match self.give_numbers(tenant, sensor_ids, &mut in_doubt).await {
                Ok(true) => break,
                // another replica was faster: what it gave is looked up
                Ok(false) if attempts < ATTEMPTS => {}
                Err(error) if error.code() == Code::Conflict && attempts < ATTEMPTS => {}
                Ok(false) => return Err(Error::unavailable("NUMBERING", "other replicas number sensors", RETRY)),
                Err(error) => return Err(error),
            }
        }
        let found = sensor_ids.iter().map(|id| self.catalog.find(tenant, id).and_then(|known| known.series));
        found.collect::<Option<Vec<_>>>().ok_or_else(|| Error::internal("a series that was just made is not there"))
    }

    /// Numbers the sensors that have none; false where another replica has taken one of the numbers or sensors.
    async fn give_numbers(&self, tenant: &str, sensor_ids: &[&str], in_doubt: &mut bool) -> Result<bool> {
        let mut next = self.catalog.greatest_number();
        let mut new = Vec::new();
        let mut tx = None;
        for sensor_id in sensor_ids {
            let known = self.catalog.find(tenant, sensor_id).and_then(|known| known.series);
            if known.is_some() || new.iter().any(|(id, _)| id == sensor_id) {
                continue;
            }
            next = next.checked_add(1).ok_or_else(|| Error::internal("every series number has been given"))?;
            let tx = match &mut tx {
                Some(tx) => tx,
                none => none.insert(self.databases.main.tx(&Scope::system()).await?),
            };
            // until it is known here what became of the commit: this may be given up at any moment
            *in_doubt = true;
            if !db::series::insert(tx, tenant, sensor_id, next).await? {
                return Ok(false);
            }
            new.push((*sensor_id, next));
        }
        if let Some(mut tx) = tx {
            if self.is_shared() {
                replicas::tell_numbered(&mut tx);
            }
            tx.commit().await?;
        }
        for (sensor_id, number) in new {
            self.catalog.put_series(tenant, sensor_id, number, Tail::default());
        }
        *in_doubt = false;
        Ok(true)
    }

    async fn load_catalog(&self) -> Result<u64> {
        let mut read = self.databases.main.read(&Scope::system()).await?;
        self.load_sensors(&mut read).await?;
        let sealed = self.load_series(&mut read, 0).await?;
        calibrations::load(self, &mut read).await?;
        drop(read);
        // a log that is younger than the blocks was lost or restored: it goes on behind them
        if db::log::head(&mut self.databases.log.read(&Scope::system()).await?).await?.mark.seq < sealed {
            tracing::warn!(sealed, "the log of readings ends before what is sealed and is continued behind it");
            let mut tx = self.databases.log.tx(&Scope::system()).await?;
            // what it has that is in no block is read as ever
            db::log::continue_behind(&mut tx, SHARD, sealed, 0).await?;
            tx.commit().await?;
        }
        Ok(sealed)
    }

    /// Takes over what the database has of `devices`' sensors.
    pub async fn load_sensors(&self, read: &mut Read) -> Result<()> {
        for told in db::sensor::list(read).await? {
            self.catalog.put_sensor(&told.tenant, &told.sensor_id, told.sensor);
        }
        Ok(())
    }

    /// Takes over the series that the database has and the catalog has not, those with greater numbers than `after`. Answers
    /// up to where any is sealed.
    async fn load_series(&self, read: &mut Read, after: u32) -> Result<u64> {
        let mut sealed = 0;
        for stored in db::series::list(read, after).await? {
            sealed = sealed.max(stored.tail.sealed_seq);
            self.catalog.put_series(&stored.tenant, &stored.sensor_id, stored.number, stored.tail);
        }
        Ok(sealed)
    }

    /// Takes over the series that other replicas have numbered.
    pub async fn meet_series(&self) -> Result<()> {
        let mut read = self.databases.main.read(&Scope::system()).await?;
        self.load_series(&mut read, self.catalog.greatest_number()).await?;
        Ok(())
    }

    /// Takes over up to where the log is cut, by whichever replica.
    pub async fn look_where_cut(&self) -> Result<()> {
        let head = db::log::head(&mut self.databases.log.read(&Scope::system()).await?).await?;
        self.note_trimmed(head.trimmed);
        Ok(())
    }

    /// Reads what the log has beyond memory: at start all that is not sealed, later what a failed commit left behind and what
    /// other replicas wrote.
    pub async fn catch_up(&self) -> Result<()> {
        let _order = self.order.lock().await;
        self.read_on().await
    }

    /// The same for whoever holds `order`.
    pub async fn read_on(&self) -> Result<()> {
        loop {
            let after = self.hub.head();
            let mut read = self.databases.log.read(&Scope::system()).await?;
            let page = db::log::page(&mut read, after, PAGE).await?;
            drop(read);
            let Some(last) = page.last().map(|batch| batch.mark) else { return Ok(()) };
            if self.is_shared() && page.first().is_some_and(|batch| batch.mark.seq != after + 1) {
                let head = db::log::head(&mut self.databases.log.read(&Scope::system()).await?).await?;
                if head.trimmed > after {
                    self.start_over(head).await?;
                    continue;
                }
            }
            let (mut entries, missing) = self.entries(&page);
            if missing && self.is_shared() {
                self.meet_series().await?;
                (entries, _) = self.entries(&page);
            }
            if self.is_shared() {
                self.note_foreign(&entries);
            }
            self.apply(entries, last);
        }
    }

    /// Takes over what is sealed as at the start: this replica was away for so long that the log was cut before it read it.
    /// `head` was read before: what is sealed in between is then seen twice, which does no harm, and not missed.
    async fn start_over(&self, head: db::log::Head) -> Result<()> {
        tracing::warn!(after = self.hub.head(), "the log of readings was cut before it was read here; starts over");
        let stored = db::series::list(&mut self.databases.main.read(&Scope::system()).await?, 0).await?;
        let _applying = self.hub.applying();
        for stored in stored {
            let series = self.catalog.put_series(&stored.tenant, &stored.sensor_id, stored.number, Tail::default());
            if series.tests().is_some() {
                self.foreign.lock().insert(series.number);
            }
            *series.tail.lock() = stored.tail;
        }
        self.ripe.lock().clear();
        self.unsealed.store(0, Ordering::Release);
        *self.mark.lock() = Mark { seq: head.sealed, ..head.mark };
        self.note_trimmed(head.trimmed);
        self.hub.restart(head.sealed);
        Ok(())
    }

    /// Batches of the log as entries, and whether any has readings of a series that is not known here.
    fn entries(&self, page: &[db::log::Batch]) -> (Vec<(Mark, Arc<Entry>)>, bool) {
        let missing = Cell::new(false);
        let find = |number| {
            let series = self.catalog.series(number);
            missing.set(missing.get() || series.is_none());
            series
        };
        let entries = page.iter().map(|batch| (batch.mark, entry(batch.clone(), find))).collect();
        (entries, missing.get())
    }

    fn note_foreign(&self, entries: &[(Mark, Arc<Entry>)]) {
        let groups = entries.iter().flat_map(|(_, entry)| &entry.groups);
        let tested = groups.flat_map(|group| &group.channels).filter(|channel| channel.series.tests().is_some());
        let tested: Vec<u32> = tested.map(|channel| channel.series.number).collect();
        if !tested.is_empty() {
            self.foreign.lock().extend(tested);
        }
    }

    /// A batch of the log as an entry. One that is damaged is named and has no readings: it is never served.
    pub fn entry(&self, batch: db::log::Batch) -> Arc<Entry> {
        entry(batch, |number| self.catalog.series(number))
    }
}

fn entry(batch: db::log::Batch, find: impl Fn(u32) -> Option<Arc<Series>>) -> Arc<Entry> {
    let decoded = if batch.is_intact() {
        batch::decode(batch.body, &find)
    } else {
        Err(Error::internal("its checksum is wrong"))
    };
    let (groups, body) = match decoded {
        Ok(decoded) => decoded,
        Err(error) => {
            tracing::error!(seq = batch.mark.seq, ?error, "a batch in the log of readings is damaged");
            (Vec::new(), Bytes::new())
        }
    };
    let deletion = Deletion::decode(&body[..]).ok().filter(|_| groups.is_empty());
    let deleted = deletion.and_then(|deletion| Some((find(deletion.series)?, deletion.deletions)));
    Arc::new(Entry::new(batch.mark.seq, batch.tenant.into(), batch.backfill, groups, body).telling(deleted))
}

fn stopped() -> Error {
    let message = "the readings may or may not be stored; send them again";
    Error::unavailable("WRITER_STOPPED", message, Duration::from_secs(1))
}
