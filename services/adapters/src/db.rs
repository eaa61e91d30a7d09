//! All SQL of this service.

use std::collections::BTreeSet;
use std::time::Duration;

use sensormesh_store::{Read, Tx};
use sensormesh_types::Result;

use crate::connection::Settings;

/// How a connection is set, if anybody ever set it.
pub async fn find_settings(read: &mut Read, tenant: &str, id: &str) -> Result<Option<Settings>> {
    let row = read
        .query("SELECT enabled, interval_us FROM connection WHERE tenant = $1 AND connection_id = $2")
        .bind(tenant)
        .bind(id)
        .fetch_optional()
        .await?;
    let Some(row) = row else { return Ok(None) };
    let micros: u64 = row.get("interval_us")?;
    Ok(Some(Settings { enabled: row.get("enabled")?, interval: Duration::from_micros(micros) }))
}

/// Writes how a connection is set.
pub async fn save_settings(tx: &mut Tx, tenant: &str, id: &str, adapter: &str, settings: Settings) -> Result<()> {
    tx.query(
        "INSERT INTO connection (tenant, connection_id, adapter, enabled, interval_us) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (tenant, connection_id) DO UPDATE SET enabled = excluded.enabled, interval_us = excluded.interval_us",
    )
    .bind(tenant)
    .bind(id)
    .bind(adapter)
    .bind(settings.enabled)
    .bind(i64::try_from(settings.interval.as_micros()).unwrap_or(i64::MAX))
    .execute()
    .await?;
    Ok(())
}

/// The sensors of a connection that `devices` has answered for.
pub async fn list_registered(read: &mut Read, tenant: &str, connection: &str) -> Result<BTreeSet<String>> {
    let rows = read
        .query("SELECT sensor_id FROM registered WHERE tenant = $1 AND connection_id = $2")
        .bind(tenant)
        .bind(connection)
        .fetch_all()
        .await?;
    rows.iter().map(|row| row.get("sensor_id")).collect()
}

/// Notes sensors that `devices` has answered for.
pub async fn save_registered(tx: &mut Tx, tenant: &str, connection: &str, sensors: &[String]) -> Result<()> {
    for sensor in sensors {
        tx.query(
            "INSERT INTO registered (tenant, connection_id, sensor_id) VALUES ($1, $2, $3) \
             ON CONFLICT (tenant, connection_id, sensor_id) DO NOTHING",
        )
        .bind(tenant)
        .bind(connection)
        .bind(sensor)
        .execute()
        .await?;
    }
    Ok(())
}
