//! `WatchReadings`: what is, then what becomes durable, for a reader that goes at its own pace.
//!
//! Nothing is buffered for a reader but the message on its way: it reads the ring, and the log where it has fallen behind
//! the ring. One that takes nothing for too long is ended with the cursor to go on from.
//!
//! Most streams wait most of the time, a thousand of them on a small machine. So what a stream holds while it waits is kept
//! small: a channel has room for 32 of its items, which are boxed, and what is done once is a future of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use rustc_hash::{FxHashMap, FxHashSet};
use sensormesh_mesh::Context;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::ReadingForm;
use sensormesh_proto::types::v1::Bookmark;
use sensormesh_series::{Reading, wire};
use sensormesh_types::{Caller, Code, Error, Result, Scope, time};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep};

use super::rows::row;
use super::{Answers, Api};
use crate::batch;
use crate::calibration::Calibration;
use crate::catalog::Series;
use crate::db;
use crate::engine::Engine;
use crate::filter::{Filter, Marks};
use crate::hub::{Entry, Next};

/// A bookmark is sent at least this often while nothing else is.
const BOOKMARK: Duration = Duration::from_secs(5);
/// Batches joined into one message up to this size.
const MESSAGE: usize = 64 << 10;
/// What may wait for a reader that takes nothing.
const WAITING: usize = 256 << 10;
/// Readings of one message of the snapshot.
const SNAPSHOT: usize = 1000;
/// Readings of one message of latest ones.
const LATEST: usize = 10_000;
/// How long it takes at most until a replica has heard what another one has deleted.
const HEARD_OF: Duration = Duration::from_secs(2);
/// Batches read from the log at once, as far as they are no greater than a message.
const PAGE: u32 = 16;

impl Api {
    pub(super) async fn watch(
        &self,
        caller: &Caller,
        request: pb::WatchReadingsRequest,
    ) -> Result<Answers<pb::WatchReadingsResponse>> {
        let engine = &self.engine;
        let after = if request.cursor.is_empty() { None } else { Some(engine.place(&request.cursor).await?) };
        if let Some(after) = after {
            check_retention(engine, after)?;
        }
        let (form, raw) = (request.form(), request.raw);
        let filter = Filter::new(&caller.scope, request);
        // one message on its way, one being made
        let (messages, outgoing) = mpsc::channel(1);
        let end = Arc::new(Mutex::new(None));
        let feed = Feed {
            engine: engine.clone(),
            filter,
            form: if form == ReadingForm::Unspecified { ReadingForm::Rows } else { form },
            after: after.unwrap_or_default(),
            live: false,
            raw,
            named: Marks::default(),
            calibrated: Marks::default(),
            version: 0,
            messages,
            told: after,
            said: Instant::now(),
            deadline: Context::current().and_then(|context| context.deadline),
        };
        let (ending, fresh) = (Arc::clone(&end), after.is_none());
        tokio::spawn(async move {
            let gone = feed.messages.clone();
            let ended = tokio::select! {
                ended = feed.run(fresh) => ended,
                () = gone.closed() => Ok(()),
            };
            if let Err(error) = ended {
                *ending.lock() = Some(error);
            }
        });
        // the end is told beside the channel, which may be full of what the reader does not take
        let outgoing = futures::stream::unfold((outgoing, end), |(mut outgoing, end)| async move {
            match outgoing.recv().await {
                Some(message) => Some((Ok(*message), (outgoing, end))),
                None => {
                    let error = end.lock().take()?;
                    Some((Err(error), (outgoing, end)))
                }
            }
        });
        Ok(sensormesh_mesh::stream(outgoing))
    }
}

/// Fails where the log no longer has what follows a place.
fn check_retention(engine: &Engine, after: u64) -> Result<()> {
    let trimmed = engine.trimmed();
    if after < trimmed {
        let earliest = [(db::log::SHARD as u32, trimmed)];
        return Err(engine.cursors.out_of_range("the cursor is older than the log of readings", &earliest));
    }
    Ok(())
}

/// One reader's stream.
struct Feed {
    engine: Engine,
    filter: Filter,
    form: ReadingForm,
    after: u64,
    live: bool,
    /// Values as they were measured, not calibrated.
    raw: bool,
    /// The series that were named to the reader, for COLUMNS, and those of them that are calibrated: by the catalog of that
    /// version.
    named: Marks,
    calibrated: Marks,
    version: u64,
    messages: mpsc::Sender<Box<pb::WatchReadingsResponse>>,
    /// The last place whose cursor was handed to the reader, and when it was last handed anything.
    told: Option<u64>,
    said: Instant,
    deadline: Option<Instant>,
}

