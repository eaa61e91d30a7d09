//! A consumer's half of following: batches become transactions, and what cannot be applied becomes a dead letter.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::BoxStream;
use sensormesh_types::{Code, Error, Result, Scope, random};
use tokio::time::{Instant, sleep};

use crate::follow::{Incoming, Projection};
use crate::lead::{Lead, Standing};
use crate::{Read, Store, Tx};

/// A bookmark alone is written down at most this often, so that a quiet consumer keeps its place in a busy log.
const BOOKMARK: Duration = Duration::from_secs(60);
/// A message is given so many chances before it is passed, with a pause between them.
const CHANCES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(50);
/// A snapshot of which more must be passed is not worth having.
const MOST_PASSED: usize = 16;

/// Messages for one transaction.
pub(crate) struct Batch<T> {
    messages: Vec<T>,
    /// For each message: where to go on after it; empty within a snapshot.
    cursors: Vec<String>,
    /// Where to go on after all of it, bookmarks included.
    end: String,
    size: usize,
    snapshot: bool,
    /// The last message belongs together with what comes next.
    open: bool,
}

impl<T> Batch<T> {
    /// With `snapshot`, the first message with a cursor completes it.
    pub(crate) fn new(snapshot: bool) -> Self {
        Self { messages: Vec::new(), cursors: Vec::new(), end: String::new(), size: 0, snapshot, open: false }
    }

    pub(crate) fn push(&mut self, message: Incoming<T>) {
        self.size += message.size;
        self.open = message.cursor.is_empty();
        if !self.open {
            self.end.clone_from(&message.cursor);
        }
        if let Some(payload) = message.payload {
            self.messages.push(payload);
            self.cursors.push(message.cursor);
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// It is a snapshot, or a part of something, whose end has not come.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.open
    }

    /// There is something to take, and it is whole.
    pub(crate) fn is_ready(&self) -> bool {
        !self.end.is_empty() && !self.open
    }

    /// The place nearest to the middle of a part where a reader could resume.
    fn middle(&self, part: &Range<usize>) -> Option<usize> {
        let middle = part.start.midpoint(part.end);
        let resumable = |at: &usize| !self.cursors[at - 1].is_empty() && self.cursors[at - 1] != self.cursors[*at];
        (part.start + 1..part.end).filter(resumable).min_by_key(|at| at.abs_diff(middle))
    }
}

/// A consumer and its place in the other side's log.
pub(crate) struct Consumer<P: Projection> {
    store: Store,
    name: &'static str,
    projection: P,
    cursor: Option<String>,
    /// When the cursor was written down, and which.
    stored: (Instant, Option<String>),
    in_doubt: Option<Doubt<P::Message>>,
    lead: Lead,
}

/// A commit that failed: whether it took effect is only known by looking.
struct Doubt<T> {
    reset: bool,
    messages: Vec<T>,
    cursor: String,
}

impl<P: Projection> Consumer<P> {
    pub(crate) async fn load(store: &Store, name: &'static str, projection: P) -> Result<Self> {
        // with the connection that writes, so that a commit on its way, of one who was here before, is seen
        let mut tx = store.tx(&Scope::system()).await?;
        let count = "SELECT COUNT(*) AS n FROM dead_letter WHERE consumer = $1";
        let letters = tx.query(count).bind(name).fetch_one().await?.get::<u64>("n")?;
        store.note_consumer(name, |state| state.dead_letters = letters);
        let cursor = stored_cursor(&mut tx, name).await?;
        drop(tx);
        let stored = (Instant::now(), cursor.clone());
        let lead = Lead::new(store, name);
        Ok(Self { store: store.clone(), name, projection, cursor, stored, in_doubt: None, lead })
    }

