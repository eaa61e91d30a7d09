//! The one writer of the log: everything that queued while the last commit was synced goes into the next one.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use prost::Message as _;
use prost::bytes::Bytes;
use sensormesh_observability::metrics;
use sensormesh_proto::telemetry::v1::Verdict;
use sensormesh_types::{Error, Result, Scope};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::batch::{self, Group};
use crate::catalog::Series;
use crate::db;
use crate::db::answer::{Digest, Misused, Name};
use crate::db::log::Batch;
use crate::db::quarantine::Kept;
use crate::dedup::{Found, Judge};
use crate::engine::State;
use crate::hub::Entry;
use crate::quality::Flagger;
use crate::replicas::Turn;

/// Requests in one commit, however small they are.
const MOST_REQUESTS: usize = 1024;

/// Makes the first answer to a batch out of what became of it and its place in the log.
pub type Answer = Box<dyn FnOnce(&Outcome) -> Vec<u8> + Send + Sync>;

/// What a batch is known by, what it holds, and how its answer is made.
pub struct FirstAnswer {
    /// What it is known by.
    pub name: Name,
    /// What it holds.
    pub digest: Digest,
    /// Makes the answer.
    pub answer: Answer,
}

/// Readings that passed validation and are to become durable.
pub struct Request {
    /// The tenant they belong to.
    pub tenant: Arc<str>,
    /// The readings.
    pub groups: Vec<Group>,
    /// The same, encoded; taken as it is where every reading is new.
    pub body: Bytes,
    /// They were sent as backfill.
    pub backfill: bool,
    /// Readings of unknown sensors, to be kept aside.
    pub kept: Vec<Kept>,
    /// The batch's id, where it has one.
    pub first_answer: Option<FirstAnswer>,
    /// The series of which readings were deleted, and how often that was.
    pub deleted: Option<(Arc<Series>, u64)>,
    reply: oneshot::Sender<Result<Outcome>>,
}

impl Request {
    /// A request, and where its outcome will be told.
    pub fn new(
        tenant: Arc<str>,
        groups: Vec<Group>,
        body: Bytes,
        backfill: bool,
    ) -> (Self, oneshot::Receiver<Result<Outcome>>) {
        let (reply, outcome) = oneshot::channel();
        let request =
            Self { tenant, groups, body, backfill, kept: Vec::new(), first_answer: None, deleted: None, reply };
        (request, outcome)
    }

    /// What tells in the log that readings of a series were deleted.
    pub fn of_deletion(series: &Arc<Series>) -> (Self, oneshot::Receiver<Result<Outcome>>) {
        let deletions = series.tail.lock().deletions;
        let body = batch::Deletion { series: series.number, deletions }.encode_to_vec().into();
        let (request, outcome) = Self::new(Arc::clone(&series.tenant), Vec::new(), body, false);
        (Self { deleted: Some((Arc::clone(series), deletions)), ..request }, outcome)
    }

    fn size(&self) -> usize {
        self.body.len() + self.kept.len() * 64
    }
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Everything up to this place can be read, what was stored here included.
    pub seq: u64,
    /// How many readings were stored, revisions included.
    pub accepted: usize,
    /// Readings that were there already, had another value or are late.
    pub found: Vec<Found>,
    /// How many of those stored lie outside their sensor's range.
    pub out_of_range: usize,
    /// The batch's id was used before: the answer that the same batch got the first time. Nothing else was done.
    pub repeated: Option<Result<Vec<u8>, Misused>>,
}

impl Outcome {
    /// How many readings had been stored before.
    pub fn duplicates(&self) -> usize {
        self.count(Verdict::Duplicate)
    }

    /// Of how many readings this was found.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.found.iter().filter(|found| found.verdict == verdict).count()
    }
}

/// The writer.
pub struct Writer {
    state: Arc<State>,
    requests: mpsc::Receiver<Request>,
    /// What the sensors' quality tests need of the readings before.
    flags: Flagger,
    /// A commit failed: whether it took effect is only known by looking.
    in_doubt: bool,
}

impl Writer {
    /// The writer of these requests.
    pub fn new(state: Arc<State>, requests: mpsc::Receiver<Request>) -> Self {
        Self { state, requests, flags: Flagger::default(), in_doubt: false }
    }

    /// Writes until nobody can ask any more.
    pub async fn run(mut self) {
        while let Some(first) = self.requests.recv().await {
            self.state.room_for_more().await;
            // what queues while others have their turn goes into this one
            let turn = if self.state.is_shared() { self.state.turn().await.map(Some) } else { Ok(None) };
            let mut size = first.size();
            let mut batch = vec![first];
            while size < self.state.config.commit_bytes as usize && batch.len() < MOST_REQUESTS {
                let Ok(request) = self.requests.try_recv() else { break };
                size += request.size();
                batch.push(request);
            }
            // a bug that one batch brings to light must not end the log for all
            if AssertUnwindSafe(self.commit(turn, batch)).catch_unwind().await.is_err() {
                self.in_doubt = true;
                tracing::error!("a commit of readings panicked; its senders are told to try again");
            }
        }
    }

    async fn commit(&mut self, turn: Result<Option<Turn>>, requests: Vec<Request>) {
        let began = Instant::now();
        let mut repliers = Vec::with_capacity(requests.len());
        let mut work = Vec::with_capacity(requests.len());
        for request in requests {
            let Request { tenant, groups, body, backfill, kept, first_answer, deleted, reply } = request;
            work.push(Work { place: repliers.len(), tenant, groups, body, backfill, kept, first_answer, deleted });
            repliers.push(reply);
        }
        let written = match turn {
            Ok(turn) => self.write(turn, work).await,
            Err(error) => Err(error),
        };
        match written {
            Ok(outcomes) => {
                metrics::ingest().commit.record(began.elapsed());
                metrics::ingest().batches.add(repliers.len() as u64);
                for (reply, outcome) in repliers.into_iter().zip(outcomes) {
                    let _ = reply.send(Ok(outcome)); // the caller may have gone; what is stored stays
                }
            }
            Err(error) => {
                self.in_doubt = true;
                tracing::warn!(?error, "readings could not be committed");
                for reply in repliers {
                    let _ = reply.send(Err(again(&error)));
                }
            }
        }
    }