/// What a reader of columns gets of a series.
#[derive(Clone)]
enum Choice {
    /// Nothing.
    No,
    /// Its readings as they stand in the log.
    Plain,
    /// Its readings calibrated.
    Calibrated(Arc<Calibration>),
}

impl Feed {
    async fn run(mut self, fresh: bool) -> Result<()> {
        let mut head = self.engine.hub.follow_head();
        let alarm = tokio::time::sleep_until(self.due());
        tokio::pin!(alarm);
        if fresh {
            Box::pin(self.snapshot()).await?;
            self.live = true;
            self.bookmark().await?;
        }
        loop {
            head.borrow_and_update();
            let entries = self.next().await?;
            if !entries.is_empty() {
                self.pass(entries).await?;
            } else if !self.live {
                self.live = true;
                self.bookmark().await?;
            } else if !self.wait(&mut head, alarm.as_mut()).await? {
                return self.bookmark().await;
            }
        }
    }

    /// Waits for more, with bookmarks; answers false at the stream's greatest age. The alarm is set anew when it rings, not with
    /// every message.
    async fn wait(&mut self, head: &mut watch::Receiver<u64>, mut alarm: Pin<&mut Sleep>) -> Result<bool> {
        tokio::select! {
            changed = head.changed() => {
                changed.map_err(|_| Error::unavailable("STOPPING", "telemetry is stopping", Duration::from_secs(1)))?;
            }
            () = &mut alarm => {
                let now = Instant::now();
                if self.deadline.is_some_and(|end| now >= end) {
                    return Ok(false);
                }
                if now >= self.said + BOOKMARK {
                    self.bookmark().await?;
                }
                alarm.reset(self.due());
            }
        }
        Ok(true)
    }

    /// When there must be a bookmark, or an end, unless something else is said before.
    fn due(&self) -> Instant {
        let bookmark = self.said + BOOKMARK;
        self.deadline.map_or(bookmark, |end| end.min(bookmark))
    }

    /// The batches that follow, from memory or from the log.
    async fn next(&mut self) -> Result<Vec<Arc<Entry>>> {
        let bytes = if self.form == ReadingForm::Latest { usize::MAX } else { MESSAGE };
        match self.engine.hub.next(self.after, bytes) {
            Next::Entries(entries) => Ok(entries),
            Next::Past => Box::pin(self.next_in_log()).await,
        }
    }

    async fn next_in_log(&self) -> Result<Vec<Arc<Entry>>> {
        let mut read = self.engine.databases.log.read(&Scope::system()).await?;
        let page = db::log::page(&mut read, self.after, PAGE).await?;
        drop(read);
        // looked at after the read: what is missing from the page was cut before
        if page.first().is_none_or(|batch| batch.mark.seq != self.after + 1) {
            check_retention(&self.engine, self.after)?;
        }
        let mut size = 0;
        let fits = page.into_iter().take_while(|batch| {
            let first = size == 0;
            size += batch.body.len();
            first || size <= MESSAGE
        });
        Ok(fits.map(|batch| self.engine.entry(batch)).collect())
    }

    /// The latest reading of each sensor, and the place in the log at which they were.
    async fn snapshot(&mut self) -> Result<()> {
        let mut latest: Vec<(Arc<Series>, Reading)> = Vec::new();
        {
            let _steady = self.engine.hub.steady();
            self.after = self.engine.hub.head();
            for tenant in self.filter.tenants(&self.engine.catalog) {
                self.engine.catalog.scan(&tenant, "", |series| {
                    if self.filter.admits(&self.engine.catalog, series)
                        && let Some(reading) = series.tail.lock().latest
                    {
                        latest.push((Arc::clone(series), series.told(reading, self.raw)));
                    }
                    true
                });
            }
        }
        for same_tenant in latest.chunk_by(|a, b| a.0.tenant == b.0.tenant) {
            for some in same_tenant.chunks(SNAPSHOT) {
                self.forget_what_changed();
                let mut message = self.message(&some[0].0.tenant, false);
                for (series, reading) in some {
                    if self.form == ReadingForm::Columns {
                        self.choose(series, &mut message);
                        let mut column = sensormesh_series::Column::default();
                        column.upsert(reading.time, reading.value, reading.quality);
                        message.groups.push(batch::pack_column(series.number, &column).encode_to_vec().into());
                    } else {
                        message.readings.push(row(&series.sensor_id, *reading));
                    }
                }
                message.cursor = String::new(); // a snapshot is complete with its bookmark
                self.send(message).await?;
            }
        }
        Ok(())
    }

