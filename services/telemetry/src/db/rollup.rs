//! Rollups: blocks of a level of their own, in the form of `sensormesh_series::rollup`.

use sensormesh_series::Rollup;
use sensormesh_series::rollup::{self, DAY, QUARTER};
use sensormesh_store::{Read, Tx};
use sensormesh_types::{Error, Result};

use crate::catalog::Series;

/// How long the intervals of rollups are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 15 minutes; a day of them in each block.
    Quarters = 1,
    /// Days in UTC; 64 of them in each block.
    Days = 2,
}

impl Level {
    /// The length of an interval, nanoseconds.
    pub fn width(self) -> i64 {
        match self {
            Level::Quarters => QUARTER,
            Level::Days => DAY,
        }
    }

    /// The time that a block is for, nanoseconds.
    pub fn period(self) -> i64 {
        match self {
            Level::Quarters => DAY,
            Level::Days => 64 * DAY,
        }
    }
}

/// The rollups of a series with readings from `start` to `end`, both included, by time; with them come others of the same blocks.
pub async fn load(read: &mut Read, series: &Series, level: Level, (start, end): (i64, i64)) -> Result<Vec<Rollup>> {
    let rows = read
        .query(
            "SELECT start_ns, data FROM block WHERE tenant = $1 AND series = $2 AND level = $3 \
             AND start_ns <= $4 AND start_ns > $5 ORDER BY start_ns",
        )
        .bind(&*series.tenant)
        .bind(series.number)
        .bind(level as i32)
        .bind(end)
        .bind(start.saturating_sub(level.period()))
        .fetch_all()
        .await?;
    let mut rollups = Vec::new();
    for row in &rows {
        let start = row.get::<i64>("start_ns")?;
        let decoded = rollup::decode(&row.get::<Vec<u8>>("data")?);
        rollups.extend(
            decoded.map_err(|error| error.with("sensor_id", &*series.sensor_id).with("start_ns", start.to_string()))?,
        );
    }
    Ok(rollups)
}

/// Writes the rollups of one period, in place of what was there; a period without any has no block.
pub async fn put(tx: &mut Tx, series: &Series, level: Level, period: i64, rollups: &[Rollup]) -> Result<()> {
    if rollups.is_empty() {
        let query = tx.query("DELETE FROM block WHERE tenant = $1 AND series = $2 AND level = $3 AND start_ns = $4");
        query.bind(&*series.tenant).bind(series.number).bind(level as i32).bind(period).execute().await?;
        return Ok(());
    }
    tx.query(
        "INSERT INTO block (tenant, series, level, start_ns, part, end_ns, n, header, data) \
         VALUES ($1, $2, $3, $4, 0, $5, $6, $7, $8) \
         ON CONFLICT (tenant, series, level, start_ns, part, end_ns) DO UPDATE SET n = $6, data = $8",
    )
    .bind(&*series.tenant)
    .bind(series.number)
    .bind(level as i32)
    .bind(period)
    .bind(period.saturating_add(level.period() - 1))
    .bind(i64::try_from(rollups.len()).map_err(Error::internal)?)
    .bind(Vec::<u8>::new())
    .bind(rollup::encode(rollups)?)
    .execute()
    .await?;
    Ok(())
}

/// Deletes the rollups of a series whose period ended before `time`, nanoseconds, some blocks at a time; answers how many.
pub async fn delete_before(tx: &mut Tx, series: &Series, level: Level, time: i64, blocks: u32) -> Result<u64> {
    tx.query(
        "DELETE FROM block WHERE tenant = $1 AND series = $2 AND level = $3 AND start_ns IN (SELECT start_ns FROM block \
         WHERE tenant = $1 AND series = $2 AND level = $3 AND start_ns < $4 AND end_ns < $4 ORDER BY start_ns LIMIT $5)",
    )
    .bind(&*series.tenant)
    .bind(series.number)
    .bind(level as i32)
    .bind(time)
    .bind(blocks)
    .execute()
    .await
}