    async fn write(&mut self, turn: Option<Turn>, work: Vec<Work>) -> Result<Vec<Outcome>> {
        let state = Arc::clone(&self.state);
        if self.in_doubt {
            if turn.is_none() {
                state.catch_up().await?; // a turn begins with that
            }
            self.flags.forget();
            self.in_doubt = false;
        }
        if turn.is_some() {
            self.flags.forget_some(&state.take_foreign());
        }
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(work.len());
        let mut first: HashMap<Name, (Digest, usize)> = HashMap::new();
        let mut repeats: Vec<(usize, usize)> = Vec::new();
        let mut judge = Judge::new(&state);
        let mut ready: Vec<Work> = Vec::new();
        for (place, mut work) in work.into_iter().enumerate() {
            let mut outcome = Outcome::default();
            if let Some(id) = &work.first_answer {
                match (first.get(&id.name), state.first(&id.name).await?) {
                    (_, Some(before)) => outcome.repeated = Some(before.repeat(&id.digest)),
                    (Some((digest, same)), None) if *digest == id.digest => repeats.push((place, *same)),
                    (Some(_), None) => outcome.repeated = Some(Err(Misused)),
                    (None, None) => _ = first.insert(id.name.clone(), (id.digest, place)),
                }
            }
            if outcome.repeated.is_none() && !repeats.iter().any(|(repeat, _)| *repeat == place) {
                let total = batch::count(&work.groups);
                outcome.found = judge.judge(&ready, &mut work.groups, work.backfill).await?;
                outcome.accepted = total - outcome.duplicates();
                outcome.out_of_range = batch::count_out_of_range(&work.groups);
                if self.flags.flag(&state, &mut work.groups).await? || outcome.duplicates() > 0 {
                    work.body = batch::encode(&work.groups).into();
                }
                ready.push(work);
            }
            outcomes.push(outcome);
        }
        drop(judge);
        self.store(turn, ready, &mut outcomes).await?;
        for (repeat, same) in repeats {
            outcomes[repeat] = outcomes[same].clone();
        }
        Ok(outcomes)
    }

    async fn store(&mut self, turn: Option<Turn>, ready: Vec<Work>, outcomes: &mut [Outcome]) -> Result<()> {
        let state = &self.state;
        let now = state.clock.now_micros();
        let logged = |work: &Work| !work.groups.is_empty() || work.deleted.is_some();
        let (mut batches, mut bytes, mut readings) = (0, 0, 0);
        for work in ready.iter().filter(|work| logged(work)) {
            batches += 1;
            bytes += work.body.len() as u64;
            readings += batch::count(&work.groups) as u64;
        }
        let head = state.hub.head();
        if batches == 0 && ready.iter().all(|work| work.kept.is_empty() && work.first_answer.is_none()) {
            ready.iter().for_each(|work| outcomes[work.place].seq = head);
            return Ok(());
        }
        let (mut tx, _order) = match turn {
            Some(turn) => (turn.tx, Some(turn.order)),
            None => (state.databases.log.tx(&Scope::system()).await?, None),
        };
        let mut mark =
            if batches > 0 { db::log::advance(&mut tx, batches, bytes, readings).await? } else { state.mark() };
        let (mut rows, mut entries) = (Vec::new(), Vec::new());
        for work in ready {
            let is_logged = logged(&work);
            if is_logged {
                mark.seq += 1;
                mark.bytes += work.body.len() as u64;
                mark.readings += batch::count(&work.groups) as u64;
            }
            let Work { place, tenant, groups, body, backfill, kept, first_answer, deleted } = work;
            outcomes[place].seq = mark.seq.max(head);
            for kept in &kept {
                db::quarantine::insert(&mut tx, kept).await?;
            }
            if let Some(first) = first_answer {
                let answer = (first.answer)(&outcomes[place]);
                db::answer::insert(&mut tx, &first.name, &first.digest, &answer).await?;
            }
            if is_logged {
                let batch =
                    Batch { tenant: tenant.to_string(), mark, time: now, backfill, checksum: 0, body: body.clone() };
                rows.push(batch.sealed());
                let entry = Entry::new(mark.seq, tenant, backfill, groups, body).telling(deleted);
                entries.push((mark, Arc::new(entry)));
            }
        }
        db::log::insert(&mut tx, &rows).await?;
        tx.commit().await?;
        state.apply(entries, mark);
        Ok(())
    }
}

/// A request without its reply.
struct Work {
    /// Its number among the requests of its commit.
    place: usize,
    tenant: Arc<str>,
    groups: Vec<Group>,
    body: Bytes,
    backfill: bool,
    kept: Vec<Kept>,
    first_answer: Option<FirstAnswer>,
    deleted: Option<(Arc<Series>, u64)>,
}

impl AsRef<[Group]> for Work {
    fn as_ref(&self) -> &[Group] {
        &self.groups
    }
}

/// The same failure for another caller.
fn again(error: &Error) -> Error {
    let copy = Error::new(error.code(), error.reason().to_owned(), error.message());
    match error.retry_after() {
        Some(wait) => copy.after(wait),
        None => copy,
    }
}
