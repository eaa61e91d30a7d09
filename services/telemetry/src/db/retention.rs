//! What is past its time: which blocks are, and when what is in them arrived.

use sensormesh_store::{Read, Tx};
use sensormesh_types::{Error, Result};

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

/// What changed of a series because blocks of it have gone.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    /// The place up to which this replica has sealed it.
    pub sealed: u64,
    /// The last time of what is left as rollups only.
    pub rolled_end: Option<i64>,
}

/// Notes where a series' blocks start now, and answers it; `None` where it has none. False as the second answer where another
/// replica has gone on since.
pub async fn note_left(tx: &mut Tx, series: &Series, left: Left) -> Result<(Option<i64>, bool)> {
    let start = tx
        .query("SELECT MIN(start_ns) AS start FROM block WHERE tenant = $1 AND series = $2 AND level = $3")
        .bind(&*series.tenant)
        .bind(series.number)
        .bind(RAW)
        .fetch_one()
        .await?
        .get::<Option<i64>>("start")?;
    let noted = tx
        .query(
            "UPDATE series SET sealed_start = $1, sealed_end = CASE WHEN $2 = 1 THEN sealed_end END, rolled_end = $3 \
             WHERE tenant = $4 AND series = $5 AND sealed_seq = $6",
        )
        .bind(start)
        .bind(start.is_some())
        .bind(left.rolled_end)
        .bind(&*series.tenant)
        .bind(series.number)
        .bind(i64::try_from(left.sealed).map_err(Error::internal)?)
        .execute()
        .await?;
    Ok((start, noted == 1))
}
