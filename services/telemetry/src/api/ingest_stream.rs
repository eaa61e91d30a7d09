//! Readings in columns: `IngestStream`, many batches in flight, acknowledged as they become durable.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, StreamExt as _};
use prost::Message as _;
use rustc_hash::FxHashMap;
use sensormesh_mesh::Context;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::{Verdict, ingest_stream_request};
use sensormesh_types::{Caller, Error, Result};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::ingest::{count, count_refused};
use super::{Answers, Api};
use crate::batch;
use crate::catalog::{Sensor, Series};
use crate::columns::{self, Checked};
use crate::db::answer::{self, Digest, Door, Misused};
use crate::sender::{self, Place, Sender};
use crate::validate::{self, Window};
use crate::writer::{FirstAnswer, Outcome, Request};

/// Batches of one stream that may wait for their commit; then the sender waits.
const IN_FLIGHT: usize = 64;

/// Rejections and announcements that may wait for a sender that does not read; then it has to.
const UNTOLD: usize = 20_000;

/// Why nothing of a batch under the id of another one is stored.
const MISUSED: &str = "INVALID";

type Pending = BoxFuture<'static, Result<pb::IngestStreamResponse>>;

/// One sender's stream.
struct Session {
    api: Api,
    sender: Sender,
    backfill: bool,
    last_number: Option<u64>,
    /// The series this sender may use, by number.
    series: FxHashMap<u32, (Arc<Series>, Arc<Sensor>)>,
    version: u64,
}

impl Api {
    pub(super) fn take_stream(
        &self,
        caller: &Caller,
        incoming: Streaming<pb::IngestStreamRequest>,
    ) -> Answers<pb::IngestStreamResponse> {
        let (answers, outgoing) = mpsc::channel(8);
        let session = Session {
            api: self.clone(),
            sender: Sender::of(caller),
            backfill: false,
            last_number: None,
            series: FxHashMap::default(),
            version: self.engine.catalog.version(),
        };
        let context = Context::current().unwrap_or_default();
        tokio::spawn(Context::scope(context, async move {
            let ended = tokio::select! {
                ended = session.run(incoming, &answers) => ended,
                () = answers.closed() => Ok(()),
            };
            if let Err(error) = ended {
                let _ = answers.send(Err(error)).await; // the sender may have gone
            }
        }));
        sensormesh_mesh::stream(ReceiverStream::new(outgoing))
    }
}

