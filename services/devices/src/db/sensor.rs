//! Sensors.

use std::collections::HashMap;

use sensormesh_store::{Read, Row, Tx, placeholders};
use sensormesh_types::{Result, Scope};

use super::{CHUNK, labels_of, labels_text, stamp_of, within_sites, written};
use crate::sensor::Sensor;

const SELECT: &str = "SELECT tenant, sensor_id, device_id, site, name, profile_id, unit, range_min, range_max, \
                      expected_interval, labels, suggested_room, suggested_metric, create_time, update_time, version \
                      FROM sensor";

fn read_sensor(row: &Row) -> Result<Sensor> {
    Ok(Sensor {
        sensor_id: row.get("sensor_id")?,
        device_id: row.get("device_id")?,
        site: row.get("site")?,
        name: row.get("name")?,
        profile_id: row.get("profile_id")?,
        unit: row.get("unit")?,
        range_min: row.get("range_min")?,
        range_max: row.get("range_max")?,
        interval: row.get("expected_interval")?,
        labels: labels_of(&row.get::<String>("labels")?)?,
        suggested_room: row.get("suggested_room")?,
        suggested_metric: row.get("suggested_metric")?,
        stamp: stamp_of(row)?,
    })
}

/// Adds a sensor; false where the id is taken.
pub async fn insert(tx: &mut Tx, sensor: &Sensor) -> Result<bool> {
    let tenant = tx.tenant();
    let done = tx
        .query(
            "INSERT INTO sensor (tenant, sensor_id, device_id, site, name, profile_id, unit, range_min, range_max, \
             expected_interval, labels, suggested_room, suggested_metric, create_time, update_time, version) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) \
             ON CONFLICT (tenant, sensor_id) DO NOTHING",
        )
        .bind(tenant)
        .bind(&sensor.sensor_id)
        .bind(&sensor.device_id)
        .bind(&sensor.site)
        .bind(&sensor.name)
        .bind(&sensor.profile_id)
        .bind(&sensor.unit)
        .bind(sensor.range_min)
        .bind(sensor.range_max)
        .bind(sensor.interval)
        .bind(labels_text(&sensor.labels)?)
        .bind(&sensor.suggested_room)
        .bind(&sensor.suggested_metric)
        .bind(sensor.stamp.create_time)
        .bind(sensor.stamp.update_time)
        .bind(sensor.stamp.version)
        .execute()
        .await?;
    Ok(done == 1)
}

/// The tenant's sensor with this id, whatever its site.
pub async fn find(read: &mut Read, sensor_id: &str) -> Result<Option<Sensor>> {
    let tenant = read.tenant();
    let query = read.query_built(format!("{SELECT} WHERE tenant = $1 AND sensor_id = $2"));
    query.bind(tenant).bind(sensor_id).fetch_optional().await?.as_ref().map(read_sensor).transpose()
}

/// Those of the ids that exist in the tenant, whatever their sites.
pub async fn find_many(read: &mut Read, ids: &[&str]) -> Result<HashMap<String, Sensor>> {
    let mut found = HashMap::with_capacity(ids.len());
    for chunk in ids.chunks(CHUNK) {
        let tenant = read.tenant();
        let list = placeholders(2, chunk.len());
        let query = read.query_built(format!("{SELECT} WHERE tenant = $1 AND sensor_id IN ({list})"));
        for row in query.bind(tenant).bind_all(chunk.iter().copied()).fetch_all().await? {
            let sensor = read_sensor(&row)?;
            found.insert(sensor.sensor_id.clone(), sensor);
        }
    }
    Ok(found)
}

