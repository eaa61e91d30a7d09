//! What the stream of `devices` says of sensors and profiles.

use std::collections::{BTreeSet, HashMap};

use sensormesh_store::{Read, Row, Tx, placeholders};
use sensormesh_types::Result;

use crate::metrics::Traits;
use crate::model::Sensor;

const COLUMNS: &str = "s.sensor_id, s.device_id, s.name, s.site, s.profile_id, s.quantity, s.unit, s.range_min, \
                       s.range_max, s.interval_ns, s.suggested_room, s.suggested_metric";

/// Every tenant that has anything here.
pub async fn tenants(read: &mut Read) -> Result<BTreeSet<String>> {
    let rows = read
        .query(
            "SELECT tenant FROM place UNION SELECT tenant FROM placement UNION SELECT tenant FROM sensor \
             UNION SELECT tenant FROM profile",
        )
        .fetch_all()
        .await?;
    rows.iter().map(|row| row.get("tenant")).collect()
}

/// One sensor.
pub async fn find_sensor(read: &mut Read, tenant: &str, id: &str) -> Result<Option<Sensor>> {
    let sql = format!("SELECT {COLUMNS} FROM sensor s WHERE s.tenant = $1 AND s.sensor_id = $2");
    read.query_built(sql).bind(tenant).bind(id).fetch_optional().await?.as_ref().map(sensor).transpose()
}

/// The sensors that are in a room: in this one, or in any where it is empty.
pub async fn list_placed_sensors(read: &mut Read, tenant: &str, room: &str) -> Result<HashMap<String, Sensor>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM sensor s JOIN placement p ON p.tenant = s.tenant AND p.sensor_id = s.sensor_id \
         WHERE s.tenant = $1 AND p.end_ns IS NULL AND ($2 = '' OR p.room_id = $2)"
    );
    let rows = read.query_built(sql).bind(tenant).bind(room).fetch_all().await?;
    rows.iter().map(|row| sensor(row).map(|sensor| (sensor.id.clone(), sensor))).collect()
}

/// The sensors of a device.
pub async fn list_of_device(read: &mut Read, tenant: &str, device: &str) -> Result<Vec<Sensor>> {
    let sql = format!("SELECT {COLUMNS} FROM sensor s WHERE s.tenant = $1 AND s.device_id = $2");
    read.query_built(sql).bind(tenant).bind(device).fetch_all().await?.iter().map(sensor).collect()
}

/// A page of the sensors that are in no room, by id, within the sites given (empty = all).
pub async fn list_unplaced(
    read: &mut Read,
    tenant: &str,
    sites: &[String],
    after: &str,
    size: u32,
) -> Result<Vec<Sensor>> {
    let within =
        if sites.is_empty() { "1 = 1".to_owned() } else { format!("s.site IN ({})", placeholders(4, sites.len())) };
    let sql = format!(
        "SELECT {COLUMNS} FROM sensor s WHERE s.tenant = $1 AND s.sensor_id > $2 AND {within} AND NOT EXISTS \
         (SELECT 1 FROM placement p WHERE p.tenant = s.tenant AND p.sensor_id = s.sensor_id AND p.end_ns IS NULL) \
         ORDER BY s.sensor_id LIMIT $3"
    );
    let rows = read.query_built(sql).bind(tenant).bind(after).bind(size).bind_all(sites).fetch_all().await?;
    rows.iter().map(sensor).collect()
}

