//! The numbers of series, and what of each is sealed.

use sensormesh_series::{Quality, Reading};
use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Error, Result};

use crate::catalog::Series;
use crate::replicas::Sealed;
use crate::tail::Tail;

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
    let rows = read
        .query(
            "SELECT tenant, series, sensor_id, sealed_seq, sealed_start, sealed_end, latest_time, latest_bits, \
             latest_quality, rolled_end FROM series WHERE series > $1",
        )
        .bind(after)
        .fetch_all()
        .await?;
    rows.iter().map(stored).collect()
}

fn stored(row: &Row) -> Result<Stored> {
    let span = row.get::<Option<i64>>("sealed_start")?.zip(row.get::<Option<i64>>("sealed_end")?);
    let latest = row.get::<Option<i64>>("latest_time")?.zip(row.get::<Option<i64>>("latest_bits")?);
    let quality = Quality(u8::try_from(row.get::<i64>("latest_quality")?).map_err(Error::internal)?);
    let latest = latest.map(|(time, bits)| Reading { time, value: f64::from_bits(bits as u64), quality });
    let mut tail = Tail::sealed(row.get("sealed_seq")?, span, latest);
    tail.rolled_end = row.get("rolled_end")?;
    Ok(Stored { tenant: row.get("tenant")?, sensor_id: row.get("sensor_id")?, number: row.get("series")?, tail })
}

/// Up to where anything of each shard is sealed.
pub async fn sealed_of_shards(read: &mut Read) -> Result<Vec<(i64, u64)>> {
    let rows = read.query("SELECT shard, MAX(sealed_seq) AS sealed FROM series GROUP BY shard").fetch_all().await?;
    rows.iter().map(|row| Ok((row.get("shard")?, row.get("sealed")?))).collect()
}

/// What every series is sealed up to, with the first and the last time of that; those of which nothing is are left out.
pub async fn sealed(read: &mut Read) -> Result<Vec<Sealed>> {
    let rows = read
        .query(
            "SELECT series, sealed_seq, sealed_start, sealed_end FROM series \
             WHERE sealed_seq > 0 AND sealed_start IS NOT NULL AND sealed_end IS NOT NULL",
        )
        .fetch_all()
        .await?;
    let sealed = |row: &Row| {
        Ok(Sealed {
            series: row.get("series")?,
            upto: row.get("sealed_seq")?,
            start: row.get("sealed_start")?,
            end: row.get("sealed_end")?,
        })
    };
    rows.iter().map(sealed).collect()
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

/// Notes what of a series is sealed, and its latest reading. False where more of it is sealed already, by another replica
/// that has taken the log over: what this one knows is old.
pub async fn note_sealed(
    tx: &mut Tx,
    series: &Series,
    seq: u64,
    span: Option<(i64, i64)>,
    latest: Option<Reading>,
) -> Result<bool> {
    let noted = tx.query(
        "UPDATE series SET sealed_seq = $1, sealed_start = $2, sealed_end = $3, latest_time = $4, latest_bits = $5, \
         latest_quality = $6 WHERE tenant = $7 AND series = $8 AND sealed_seq <= $1",
    )
    .bind(i64::try_from(seq).map_err(Error::internal)?)
    .bind(span.map(|s| s.0))
    .bind(span.map(|s| s.1))
    .bind(latest.map(|r| r.time))
    .bind(latest.map(|r| r.value.to_bits() as i64))
    .bind(i64::from(latest.map_or(0, |r| r.quality.0)))
    .bind(&*series.tenant)
    .bind(series.number)
    .execute()
    .await?;
    Ok(noted == 1)
}

/// Notes the latest reading of a series, where an earlier one is it now.
pub async fn note_latest(tx: &mut Tx, series: &Series, latest: Option<Reading>) -> Result<()> {
    tx.query(
        "UPDATE series SET latest_time = $1, latest_bits = $2, latest_quality = $3 WHERE tenant = $4 AND series = $5",
    )
    .bind(latest.map(|r| r.time))
    .bind(latest.map(|r| r.value.to_bits() as i64))
    .bind(i64::from(latest.map_or(0, |r| r.quality.0)))
    .bind(&*series.tenant)
    .bind(series.number)
    .execute()
    .await?;
    Ok(())
}
