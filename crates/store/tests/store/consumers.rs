//! Following a stream: effects once, dead letters, starting again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;
use sensormesh_store::{Incoming, Projection, Store, Tx};
use sensormesh_types::{Code, Error, Result, Scope};

use super::places;

/// A followed log of numbers that misbehaves as told.
#[derive(Clone, Default)]
pub(crate) struct Numbers {
    pub(crate) log: Arc<Mutex<Vec<i64>>>,
    /// Ends each stream after so many messages.
    pub(crate) cut: usize,
    /// A number that can never be applied.
    pub(crate) poison: Option<i64>,
    /// Whether applying the poison panics instead of failing.
    pub(crate) panics: bool,
    /// Never returns from applying, after everything is written.
    pub(crate) hangs: bool,
    /// Cursors below this are gone.
    pub(crate) trimmed: Arc<AtomicUsize>,
    pub(crate) opened: Arc<AtomicUsize>,
    pub(crate) resets: Arc<AtomicUsize>,
}

impl Projection for Numbers {
    type Message = i64;

    async fn open(&self, cursor: Option<String>) -> Result<BoxStream<'static, Result<Incoming<i64>>>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let log = self.log.lock().clone();
        let after: usize = cursor.as_deref().unwrap_or("0").parse().expect("own cursor");
        let mut messages = Vec::new();
        if cursor.is_none() {
            messages.extend(log.iter().map(|n| Incoming { cursor: String::new(), payload: Some(*n), size: 8 }));
            messages.push(Incoming { cursor: log.len().to_string(), payload: None, size: 0 });
        } else if after < self.trimmed.load(Ordering::SeqCst) {
            return Err(Error::new(Code::Gone, "CURSOR_GONE", "trimmed"));
        } else {
            let rest = log.iter().enumerate().skip(after);
            messages.extend(rest.map(|(i, n)| Incoming { cursor: (i + 1).to_string(), payload: Some(*n), size: 8 }));
            if self.cut > 0 {
                messages.truncate(self.cut);
            }
        }
        Ok(stream::iter(messages.into_iter().map(Ok)).boxed())
    }

    async fn apply(&self, tx: &mut Tx, reset: bool, messages: &[i64]) -> Result<()> {
        if reset {
            self.resets.fetch_add(1, Ordering::SeqCst);
            tx.query("DELETE FROM thing").execute().await?;
        }
        for n in messages {
            assert!(!(self.panics && self.poison == Some(*n)), "a bug in a handler");
            if self.poison == Some(*n) {
                return Err(Error::invalid("n", "is poison"));
            }
            tx.query(
                "INSERT INTO thing (tenant, id, n) VALUES ('default', $1, 1) \
                      ON CONFLICT (tenant, id) DO UPDATE SET n = thing.n + 1",
            )
            .bind(n.to_string())
            .execute()
            .await?;
        }
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn letter(&self, message: &i64) -> Vec<u8> {
        message.to_le_bytes().to_vec()
    }
}

/// What was applied how often, by number.
pub(crate) async fn applied(store: &Store) -> Vec<(i64, i64)> {
    let mut read = store.read(&Scope::system()).await.expect("read");
    let rows = read.query("SELECT id, n FROM thing").fetch_all().await.expect("rows");
    let mut all: Vec<(i64, i64)> = rows
        .iter()
        .map(|row| (row.get::<String>("id").expect("id").parse().expect("a number"), row.get("n").expect("n")))
        .collect();
    all.sort_unstable();
    all
}

async fn until_applied(store: &Store, numbers: &Numbers, expected: usize) -> Vec<(i64, i64)> {
    let (following, store_) = (store.clone(), store.clone());
    let task = tokio::spawn({
        let numbers = numbers.clone();
        async move { following.follow("numbers", numbers).await }
    });
    let reached = sensormesh_testkit::system::eventually(Duration::from_secs(20), || async {
        let all = applied(&store_).await;
        (all.len() >= expected).then_some(all)
    })
    .await;
    task.abort();
    task.await.ok();
    reached.expect("everything is applied")
}