    /// Sends what the reader wants of these batches, joined as far as they are alike.
    async fn pass(&mut self, entries: Vec<Arc<Entry>>) -> Result<()> {
        let alike = |a: &Arc<Entry>, b: &Arc<Entry>| a.tenant == b.tenant && a.backfill == b.backfill;
        for run in entries.chunk_by(alike) {
            let (first, last) = (&run[0], &run[run.len() - 1]);
            self.after = last.seq;
            self.forget_what_changed(); // once: what a message names must go for all of it
            let mut message = self.message(&first.tenant, first.backfill);
            if self.form == ReadingForm::Latest {
                self.put_latest(run, &mut message);
            } else {
                run.iter().for_each(|entry| self.put(entry, &mut message));
            }
            self.put_deleted(run, &mut message).await;
            // who comes back after long is told of every sensor; the last message is the one to resume after
            while message.readings.len() > LATEST {
                let rest = message.readings.split_off(LATEST);
                let readings = std::mem::replace(&mut message.readings, rest);
                let tenant = message.tenant.clone();
                let some = pb::WatchReadingsResponse { tenant, readings, ..Default::default() };
                self.send(pb::WatchReadingsResponse { backfill: message.backfill, ..some }).await?;
            }
            if !message.readings.is_empty() || !message.groups.is_empty() || !message.deleted.is_empty() {
                self.send(message).await?;
            }
        }
        Ok(())
    }

    fn message(&self, tenant: &Arc<str>, backfill: bool) -> pb::WatchReadingsResponse {
        pb::WatchReadingsResponse {
            cursor: self.engine.cursor(self.after),
            tenant: tenant.to_string(),
            backfill,
            ..pb::WatchReadingsResponse::default()
        }
    }

    fn put(&mut self, entry: &Entry, message: &mut pb::WatchReadingsResponse) {
        if self.form == ReadingForm::Columns {
            return self.put_columns(entry, message);
        }
        for group in &entry.groups {
            for channel in &group.channels {
                if !self.filter.admits(&self.engine.catalog, &channel.series) {
                    continue;
                }
                for (index, (time, value)) in group.times.iter().zip(&channel.values).enumerate() {
                    let quality = channel.qualities.get(index).copied().unwrap_or_default();
                    let reading = channel.series.told(Reading { time: *time, value: *value, quality }, self.raw);
                    message.readings.push(row(&channel.series.sensor_id, reading));
                }
            }
        }
    }

    /// The groups as the log has them, without the channels the reader does not want.
    fn put_columns(&mut self, entry: &Entry, message: &mut pb::WatchReadingsResponse) {
        for (group, packed) in entry.groups.iter().zip(entry.packed()) {
            let mut plain = 0;
            for channel in &group.channels {
                match self.choose(&channel.series, message) {
                    Choice::Plain => plain += 1,
                    Choice::Calibrated(calibration) => {
                        message.groups.extend(group.calibrated(channel.series.number, &calibration));
                    }
                    Choice::No => {}
                }
            }
            if plain == group.channels.len() {
                message.groups.push(packed.clone());
            } else if plain > 0
                && let Ok(packed) = wire::Group::read(packed)
            {
                let plain = group.channels.iter().map(|channel| &channel.series);
                let plain = plain.filter(|series| self.is_plain(series.number));
                let plain: FxHashSet<u32> = plain.map(|series| series.number).collect();
                let wanted = |number| plain.contains(&number);
                message.groups.push(packed.only(wanted).into());
            }
        }
    }

    /// Decides and names anew when any sensor has changed.
    fn forget_what_changed(&mut self) {
        let version = self.engine.catalog.version();
        if self.version != version {
            self.version = version;
            self.named.clear();
            self.calibrated.clear();
        }
    }

    /// Whether a series was named to the reader and is not calibrated.
    fn is_plain(&self, number: u32) -> bool {
        self.named.has(number) && !self.calibrated.has(number)
    }

    /// What the reader gets of a series. Names it to the reader the first time.
    fn choose(&mut self, series: &Series, message: &mut pb::WatchReadingsResponse) -> Choice {
        if self.is_plain(series.number) {
            return Choice::Plain;
        }
        if !self.filter.admits(&self.engine.catalog, series) {
            return Choice::No;
        }
        let calibration = series.calibration().filter(|_| !self.raw);
        if self.named.set(series.number) {
            let sensor_id = series.sensor_id.to_string();
            message.names.push(pb::SeriesName { series: series.number, sensor_id, unit: series.unit(self.raw) });
        }
        if calibration.is_some() {
            self.calibrated.set(series.number);
        }
        calibration.map_or(Choice::Plain, Choice::Calibrated)
    }

