//! What `devices` says of sensors: a projection of its stream.

use std::collections::BTreeMap;

use prost::Message as _;
use sensormesh_proto::devices::v1::QualityTests;
use sensormesh_series::Resolution;
use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Error, Result};

use crate::catalog::Sensor;

/// A sensor as `devices` tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The tenant it belongs to.
    pub tenant: String,
    /// The sensor.
    pub sensor_id: String,
    /// What is said of it.
    pub sensor: Sensor,
}

const COLUMNS: &str = "tenant, sensor_id, device_id, site, unit, range_min, range_max, expected_interval, quality_tests, \
                       retention_days, decimals, labels, deleted FROM sensor";

fn told(row: &Row) -> Result<Told> {
    let labels: BTreeMap<String, String> =
        serde_json::from_str(&row.get::<String>("labels")?).map_err(Error::internal)?;
    Ok(Told {
        tenant: row.get("tenant")?,
        sensor_id: row.get("sensor_id")?,
        sensor: Sensor {
            device: row.get("device_id")?,
            site: row.get("site")?,
            unit: row.get("unit")?,
            min: row.get("range_min")?,
            max: row.get("range_max")?,
            interval: row.get::<Option<i64>>("expected_interval")?.map(|micros| micros.saturating_mul(1000)),
            quality_tests: row.get::<Option<Vec<u8>>>("quality_tests")?.as_deref().map(tests).transpose()?,
            retention_days: row.get("retention_days")?,
            resolution: row.get::<Option<u32>>("decimals")?.and_then(Resolution::of),
            labels,
            deleted: row.get("deleted")?,
        },
    })
}

fn tests(bytes: &[u8]) -> Result<QualityTests> {
    QualityTests::decode(bytes).map_err(Error::internal)
}

/// Every sensor.
pub async fn list(read: &mut Read) -> Result<Vec<Told>> {
    read.query_built(format!("SELECT {COLUMNS}")).fetch_all().await?.iter().map(told).collect()
}

/// One sensor.
pub async fn find(read: &mut Read, tenant: &str, sensor_id: &str) -> Result<Option<Told>> {
    let query = read.query_built(format!("SELECT {COLUMNS} WHERE tenant = $1 AND sensor_id = $2"));
    query.bind(tenant).bind(sensor_id).fetch_optional().await?.as_ref().map(told).transpose()
}

const INSERT: &str = "INSERT INTO sensor \
    (tenant, sensor_id, device_id, site, unit, range_min, range_max, expected_interval, quality_tests, retention_days, \
    decimals, labels, deleted) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0) ON CONFLICT (tenant, sensor_id) DO";

/// Takes over a sensor.
pub async fn upsert(tx: &mut Tx, told: &Told) -> Result<()> {
    let sql = format!(
        "{INSERT} UPDATE SET device_id = $3, site = $4, unit = $5, range_min = $6, range_max = $7, \
         expected_interval = $8, quality_tests = $9, retention_days = $10, decimals = $11, labels = $12, \
         deleted = 0"
    );
    write(tx, sql, told).await
}

/// Takes over a sensor unless something newer is known of it.
pub async fn insert_if_absent(tx: &mut Tx, told: &Told) -> Result<()> {
    write(tx, format!("{INSERT} UPDATE SET deleted = 0"), told).await
}

async fn write(tx: &mut Tx, sql: String, told: &Told) -> Result<()> {
    let sensor = &told.sensor;
    tx.query_built(sql)
        .bind(&told.tenant)
        .bind(&told.sensor_id)
        .bind(&sensor.device)
        .bind(&sensor.site)
        .bind(&sensor.unit)
        .bind(sensor.min)
        .bind(sensor.max)
        .bind(sensor.interval.map(|nanos| nanos / 1000))
        .bind(sensor.quality_tests.map(|tests| tests.encode_to_vec()))
        .bind(sensor.retention_days)
        .bind(sensor.resolution.map(Resolution::decimals))
        .bind(serde_json::to_string(&sensor.labels).map_err(Error::internal)?)
        .execute()
        .await?;
    Ok(())
}

/// Marks a sensor as deleted.
pub async fn delete(tx: &mut Tx, tenant: &str, sensor_id: &str) -> Result<()> {
    tx.query("UPDATE sensor SET deleted = 1 WHERE tenant = $1 AND sensor_id = $2")
        .bind(tenant)
        .bind(sensor_id)
        .execute()
        .await?;
    Ok(())
}

/// Marks every sensor as deleted: a new snapshot follows.
pub async fn forget_all(tx: &mut Tx) -> Result<()> {
    tx.query("UPDATE sensor SET deleted = 1").execute().await?;
    Ok(())
}

/// Marks a sensor as registered after all.
pub async fn restore(tx: &mut Tx, tenant: &str, sensor_id: &str) -> Result<()> {
    tx.query("UPDATE sensor SET deleted = 0 WHERE tenant = $1 AND sensor_id = $2")
        .bind(tenant)
        .bind(sensor_id)
        .execute()
        .await?;
    Ok(())
}