/// A page of the scope's sensors after an id, by id; of one device unless `device_id` is empty.
pub async fn list(read: &mut Read, device_id: &str, after: &str, limit: u32) -> Result<Vec<Sensor>> {
    let (tenant, scope) = (read.tenant(), read.scope().clone());
    let (device, first) = if device_id.is_empty() { ("", 4) } else { (" AND device_id = $4", 5) };
    let sites = within_sites(&scope, first);
    let sql = format!("{SELECT} WHERE tenant = $1 AND sensor_id > $2{device}{sites} ORDER BY sensor_id LIMIT $3");
    let query = read.query_built(sql).bind(tenant).bind(after).bind(limit);
    let query = if device_id.is_empty() { query } else { query.bind(device_id) };
    query.bind_all(scope.sites()).fetch_all().await?.iter().map(read_sensor).collect()
}

/// Every sensor of a device.
pub async fn of_device(read: &mut Read, device_id: &str) -> Result<Vec<Sensor>> {
    let tenant = read.tenant();
    let query = read.query_built(format!("{SELECT} WHERE tenant = $1 AND device_id = $2 ORDER BY sensor_id"));
    query.bind(tenant).bind(device_id).fetch_all().await?.iter().map(read_sensor).collect()
}

/// Every sensor with a profile.
pub async fn of_profile(read: &mut Read, profile_id: &str) -> Result<Vec<Sensor>> {
    let tenant = read.tenant();
    let query = read.query_built(format!("{SELECT} WHERE tenant = $1 AND profile_id = $2 ORDER BY sensor_id"));
    query.bind(tenant).bind(profile_id).fetch_all().await?.iter().map(read_sensor).collect()
}

/// Every sensor that the scope may see, with its tenant: of all tenants for the system.
pub async fn all(read: &mut Read, scope: &Scope) -> Result<Vec<(String, Sensor)>> {
    let tenant = read.tenant();
    let rows = if scope.is_system() {
        read.query_built(format!("{SELECT} ORDER BY tenant, sensor_id")).fetch_all().await?
    } else {
        let sites = within_sites(scope, 2);
        let query = read.query_built(format!("{SELECT} WHERE tenant = $1{sites} ORDER BY sensor_id"));
        query.bind(tenant).bind_all(scope.sites()).fetch_all().await?
    };
    rows.iter().map(|row| Ok((row.get("tenant")?, read_sensor(row)?))).collect()
}

/// Writes a sensor that was read with the version before this one.
pub async fn update(tx: &mut Tx, sensor: &Sensor) -> Result<()> {
    let tenant = tx.tenant();
    let done = tx
        .query(
            "UPDATE sensor SET site = $1, name = $2, profile_id = $3, unit = $4, range_min = $5, range_max = $6, \
             expected_interval = $7, labels = $8, suggested_room = $9, suggested_metric = $10, update_time = $11, \
             version = $12 WHERE tenant = $13 AND sensor_id = $14 AND version = $15",
        )
        .bind(&sensor.site)
        .bind(&sensor.name)
        .bind(&sensor.profile_id)
        .bind(&sensor.unit)
        .bind(sensor.range_min)
        .bind(sensor.range_max)
        .bind(sensor.interval)
        .bind(labels_text(&sensor.labels)?)
        .bind(&sensor.suggested_room)
        .bind(&sensor.suggested_metric)
        .bind(sensor.stamp.update_time)
        .bind(sensor.stamp.version)
        .bind(tenant)
        .bind(&sensor.sensor_id)
        .bind(sensor.stamp.version - 1)
        .execute()
        .await?;
    written(done, "sensor", &sensor.sensor_id)
}

/// Removes a sensor; false where another call was faster.
pub async fn delete(tx: &mut Tx, sensor_id: &str) -> Result<bool> {
    let tenant = tx.tenant();
    let query = tx.query("DELETE FROM sensor WHERE tenant = $1 AND sensor_id = $2");
    Ok(query.bind(tenant).bind(sensor_id).execute().await? == 1)
}

/// How many sensors a device of the tenant has.
pub async fn count_of_device(read: &mut Read, device_id: &str) -> Result<i64> {
    let tenant = read.tenant();
    let query = read.query("SELECT COUNT(*) AS sensors FROM sensor WHERE tenant = $1 AND device_id = $2");
    query.bind(tenant).bind(device_id).fetch_one().await?.get("sensors")
}