    fn put_latest(&mut self, entries: &[Arc<Entry>], message: &mut pb::WatchReadingsResponse) {
        let mut latest: FxHashMap<u32, (Arc<Series>, Reading)> = FxHashMap::default();
        let mut total = 0;
        for group in entries.iter().flat_map(|entry| &entry.groups) {
            for channel in &group.channels {
                if !self.filter.admits(&self.engine.catalog, &channel.series) {
                    continue;
                }
                for (index, (time, value)) in group.times.iter().zip(&channel.values).enumerate() {
                    let quality = channel.qualities.get(index).copied().unwrap_or_default();
                    let reading = Reading { time: *time, value: *value, quality };
                    total += 1;
                    latest
                        .entry(channel.series.number)
                        .and_modify(|(_, kept)| {
                            if kept.time <= reading.time {
                                *kept = reading;
                            }
                        })
                        .or_insert_with(|| (Arc::clone(&channel.series), reading));
                }
            }
        }
        message.skipped = total - latest.len() as u64;
        let told = |(series, reading): (Arc<Series>, Reading)| row(&series.sensor_id, series.told(reading, self.raw));
        message.readings = latest.into_values().map(told).collect();
        message.readings.sort_by(|a, b| a.sensor_id.cmp(&b.sensor_id));
    }

    /// The sensors of which readings were deleted, with the latest ones as they are now: those of the message are in memory
    /// before they are shown. Where another replica has deleted them, that is waited for.
    async fn put_deleted(&mut self, entries: &[Arc<Entry>], message: &mut pb::WatchReadingsResponse) {
        for (series, deletions) in entries.iter().filter_map(|entry| entry.deleted.as_ref()) {
            if !self.filter.admits(&self.engine.catalog, series) {
                continue;
            }
            let until = Instant::now() + HEARD_OF;
            while series.tail.lock().deletions < *deletions && Instant::now() < until {
                tokio::time::sleep(HEARD_OF / 100).await;
            }
            let latest = series.tail.lock().latest;
            let reading = latest.map(|reading| row(&series.sensor_id, series.told(reading, self.raw)));
            message.deleted.push(pb::LatestReading { sensor_id: series.sensor_id.to_string(), reading });
        }
    }

    async fn bookmark(&mut self) -> Result<()> {
        let as_of = Some(time::from_micros(self.engine.clock.now_micros()));
        let bookmark = Bookmark { live: self.live, as_of, reset: false };
        let cursor = self.engine.cursor(self.after);
        self.send(pb::WatchReadingsResponse { cursor, bookmark: Some(bookmark), ..Default::default() }).await
    }

    /// Hands a message to the reader. ABORTED, with the cursor of the last message it got, where it takes nothing while
    /// more and more waits for it.
    async fn send(&mut self, message: pb::WatchReadingsResponse) -> Result<()> {
        let told = if message.cursor.is_empty() { self.told } else { Some(self.after) };
        match self.messages.try_send(Box::new(message)) {
            Err(TrySendError::Full(message)) => self.send_when_taken(message).await?,
            // where the reader has gone the task ends with it
            Ok(()) | Err(TrySendError::Closed(_)) => {}
        }
        (self.told, self.said) = (told, Instant::now());
        Ok(())
    }

    async fn send_when_taken(&self, message: Box<pb::WatchReadingsResponse>) -> Result<()> {
        let slow = self.engine.config.slow_reader;
        loop {
            match tokio::time::timeout(slow, self.messages.reserve()).await {
                Ok(Ok(permit)) => {
                    permit.send(message);
                    return Ok(());
                }
                Ok(Err(_)) => return Ok(()),
                Err(_) if self.behind() => {
                    let message = "the reader is too slow; resume after the last cursor received";
                    let cursor = self.told.map(|place| self.engine.cursor(place)).unwrap_or_default();
                    return Err(Error::new(Code::Conflict, "SLOW_READER", message).with("cursor", cursor));
                }
                Err(_) => {}
            }
        }
    }

    /// Whether more waits for the reader than may.
    fn behind(&self) -> bool {
        match self.engine.hub.next(self.after, usize::MAX) {
            Next::Past => true,
            Next::Entries(entries) => entries.iter().map(|entry| entry.size()).sum::<usize>() > WAITING,
        }
    }
}
