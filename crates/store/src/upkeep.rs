//! What a database needs from time to time: checkpoints, news from other replicas, an end to what is old.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sensormesh_types::Result;
use sqlx::postgres::{PgListener, PgPool};
use sqlx::sqlite::SqlitePool;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::Store;
use crate::open::Inner;
use crate::pools::Kind;
use crate::tx::Access;
use crate::wal::wal_of;

/// How often it is looked whether the write-ahead log should be moved into the database file; that is done when it is
/// larger than [`WAL`], or has been waiting for [`REST`].
const LOOK: Duration = Duration::from_secs(1);
const WAL: u64 = 4 << 20;
const REST: Duration = Duration::from_secs(30);
/// How often the end of the log is asked for where other processes may write it.
const POLL: Duration = Duration::from_millis(100);
/// How often old entries are removed.
const REMOVE: Duration = Duration::from_secs(600);

const HEAD: &str = "SELECT seq FROM log_head WHERE shard = 0";

/// The PostgreSQL channel on which the commits of a service are announced.
pub(crate) fn channel(service: &str) -> String {
    format!("sensormesh_{}", service.replace('-', "_"))
}

/// Starts the loops; they end with the store.
pub(crate) fn start(inner: &Arc<Inner>, stop: &CancellationToken) {
    let weak = Arc::downgrade(inner);
    match inner.pools.kind() {
        Kind::Sqlite { readers, path, .. } => spawn(stop, checkpoints(weak.clone(), readers.clone(), path.clone())),
        Kind::Postgres(_) => spawn(stop, news(weak.clone())),
    }
    spawn(stop, removals(weak));
}

fn spawn(stop: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(work).await });
}

/// On a reader's connection, so that no commit waits for it.
async fn checkpoints(inner: Weak<Inner>, readers: SqlitePool, path: PathBuf) {
    let wal = wal_of(&path);
    let (mut done, mut at) = (0, Instant::now());
    loop {
        sleep(LOOK).await;
        let Some(inner) = inner.upgrade() else { return };
        if readers.is_closed() {
            return;
        }
        inner.look_at_disk();
        // what is opened by this name now is another database, and has this one's log beside it
        if inner.gone.load(Ordering::Relaxed) {
            continue;
        }
        let (commits, service) = (inner.commits.load(Ordering::Relaxed), inner.service);
        // another program may write too: one that manages users, or restores
        if inner.tail.is_watched()
            && let Ok((seq,)) = sqlx::query_as::<_, (i64,)>(HEAD).fetch_one(&readers).await
        {
            inner.tail.reached(seq.unsigned_abs());
        }
        drop(inner);
        let size = std::fs::metadata(&wal).map_or(0, |wal| wal.len());
        // the file keeps its size when it is used again from its beginning: what counts is that something was written
        if commits == done || (size < WAL && at.elapsed() < REST) {
            continue;
        }
        match checkpoint(&readers).await {
            Ok(()) => (done, at) = (commits, Instant::now()),
            Err(error) => tracing::warn!(service, %error, "the write-ahead log could not be moved into the file"),
        }
    }
}

/// Moves what is committed into the file, as far as no reader holds it up.
async fn checkpoint(readers: &SqlitePool) -> sqlx::Result<()> {
    sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(readers).await.map(|_| ())
}

impl Store {
    /// Moves what is committed into the database file now. The store does this by itself when much has been written or
    /// half a minute has passed. On PostgreSQL the server does.
    pub async fn checkpoint(&self) -> Result<()> {
        match self.inner.pools.kind() {
            Kind::Sqlite { readers, .. } => checkpoint(readers).await.map_err(|error| self.note(Access::Read, error)),
            Kind::Postgres(_) => Ok(()),
        }
    }
}

/// NOTIFY is a hint; asking every 100 ms finds what a hint missed. Both only while somebody watches.
async fn news(inner: Weak<Inner>) {
    let mut listener: Option<PgListener> = None;
    loop {
        match &mut listener {
            Some(open) => {
                if let Ok(Err(_)) = timeout(POLL, open.recv()).await {
                    listener = None;
                }
            }
            None => sleep(POLL).await,
        }
        let Some(inner) = inner.upgrade() else { return };
        let Kind::Postgres(postgres) = inner.pools.kind() else { return };
        if !inner.tail.is_watched() {
            listener = None;
            continue;
        }
        let pool = postgres.pool();
        if listener.is_none() {
            listener = listen(&pool, inner.service).await.ok();
        }
        if let Ok(seq) = head(&pool).await {
            inner.tail.reached(seq);
        }
    }
}

async fn listen(pool: &PgPool, service: &str) -> sqlx::Result<PgListener> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(&channel(service)).await?;
    Ok(listener)
}

async fn head(pool: &PgPool) -> sqlx::Result<u64> {
    let (seq,): (i64,) = sqlx::query_as(HEAD).fetch_one(pool).await?;
    Ok(seq.unsigned_abs())
}

async fn removals(inner: Weak<Inner>) {
    loop {
        sleep(REMOVE).await;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = Store::beside(&inner).remove_old().await {
            tracing::warn!(service = inner.service, %error, "old entries of the log could not be removed");
        }
    }
}