fn each_once(range: std::ops::Range<i64>) -> Vec<(i64, i64)> {
    range.map(|n| (n, 1)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_effect_happens_once_though_streams_end_and_the_consumer_is_killed() {
    for place in places() {
        let store = place.open().await;
        let numbers = Numbers { cut: 3, ..Numbers::default() };
        numbers.log.lock().extend(0..10);
        assert_eq!(until_applied(&store, &numbers, 10).await, each_once(0..10));
        numbers.log.lock().extend(10..30);
        // The task was aborted; the next one goes on from the stored cursor.
        assert_eq!(until_applied(&store, &numbers, 30).await, each_once(0..30));
        assert_eq!(numbers.resets.load(Ordering::SeqCst), 1, "only the first start read the snapshot");
        assert!(numbers.opened.load(Ordering::SeqCst) > 6, "the streams were cut");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_keeps_failing_is_passed_and_kept() {
    for place in places() {
        let store = place.open().await;
        let mut numbers = Numbers::default();
        until_applied(&store, &numbers, 0).await;
        numbers.log.lock().extend(0..10);
        numbers.poison = Some(4);
        // Follow from an empty snapshot, so that the poison comes as a message of its own.
        let mut tx = store.tx(&Scope::system()).await.expect("tx");
        tx.query("INSERT INTO consumer (name, cursor, time) VALUES ('numbers', '0', 0) ON CONFLICT (name) DO UPDATE SET cursor = '0'")
            .execute()
            .await
            .expect("cursor");
        tx.commit().await.expect("commit");
        let all = until_applied(&store, &numbers, 9).await;
        assert_eq!(all, (0..10).filter(|n| *n != 4).map(|n| (n, 1)).collect::<Vec<_>>());
        assert_eq!(store.consumers()["numbers"].dead_letters, 1);
        let mut read = store.read(&Scope::system()).await.expect("read");
        let letter = read.query("SELECT message FROM dead_letter").fetch_one().await.expect("a letter");
        assert_eq!(letter.get::<Vec<u8>>("message").expect("bytes"), 4_i64.to_le_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_gone_starts_again_from_a_snapshot() {
    for place in places() {
        let store = place.open().await;
        let numbers = Numbers::default();
        numbers.log.lock().extend(0..3);
        until_applied(&store, &numbers, 3).await;
        numbers.log.lock().extend(3..8);
        numbers.trimmed.store(5, Ordering::SeqCst);
        assert_eq!(until_applied(&store, &numbers, 8).await, each_once(0..8));
        assert_eq!(numbers.resets.load(Ordering::SeqCst), 2);
    }
}

pub(crate) async fn letters(store: &Store) -> Vec<i64> {
    let mut read = store.read(&Scope::system()).await.expect("read");
    let rows = read.query("SELECT message FROM dead_letter ORDER BY id").fetch_all().await.expect("rows");
    let number = |bytes: Vec<u8>| i64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    rows.iter().map(|row| number(row.get("message").expect("message"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_snapshot_that_keeps_failing_is_passed_and_the_rest_is_one_reset() {
    for place in places() {
        let store = place.open().await;
        let numbers = Numbers { poison: Some(11), ..Numbers::default() };
        numbers.log.lock().extend(0..20);
        let expected: Vec<_> = (0..20).filter(|n| *n != 11).map(|n| (n, 1)).collect();
        assert_eq!(until_applied(&store, &numbers, 19).await, expected);
        assert_eq!(letters(&store).await, [11]);
        assert_eq!(store.consumers()["numbers"].dead_letters, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_loses_its_message_and_nothing_else() {
    for place in places() {
        let store = place.open().await;
        let mut numbers = Numbers::default();
        numbers.log.lock().push(0);
        until_applied(&store, &numbers, 1).await;
        (numbers.poison, numbers.panics) = (Some(2), true);
        numbers.log.lock().extend(1..5);
        assert_eq!(until_applied(&store, &numbers, 4).await, [(0, 1), (1, 1), (3, 1), (4, 1)]);
        assert_eq!(letters(&store).await, [2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_killed_between_its_effect_and_the_commit_has_no_effect() {
    for place in places() {
        let store = place.open().await;
        let mut numbers = Numbers { hangs: true, ..Numbers::default() };
        numbers.log.lock().extend(0..10);
        let task = tokio::spawn({
            let (store, numbers) = (store.clone(), numbers.clone());
            async move { store.follow("numbers", numbers).await }
        });
        let reset = || async { (numbers.resets.load(Ordering::SeqCst) > 0).then_some(()) };
        sensormesh_testkit::system::eventually(Duration::from_secs(20), reset).await.expect("it has begun");
        tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.ok();
        task.abort();
        task.await.expect_err("killed");
        assert_eq!(applied(&store).await, []);
        numbers.hangs = false;
        assert_eq!(until_applied(&store, &numbers, 10).await, each_once(0..10));
        assert_eq!(letters(&store).await, [0_i64; 0]);
    }
}

/// Numbers that also counts in memory what it hears of.
#[derive(Clone, Default)]
struct Counted {
    numbers: Numbers,
    heard: Arc<Mutex<std::collections::BTreeSet<i64>>>,
    store: Option<Store>,
}

impl Projection for Counted {
    type Message = i64;

    async fn open(&self, cursor: Option<String>) -> Result<BoxStream<'static, Result<Incoming<i64>>>> {
        if let Some(store) = &self.store {
            let stored = applied(store).await;
            self.heard.lock().extend(stored.iter().map(|(n, _)| *n));
        }
        self.numbers.open(cursor).await
    }

    async fn apply(&self, tx: &mut Tx, reset: bool, messages: &[i64]) -> Result<()> {
        self.numbers.apply(tx, reset, messages).await
    }

    fn applied(&self, _: bool, messages: &[i64]) {
        self.heard.lock().extend(messages);
    }

    fn letter(&self, message: &i64) -> Vec<u8> {
        self.numbers.letter(message)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_replicas_one_applies_a_stream_and_all_hear_of_it() {
    for place in places().split_off(1) {
        let numbers = Numbers { cut: 2, ..Numbers::default() };
        let mut replicas = Vec::new();
        for _ in 0..3 {
            let store = place.open().await;
            let counted = Counted { numbers: numbers.clone(), store: Some(store.clone()), ..Counted::default() };
            let task = tokio::spawn({
                let (store, counted) = (store.clone(), counted.clone());
                async move { store.follow("numbers", counted).await }
            });
            replicas.push((store, counted, task));
        }
        let mut told = 0;
        for left in (1..=3).rev() {
            for _ in 0..10 {
                numbers.log.lock().extend(told..told + 2);
                told += 2;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let expected = each_once(0..told);
            let (store, ..) = &replicas[0];
            let all = || async { (applied(store).await.len() as i64 == told).then_some(()) };
            sensormesh_testkit::system::eventually(Duration::from_secs(30), all).await.expect("all is applied");
            assert_eq!(applied(store).await, expected, "with {left} replicas");
            for (_, counted, _) in &replicas {
                let all = || async { (counted.heard.lock().len() as i64 == told).then_some(()) };
                sensormesh_testkit::system::eventually(Duration::from_secs(30), all).await.expect("all is heard");
            }
            // whichever it is that applies, it goes
            let (_, _, task) = replicas.remove(0);
            task.abort();
            task.await.expect_err("killed");
            if replicas.is_empty() {
                return;
            }
        }
    }
}
