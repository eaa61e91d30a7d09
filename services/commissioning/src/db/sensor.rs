//! What the stream of `devices` says of sensors and profiles.

use std::collections::HashMap;

use sensormesh_store::{Read, Row, Tx, placeholders};
use sensormesh_types::Result;

use crate::sensor::{Quality, Sensor, Traits, quantity_of, suffix};

const COLUMNS: &str = "sensor_id, device_id, name, site, profile_id, quantity, unit, range_min, range_max, interval_ns, \
                       flat_tolerance, flat_count, gap_intervals";

/// Which sensors are wanted. Empty = all.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of this type, as types are compared.
    pub key: String,
    /// Of this device.
    pub device: String,
    /// Of this site.
    pub site: String,
    /// Of these sites.
    pub sites: Vec<String>,
    /// At most so many.
    pub most: u32,
}

/// One sensor.
pub async fn find_sensor(read: &mut Read, tenant: &str, id: &str) -> Result<Option<Sensor>> {
    let sql = format!("SELECT {COLUMNS} FROM sensor WHERE tenant = $1 AND sensor_id = $2");
    read.query_built(sql).bind(tenant).bind(id).fetch_optional().await?.as_ref().map(sensor).transpose()
}

/// The sensors that are wanted, by id.
pub async fn list_sensors(read: &mut Read, tenant: &str, wanted: &Wanted) -> Result<Vec<Sensor>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM sensor WHERE tenant = $1 \
         AND ($2 = '' OR quantity = $3 OR suffix = $2 OR REPLACE(LOWER(profile_id), ' ', '_') = $2) \
         AND ($4 = '' OR device_id = $4) AND ($5 = '' OR site = $5) AND {} ORDER BY sensor_id LIMIT $6",
        within(7, &wanted.sites)
    );
    let rows = read
        .query_built(sql)
        .bind(tenant)
        .bind(&wanted.key)
        .bind(quantity_of(&wanted.key))
        .bind(&wanted.device)
        .bind(&wanted.site)
        .bind(wanted.most)
        .bind_all(&wanted.sites)
        .fetch_all()
        .await?;
    rows.iter().map(sensor).collect()
}

/// What sensors measure within the sites given (empty = all), by name.
pub async fn list_quantities(read: &mut Read, tenant: &str, sites: &[String]) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT DISTINCT quantity FROM sensor WHERE tenant = $1 AND quantity <> '' AND {} ORDER BY quantity",
        within(2, sites)
    );
    let rows = read.query_built(sql).bind(tenant).bind_all(sites).fetch_all().await?;
    rows.iter().map(|row| row.get("quantity")).collect()
}

fn within(first: usize, sites: &[String]) -> String {
    if sites.is_empty() { "1 = 1".to_owned() } else { format!("site IN ({})", placeholders(first, sites.len())) }
}

/// The sensors of a device.
pub async fn list_of_device(read: &mut Read, tenant: &str, device: &str) -> Result<Vec<Sensor>> {
    let sql = format!("SELECT {COLUMNS} FROM sensor WHERE tenant = $1 AND device_id = $2");
    read.query_built(sql).bind(tenant).bind(device).fetch_all().await?.iter().map(sensor).collect()
}

/// Writes a sensor that was heard of now.
pub async fn save_sensor(tx: &mut Tx, tenant: &str, sensor: &Sensor) -> Result<()> {
    let now = tx.store().clock().now_micros();
    if find_sensor(tx, tenant, &sensor.id).await?.as_ref() == Some(sensor) {
        tx.query("UPDATE sensor SET heard = $3 WHERE tenant = $1 AND sensor_id = $2")
            .bind(tenant)
            .bind(&sensor.id)
            .bind(now)
            .execute()
            .await?;
        return Ok(());
    }
    tx.query(
        "INSERT INTO sensor (tenant, sensor_id, suffix, device_id, name, site, profile_id, quantity, unit, range_min, \
         range_max, interval_ns, flat_tolerance, flat_count, gap_intervals, heard) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) \
         ON CONFLICT (tenant, sensor_id) DO UPDATE SET device_id = excluded.device_id, name = excluded.name, \
         site = excluded.site, profile_id = excluded.profile_id, quantity = excluded.quantity, unit = excluded.unit, \
         range_min = excluded.range_min, range_max = excluded.range_max, interval_ns = excluded.interval_ns, \
         flat_tolerance = excluded.flat_tolerance, flat_count = excluded.flat_count, \
         gap_intervals = excluded.gap_intervals, heard = excluded.heard",
    )
    .bind(tenant)
    .bind(&sensor.id)
    .bind(suffix(&sensor.id))
    .bind(&sensor.device)
    .bind(&sensor.name)
    .bind(&sensor.site)
    .bind(&sensor.profile)
    .bind(&sensor.traits.quantity)
    .bind(&sensor.traits.unit)
    .bind(sensor.traits.min)
    .bind(sensor.traits.max)
    .bind(sensor.traits.interval)
    .bind(sensor.quality.flat_tolerance)
    .bind(sensor.quality.flat_count)
    .bind(sensor.quality.gap_intervals)
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
/// every tenant: the stream is about to say anew what there is.
pub async fn wipe_projection(tx: &mut Tx, before: i64) -> Result<()> {
    tx.query("DELETE FROM sensor WHERE heard < $1").bind(before).execute().await?;
    tx.query("DELETE FROM profile").execute().await?;
    Ok(())
}

fn sensor(row: &Row) -> Result<Sensor> {
    Ok(Sensor {
        id: row.get("sensor_id")?,
        device: row.get("device_id")?,
        name: row.get("name")?,
        site: row.get("site")?,
        profile: row.get("profile_id")?,
        traits: traits(row)?,
        quality: Quality {
            flat_tolerance: row.get("flat_tolerance")?,
            flat_count: row.get("flat_count")?,
            gap_intervals: row.get("gap_intervals")?,
        },
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
