//! One open watch: turns the ring's events, or telemetry's own stream, into what one caller may see.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use sensormesh_proto::rooms::v1::watch_room_metrics_response::Event as Told;
use sensormesh_proto::rooms::v1::{RoomChange, RoomMetric, RoomMetricRemoved, WatchRoomMetricsResponse};
use sensormesh_proto::types::v1::Bookmark;
use sensormesh_store::Cursors;
use sensormesh_types::{Clock, Code, Error, Result, Scope, time};
use tokio::sync::watch;
use tokio::time::Instant;

use super::batch::{Batch, Incoming};
use super::cursor::Cursor;
use super::hub::{Event, Hub, Next, Slot, View};
use super::members::{Left, Members};
use crate::metrics::Reading;
use crate::model::Filter;

/// How often a viewer looks at the clock: for bookmarks, and for metrics that have become stale.
const TICK: Duration = Duration::from_secs(2);
/// After how long without a message there is a bookmark.
const QUIET: Duration = Duration::from_millis(2900);
/// How many metrics one message holds at most, so that it stays well below 256 KiB.
const MOST_METRICS: usize = 500;
/// How long to wait before telemetry's stream is opened again after it ended.
const PAUSE: Duration = Duration::from_millis(100);
/// For how long after its switch into the ring a viewer mistrusts that the ring is ahead of it.
const OVERLAP: Duration = Duration::from_secs(30);

/// Opens telemetry's stream from a cursor, for sensors of one tenant.
pub type Upstream =
    Arc<dyn Fn(String, Vec<String>) -> BoxFuture<'static, Result<BoxStream<'static, Result<Incoming>>>> + Send + Sync>;

/// What a viewer is given.
pub struct Opening {
    /// Where readings come from.
    pub hub: Hub,
    /// Telemetry's own stream, for places older than the ring.
    pub upstream: Upstream,
    /// Seals cursors.
    pub seal: Cursors,
    /// The time of day.
    pub clock: Clock,
    /// What the caller may see.
    pub scope: Scope,
    /// What the caller wants to see.
    pub filter: Filter,
    /// When to end the stream.
    pub deadline: Option<Instant>,
}

/// One open watch.
pub struct Viewer {
    given: Opening,
    end: watch::Receiver<u64>,
    members: Members,
    /// Where the reader is: what a message's cursor says.
    at: Cursor,
    /// Telemetry's cursor at the place in the ring.
    ring_cursor: Arc<str>,
    place: u64,
    /// Everything after that place is in the ring.
    complete: bool,
    /// Telemetry's own stream, while the ring does not reach back far enough.
    catching_up: Option<BoxStream<'static, Result<Incoming>>>,
    /// When it switched into the ring, until the ring is known to be ahead of what it has sent.
    overlap: Option<Instant>,
    /// Readings to pass over, because the reader had been sent them.
    to_skip: u64,
    /// What the reader knew when it resumed, until it is at the end of the ring.
    resumed: Option<Cursor>,
    live: bool,
    out: VecDeque<WatchRoomMetricsResponse>,
    tick: tokio::time::Interval,
    spoke: Instant,
    over: bool,
}

impl Viewer {
    /// Opens a watch where `cursor` says; where it is empty, with everything as it is now.
    pub async fn open(given: Opening, cursor: &str) -> Result<Self> {
        let at = if cursor.is_empty() { Cursor::default() } else { Cursor::decode(cursor, &given.seal)? };
        let end = given.hub.subscribe();
        let members = Members::new(&given.hub.model(), &given.filter, &given.scope);
        let mut tick = tokio::time::interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut viewer = Self {
            given,
            end,
            members,
            ring_cursor: at.reading.as_str().into(),
            to_skip: at.sent,
            at,
            place: 0,
            complete: true,
            catching_up: None,
            overlap: None,
            resumed: None,
            live: false,
            out: VecDeque::new(),
            tick,
            spoke: Instant::now(),
            over: false,
        };
        if viewer.at.reading.is_empty() || viewer.members.is_empty() {
            viewer.show_everything(!cursor.is_empty());
        } else {
            viewer.resumed = Some(viewer.at.clone());
            match viewer.given.hub.place_after(&viewer.at.reading) {
                Some(place) => viewer.place = place,
                None => viewer.catch_up().await?,
            }
        }
        Ok(viewer)
    }

