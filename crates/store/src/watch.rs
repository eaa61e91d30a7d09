//! Watching the log: the present state, or what was missed, then what happens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use sensormesh_types::{Code, Error, Result, Scope};
use tokio::time::Instant;

use crate::log::{self, LogEntry};
use crate::tail::{Recent, beyond};
use crate::{Cursors, Read, Store};

/// A watcher hears from us at least this often.
const BOOKMARK: Duration = Duration::from_secs(5);
/// The most that is held for one reader. What a slow reader has not taken stays in the log, not in memory.
const PAGE_BYTES: u64 = 256 << 10;
/// A reader that takes nothing for so long while more than that waits for it is ended, with its cursor.
const STALL: Duration = Duration::from_secs(10);

/// Where a reader goes on, and what it may see.
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
    Entry(Arc<LogEntry>),
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
    cursors: Cursors,
    head: tokio::sync::watch::Receiver<u64>,
    request: WatchRequest,
    /// Taken by the first poll.
    snapshot: Option<Snapshot<T>>,
    ready: VecDeque<Event<T>>,
    /// Everything up to here was read.
    seen: u64,
    live: bool,
    marked: Instant,
    /// When the reader was last given something.
    given: Instant,
    ended: bool,
}

impl Store {
    /// Serves the log to a reader. Without a cursor: everything that `snapshot` reads, a bookmark, then every entry that
    /// is committed from then on; with one: every entry after it, a bookmark, then what happens. In order, each once, none
    /// left out, a bookmark at least every 5 s.
    ///
    /// A cursor of another database, of the future or past what is kept ends the stream with OUT_OF_RANGE and
    /// `earliest_cursor`; a forged one with INVALID_ARGUMENT; a reader that takes nothing for 10 s while more than 256 KiB
    /// wait is ended with ABORTED and `cursor`.
    pub fn watch<T: Send + 'static>(
        &self,
        request: WatchRequest,
        snapshot: impl for<'a> FnOnce(&'a mut Read) -> BoxFuture<'a, Result<Vec<T>>> + Send + 'static,
    ) -> BoxStream<'static, Result<Event<T>>> {
        let now = Instant::now();
        let watch = Watch {
            store: self.clone(),
            cursors: self.cursors(),
            head: self.inner.tail.subscribe(),
            request,
            snapshot: Some(Box::new(snapshot)),
            ready: VecDeque::new(),
            seen: 0,
            live: false,
            marked: now,
            given: now,
            ended: false,
        };
        futures::stream::unfold(watch, |mut watch| async move {
            if watch.ended {
                return None;
            }
            let event = watch.next().await;
            watch.ended |= event.is_err();
            watch.given = Instant::now();
            Some((event, watch))
        })
        .boxed()
    }

    /// The cursor of a place in the service's own log: what a reader that has seen everything up to `seq` would have.
    pub fn cursor_at(&self, seq: u64) -> String {
        self.cursors().encode(&[(0, seq)])
    }
}

impl<T> Watch<T> {
    async fn next(&mut self) -> Result<Event<T>> {
        if let Some(snapshot) = self.snapshot.take() {
            self.begin(snapshot).await?;
        } else if self.given.elapsed() > STALL {
            self.still_keeps_up().await?;
        }
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if self.request.until.is_some_and(|until| Instant::now() >= until) {
                self.ended = true;
                return Ok(self.bookmark());
            }
            let caught_up = self.fill().await?;
            if !self.ready.is_empty() {
                continue;
            }
            let due = self.marked.elapsed() >= BOOKMARK;
            if due || (caught_up && !self.live) {
                self.live |= caught_up;
                return Ok(self.bookmark());
            }
            if caught_up {
                let due = self.marked + BOOKMARK;
                let next = self.request.until.map_or(due, |until| until.min(due));
                let patience = next.saturating_duration_since(Instant::now());
                beyond(&mut self.head, self.seen, patience).await;
            }
        }
    }

    async fn begin(&mut self, snapshot: Snapshot<T>) -> Result<()> {
        let cursor = &self.request.cursor;
        let decoded = if cursor.is_empty() { None } else { Some(self.cursors.decode(cursor)?) };
        let mut read = self.store.read(&self.request.scope).await?;
        let head = log::head(&mut read).await?;
        let Some(positions) = decoded else {
            let state = snapshot(&mut read).await?;
            let events = state.into_iter().map(|item| Event { cursor: String::new(), kind: EventKind::Snapshot(item) });
            self.ready.extend(events);
            self.seen = head.seq;
            self.live = true;
            let bookmark = self.bookmark();
            self.ready.push_back(bookmark);
            return Ok(());
        };
        let &[(0, seq)] = positions.as_slice() else {
            return Err(crate::cursor::gone("the cursor belongs to another kind of log"));
        };
        let earliest = [(0, head.trimmed)];
        if seq < head.trimmed {
            return Err(self.cursors.out_of_range("the log no longer goes back that far", &earliest));
        }
        if seq > head.seq {
            return Err(self.cursors.out_of_range("the cursor lies beyond the end of the log", &earliest));
        }
        self.seen = seq;
        Ok(())
    }

    /// Takes what comes next from the entries in memory or from the log. Returns whether that was all there is.
    async fn fill(&mut self) -> Result<bool> {
        if let Recent::Entries(entries) = self.store.inner.tail.after(self.seen, PAGE_BYTES) {
            let caught_up = entries.is_empty();
            entries.into_iter().for_each(|entry| self.take(entry));
            return Ok(caught_up);
        }
        let mut read = self.store.read(&self.request.scope).await?;
        let entries = log::page(&mut read, self.seen, PAGE_BYTES).await?;
        if entries.first().is_none_or(|first| first.seq != self.seen + 1) {
            let trimmed = log::head(&mut read).await?.trimmed;
            if trimmed > self.seen {
                return Err(self.cursors.out_of_range("the log was cut while it was read", &[(0, trimmed)]));
            }
        }
        let caught_up = entries.is_empty();
        entries.into_iter().for_each(|entry| self.take(Arc::new(entry)));
        Ok(caught_up)
    }

    fn take(&mut self, entry: Arc<LogEntry>) {
        self.seen = entry.seq;
        if self.request.scope.admits(&entry.tenant, &entry.site) {
            let cursor = self.cursors.encode(&[(0, entry.seq)]);
            self.ready.push_back(Event { cursor, kind: EventKind::Entry(entry) });
        }
    }

    fn bookmark(&mut self) -> Event<T> {
        self.marked = Instant::now();
        let as_of = self.store.clock().now_micros();
        let kind = EventKind::Bookmark { live: self.live, as_of };
        Event { cursor: self.cursors.encode(&[(0, self.seen)]), kind }
    }

    /// Ends a reader that has been taking nothing while much waits for it; it goes on from where it is.
    async fn still_keeps_up(&mut self) -> Result<()> {
        let first_unread = match self.ready.front() {
            Some(Event { kind: EventKind::Entry(entry), .. }) => entry.seq - 1,
            Some(_) => return Ok(()),
            None => self.seen,
        };
        let mut read = self.store.read(&self.request.scope).await?;
        if !self.live || log::bytes_after(&mut read, first_unread).await? <= PAGE_BYTES {
            return Ok(());
        }
        let cursor = self.cursors.encode(&[(0, first_unread)]);
        let message = "the reader was too slow; go on from the cursor";
        Err(Error::new(Code::Conflict, "TOO_SLOW", message).with("cursor", cursor))
    }
}