    /// Looks whether a commit whose end nobody saw took effect, so that it does not happen twice.
    pub(crate) async fn recall(&mut self) -> Result<()> {
        let Some(doubt) = &self.in_doubt else { return Ok(()) };
        // with the connection that writes, so that a commit still on its way is seen
        let mut tx = self.store.tx(&Scope::system()).await?;
        let stored = stored_cursor(&mut tx, self.name).await?;
        if stored.as_ref() == Some(&doubt.cursor) {
            if doubt.reset || !doubt.messages.is_empty() {
                self.projection.applied(doubt.reset, &doubt.messages);
            }
            self.cursor.clone_from(&stored);
            self.stored = (Instant::now(), stored);
        }
        self.in_doubt = None;
        Ok(())
    }

    pub(crate) async fn open(&mut self) -> Result<BoxStream<'static, Result<Incoming<P::Message>>>> {
        // what another replica has applied is in the database, and nowhere else for certain
        if self.lead.stand().await? != Standing::Leads {
            self.resume().await?;
        }
        self.projection.open(self.cursor.clone()).await
    }

    pub(crate) fn needs_snapshot(&self) -> bool {
        self.cursor.is_none()
    }

    /// The next stream begins with a snapshot. What is stored stays until that has come.
    pub(crate) fn forget(&mut self) {
        self.cursor = None;
    }

    /// Goes on where the replica that applies the stream stands, or has left off; answers whether that is another place.
    async fn resume(&mut self) -> Result<bool> {
        // with the connection that writes, so that a commit still on its way is seen
        let mut tx = self.store.tx(&Scope::system()).await?;
        let stored = stored_cursor(&mut tx, self.name).await?;
        let moved = stored != self.cursor;
        self.cursor.clone_from(&stored);
        self.stored = (Instant::now(), stored);
        self.in_doubt = None;
        Ok(moved)
    }

    /// Applies a batch; what cannot be applied is passed. Where another replica applies the stream, only what is kept in
    /// memory is brought up to date.
    pub(crate) async fn take(&mut self, batch: &Batch<P::Message>) -> Result<()> {
        let standing = self.lead.stand().await?;
        if standing == Standing::TookOver && self.resume().await? {
            let message = "this replica applies the stream from now on, from where it was left";
            return Err(Error::unavailable("TOOK_OVER", message, Duration::ZERO));
        }
        if standing == Standing::Follows {
            if batch.snapshot || !batch.messages.is_empty() {
                self.projection.applied(batch.snapshot, &batch.messages);
            }
        } else if batch.snapshot {
            self.take_snapshot(batch).await?;
        } else if !batch.messages.is_empty() {
            self.take_messages(batch).await?;
        } else if self.stored.0.elapsed() >= BOOKMARK && self.stored.1.as_ref() != Some(&batch.end) {
            self.commit(false, &[], &[], &batch.end).await?;
        }
        self.cursor = Some(batch.end.clone());
        let now = self.store.clock().now_micros();
        self.store.note_consumer(self.name, |state| {
            state.connected = true;
            state.last_time = now;
            state.error = None;
        });
        Ok(())
    }

    /// All in one transaction; where that fails, in halves, in order, down to the message that is to blame.
    async fn take_messages(&mut self, batch: &Batch<P::Message>) -> Result<()> {
        let mut waiting = Vec::new();
        waiting.push(0..batch.messages.len());
        while let Some(part) = waiting.pop() {
            let cursor = if part.end == batch.messages.len() { &batch.end } else { &batch.cursors[part.end - 1] };
            let messages = &batch.messages[part.clone()];
            let Err(error) = self.commit(false, messages, &[], cursor).await else { continue };
            if is_passing(&error) {
                return Err(error);
            }
            if let Some(middle) = batch.middle(&part) {
                waiting.push(middle..part.end);
                waiting.push(part.start..middle);
            } else if let Err(error) = self.insist(messages, cursor, error).await? {
                let letters: Vec<_> = messages.iter().map(|message| (message, &error)).collect();
                self.commit(false, &[], &letters, cursor).await?;
            }
        }
        Ok(())
    }