    /// The messages for the reader. Nothing is prepared before it is asked for.
    pub fn stream(self) -> impl Stream<Item = Result<WatchRoomMetricsResponse>> + Send + 'static {
        stream::unfold(self, |mut viewer| async move {
            if viewer.over {
                return None;
            }
            let message = viewer.next().await;
            viewer.over |= message.is_err();
            match message {
                Ok(None) => None,
                Ok(Some(message)) => Some((Ok(message), viewer)),
                Err(error) => Some((Err(error), viewer)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<WatchRoomMetricsResponse>> {
        loop {
            if let Some(message) = self.out.pop_front() {
                self.spoke = Instant::now();
                return Ok(Some(message));
            }
            if self.given.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.over = true;
                self.bookmark(false);
                continue;
            }
            if self.catching_up.is_some() {
                self.read_upstream().await?;
                continue;
            }
            self.end.mark_unchanged();
            match self.given.hub.next(self.place) {
                // what is not needed for a message stays in the ring
                Next::Slots(slots) => {
                    for slot in slots {
                        self.pass(slot);
                        if !self.out.is_empty() {
                            break;
                        }
                    }
                }
                Next::End => self.wait_at_the_end().await,
                Next::Fallen => return Err(self.too_slow()),
            }
        }
    }

    fn too_slow(&self) -> Error {
        let message = "the reader is too slow; resume from the last cursor";
        Error::new(Code::Conflict, "SLOW_READER", message).with("cursor", self.cursor())
    }

    async fn wait_at_the_end(&mut self) {
        if !self.live {
            self.arrive();
            return;
        }
        let deadline = self.given.deadline;
        let deadline = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.end.changed() => {}
            () = deadline => {}
            _ = self.tick.tick() => {
                self.note_stale();
                if self.out.is_empty() && self.spoke.elapsed() >= QUIET {
                    self.bookmark(false);
                }
            }
        }
    }

    /// At the end of the ring for the first time since it was opened: tells what the events did not.
    fn arrive(&mut self) {
        self.live = true;
        let Some(knew) = self.resumed.take() else { return self.bookmark(false) };
        if knew.members != self.members.digest() {
            return self.show_everything(true);
        }
        let view = self.view();
        let now = self.now();
        let stale_differs = knew.stale != self.members.stale_digest_at(&view, now);
        let mut told = Vec::new();
        for ((sensor, member), latest) in self.members.iter_mut().zip(&view.latest) {
            let latest = latest.filter(|latest| latest.time >= member.start);
            let corrected = member.sent.is_some() && latest.is_some_and(|latest| latest.replaces(member.sent.as_ref()));
            let metric = member.show(sensor, latest.or(member.sent).as_ref(), now, view.followed);
            if corrected || (stale_differs && metric.stale && member.stale != Some(true)) {
                told.push((Arc::clone(&member.room), metric.clone()));
            }
            member.sent = latest.or(member.sent);
            member.stale = Some(metric.stale);
        }
        self.tell(told);
        self.bookmark(false);
    }

    /// The whole state as it is now, and a bookmark. `reset` = it replaces what the reader has.
    fn show_everything(&mut self, reset: bool) {
        self.members = Members::new(&self.given.hub.model(), &self.given.filter, &self.given.scope);
        let view = self.view();
        let now = self.now();
        self.place = view.end;
        self.live = true;
        self.resumed = None;
        self.to_skip = 0;
        self.overlap = None;
        self.ring_cursor = Arc::clone(&view.cursor);
        self.at = Cursor { reading: view.cursor.to_string(), ..Cursor::default() };
        let mut told = Vec::with_capacity(view.latest.len());
        for ((sensor, member), latest) in self.members.iter_mut().zip(&view.latest) {
            member.sent = latest.filter(|latest| latest.time >= member.start);
            let metric = member.show(sensor, member.sent.as_ref(), now, view.followed);
            member.stale = Some(metric.stale);
            told.push((Arc::clone(&member.room), metric));
        }
        told.sort_by(|(a, one), (b, other)| (a, &one.metric).cmp(&(b, &other.metric)));
        if reset {
            let as_of = Some(time::from_micros(view.as_of));
            let bookmark = Told::Bookmark(Bookmark { live: false, as_of, reset: true });
            self.out.push_back(WatchRoomMetricsResponse { cursor: String::new(), event: Some(bookmark) });
        }
        self.tell(told);
        // within the snapshot there is nowhere to resume
        self.out.iter_mut().for_each(|message| message.cursor.clear());
        self.bookmark(false);
    }

    fn view(&self) -> View {
        self.given.hub.view(self.given.scope.tenant(), self.members.sensors())
    }

    fn now(&self) -> i64 {
        self.given.clock.now_nanos()
    }

    /// Starts to read telemetry's own stream from where the reader is. The ring's end was taken before: everything before it
    /// is in what that stream sends until it is live.
    async fn catch_up(&mut self) -> Result<()> {
        let view = self.given.hub.view("", []);
        (self.place, self.ring_cursor, self.complete) = (view.end, view.cursor, view.known);
        let sensors = self.members.sensors().map(str::to_owned).collect();
        self.catching_up = Some((self.given.upstream)(self.at.reading.clone(), sensors).await?);
        Ok(())
    }

    async fn read_upstream(&mut self) -> Result<()> {
        let Some(upstream) = self.catching_up.as_mut() else { return Ok(()) };
        let incoming = tokio::select! {
            incoming = upstream.next() => incoming,
            _ = self.tick.tick() => {
                if self.spoke.elapsed() >= QUIET {
                    self.bookmark(false);
                }
                return Ok(());
            }
        };
        let Some(incoming) = incoming.transpose()? else {
            tokio::time::sleep(PAUSE).await;
            return self.catch_up().await;
        };
        if incoming.reset || incoming.batch.as_ref().is_some_and(|batch| self.loses_some(batch)) {
            self.catching_up = None;
            self.show_everything(true);
            return Ok(());
        }
        let after = if incoming.cursor.is_empty() { self.at.reading.clone() } else { incoming.cursor };
        if let Some(batch) = &incoming.batch {
            self.take(batch, &after);
        }
        self.at.reading = after;
        self.at.sent = 0;
        self.follow_model();
        if incoming.live != Some(true) || !self.given.hub.view("", []).known {
            return Ok(());
        }
        if !self.complete || matches!(self.given.hub.next(self.place), Next::Fallen) {
            return self.catch_up().await;
        }
        self.catching_up = None;
        self.overlap = Some(Instant::now());
        self.to_skip = 0;
        Ok(())
    }

    fn pass(&mut self, slot: Slot) {
        self.place += 1;
        match slot.event {
            Event::Readings(batch) if self.loses_some(&batch) => return self.show_everything(true),
            Event::Readings(batch) => {
                if self.overlap.is_none() {
                    self.take(&batch, &slot.cursor);
                } else if self.brings_news(&batch) {
                    self.overlap = None;
                    self.at.sent = 0;
                    self.at.reading = self.ring_cursor.to_string();
                    self.take(&batch, &slot.cursor);
                }
            }
            Event::Model => self.follow_model(),
            Event::Reset => return self.show_everything(true),
            Event::Passed => {}
        }
        let caught = *slot.cursor == *self.at.reading;
        self.overlap = self.overlap.filter(|since| !caught && since.elapsed() < OVERLAP);
        if self.overlap.is_none() {
            self.at.sent = 0;
            slot.cursor.as_ref().clone_into(&mut self.at.reading);
        }
        self.ring_cursor = slot.cursor;
    }

    fn loses_some(&self, batch: &Batch) -> bool {
        *batch.tenant == *self.given.scope.tenant() && self.members.lose_some(batch)
    }

    fn brings_news(&self, batch: &Batch) -> bool {
        *batch.tenant == *self.given.scope.tenant() && batch.samples.iter().any(|sample| self.members.lacks(sample))
    }

    /// Tells the readings of a batch that the reader may see and has not seen, and moves on to the cursor after it.
    fn take(&mut self, batch: &Batch, after: &str) {
        if *batch.tenant != *self.given.scope.tenant() {
            return;
        }
        let now = self.now();
        let followed = true; // it has just arrived
        let first = self.out.len();
        let mut told: Vec<(Arc<str>, RoomMetric)> = Vec::new();
        for sample in &batch.samples {
            let Some(member) = self.members.of(&sample.sensor, sample.reading.time) else { continue };
            if !batch.backfill && self.to_skip > 0 {
                self.to_skip -= 1;
                self.at.sent += 1;
                member.sent = Some(sample.reading);
                continue;
            }
            let news = sample.reading.replaces(member.sent.as_ref());
            let metric = news.then(|| {
                member.sent = Some(sample.reading);
                let metric = member.show(&sample.sensor, Some(&sample.reading), now, followed);
                member.stale = Some(metric.stale);
                (Arc::clone(&member.room), metric)
            });
            if told.last().zip(metric.as_ref()).is_some_and(|(last, next)| last.0 != next.0)
                || told.len() >= MOST_METRICS
            {
                self.tell(std::mem::take(&mut told));
            }
            told.extend(metric);
            self.at.sent += u64::from(!batch.backfill);
        }
        self.tell(told);
        self.at.sent = 0;
        after.clone_into(&mut self.at.reading);
        if self.out.len() > first {
            let cursor = self.cursor();
            if let Some(last) = self.out.back_mut() {
                last.cursor = cursor;
            }
        }
    }

    /// Tells what joined, left or changed since the model was last looked at.
    fn follow_model(&mut self) {
        let model = self.given.hub.model();
        if model.version == self.members.version() {
            return;
        }
        let (left, joined) = self.members.update(&model, &self.given.filter, &self.given.scope);
        for Left { room, metric } in left {
            let removed = RoomMetricRemoved { room_id: room.to_string(), metric: metric.to_string() };
            self.say(Told::Removed(removed));
        }
        let view = self.given.hub.view(self.given.scope.tenant(), joined.iter().map(|sensor| &**sensor));
        let now = self.now();
        let mut told = Vec::with_capacity(joined.len());
        for (sensor, latest) in joined.iter().zip(&view.latest) {
            let Some(member) = self.members.of(sensor, i64::MAX) else { continue };
            let latest = latest.filter(|latest| latest.time >= member.start);
            let shown: Option<Reading> = member.sent.or(latest);
            member.sent = shown;
            let metric = member.show(sensor, shown.as_ref(), now, view.followed);
            member.stale = Some(metric.stale);
            told.push((Arc::clone(&member.room), metric));
        }
        self.tell(told);
    }

    /// Tells which metrics have become stale, or are no longer.
    fn note_stale(&mut self) {
        let now = self.now();
        let followed = self.given.hub.view("", []).followed;
        let mut told = Vec::new();
        for (sensor, member) in self.members.iter_mut() {
            let sent = member.sent;
            let metric = member.show(sensor, sent.as_ref(), now, followed);
            if member.stale.is_some_and(|stale| stale != metric.stale) {
                told.push((Arc::clone(&member.room), metric.clone()));
            }
            member.stale = Some(metric.stale);
        }
        self.tell(told);
    }

    /// Sends metrics in their order, a message for each run of the same room.
    fn tell(&mut self, told: Vec<(Arc<str>, RoomMetric)>) {
        let mut run: Option<RoomChange> = None;
        for (room, metric) in told {
            match &mut run {
                Some(change) if *change.room_id == *room && change.metrics.len() < MOST_METRICS => {
                    change.metrics.push(metric);
                }
                _ => {
                    if let Some(change) = run.replace(RoomChange { room_id: room.to_string(), metrics: vec![metric] }) {
                        self.say(Told::Change(change));
                    }
                }
            }
        }
        if let Some(change) = run {
            self.say(Told::Change(change));
        }
    }

    fn bookmark(&mut self, reset: bool) {
        let view = self.given.hub.view("", []);
        let live = self.live && view.followed && self.catching_up.is_none();
        let as_of = Some(time::from_micros(view.as_of));
        self.say(Told::Bookmark(Bookmark { live, as_of, reset }));
    }

    fn say(&mut self, event: Told) {
        let cursor = self.cursor();
        self.out.push_back(WatchRoomMetricsResponse { cursor, event: Some(event) });
    }

    fn cursor(&self) -> String {
        let knows = Cursor {
            members: self.resumed.as_ref().map_or(self.members.digest(), |knew| knew.members),
            stale: self.resumed.as_ref().map_or(self.members.stale_digest(), |knew| knew.stale),
            ..self.at.clone()
        };
        knows.encode(&self.given.seal)
    }
}

#[cfg(test)]
#[path = "viewer_tests.rs"]
mod tests;
