//! Versions of sensors' calibrations.

use prost::Message as _;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Error, Result, time};

const SELECT: &str =
    "SELECT tenant, sensor_id, version, body, create_time, creator, delete_time, deleter FROM calibration";

/// The contract's message of a row. `body` is what the caller said; the rest is added here.
fn read_calibration(row: &Row) -> Result<pb::Calibration> {
    let said = pb::Calibration::decode(row.get::<Vec<u8>>("body")?.as_slice()).map_err(Error::internal)?;
    Ok(pb::Calibration {
        sensor_id: row.get("sensor_id")?,
        version: row.get("version")?,
        create_time: Some(time::from_micros(row.get("create_time")?)),
        creator: row.get("creator")?,
        delete_time: row.get::<Option<i64>>("delete_time")?.map(time::from_micros),
        deleter: row.get("deleter")?,
        ..said
    })
}

/// Every version that holds, with its tenant.
pub async fn all(read: &mut Read) -> Result<Vec<(String, pb::Calibration)>> {
    let query = read.query_built(format!("{SELECT} WHERE delete_time IS NULL ORDER BY tenant, sensor_id, version"));
    query.fetch_all().await?.iter().map(|row| Ok((row.get("tenant")?, read_calibration(row)?))).collect()
}

/// Every sensor that ever had a version, with its tenant.
pub async fn sensors(read: &mut Read) -> Result<Vec<(String, String)>> {
    let rows = read.query("SELECT DISTINCT tenant, sensor_id FROM calibration").fetch_all().await?;
    rows.iter().map(|row| Ok((row.get("tenant")?, row.get("sensor_id")?))).collect()
}

/// The versions of a sensor that hold, by number.
pub async fn of_sensor(read: &mut Read, tenant: &str, sensor_id: &str) -> Result<Vec<pb::Calibration>> {
    let sql = format!("{SELECT} WHERE tenant = $1 AND sensor_id = $2 AND delete_time IS NULL ORDER BY version");
    read.query_built(sql).bind(tenant).bind(sensor_id).fetch_all().await?.iter().map(read_calibration).collect()
}

/// A page of a sensor's versions below a number, the highest first; with those deleted if `deleted`.
pub async fn page(
    read: &mut Read,
    tenant: &str,
    sensor_id: &str,
    below: u32,
    deleted: bool,
    limit: u32,
) -> Result<Vec<pb::Calibration>> {
    let holding = if deleted { "" } else { " AND delete_time IS NULL" };
    let sql = format!(
        "{SELECT} WHERE tenant = $1 AND sensor_id = $2 AND version < $3{holding} ORDER BY version DESC LIMIT $4"
    );
    let query = read.query_built(sql).bind(tenant).bind(sensor_id).bind(below).bind(limit);
    query.fetch_all().await?.iter().map(read_calibration).collect()
}

/// One version, deleted or not.
pub async fn find(read: &mut Read, tenant: &str, sensor_id: &str, version: u32) -> Result<Option<pb::Calibration>> {
    let query = read.query_built(format!("{SELECT} WHERE tenant = $1 AND sensor_id = $2 AND version = $3"));
    query.bind(tenant).bind(sensor_id).bind(version).fetch_optional().await?.as_ref().map(read_calibration).transpose()
}

/// The greatest number that was given to a version of a sensor; 0 where there is none.
pub async fn greatest(read: &mut Read, tenant: &str, sensor_id: &str) -> Result<u32> {
    let query =
        read.query("SELECT COALESCE(MAX(version), 0) AS n FROM calibration WHERE tenant = $1 AND sensor_id = $2");
    query.bind(tenant).bind(sensor_id).fetch_one().await?.get("n")
}

/// Adds a version; false where its number was taken at the same moment.
pub async fn insert(
    tx: &mut Tx,
    tenant: &str,
    calibration: &pb::Calibration,
    now: i64,
    said: &pb::Calibration,
) -> Result<bool> {
    let done = tx
        .query(
            "INSERT INTO calibration (tenant, sensor_id, version, body, create_time, creator, deleter) \
             VALUES ($1, $2, $3, $4, $5, $6, '') ON CONFLICT DO NOTHING",
        )
        .bind(tenant)
        .bind(&calibration.sensor_id)
        .bind(calibration.version)
        .bind(said.encode_to_vec())
        .bind(now)
        .bind(&calibration.creator)
        .execute()
        .await?;
    Ok(done == 1)
}

/// Marks a version as deleted; false where it was before.
pub async fn delete(tx: &mut Tx, tenant: &str, sensor_id: &str, version: u32, now: i64, deleter: &str) -> Result<bool> {
    let done = tx
        .query(
            "UPDATE calibration SET delete_time = $1, deleter = $2 \
             WHERE tenant = $3 AND sensor_id = $4 AND version = $5 AND delete_time IS NULL",
        )
        .bind(now)
        .bind(deleter)
        .bind(tenant)
        .bind(sensor_id)
        .bind(version)
        .execute()
        .await?;
    Ok(done == 1)
}
