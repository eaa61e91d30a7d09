//! Following another service's watch stream: each effect in one transaction with the cursor behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use sensormesh_types::{Code, Error, Result, Scope, random};
use tokio::time::{Instant, sleep, timeout};

use crate::{Store, Tx};

/// The most that one transaction takes.
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
    /// Resume after it; empty within a snapshot.
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

    /// Opens the stream after `cursor`; without one it begins with a snapshot.
    fn open(
        &self,
        cursor: Option<String>,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<Incoming<Self::Message>>>>> + Send;

    /// Takes messages into account. With `reset`, they are the whole state and replace what was there before.
    /// Called again after a failure or a crash, with a transaction in which nothing has happened.
    fn apply(&self, tx: &mut Tx, reset: bool, messages: &[Self::Message]) -> impl Future<Output = Result<()>> + Send;

    /// Called when what was applied is committed: for what is also kept in memory.
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
    /// of the consumer cannot be used; the other side may come and go.
    pub async fn follow<P: Projection>(&self, name: &'static str, projection: P) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        let mut cursor = self.load_cursor(name).await?;
        loop {
            let started = Instant::now();
            let error = match self.follow_once(name, &projection, &mut cursor).await {
                Ok(()) => None,
                Err(error) if error.code() == Code::Gone => {
                    tracing::info!(consumer = name, %error, "starts again from a snapshot");
                    cursor = None;
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

    async fn follow_once<P: Projection>(
        &self,
        name: &'static str,
        projection: &P,
        cursor: &mut Option<String>,
    ) -> Result<()> {
        let mut stream = projection.open(cursor.clone()).await?;
        let mut snapshot = cursor.is_none();
        let mut batch: Vec<Incoming<P::Message>> = Vec::new();
        loop {
            let Ok(next) = timeout(SILENCE, stream.next()).await else {
                return Err(Error::unavailable("STREAM_SILENT", "the other side has gone silent", FIRST_PAUSE));
            };
            let Some(first) = next else { return Ok(()) };
            batch.push(first?);
            let began = Instant::now();
            let mut size = batch.last().map_or(0, |message| message.size);
            let mut ended = None;
            // Everything that is there already, and all of a snapshot.
            while snapshot && batch.last().is_some_and(|message| message.cursor.is_empty())
                || size < BYTES && began.elapsed() < WAIT
            {
                let next = if snapshot && batch.last().is_some_and(|message| message.cursor.is_empty()) {
                    timeout(SILENCE, stream.next()).await.unwrap_or(None)
                } else {
                    match stream.next().now_or_never() {
                        Some(next) => next,
                        None => break,
                    }
                };
                match next {
                    Some(Ok(message)) => {
                        size += message.size;
                        batch.push(message);
                    }
                    Some(Err(error)) => {
                        ended = Some(Err(error));
                        break;
                    }
                    None => {
                        ended = Some(Ok(()));
                        break;
                    }
                }
            }
            if snapshot && batch.last().is_none_or(|message| message.cursor.is_empty()) {
                // A snapshot that was cut short says nothing.
                return ended.unwrap_or(Ok(()));
            }
            self.take(name, projection, snapshot, &batch, cursor).await?;
            snapshot = false;
            batch.clear();
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    /// Applies a batch; one that fails is halved until the message that is to blame stands alone, which is then passed.
    async fn take<P: Projection>(
        &self,
        name: &'static str,
        projection: &P,
        reset: bool,
        batch: &[Incoming<P::Message>],
        cursor: &mut Option<String>,
    ) -> Result<()> {
        let mut waiting: Vec<&[Incoming<P::Message>]> = vec![batch];
        while let Some(part) = waiting.pop() {
            match self.try_take(name, projection, reset, part).await {
                Ok(()) => {
                    if let Some(last) = part.last() {
                        *cursor = Some(last.cursor.clone());
                    }
                    let (now, heard) = (self.clock().now_micros(), true);
                    self.note_consumer(name, |state| {
                        state.connected = heard;
                        state.last_time = now;
                        state.error = None;
                    });
                }
                Err(error) if reset || is_passing(&error) => return Err(error),
                Err(error) => match part {
                    [] => {}
                    [message] => {
                        self.pass(name, projection, message, &error).await?;
                        *cursor = Some(message.cursor.clone());
                    }
                    _ => {
                        let (first, second) = part.split_at(part.len() / 2);
                        waiting.push(second);
                        waiting.push(first);
                    }
                },
            }
        }
        Ok(())
    }

    async fn try_take<P: Projection>(
        &self,
        name: &'static str,
        projection: &P,
        reset: bool,
        part: &[Incoming<P::Message>],
    ) -> Result<()> {
        let Some(last) = part.last() else { return Ok(()) };
        let messages: Vec<P::Message> = part.iter().filter_map(|message| message.payload.clone()).collect();
        if messages.is_empty() && !reset {
            // A bookmark moves nothing that would have to be durable at once.
            return Ok(());
        }
        let mut tx = self.tx(&Scope::system()).await?;
        projection.apply(&mut tx, reset, &messages).await?;
        store_cursor(&mut tx, name, &last.cursor).await?;
        tx.commit().await?;
        projection.applied(reset, &messages);
        Ok(())
    }

    async fn pass<P: Projection>(
        &self,
        name: &'static str,
        projection: &P,
        message: &Incoming<P::Message>,
        error: &Error,
    ) -> Result<()> {
        tracing::error!(consumer = name, ?error, "a message keeps failing and is passed; it is kept as a dead letter");
        let letter = message.payload.as_ref().map(|payload| projection.letter(payload)).unwrap_or_default();
        let now = self.clock().now_micros();
        let mut tx = self.tx(&Scope::system()).await?;
        tx.query("INSERT INTO dead_letter (consumer, id, time, cursor, error, message) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(name)
            .bind(random::id(now))
            .bind(now)
            .bind(&message.cursor)
            .bind(format!("{error:?}"))
            .bind(letter)
            .execute()
            .await?;
        store_cursor(&mut tx, name, &message.cursor).await?;
        tx.commit().await?;
        self.note_consumer(name, |state| state.dead_letters += 1);
        Ok(())
    }

    async fn load_cursor(&self, name: &'static str) -> Result<Option<String>> {
        let mut read = self.read(&Scope::system()).await?;
        let letters = read.query("SELECT COUNT(*) AS n FROM dead_letter WHERE consumer = $1").bind(name).fetch_one().await?;
        let letters = letters.get::<u64>("n")?;
        self.note_consumer(name, |state| state.dead_letters = letters);
        let row = read.query("SELECT cursor FROM consumer WHERE name = $1").bind(name).fetch_optional().await?;
        row.map(|row| row.get("cursor")).transpose()
    }

    /// How the consumers of this store do, by name.
    pub fn consumers(&self) -> BTreeMap<&'static str, ConsumerState> {
        self.inner.consumers.lock().clone()
    }

    fn note_consumer(&self, name: &'static str, change: impl FnOnce(&mut ConsumerState)) {
        change(self.inner.consumers.lock().entry(name).or_default());
    }
}

/// Whether trying again later may help, without the message being to blame.
fn is_passing(error: &Error) -> bool {
    matches!(error.code(), Code::Unavailable | Code::Timeout | Code::Exhausted | Code::Conflict)
}

async fn store_cursor(tx: &mut Tx, name: &str, cursor: &str) -> Result<()> {
    let now = tx.store().clock().now_micros();
    tx.query(
        "INSERT INTO consumer (name, cursor, time) VALUES ($1, $2, $3) \
         ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor, time = excluded.time",
    )
    .bind(name)
    .bind(cursor)
    .bind(now)
    .execute()
    .await?;
    Ok(())
}
