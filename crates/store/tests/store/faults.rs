//! What is left when something breaks: a full disk, a dead server, a program killed in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use sensormesh_store::{Config, Migration, State, Store};
use sensormesh_testkit::chance::Chance;
use sensormesh_testkit::{postgres, system::eventually};
use sensormesh_types::{Clock, Code, Result, Scope};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{MIGRATIONS, Place, places};

const INSERT: &str = "INSERT INTO thing (tenant, id, n, b) VALUES ('a', $1, 1, $2)";

async fn insert(store: &Store, id: &str, bytes: usize) -> Result<u64> {
    let mut tx = store.tx(&Scope::tenant_of("a")).await?;
    tx.query(INSERT).bind(id).bind(vec![7_u8; bytes]).execute().await?;
    tx.commit().await
}

async fn count(store: &Store) -> Result<i64> {
    let mut read = store.read(&Scope::system()).await?;
    read.query("SELECT COUNT(*) AS n FROM thing").fetch_one().await?.get("n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_in_words_and_goes_on_when_there_is_room() {
    let place = Place::sqlite();
    let store = place.open().await;
    let limit = async |pages: u32| {
        let mut tx = store.tx(&Scope::system()).await.expect("tx");
        // the limit belongs to the connection, and there is one that writes
        tx.query_built(format!("PRAGMA max_page_count = {pages}")).fetch_all().await.expect("the limit");
        tx.commit().await.expect("commit");
    };
    insert(&store, "1", 10).await.expect("there is room");
    limit(100).await;
    let error = insert(&store, "2", 1 << 20).await.expect_err("no room");
    assert_eq!((error.code(), error.reason()), (Code::Exhausted, "STORAGE_FULL"), "{error:?}");
    assert!(error.retry_after().is_some(), "a definite failure says when to try again");
    assert_eq!(count(&store).await.expect("reads go on"), 1);
    assert!(store.health().ok(), "a full disk is no lost connection");
    limit(1_000_000).await;
    insert(&store, "2", 1 << 20).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_killed_in_the_middle_is_done_again() {
    const LONG: &str = "CREATE TABLE one (id $int NOT NULL PRIMARY KEY) $strict; INSERT INTO one (id) VALUES (1); \
                        CREATE TABLE two (id $int NOT NULL PRIMARY KEY) $strict; INSERT INTO two SELECT id FROM one; \
                        CREATE TABLE three (id $int NOT NULL PRIMARY KEY) $strict;";
    const STEPS: &[Migration] = &[MIGRATIONS[0], Migration { version: 2, name: "long", sql: LONG }];
    for place in places() {
        for micros in [0, 300, 1_000, 3_000, 10_000, 30_000] {
            let open = Store::open("things", &place.config, STEPS, Clock::system());
            tokio::time::timeout(Duration::from_micros(micros), open).await.ok();
        }
        let open = || async { Store::open("things", &place.config, STEPS, Clock::system()).await.ok() };
        let store = eventually(Duration::from_secs(20), open).await.expect("it opens");
        let mut read = store.read(&Scope::system()).await.expect("read");
        let row = read.query("SELECT COUNT(*) AS n FROM two").fetch_one().await.expect("the tables are there");
        assert_eq!(row.get::<i64>("n").expect("n"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_is_said_to_be_gone_at_once() {
    let server = match postgres::Server::start(None) {
        Ok(server) => server,
        Err(error) => return sensormesh_testkit::skip(format_args!("a server that refuses: {error:#}")),
    };
    let config = Config::at(server.url.clone());
    let patience = config.acquire_timeout;
    let store = Store::open("things", &config, MIGRATIONS, Clock::system()).await.expect("open");
    insert(&store, "1", 10).await.expect("it is there");
    let sh = |script: &str| {
        assert!(std::process::Command::new("sh").args(["-c", script]).status().expect("sh").success());
    };
    sh(&server.stop);
    let mut longest = Duration::ZERO;
    for _ in 0..6 {
        let began = tokio::time::Instant::now();
        let error = count(&store).await.expect_err("nobody is there");
        assert_eq!(error.code(), Code::Unavailable, "{error:?}");
        longest = longest.max(began.elapsed());
    }
    assert!(longest < patience / 2, "{longest:?}, where a connection is waited for {patience:?}");
    assert_ne!(store.health().state, State::Closed);
    sh(&server.start);
    let back = eventually(Duration::from_secs(60), || async { count(&store).await.ok() });
    assert_eq!(back.await, Some(1), "it is used again");
}

/// A wire to a server that can be cut.
struct Wire {
    state: Arc<AtomicU8>,
    port: u16,
}

const WHOLE: u8 = 0;
/// Connections are closed.
const CUT: u8 = 1;
/// Nothing comes through, and nobody is told.
const SILENT: u8 = 2;

impl Wire {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("address").port();
        let state = Arc::new(AtomicU8::new(WHOLE));
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&server).await else { continue };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                tokio::spawn(carry(near_in, far_out, shared.clone()));
                tokio::spawn(carry(far_in, near_out, shared.clone()));
            }
        });
        Self { state, port }
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    state: Arc<AtomicU8>,
) {
    let mut buffer = vec![0; 8192];
    loop {
        let read = tokio::time::timeout(Duration::from_millis(10), from.read(&mut buffer)).await;
        match (state.load(Ordering::SeqCst), read) {
            (CUT, _) | (_, Ok(Ok(0) | Err(_))) => return,
            // what was lost stays lost, so this connection never says anything again
            (SILENT, _) => std::future::pending().await,
            (_, Ok(Ok(n))) if to.write_all(&buffer[..n]).await.is_err() => return,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_server_is_noticed_fails_fast_and_is_used_again_when_it_is_back() {
    for fault in [CUT, SILENT] {
        let Some(url) = postgres::url_for_new_database() else { return };
        let (before, after) = url.split_once("@").expect("a user");
        let (server, database) = after.split_once('/').expect("a database");
        let wire = Wire::to(server.to_owned()).await;
        let config = Config {
            url: format!("{before}@127.0.0.1:{}/{database}", wire.port),
            acquire_timeout: Duration::from_millis(300),
            connections: 2,
            ..Config::default()
        };
        let store = Store::open("things", &config, MIGRATIONS, Clock::system()).await.expect("the store opens");
        insert(&store, "1", 1).await.expect("it works");
        wire.set(fault);
        let down = || async {
            // a handler whose caller does not wait for ever
            let call = tokio::time::timeout(Duration::from_millis(600), insert(&store, "2", 1)).await;
            assert!(!matches!(call, Ok(Ok(_))), "nothing can be written");
            (store.health().state == State::Open).then_some(())
        };
        eventually(Duration::from_secs(20), down).await.expect("the breaker opens");
        let began = tokio::time::Instant::now();
        let error = insert(&store, "2", 1).await.expect_err("open");
        assert_eq!(error.code(), Code::Unavailable);
        assert!(began.elapsed() < Duration::from_millis(100), "it fails at once");
        assert!(store.health().retry_at.is_some() && store.health().last_error.is_some());
        wire.set(WHOLE);
        let back = || async { insert(&store, "3", 1).await.ok() };
        eventually(Duration::from_secs(30), back).await.expect("it comes back by itself");
        assert!(store.health().ok());
        assert_eq!(count(&store).await.expect("count"), 2);
    }
}

/// Two minutes without a word, while sixteen callers go on asking. What each of them wants is there once in the end, though some
/// never heard whether it was committed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: two minutes"]
async fn f20_after_two_silent_minutes_under_load_a_server_is_used_again() {
    const CALLERS: usize = 16;
    let Some(url) = postgres::url_for_new_database() else { return };
    let (before, after) = url.split_once("@").expect("a user");
    let (server, database) = after.split_once('/').expect("a database");
    let wire = Wire::to(server.to_owned()).await;
    let config = Config { url: format!("{before}@127.0.0.1:{}/{database}", wire.port), ..Config::default() };
    let store = Store::open("things", &config, MIGRATIONS, Clock::system()).await.expect("the store opens");
    let stop = Arc::new(AtomicBool::new(false));
    let caller = |number: usize| {
        let (store, stop) = (store.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut done = 0;
            while !stop.load(Ordering::SeqCst) {
                let id = format!("{number}-{done}");
                loop {
                    match tokio::time::timeout(Duration::from_secs(15), insert(&store, &id, 1)).await {
                        Ok(Ok(_)) => break,
                        // an earlier attempt was committed, and nobody could say so
                        Ok(Err(error)) if error.code() == Code::Exists => break,
                        Ok(Err(error)) => assert_eq!(error.code(), Code::Unavailable, "{error:?}"),
                        Err(_) => {}
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                done += 1;
            }
            done
        })
    };
    let callers: Vec<_> = (0..CALLERS).map(caller).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    wire.set(SILENT);
    tokio::time::sleep(Duration::from_secs(120)).await;
    wire.set(WHOLE);
    let began = tokio::time::Instant::now();
    stop.store(true, Ordering::SeqCst);
    let mut wanted = 0;
    for caller in callers {
        // each ends what it is at
        wanted += caller.await.expect("no other failure");
    }
    eprintln!("all sixteen are served {:?} after it speaks again", began.elapsed());
    assert!(began.elapsed() <= Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(store.health().ok());
    assert_eq!(count(&store).await.expect("count"), wanted);
}

/// Run it with a disk that fails: `strace -f -e trace=fdatasync,fsync -e inject=fdatasync:error=EIO:when=40..60`.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_whatever_failed_in_between() {
    let place = Place::sqlite();
    let store = place.open().await;
    let mut acknowledged = Vec::new();
    for i in 0..200 {
        match insert(&store, &i.to_string(), 100).await {
            Ok(_) => acknowledged.push(i.to_string()),
            Err(error) => {
                assert!(matches!(error.code(), Code::Unavailable | Code::Exhausted), "{error:?}");
                tokio::time::sleep(error.retry_after().unwrap_or_default().min(Duration::from_millis(200))).await;
            }
        }
    }
    let again = || async { insert(&store, "last", 100).await.ok() };
    eventually(Duration::from_secs(70), again).await.expect("it works again by itself");
    println!("{} of 200 acknowledged", acknowledged.len());
    store.close().await;
    let store = place.open().await;
    let mut read = store.read(&Scope::system()).await.expect("read");
    let rows = read.query("SELECT id FROM thing").fetch_all().await.expect("rows");
    let kept: Vec<String> = rows.iter().map(|row| row.get("id").expect("id")).collect();
    assert!(acknowledged.iter().all(|id| kept.contains(id)), "nothing acknowledged is lost");
    let sound = read.query("PRAGMA integrity_check").fetch_one().await.expect("checked");
    assert_eq!(sound.get::<String>("integrity_check").expect("a word"), "ok");
}

/// A caller that goes away while its transaction begins leaves nothing behind on the connection.
#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_while_a_transaction_begins_leaves_no_transaction_open() {
    for mut place in places() {
        place.config.connections = 1;
        let store = place.open().await;
        let mut chance = Chance::new("given up");
        for number in 0..200 {
            let scope = Scope::system();
            let begins = store.read(&scope);
            let patience = Duration::from_micros(chance.draw() % 1_500);
            drop(tokio::time::timeout(patience, begins).await);
            let mut tx = store.tx(&Scope::system()).await.expect("tx");
            let write = "INSERT INTO thing (tenant, id, n) VALUES ('default', $1, 1)";
            tx.query(write).bind(number.to_string()).execute().await.expect("it may be written");
            tx.commit().await.expect("committed");
        }
    }
}
