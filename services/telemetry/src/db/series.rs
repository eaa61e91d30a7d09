//! The numbers of series, and what of each is sealed.

use sensormesh_series::{Quality, Reading};
use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Error, Result};

use crate::catalog::Series;
use crate::tail::{Note, Tail};

const COLUMNS: &str = "tenant, series, sensor_id, sealed_seq, sealed_start, sealed_end, latest_time, latest_bits, \
                       latest_quality, rolled_end, deletions";

/// A series as it stands on disk.
#[derive(Debug)]
pub struct Stored {
    /// The tenant it belongs to.
    pub tenant: String,
    /// The sensor.
    pub sensor_id: String,
    /// Its number.
    pub number: u32,
    /// Its end, without what is only in the log.
    pub tail: Tail,
}

/// Every series whose number is greater than `after`.
pub async fn list(read: &mut Read, after: u32) -> Result<Vec<Stored>> {
    let query = read.query_built(format!("SELECT {COLUMNS} FROM series WHERE series > $1"));
    query.bind(after).fetch_all().await?.iter().map(stored).collect()
}

/// The last time of what of a series is rolled up.
pub async fn rolled_end(read: &mut Read, series: &Series) -> Result<Option<i64>> {
    let query = read.query("SELECT rolled_end FROM series WHERE tenant = $1 AND series = $2");
    query.bind(&*series.tenant).bind(series.number).fetch_one().await?.get("rolled_end")
}

/// What the database has of a series, which no replica changes until the transaction ends, nor its blocks.
pub async fn lock(tx: &mut Tx, series: &Series) -> Result<Tail> {
    let sql = format!("UPDATE series SET series = series WHERE tenant = $1 AND series = $2 RETURNING {COLUMNS}");
    let row = tx.query_built(sql).bind(&*series.tenant).bind(series.number).fetch_one().await?;
    Ok(stored(&row)?.tail)
}

fn stored(row: &Row) -> Result<Stored> {
    let latest = row.get::<Option<i64>>("latest_time")?.zip(row.get::<Option<i64>>("latest_bits")?);
    let quality = Quality(u8::try_from(row.get::<i64>("latest_quality")?).map_err(Error::internal)?);
    let latest = latest.map(|(time, bits)| Reading { time, value: f64::from_bits(bits as u64), quality });
    let mut tail = Tail::sealed(row.get("sealed_seq")?, row.get("sealed_start")?, row.get("sealed_end")?, latest);
    tail.rolled_end = row.get("rolled_end")?;
    tail.deletions = row.get("deletions")?;
    Ok(Stored { tenant: row.get("tenant")?, sensor_id: row.get("sensor_id")?, number: row.get("series")?, tail })
}

/// Up to where anything of each shard is sealed.
pub async fn sealed_of_shards(read: &mut Read) -> Result<Vec<(i64, u64)>> {
    let rows = read.query("SELECT shard, MAX(sealed_seq) AS sealed FROM series GROUP BY shard").fetch_all().await?;
    rows.iter().map(|row| Ok((row.get("shard")?, row.get("sealed")?))).collect()
}

/// Gives a sensor its number. False where another replica was faster with the number or with the sensor.
pub async fn insert(tx: &mut Tx, tenant: &str, sensor_id: &str, number: u32) -> Result<bool> {
    let inserted = tx
        .query(
            "INSERT INTO series (tenant, series, sensor_id, shard, sealed_seq, latest_quality) \
         VALUES ($1, $2, $3, 0, 0, 0) ON CONFLICT DO NOTHING",
        )
        .bind(tenant)
        .bind(number)
        .bind(sensor_id)
        .execute()
        .await?;
    Ok(inserted == 1)
}

/// Notes what of a series is sealed, and its latest reading. False where another replica has sealed or deleted some of it
/// since: what this one knows is old.
pub async fn note_sealed(tx: &mut Tx, series: &Series, note: &Note) -> Result<bool> {
    let (span, latest) = (note.span, note.latest);
    let noted = tx
        .query(
            "UPDATE series SET sealed_seq = $1, sealed_start = $2, \
             sealed_end = CASE WHEN sealed_end > $3 THEN sealed_end ELSE $3 END, latest_time = $4, latest_bits = $5, \
             latest_quality = $6 WHERE tenant = $7 AND series = $8 AND sealed_seq = $9 AND deletions = $10",
        )
        .bind(place(note.upto)?)
        .bind(span.map(|s| s.0))
        .bind(span.map(|s| s.1))
        .bind(latest.map(|r| r.time))
        .bind(latest.map(|r| r.value.to_bits() as i64))
        .bind(i64::from(latest.map_or(0, |r| r.quality.0)))
        .bind(&*series.tenant)
        .bind(series.number)
        .bind(place(note.before)?)
        .bind(place(note.deletions)?)
        .execute()
        .await?;
    Ok(noted == 1)
}

/// Notes that readings of a series were deleted, for the time that `deletions` counts, and which is the latest one since.
pub async fn note_deleted(tx: &mut Tx, series: &Series, deletions: u64, latest: Option<Reading>) -> Result<()> {
    tx.query(
        "UPDATE series SET deletions = $1, latest_time = $2, latest_bits = $3, latest_quality = $4 \
         WHERE tenant = $5 AND series = $6",
    )
    .bind(place(deletions)?)
    .bind(latest.map(|r| r.time))
    .bind(latest.map(|r| r.value.to_bits() as i64))
    .bind(i64::from(latest.map_or(0, |r| r.quality.0)))
    .bind(&*series.tenant)
    .bind(series.number)
    .execute()
    .await?;
    Ok(())
}

fn place(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(Error::internal)
}
