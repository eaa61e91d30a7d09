//! What is past its time: which blocks are, and when what is in them arrived.

use sensormesh_store::{Read, Tx};
use sensormesh_types::Result;

use super::block::{RAW, Span};
use crate::catalog::Series;

/// How often it is noted what has arrived, microseconds.
const DAY: i64 = 86_400_000_000;

/// Notes, for each shard and once a day, that everything up to its greatest sealed place has arrived by now.
pub async fn note_arrival(tx: &mut Tx, now: i64) -> Result<()> {
    tx.query(
        "INSERT INTO arrival (tenant, shard, time, seq) SELECT '', s.shard, $1, MAX(s.sealed_seq) FROM series s \
         GROUP BY s.shard HAVING \
         MAX(s.sealed_seq) > COALESCE((SELECT MAX(a.seq) FROM arrival a WHERE a.tenant = '' AND a.shard = s.shard), 0) \
         AND COALESCE((SELECT MAX(a.time) FROM arrival a WHERE a.tenant = '' AND a.shard = s.shard), 0) <= $2 \
         ON CONFLICT DO NOTHING",
    )
    .bind(now)
    .bind(now.saturating_sub(DAY))
    .execute()
    .await?;
    Ok(())
}

/// The place in the log of a series' shard up to which everything had arrived by `time` (microseconds) for certain.
pub async fn arrived(read: &mut Read, series: &Series, time: i64) -> Result<Option<i64>> {
    read.query(
        "SELECT MAX(a.seq) AS seq FROM arrival a JOIN series s ON s.shard = a.shard \
         WHERE a.tenant = '' AND a.time <= $1 AND s.tenant = $2 AND s.series = $3",
    )
    .bind(time)
    .bind(&*series.tenant)
    .bind(series.number)
    .fetch_one()
    .await?
    .get("seq")
}

/// The first blocks of a series that start behind `after` and before `before`, by start.
pub async fn oldest(read: &mut Read, series: &Series, after: i64, before: i64, blocks: u32) -> Result<Vec<Span>> {
    let rows = read
        .query(
            "SELECT start_ns, part, end_ns FROM block WHERE tenant = $1 AND series = $2 AND level = $3 \
             AND start_ns > $4 AND start_ns < $5 ORDER BY start_ns, part, end_ns LIMIT $6",
        )
        .bind(&*series.tenant)
        .bind(series.number)
        .bind(RAW)
        .bind(after)
        .bind(before)
        .bind(blocks)
        .fetch_all()
        .await?;
    rows.iter().map(Span::of).collect()
}

/// Notes where a series' blocks start now, and answers it; `None` where it has none. `rolled_end` is the last time of what is
/// left as rollups only. For a series that is locked.
pub async fn note_left(tx: &mut Tx, series: &Series, rolled_end: Option<i64>) -> Result<Option<i64>> {
    let start = tx
        .query("SELECT MIN(start_ns) AS start FROM block WHERE tenant = $1 AND series = $2 AND level = $3")
        .bind(&*series.tenant)
        .bind(series.number)
        .bind(RAW)
        .fetch_one()
        .await?
        .get::<Option<i64>>("start")?;
    tx.query("UPDATE series SET sealed_start = $1, rolled_end = $2 WHERE tenant = $3 AND series = $4")
        .bind(start)
        .bind(rolled_end)
        .bind(&*series.tenant)
        .bind(series.number)
        .execute()
        .await?;
    Ok(start)
}
