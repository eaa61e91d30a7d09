//! What a database needs from time to time: news from other replicas, checkpoints, an end to what is old.

use std::sync::{Arc, Weak};
use std::time::Duration;

use sensormesh_types::{Result, Scope};
use sqlx::Executor as _;
use sqlx::postgres::PgListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::open::Inner;
use crate::pools::Kind;
use crate::{Read, log};

/// How often the end of the log is asked for where other processes may write it.
const POLL: Duration = Duration::from_millis(100);
/// How often the write-ahead log is moved into the database file.
const CHECKPOINT: Duration = Duration::from_secs(2);
/// How often old entries are removed.
const TRIM: Duration = Duration::from_secs(600);
/// Answers to requests are kept this long (AIP-155).
const REQUEST_LIFE: i64 = 24 * 3600 * 1_000_000;

/// The PostgreSQL channel on which the commits of a service are announced.
pub(crate) fn channel(service: &str) -> String {
    format!("sensormesh_{}", service.replace('-', "_"))
}

/// Starts the loops; they end with the store.
pub(crate) fn start(inner: &Arc<Inner>, stop: &CancellationToken) {
    let weak = Arc::downgrade(inner);
    match inner.pools.kind() {
        Kind::Sqlite { .. } => spawn(stop, checkpoints(weak.clone())),
        Kind::Postgres { .. } => spawn(stop, news(weak.clone())),
    }
    spawn(stop, removals(weak));
}

fn spawn(stop: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(work).await });
}

/// On a connection of its own, so that no commit waits for it.
async fn checkpoints(inner: Weak<Inner>) {
    loop {
        sleep(CHECKPOINT).await;
        let Some(inner) = inner.upgrade() else { return };
        if let Kind::Sqlite { path, .. } = inner.pools.kind()
            && let Err(error) = checkpoint(path).await
        {
            tracing::warn!(service = inner.service, %error, "the write-ahead log could not be moved into the file");
        }
    }
}

async fn checkpoint(path: &std::path::Path) -> sqlx::Result<()> {
    use sqlx::{ConnectOptions as _, Connection as _};
    // Nothing was written since the last time.
    let wal = path.with_extension("db-wal");
    if wal.metadata().is_ok_and(|wal| wal.len() == 0) {
        return Ok(());
    }
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(1));
    let mut connection = options.connect().await?;
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").await?;
    connection.close().await
}

/// NOTIFY is a hint; asking every 100 ms finds what a hint missed.
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
        if !inner.tail.is_watched() {
            continue;
        }
        if listener.is_none()
            && let Kind::Postgres(postgres) = inner.pools.kind()
        {
            listener = listen(&postgres.pool(), inner.service).await.ok();
        }
        if let Ok(seq) = head(&inner).await {
            inner.tail.reached(seq);
        }
    }
}

async fn listen(pool: &sqlx::PgPool, service: &str) -> sqlx::Result<PgListener> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(&channel(service)).await?;
    Ok(listener)
}

async fn head(inner: &Inner) -> sqlx::Result<u64> {
    let Kind::Postgres(postgres) = inner.pools.kind() else { return Ok(0) };
    let (seq,): (i64,) = sqlx::query_as("SELECT seq FROM log_head WHERE shard = 0").fetch_one(&postgres.pool()).await?;
    Ok(seq.unsigned_abs())
}

async fn removals(inner: Weak<Inner>) {
    loop {
        sleep(TRIM).await;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = remove_old(&inner).await {
            tracing::warn!(service = inner.service, %error, "old entries of the log could not be removed");
        }
    }
}

/// Removes what is past its age or beyond the log's size, and the answers to old requests.
async fn remove_old(inner: &Arc<Inner>) -> Result<()> {
    let store = crate::Store::beside(inner);
    let mut tx = store.tx(&Scope::system()).await?;
    let now = inner.clock.now_micros();
    tx.query("DELETE FROM request WHERE time < $1").bind(now - REQUEST_LIFE).execute().await?;
    let age = i64::try_from(inner.config.log_max_age.as_micros()).unwrap_or(i64::MAX);
    trim(&mut tx, now.saturating_sub(age), inner.config.log_max_bytes).await?;
    if let Kind::Sqlite { .. } = inner.pools.kind() {
        tx.query("PRAGMA incremental_vacuum(1000)").fetch_all().await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Cuts the beginning of the log: entries committed before `before`, and the oldest beyond `bytes` of payload.
/// The chain goes on from the hash of the last one removed.
pub(crate) async fn trim(read: &mut Read, before: i64, bytes: u64) -> Result<()> {
    let by_age = read
        .query("SELECT COALESCE(MAX(seq), 0) AS seq FROM log WHERE shard = $1 AND time < $2")
        .bind(log::SHARD)
        .bind(before)
        .fetch_one()
        .await?
        .get::<i64>("seq")?;
    let by_size = read
        .query(
            "SELECT COALESCE(MAX(seq), 0) AS seq FROM (SELECT seq, SUM(LENGTH(payload) + 128) OVER (ORDER BY seq DESC) AS bytes \
             FROM log WHERE shard = $1) AS sized WHERE bytes > $2",
        )
        .bind(log::SHARD)
        .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
        .fetch_one()
        .await?
        .get::<i64>("seq")?;
    let last = by_age.max(by_size);
    if last == 0 {
        return Ok(());
    }
    read.query(
        "UPDATE log_head SET trimmed = $1, trimmed_hash = (SELECT hash FROM log WHERE shard = $2 AND seq = $1) WHERE shard = $2",
    )
    .bind(last)
    .bind(log::SHARD)
    .execute()
    .await?;
    read.query("DELETE FROM log WHERE shard = $1 AND seq <= $2").bind(log::SHARD).bind(last).execute().await?;
    Ok(())
}
