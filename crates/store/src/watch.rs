//! Watching the log: the present state, or what was missed, then what happens.

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use sensormesh_types::{Error, Result, Scope};
use tokio::time::Instant;

use crate::log::{self, LogEntry};
use crate::{Read, Store};

/// A watcher hears from us at least this often.
const BOOKMARK: Duration = Duration::from_secs(5);
/// Entries read from the database at once. What a slow reader has not taken stays in the log, not in memory.
const PAGE: u32 = 128;

/// Where to go on, and what may be seen.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// The last cursor the reader has; empty = the present state first.
    pub cursor: String,
    /// What the reader may see: entries of other tenants and sites are passed over.
    pub scope: Scope,
    /// When to end, cleanly and after a bookmark.
    pub until: Option<Instant>,
}

impl WatchRequest {
    /// From `cursor` on, for ever.
    pub fn new(cursor: impl Into<String>, scope: Scope) -> Self {
        Self { cursor: cursor.into(), scope, until: None }
    }

    /// Ends at that moment.
    #[must_use]
    pub fn until(self, until: Option<Instant>) -> Self {
        Self { until, ..self }
    }
}

/// One message of a watch.
#[derive(Clone, Debug, PartialEq)]
pub struct Event<T> {
    /// Resume after this message. Empty within a snapshot, which is complete with the first bookmark.
    pub cursor: String,
    /// What it says.
    pub kind: EventKind<T>,
}

/// What a message of a watch says.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind<T> {
    /// A part of the present state.
    Snapshot(T),
    /// Something that was committed.
    Entry(LogEntry),
    /// Everything up to the cursor has been sent.
    Bookmark {
        /// There is no backlog: what follows is sent as it happens.
        live: bool,
        /// When that was true, in microseconds since the Unix epoch.
        as_of: i64,
    },
}

/// Reads the present state; in the transaction that also reads where the log ends.
pub type Snapshot<T> = Box<dyn for<'a> FnOnce(&'a mut Read) -> BoxFuture<'a, Result<Vec<T>>> + Send>;

struct Watch<T> {
    store: Store,
    request: WatchRequest,
    snapshot: Option<Snapshot<T>>,
    ready: VecDeque<Event<T>>,
    /// Everything up to here was read.
    seen: u64,
    live: bool,
    marked: Instant,
    started: bool,
    ended: bool,
}

impl Store {
    /// Serves the log. Without a cursor: everything that `snapshot` reads, a bookmark, then every entry that is committed;
    /// with one: every entry after it. Ordered, each once, none left out, a bookmark at least every 5 s.
    ///
    /// A cursor of another database, or past what is kept, ends the stream with OUT_OF_RANGE and the earliest cursor; a
    /// forged one with INVALID_ARGUMENT.
    pub fn watch<T: Send + 'static>(
        &self,
        request: WatchRequest,
        snapshot: impl for<'a> FnOnce(&'a mut Read) -> BoxFuture<'a, Result<Vec<T>>> + Send + 'static,
    ) -> BoxStream<'static, Result<Event<T>>> {
        let watch = Watch {
            store: self.clone(),
            request,
            snapshot: Some(Box::new(snapshot)),
            ready: VecDeque::new(),
            seen: 0,
            live: false,
            marked: Instant::now(),
            started: false,
            ended: false,
        };
        futures::stream::unfold(watch, |mut watch| async move {
            if watch.ended {
                return None;
            }
            match watch.next().await {
                Ok(event) => event.map(|event| (Ok(event), watch)),
                Err(error) => {
                    watch.ended = true;
                    Some((Err(error), watch))
                }
            }
        })
        .boxed()
    }

    /// The cursor of a place in the service's own log.
    pub fn cursor_at(&self, seq: u64) -> String {
        self.cursors().encode(&[(0, seq)])
    }
}

impl<T> Watch<T> {
    async fn next(&mut self) -> Result<Option<Event<T>>> {
        if !self.started {
            self.start().await?;
            self.started = true;
        }
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.request.until.is_some_and(|until| Instant::now() >= until) {
                self.ended = true;
                return Ok(Some(self.bookmark()));
            }
            let before = self.seen;
            self.read_page().await?;
            let caught_up = self.seen - before < u64::from(PAGE);
            if !self.ready.is_empty() {
                continue;
            }
            if caught_up && !self.live {
                self.live = true;
                return Ok(Some(self.bookmark()));
            }
            if self.marked.elapsed() >= BOOKMARK {
                return Ok(Some(self.bookmark()));
            }
            if caught_up {
                self.store.inner.tail.beyond(self.seen, self.patience()).await;
            }
        }
    }

    /// Until the next bookmark is due, or the end.
    fn patience(&self) -> Duration {
        let due = self.marked + BOOKMARK;
        let next = self.request.until.map_or(due, |until| until.min(due));
        next.saturating_duration_since(Instant::now())
    }

    async fn start(&mut self) -> Result<()> {
        let scope = self.request.scope.clone();
        let mut read = self.store.read(&scope).await?;
        let head = log::head(&mut read).await?;
        if self.request.cursor.is_empty() {
            let snapshot = self.snapshot.take().ok_or_else(|| Error::internal("a watch was started twice"))?;
            let state = snapshot(&mut read).await?;
            let events = state.into_iter().map(|item| Event { cursor: String::new(), kind: EventKind::Snapshot(item) });
            self.ready.extend(events);
            self.seen = head.seq;
            self.live = true;
            let bookmark = self.bookmark();
            self.ready.push_back(bookmark);
            return Ok(());
        }
        let cursors = self.store.cursors();
        let seq = cursors.decode(&self.request.cursor)?.first().map_or(0, |(_, seq)| *seq);
        let earliest = [(0, head.trimmed)];
        if seq < head.trimmed {
            return Err(cursors.out_of_range("the log no longer goes back that far", &earliest));
        }
        if seq > head.seq {
            return Err(cursors.out_of_range("the cursor lies beyond the end of the log", &earliest));
        }
        self.seen = seq;
        Ok(())
    }

    async fn read_page(&mut self) -> Result<()> {
        let mut read = self.store.read(&self.request.scope).await?;
        let entries = log::page(&mut read, self.seen, PAGE).await?;
        if let Some(first) = entries.first()
            && first.seq != self.seen + 1
        {
            let trimmed = log::head(&mut read).await?.trimmed;
            return Err(self.store.cursors().out_of_range("the log was cut while it was read", &[(0, trimmed)]));
        }
        for entry in entries {
            self.seen = entry.seq;
            if self.request.scope.admits(&entry.tenant, &entry.site) {
                let cursor = self.store.cursor_at(entry.seq);
                self.ready.push_back(Event { cursor, kind: EventKind::Entry(entry) });
            }
        }
        Ok(())
    }

    fn bookmark(&mut self) -> Event<T> {
        self.marked = Instant::now();
        let as_of = self.store.clock().now_micros();
        Event { cursor: self.store.cursor_at(self.seen), kind: EventKind::Bookmark { live: self.live, as_of } }
    }
}
