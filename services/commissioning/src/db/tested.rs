//! The sensors of tests, and what their readings were like.

use prost::Message;
use sensormesh_proto::commissioning::v1::TestedSensor;
use sensormesh_store::{Read, Row, Tx, placeholders};
use sensormesh_types::{Error, Result};

use crate::tally::Tally;
use crate::test::{Test, Tested};

const COLUMNS: &str = "test_id, sensor_id, device_id, name, site, limits, tally, result";

/// Writes the sensors of a new test, open unless the test is over.
pub async fn insert_tested(tx: &mut Tx, test: &Test, sensors: &[Tested]) -> Result<()> {
    for tested in sensors {
        tx.query(
            "INSERT INTO tested (tenant, test_id, sensor_id, device_id, name, site, open, readings, limits, tally) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9)",
        )
        .bind(&test.tenant)
        .bind(&test.id)
        .bind(&tested.sensor)
        .bind(&tested.device)
        .bind(&tested.name)
        .bind(&tested.site)
        .bind(i64::from(!test.state.is_over()))
        .bind(json(&tested.limits)?)
        .bind(json(&tested.tally)?)
        .execute()
        .await?;
    }
    Ok(())
}

/// The sensors of a test, by id.
pub async fn list_tested(read: &mut Read, tenant: &str, test: &str) -> Result<Vec<Tested>> {
    let sql = format!("SELECT {COLUMNS} FROM tested WHERE tenant = $1 AND test_id = $2 ORDER BY sensor_id");
    let rows = read.query_built(sql).bind(tenant).bind(test).fetch_all().await?;
    rows.iter().map(tested).collect()
}

/// Those of these sensors (at most 1,000) that are under test, each with the test's id.
pub async fn list_open(read: &mut Read, tenant: &str, sensors: &[&str]) -> Result<Vec<(String, Tested)>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM tested WHERE tenant = $1 AND open = 1 AND sensor_id IN ({})",
        placeholders(2, sensors.len())
    );
    let rows = read.query_built(sql).bind(tenant).bind_all(sensors.iter().copied()).fetch_all().await?;
    rows.iter().map(|row| Ok((row.get("test_id")?, tested(row)?))).collect()
}

/// Writes what the readings of a sensor were like so far.
pub async fn save_tally(tx: &mut Tx, tenant: &str, test: &str, tested: &Tested) -> Result<()> {
    tx.query(
        "UPDATE tested SET tally = $4, readings = $5 WHERE tenant = $1 AND test_id = $2 AND sensor_id = $3 AND open = 1",
    )
    .bind(tenant)
    .bind(test)
    .bind(&tested.sensor)
    .bind(json(&tested.tally)?)
    .bind(i64::try_from(tested.tally.readings).unwrap_or(i64::MAX))
    .execute()
    .await?;
    Ok(())
}

/// Whether every sensor of a test has sent enough.
pub async fn is_complete(read: &mut Read, test: &Test) -> Result<bool> {
    let sql = "SELECT 1 AS one FROM tested WHERE tenant = $1 AND test_id = $2 AND readings < $3 LIMIT 1";
    let short = read.query(sql).bind(&test.tenant).bind(&test.id).bind(test.readings).fetch_optional().await?;
    Ok(short.is_none())
}

/// Writes what a sensor of a test came to. It counts no longer.
pub async fn close_tested(tx: &mut Tx, test: &Test, result: &TestedSensor) -> Result<()> {
    tx.query("UPDATE tested SET open = 0, result = $4 WHERE tenant = $1 AND test_id = $2 AND sensor_id = $3")
        .bind(&test.tenant)
        .bind(&test.id)
        .bind(&result.sensor_id)
        .bind(result.encode_to_vec())
        .execute()
        .await?;
    Ok(())
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}

fn tested(row: &Row) -> Result<Tested> {
    let (limits, tally): (String, String) = (row.get("limits")?, row.get("tally")?);
    let result: Option<Vec<u8>> = row.get("result")?;
    Ok(Tested {
        sensor: row.get("sensor_id")?,
        device: row.get("device_id")?,
        name: row.get("name")?,
        site: row.get("site")?,
        limits: serde_json::from_str(&limits).map_err(Error::internal)?,
        tally: serde_json::from_str::<Tally>(&tally).map_err(Error::internal)?,
        result: result.map(|bytes| TestedSensor::decode(bytes.as_slice()).map_err(Error::internal)).transpose()?,
    })
}
