//! What is removed when it is old: the beginning of the log, answers to requests and questions.

use sensormesh_types::{Result, Scope};

use crate::{Engine, Store, Tx, log};

/// Answers to requests are kept this long, in microseconds (AIP-155).
const REQUEST_LIFE: i64 = 24 * 3600 * 1_000_000;
/// Entries that one transaction removes at most, so that no writer waits long.
const CHUNK: i64 = 2_000;
/// Bytes of a SQLite file that one transaction gives back to the disk at most: each page may have to be moved first.
const GIVEN_BACK: u32 = 1 << 20;

impl Store {
    /// Removes log entries past their age or beyond the log's size, and answers to requests and questions after a day; ends
    /// questions whose time is over. The store does this by itself every ten minutes. Nobody who reads the log can hold it up.
    pub async fn remove_old(&self) -> Result<()> {
        self.end_overdue().await?;
        let now = self.clock().now_micros();
        let mut tx = self.tx(&Scope::system()).await?;
        let old = now.saturating_sub(REQUEST_LIFE);
        tx.query("DELETE FROM request WHERE time < $1").bind(old).execute().await?;
        tx.query("DELETE FROM exchange WHERE state > 0 AND settled < $1").bind(old).execute().await?;
        tx.commit().await?;
        let age = i64::try_from(self.inner.config.log_max_age.as_micros()).unwrap_or(i64::MAX);
        let mut read = self.read(&Scope::system()).await?;
        let last = last_to_remove(&mut read, now.saturating_sub(age), self.inner.config.log_max_bytes).await?;
        drop(read);
        loop {
            let mut tx = self.tx(&Scope::system()).await?;
            let done = cut(&mut tx, last).await?;
            tx.commit().await?;
            if done {
                break;
            }
        }
        self.give_back().await
    }

    /// Gives the pages that nothing uses any more back to the disk, in small steps between which others write. The file is
    /// smaller after the next checkpoint. On PostgreSQL nothing is to be done: autovacuum makes them free for what comes, and
    /// cuts off the end of a table where all are. The store does this by itself every ten minutes.
    pub async fn give_back(&self) -> Result<()> {
        if self.engine() != Engine::Sqlite {
            return Ok(());
        }
        let step = (GIVEN_BACK / self.inner.config.page_size.max(512)).max(1);
        let mut before = u32::MAX;
        loop {
            let mut tx = self.tx(&Scope::system()).await?;
            let free = tx.query("PRAGMA freelist_count").fetch_one().await?.get::<u32>("freelist_count")?;
            // a file that was not made by this program may not be able to
            if free == 0 || free >= before {
                return Ok(());
            }
            before = free;
            tx.query_built(format!("PRAGMA incremental_vacuum({step})")).fetch_all().await?;
            tx.commit().await?;
        }
    }
}

/// The last entry committed before `before`, or the last one that has more than `bytes` after it; 0 if there is none.
async fn last_to_remove(read: &mut crate::Read, before: i64, bytes: u64) -> Result<i64> {
    let by_age = read
        .query("SELECT COALESCE(MAX(seq), 0) AS seq FROM log WHERE shard = $1 AND time < $2")
        .bind(log::SHARD)
        .bind(before)
        .fetch_one()
        .await?
        .get::<i64>("seq")?;
    let by_size = read
        .query(
            "SELECT COALESCE(MAX(seq), 0) AS seq FROM (\
             SELECT seq, SUM(LENGTH(payload) + 128) OVER (ORDER BY seq DESC) AS bytes FROM log WHERE shard = $1) AS sized \
             WHERE bytes > $2",
        )
        .bind(log::SHARD)
        .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
        .fetch_one()
        .await?
        .get::<i64>("seq")?;
    Ok(by_age.max(by_size))
}

/// Removes a part of the beginning of the log, up to `last`, and says whether that was all.
/// The chain goes on from the hash of the last entry removed.
async fn cut(tx: &mut Tx, last: i64) -> Result<bool> {
    let trimmed = i64::try_from(log::head(tx).await?.trimmed).unwrap_or(i64::MAX);
    if trimmed >= last {
        return Ok(true);
    }
    let to = last.min(trimmed + CHUNK);
    tx.query(
        "UPDATE log_head SET trimmed = $1, trimmed_hash = (SELECT hash FROM log WHERE shard = $2 AND seq = $1) \
         WHERE shard = $2",
    )
    .bind(to)
    .bind(log::SHARD)
    .execute()
    .await?;
    tx.query("DELETE FROM log WHERE shard = $1 AND seq <= $2").bind(log::SHARD).bind(to).execute().await?;
    Ok(to == last)
}
