//! Following another service's watch stream: each effect in one transaction with the cursor behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use sensormesh_types::{Code, Error, Result, random};
use tokio::time::{Instant, sleep, timeout};

use crate::consume::{Batch, Consumer};
use crate::{Store, Tx};

/// The most that one transaction takes, and how long it is gathered.
const BYTES: usize = 4 << 20;
const WAIT: Duration = Duration::from_millis(20);
/// The pause before the stream is opened again; doubled up to [`LONGEST_PAUSE`], with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The other side sends a bookmark every 5 s; silence for longer means that the connection is dead.
const SILENCE: Duration = Duration::from_secs(20);

/// A message of the followed stream.
#[derive(Clone, Debug)]
pub struct Incoming<T> {
    /// Resume after it; empty within a snapshot. A message with the cursor of the one before it is still part of that.
    pub cursor: String,
    /// What it says; `None` for a bookmark, which only moves the cursor.
    pub payload: Option<T>,
    /// Bytes it counts for.
    pub size: usize,
}

/// What a consumer makes of a stream: a table, a rule's state, a relay.
pub trait Projection: Send + Sync + 'static {
    /// What the stream's messages say.
    type Message: Clone + Send + Sync + 'static;

    /// Opens the stream after `cursor`; without one it begins with a snapshot. Where replicas share the database, it may hold
    /// what another one has applied, up to the cursor at least: what is kept in memory is read from it anew.
    fn open(
        &self,
        cursor: Option<String>,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<Incoming<Self::Message>>>>> + Send;

    /// Takes messages into account. With `reset`, they are the whole state and replace what was there before.
    /// Called again after a failure or a crash, with a transaction in which nothing has happened; what it does outside of
    /// the transaction may therefore happen more than once, or for a transaction that is undone.
    fn apply(&self, tx: &mut Tx, reset: bool, messages: &[Self::Message]) -> impl Future<Output = Result<()>> + Send;

    /// Called when what was applied is committed, here or, before long, by another replica: for what is also kept in memory.
    /// What was told may be told again.
    fn applied(&self, _reset: bool, _messages: &[Self::Message]) {}

    /// A message as it is kept where it had to be passed.
    fn letter(&self, message: &Self::Message) -> Vec<u8>;
}

/// How a consumer does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerState {
    /// It hears from the other side.
    pub connected: bool,
    /// When it last heard, in microseconds since the Unix epoch; 0 = never.
    pub last_time: i64,
    /// Messages that it had to pass.
    pub dead_letters: u64,
    /// The last failure, until it hears again.
    pub error: Option<String>,
}

/// The consumers of a store by name.
pub(crate) type Consumers = BTreeMap<&'static str, ConsumerState>;

impl Store {
    /// Follows a stream until it is dropped, which is safe at any moment. It ends with an error only when the database
    /// of the consumer cannot be used at the start; the other side may come and go.
    ///
    /// Everything that arrived while the last commit ran (at most 4 MiB, gathered for at most 20 ms) goes into one
    /// transaction with the cursor. A snapshot is one transaction, whatever its size. A message that cannot be applied is
    /// found by halving, kept as a dead letter, shown by [`Store::consumers`], and passed.
    ///
    /// Of several replicas on one PostgreSQL that follow under one name, one applies the stream; [`Projection::applied`] is
    /// called at every one of them, at the others as soon as they hear of a message. When the one is gone, another goes on
    /// where it left off, within 20 s.
    pub async fn follow<P: Projection>(&self, name: &'static str, projection: P) -> Result<()> {
        let mut consumer = Consumer::load(self, name, projection).await?;
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            let ended = match consumer.recall().await {
                Ok(()) => follow_once(&mut consumer).await,
                Err(error) => Err(error),
            };
            let error = match ended {
                Ok(()) => None,
                Err(error) if refuses_cursor(&error) => {
                    tracing::info!(consumer = name, %error, "starts again from a snapshot");
                    consumer.forget();
                    None
                }
                Err(error) => Some(error),
            };
            if error.is_none() || started.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            self.note_consumer(name, |state| {
                state.connected = false;
                state.error = error.as_ref().map(ToString::to_string);
            });
            if let Some(error) = &error {
                tracing::debug!(consumer = name, ?error, "the stream ended");
            }
            sleep(pause.mul_f64(0.5 + random::fraction())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// How the consumers of this store do, by name.
    pub fn consumers(&self) -> BTreeMap<&'static str, ConsumerState> {
        self.inner.consumers.lock().clone()
    }

    pub(crate) fn note_consumer(&self, name: &'static str, change: impl FnOnce(&mut ConsumerState)) {
        change(self.inner.consumers.lock().entry(name).or_default());
    }
}

/// Whether the other side does not go on from our cursor: it was restored, made anew, or has cut its log.
fn refuses_cursor(error: &Error) -> bool {
    match error.code() {
        Code::Gone => true,
        Code::Invalid => error.fields().iter().any(|field| field.field == "cursor"),
        _ => false,
    }
}

/// Follows one stream to its end.
async fn follow_once<P: Projection>(consumer: &mut Consumer<P>) -> Result<()> {
    let mut stream = consumer.open().await?;
    let mut batch = Batch::new(consumer.needs_snapshot());
    let mut ended: Option<Result<()>> = None;
    loop {
        if !batch.is_ready() {
            if let Some(ended) = ended {
                return ended;
            }
            ended = gather(&mut stream, &mut batch).await;
            continue;
        }
        // what arrives while this commit runs is the next transaction
        let taken = std::mem::replace(&mut batch, Batch::new(false));
        let mut commit = std::pin::pin!(consumer.take(&taken));
        loop {
            tokio::select! {
                done = &mut commit => break done?,
                message = stream.next(), if ended.is_none() && batch.size() < BYTES => {
                    ended = push(message, &mut batch);
                }
            }
        }
    }
}

type Stream<T> = BoxStream<'static, Result<Incoming<T>>>;

/// Waits for a message, and takes what is there already with it; all of it while a snapshot is incomplete.
/// Returns how the stream ended, if it did.
async fn gather<T>(stream: &mut Stream<T>, batch: &mut Batch<T>) -> Option<Result<()>> {
    let mut began: Option<Instant> = None;
    loop {
        let message = if began.is_none() || batch.is_incomplete() {
            let Ok(message) = timeout(SILENCE, stream.next()).await else {
                let message = "the other side has gone silent";
                return Some(Err(Error::unavailable("STREAM_SILENT", message, FIRST_PAUSE)));
            };
            message
        } else if batch.size() < BYTES && began.is_some_and(|began| began.elapsed() < WAIT) {
            stream.next().now_or_never()?
        } else {
            return None;
        };
        began.get_or_insert_with(Instant::now);
        if let Some(ended) = push(message, batch) {
            return Some(ended);
        }
    }
}

fn push<T>(message: Option<Result<Incoming<T>>>, batch: &mut Batch<T>) -> Option<Result<()>> {
    match message {
        Some(Ok(message)) => {
            batch.push(message);
            None
        }
        Some(Err(error)) => Some(Err(error)),
        None => Some(Ok(())),
    }
}