/// Writes a sensor that was heard of now.
pub async fn save_sensor(tx: &mut Tx, tenant: &str, sensor: &Sensor) -> Result<()> {
    let now = tx.store().clock().now_micros();
    tx.query(
        "INSERT INTO sensor (tenant, sensor_id, device_id, name, site, profile_id, quantity, unit, range_min, range_max, \
         interval_ns, suggested_room, suggested_metric, heard) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
         ON CONFLICT (tenant, sensor_id) DO UPDATE SET device_id = excluded.device_id, name = excluded.name, \
         site = excluded.site, profile_id = excluded.profile_id, quantity = excluded.quantity, unit = excluded.unit, \
         range_min = excluded.range_min, range_max = excluded.range_max, interval_ns = excluded.interval_ns, \
         suggested_room = excluded.suggested_room, suggested_metric = excluded.suggested_metric, \
         heard = excluded.heard",
    )
    .bind(tenant)
    .bind(&sensor.id)
    .bind(&sensor.device)
    .bind(&sensor.name)
    .bind(&sensor.site)
    .bind(&sensor.profile)
    .bind(&sensor.traits.quantity)
    .bind(&sensor.traits.unit)
    .bind(sensor.traits.min)
    .bind(sensor.traits.max)
    .bind(sensor.traits.interval)
    .bind(&sensor.suggested_room)
    .bind(&sensor.suggested_metric)
    .bind(now)
    .execute()
    .await?;
    Ok(())
}

/// Takes a sensor out.
pub async fn delete_sensor(tx: &mut Tx, tenant: &str, id: &str) -> Result<()> {
    tx.query("DELETE FROM sensor WHERE tenant = $1 AND sensor_id = $2").bind(tenant).bind(id).execute().await?;
    Ok(())
}

/// Every profile of a tenant by id.
pub async fn list_profiles(read: &mut Read, tenant: &str) -> Result<HashMap<String, Traits>> {
    let rows = read
        .query("SELECT profile_id, quantity, unit, range_min, range_max, interval_ns FROM profile WHERE tenant = $1")
        .bind(tenant)
        .fetch_all()
        .await?;
    rows.iter().map(|row| Ok((row.get("profile_id")?, traits(row)?))).collect()
}

/// Writes a profile.
pub async fn save_profile(tx: &mut Tx, tenant: &str, id: &str, traits: &Traits) -> Result<()> {
    tx.query(
        "INSERT INTO profile (tenant, profile_id, quantity, unit, range_min, range_max, interval_ns) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (tenant, profile_id) DO UPDATE SET quantity = excluded.quantity, unit = excluded.unit, \
         range_min = excluded.range_min, range_max = excluded.range_max, interval_ns = excluded.interval_ns",
    )
    .bind(tenant)
    .bind(id)
    .bind(&traits.quantity)
    .bind(&traits.unit)
    .bind(traits.min)
    .bind(traits.max)
    .bind(traits.interval)
    .execute()
    .await?;
    Ok(())
}

/// Takes a profile out.
pub async fn delete_profile(tx: &mut Tx, tenant: &str, id: &str) -> Result<()> {
    tx.query("DELETE FROM profile WHERE tenant = $1 AND profile_id = $2").bind(tenant).bind(id).execute().await?;
    Ok(())
}

/// Takes out every profile, and every sensor that was last heard of before `before` (microseconds since the Unix epoch), of
/// every tenant: the stream is about to say anew what there is. Returns the sensors.
pub async fn wipe_projection(tx: &mut Tx, before: i64) -> Result<Vec<(String, String)>> {
    let sql = "DELETE FROM sensor WHERE heard < $1 RETURNING tenant, sensor_id";
    let rows = tx.query(sql).bind(before).fetch_all().await?;
    tx.query("DELETE FROM profile").execute().await?;
    rows.iter().map(|row| Ok((row.get("tenant")?, row.get("sensor_id")?))).collect()
}

fn sensor(row: &Row) -> Result<Sensor> {
    Ok(Sensor {
        id: row.get("sensor_id")?,
        device: row.get("device_id")?,
        name: row.get("name")?,
        site: row.get("site")?,
        profile: row.get("profile_id")?,
        traits: traits(row)?,
        suggested_room: row.get("suggested_room")?,
        suggested_metric: row.get("suggested_metric")?,
    })
}

fn traits(row: &Row) -> Result<Traits> {
    Ok(Traits {
        quantity: row.get("quantity")?,
        unit: row.get("unit")?,
        min: row.get("range_min")?,
        max: row.get("range_max")?,
        interval: row.get("interval_ns")?,
    })
}