impl Session {
    async fn run(
        mut self,
        mut incoming: Streaming<pb::IngestStreamRequest>,
        answers: &mpsc::Sender<Result<pb::IngestStreamResponse>>,
    ) -> Result<()> {
        let mut pending: FuturesOrdered<Pending> = FuturesOrdered::new();
        let mut open = true;
        // at the stream's greatest age nothing new is taken, and what was taken is acknowledged
        let age = Context::current().and_then(|context| context.deadline);
        let age = async move {
            match age {
                Some(age) => tokio::time::sleep_until(age).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(age);
        // what the sender is to be told next: joined for as long as it does not take it, so that one who sends first and
        // reads later does not wait for itself
        let mut answer: Option<pb::IngestStreamResponse> = None;
        while open || !pending.is_empty() || answer.is_some() {
            let told = answer.as_ref().map_or(0, |answer| answer.rejections.len() + answer.announced.len());
            tokio::select! {
                biased;
                Some(done) = pending.next(), if !pending.is_empty() => join(&mut answer, done?),
                permit = answers.reserve(), if answer.is_some() => match permit {
                    Ok(permit) => {
                        if let Some(answer) = answer.take() {
                            permit.send(Ok(answer));
                        }
                    }
                    Err(_) => return Ok(()), // the sender has gone
                },
                () = &mut age, if open => open = false,
                message = incoming.message(), if open && pending.len() < IN_FLIGHT && told < UNTOLD => {
                    match message?.map(|message| message.message) {
                        None => open = false,
                        Some(Some(ingest_stream_request::Message::Announce(announce))) => {
                            let announced = self.announce(announce).await?;
                            join(&mut answer, pb::IngestStreamResponse { announced, ..Default::default() });
                        }
                        Some(Some(ingest_stream_request::Message::Batch(batch))) => {
                            let acknowledged = self.batch(batch).await?;
                            pending.push_back(acknowledged);
                        }
                        Some(None) => return Err(Error::invalid("message", "must be an announcement or a batch")),
                    }
                }
            }
        }
        Ok(())
    }

    async fn announce(&mut self, announce: pb::Announce) -> Result<Vec<pb::Announced>> {
        if announce.backfill && self.sender.is_device() {
            return Err(Error::forbidden("a device sends no backfill; an operator or a bridge does"));
        }
        if self.last_number.is_some() && announce.backfill != self.backfill {
            return Err(Error::invalid("announce.backfill", "holds for the whole stream and cannot change"));
        }
        self.backfill = announce.backfill;
        let ids = announce.sensors.iter().map(String::as_str);
        let places = sender::places(&self.api.engine, &self.api.registry, &self.sender, ids).await?;
        let mut announced = Vec::with_capacity(announce.sensors.len());
        for id in &announce.sensors {
            let refused = |reason: &str, words: &str| pb::Announced {
                sensor_id: id.clone(),
                outcome: Some(pb::announced::Outcome::Refusal(words.to_owned())),
                reason: reason.to_owned(),
            };
            announced.push(match places.get(id.as_str()) {
                Some(Place::Series(series, sensor)) => {
                    self.series.insert(series.number, (Arc::clone(series), Arc::clone(sensor)));
                    let outcome = Some(pb::announced::Outcome::Series(series.number));
                    pb::Announced { sensor_id: id.clone(), outcome, reason: String::new() }
                }
                Some(Place::Refused(verdict, words)) => refused(validate::word(*verdict), words),
                Some(Place::Aside { again: true, .. }) => {
                    refused("UNAVAILABLE", "the registry of devices cannot be asked now; try again")
                }
                Some(Place::Aside { again: false, .. }) | None => {
                    refused("UNKNOWN_SENSOR", "nobody has registered the sensor")
                }
            });
        }
        Ok(announced)
    }

    /// The series with this number, if this sender may use it.
    fn find(&mut self, number: u32) -> Option<(Arc<Series>, Arc<Sensor>)> {
        let catalog = &self.api.engine.catalog;
        let version = catalog.version();
        if version != self.version {
            self.version = version;
            self.series.clear();
        }
        if let Some(found) = self.series.get(&number) {
            return Some(found.clone());
        }
        let series = catalog.series(number).filter(|series| series.tenant == self.sender.tenant)?;
        let sensor = series.sensor().filter(|sensor| !sensor.deleted && self.sender.may_send(sensor))?;
        self.series.insert(number, (Arc::clone(&series), Arc::clone(&sensor)));
        Some((series, sensor))
    }

    async fn batch(&mut self, batch: pb::ReadingBatch) -> Result<Pending> {
        let number = batch.number;
        if self.last_number.is_some_and(|last| number <= last) {
            return Err(Error::invalid("batch.number", "must be greater than that of the batch before"));
        }
        self.last_number = Some(number);
        let engine = self.api.engine.clone();
        let name = self.sender.name(&batch.batch_id, Door::Stream).map(|name| (name, digest(&batch, self.backfill)));
        if let Some((name, digest)) = &name
            && let Some(first) = engine.first(name).await?
            && let Ok(answer) = first.repeat(digest)
        // else the writer refuses it, in its turn
        {
            return Ok(futures::future::ready(repeated(number, &answer)).boxed());
        }
        let window = Window::at(engine.clock.now_nanos(), self.backfill);
        let Checked { groups, body, mut rejections, widths } =
            columns::check(batch, window, |series| self.find(series))?;
        let taken = batch::count(&groups) as u64;
        rejections.iter_mut().for_each(|rejection| rejection.batch = number);
        rejections.iter().for_each(|r| count_refused(&r.reason, r.indices.len().max(1) as u64));
        let (mut request, outcome) = Request::new(Arc::clone(&self.sender.tenant), groups, body, self.backfill);
        let answer = {
            let engine = engine.clone();
            move |outcome: &Outcome| pb::IngestStreamResponse {
                announced: Vec::new(),
                through: number,
                cursor: engine.cursor(outcome.seq),
                rejections: rejections.clone(),
                duplicates: outcome.duplicates() as u64,
                revised: outcome.count(Verdict::Revised) as u64,
                late: outcome.count(Verdict::Late) as u64,
                out_of_range: outcome.out_of_range as u64,
            }
        };
        if let Some((name, digest)) = name {
            let answer = answer.clone();
            let answer = Box::new(move |outcome: &Outcome| answer(outcome).encode_to_vec());
            request.first_answer = Some(FirstAnswer { name, digest, answer });
        }
        // queued here, in the order of the stream; only the wait for the commit is put off
        let waiting = engine.enqueue(request, outcome).await?;
        Ok(async move {
            let outcome = waiting.await?;
            match outcome.repeated {
                None => {
                    count(&outcome, 0);
                    Ok(answer(&outcome))
                }
                Some(Ok(first)) => repeated(number, &first),
                Some(Err(Misused)) => {
                    count_refused(MISUSED, taken);
                    Ok(pb::IngestStreamResponse {
                        through: number,
                        cursor: engine.cursor(engine.hub.head()),
                        rejections: columns::refuse(number, &widths, MISUSED, "`batch_id` was used for another batch"),
                        ..Default::default()
                    })
                }
            }
        }
        .boxed())
    }
}

/// What the batch holds, as it came, whatever its number this time.
fn digest(batch: &pb::ReadingBatch, backfill: bool) -> Digest {
    let mut hash = blake3::Hasher::new();
    hash.update(&[backfill.into()]);
    for group in &batch.groups {
        hash.update(&(group.len() as u64).to_le_bytes()).update(group);
    }
    answer::digest(&hash)
}

/// The first answer again, under the number that the batch has this time.
fn repeated(number: u64, answer: &[u8]) -> Result<pb::IngestStreamResponse> {
    let mut answer = pb::IngestStreamResponse::decode(answer).map_err(Error::internal)?;
    answer.through = number;
    answer.rejections.iter_mut().for_each(|rejection| rejection.batch = number);
    Ok(answer)
}

/// Adds what is to be told to what waits to be told.
fn join(waiting: &mut Option<pb::IngestStreamResponse>, next: pb::IngestStreamResponse) {
    let Some(answer) = waiting else {
        *waiting = Some(next);
        return;
    };
    answer.announced.extend(next.announced);
    if next.through > 0 || !next.cursor.is_empty() {
        answer.through = next.through;
        answer.cursor = next.cursor;
    }
    answer.rejections.extend(next.rejections);
    answer.duplicates += next.duplicates;
    answer.revised += next.revised;
    answer.late += next.late;
    answer.out_of_range += next.out_of_range;
}