    /// Gives what fails alone its last chances. The inner result is the verdict.
    async fn insist(&mut self, messages: &[P::Message], cursor: &str, first: Error) -> Result<Result<()>> {
        let mut error = first;
        for _ in 1..CHANCES {
            sleep(PAUSE).await;
            match self.commit(false, messages, &[], cursor).await {
                Ok(()) => return Ok(Ok(())),
                Err(again) if is_passing(&again) => return Err(again),
                Err(again) => error = again,
            }
        }
        Ok(Err(error))
    }

    /// A snapshot replaces what was there before, so it is one transaction. A message that is to blame is the last one of
    /// the shortest beginning that fails; beginnings are tried in transactions that are undone.
    async fn take_snapshot(&mut self, batch: &Batch<P::Message>) -> Result<()> {
        let mut error = match self.commit(true, &batch.messages, &[], &batch.end).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let mut messages = batch.messages.clone();
        let mut passed: Vec<(P::Message, Error)> = Vec::new();
        while !is_passing(&error) && !messages.is_empty() && passed.len() < MOST_PASSED {
            self.attempt(&[]).await?;
            let (mut good, mut bad) = (0, messages.len());
            while bad - good > 1 {
                let middle = good.midpoint(bad);
                match self.attempt(&messages[..middle]).await {
                    Ok(()) => good = middle,
                    Err(again) if is_passing(&again) => return Err(again),
                    Err(again) => (bad, error) = (middle, again),
                }
            }
            passed.push((messages.remove(bad - 1), error));
            let letters: Vec<_> = passed.iter().map(|(message, error)| (message, error)).collect();
            match self.commit(true, &messages, &letters, &batch.end).await {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
        Err(error)
    }

    /// Whether a beginning of a snapshot can be applied. Nothing of it stays.
    async fn attempt(&self, messages: &[P::Message]) -> Result<()> {
        let mut tx = self.store.tx(&Scope::system()).await?;
        self.apply(&mut tx, true, messages).await?;
        tx.rollback().await
    }

    /// One transaction: the effect, what was passed, the cursor.
    async fn commit(
        &mut self,
        reset: bool,
        messages: &[P::Message],
        letters: &[(&P::Message, &Error)],
        cursor: &str,
    ) -> Result<()> {
        let mut tx = self.store.tx(&Scope::system()).await?;
        self.lead.fence(&mut tx).await?;
        let effect = reset || !messages.is_empty();
        if effect {
            self.apply(&mut tx, reset, messages).await?;
        }
        for (message, error) in letters {
            self.keep(&mut tx, message, error, cursor).await?;
        }
        let now = self.store.clock().now_micros();
        tx.query(
            "INSERT INTO consumer (name, cursor, time) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor, time = excluded.time",
        )
        .bind(self.name)
        .bind(cursor)
        .bind(now)
        .execute()
        .await?;
        if let Err(error) = tx.commit().await {
            self.in_doubt = Some(Doubt { reset, messages: messages.to_vec(), cursor: cursor.to_owned() });
            return Err(error);
        }
        if effect {
            self.projection.applied(reset, messages);
        }
        self.cursor = Some(cursor.to_owned());
        self.stored = (Instant::now(), self.cursor.clone());
        self.store.note_consumer(self.name, |state| state.dead_letters += letters.len() as u64);
        Ok(())
    }

    /// A handler that panics has failed.
    async fn apply(&self, tx: &mut Tx, reset: bool, messages: &[P::Message]) -> Result<()> {
        let applied = AssertUnwindSafe(self.projection.apply(tx, reset, messages)).catch_unwind().await;
        applied.unwrap_or_else(|_| Err(Error::internal(format!("the handler of {} panicked", self.name))))
    }

    async fn keep(&self, tx: &mut Tx, message: &P::Message, error: &Error, cursor: &str) -> Result<()> {
        tracing::error!(
            consumer = self.name,
            ?error,
            "a message keeps failing and is passed; it is kept as a dead letter"
        );
        let now = self.store.clock().now_micros();
        tx.query(
            "INSERT INTO dead_letter (consumer, id, time, cursor, error, message) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(self.name)
        .bind(random::id(now))
        .bind(now)
        .bind(cursor)
        .bind(format!("{error:?}"))
        .bind(self.projection.letter(message))
        .execute()
        .await?;
        Ok(())
    }
}

async fn stored_cursor(read: &mut Read, name: &str) -> Result<Option<String>> {
    let row = read.query("SELECT cursor FROM consumer WHERE name = $1").bind(name).fetch_optional().await?;
    row.map(|row| row.get("cursor")).transpose()
}

/// Whether trying again later may help, without a message being to blame.
fn is_passing(error: &Error) -> bool {
    use Code::{Conflict, Corrupt, Exhausted, Timeout, Unavailable};
    matches!(error.code(), Unavailable | Timeout | Exhausted | Conflict | Corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(cursors: &[&str]) -> Batch<usize> {
        let mut batch = Batch::new(false);
        for (i, cursor) in cursors.iter().enumerate() {
            batch.push(Incoming { cursor: (*cursor).to_owned(), payload: Some(i), size: 1 });
        }
        batch
    }

    #[test]
    fn a_batch_is_halved_only_where_it_can_be_resumed() {
        assert_eq!(batch(&["1", "2", "3", "4"]).middle(&(0..4)), Some(2));
        assert_eq!(batch(&["1", "1", "1", "2"]).middle(&(0..4)), Some(3));
        assert_eq!(batch(&["1", "2", "2", "2"]).middle(&(0..4)), Some(1));
        assert_eq!(batch(&["1", "1", "1"]).middle(&(0..3)), None);
        assert_eq!(batch(&["1", "2"]).middle(&(1..2)), None);
    }

    #[test]
    fn a_snapshot_is_ready_with_its_bookmark_only() {
        let mut batch = Batch::new(true);
        batch.push(Incoming { cursor: String::new(), payload: Some(1), size: 10 });
        assert!(batch.is_incomplete() && !batch.is_ready());
        batch.push(Incoming { cursor: "7".to_owned(), payload: None, size: 0 });
        assert!(!batch.is_incomplete() && batch.is_ready());
    }

    /// Counts what it is told to have applied.
    #[derive(Default)]
    struct Counted(std::sync::atomic::AtomicUsize);

    impl Projection for Counted {
        type Message = i64;

        async fn open(&self, _: Option<String>) -> Result<BoxStream<'static, Result<Incoming<i64>>>> {
            Err(Error::internal("nothing to follow"))
        }

        async fn apply(&self, _: &mut Tx, _: bool, _: &[i64]) -> Result<()> {
            Ok(())
        }

        fn applied(&self, _: bool, messages: &[i64]) {
            self.0.fetch_add(messages.len(), std::sync::atomic::Ordering::Relaxed);
        }

        fn letter(&self, _: &i64) -> Vec<u8> {
            Vec::new()
        }
    }

    #[tokio::test]
    async fn a_commit_whose_end_nobody_saw_is_not_done_again() {
        let temporary = Store::open_temp("things", &[], sensormesh_types::Clock::fixed(0)).await.expect("store");
        let mut consumer = Consumer::load(&temporary.store, "numbers", Counted::default()).await.expect("consumer");
        consumer.commit(false, &[1], &[], "1").await.expect("committed");
        let lost = |cursor: &str| Some(Doubt { reset: false, messages: vec![2, 3], cursor: cursor.to_owned() });
        consumer.in_doubt = lost("3");
        consumer.recall().await.expect("looked up");
        assert_eq!(consumer.cursor.as_deref(), Some("1"), "it took no effect");
        let sql = "UPDATE consumer SET cursor = '3' WHERE name = 'numbers'";
        let mut tx = temporary.store.tx(&Scope::system()).await.expect("tx");
        tx.query(sql).execute().await.expect("as the lost commit did");
        tx.commit().await.expect("commit");
        consumer.in_doubt = lost("3");
        consumer.recall().await.expect("looked up");
        assert_eq!(consumer.cursor.as_deref(), Some("3"), "it took effect");
        assert_eq!(consumer.projection.0.load(std::sync::atomic::Ordering::Relaxed), 3);
    }
}
