//! Bridges.

use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Error, Result};

use super::{stamp_of, within_sites, written};
use crate::bridge::Bridge;

const SELECT: &str =
    "SELECT bridge_id, site, name, prefixes, max_devices, create_time, update_time, version FROM bridge";

fn read_bridge(row: &Row) -> Result<Bridge> {
    Ok(Bridge {
        bridge_id: row.get("bridge_id")?,
        site: row.get("site")?,
        name: row.get("name")?,
        prefixes: prefixes_of(&row.get::<String>("prefixes")?)?,
        max_devices: row.get("max_devices")?,
        stamp: stamp_of(row)?,
    })
}

fn prefixes_text(prefixes: &[String]) -> Result<String> {
    serde_json::to_string(prefixes).map_err(Error::internal)
}

/// The prefixes as they are stored.
pub fn prefixes_of(text: &str) -> Result<Vec<String>> {
    serde_json::from_str(text).map_err(Error::internal)
}

/// Adds a bridge; false where the id is taken.
pub async fn insert(tx: &mut Tx, bridge: &Bridge) -> Result<bool> {
    let tenant = tx.tenant();
    let done = tx
        .query(
            "INSERT INTO bridge (tenant, bridge_id, site, name, prefixes, max_devices, create_time, update_time, \
             version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant, bridge_id) DO NOTHING",
        )
        .bind(tenant)
        .bind(&bridge.bridge_id)
        .bind(&bridge.site)
        .bind(&bridge.name)
        .bind(prefixes_text(&bridge.prefixes)?)
        .bind(bridge.max_devices)
        .bind(bridge.stamp.create_time)
        .bind(bridge.stamp.update_time)
        .bind(bridge.stamp.version)
        .execute()
        .await?;
    Ok(done == 1)
}

/// The tenant's bridge with this id, whatever its site.
pub async fn find(read: &mut Read, bridge_id: &str) -> Result<Option<Bridge>> {
    let tenant = read.tenant();
    let query = read.query_built(format!("{SELECT} WHERE tenant = $1 AND bridge_id = $2"));
    query.bind(tenant).bind(bridge_id).fetch_optional().await?.as_ref().map(read_bridge).transpose()
}

/// The tenant's bridge with this id, kept from changing until the transaction ends.
pub async fn lock(tx: &mut Tx, bridge_id: &str) -> Result<Option<Bridge>> {
    let tenant = tx.tenant();
    let query = tx.query("UPDATE bridge SET version = version WHERE tenant = $1 AND bridge_id = $2");
    query.bind(tenant).bind(bridge_id).execute().await?;
    find(tx, bridge_id).await
}

/// A page of the scope's bridges after an id, by id.
pub async fn list(read: &mut Read, after: &str, limit: u32) -> Result<Vec<Bridge>> {
    let (tenant, scope) = (read.tenant(), read.scope().clone());
    let sites = within_sites(&scope, 4);
    let sql = format!("{SELECT} WHERE tenant = $1 AND bridge_id > $2{sites} ORDER BY bridge_id LIMIT $3");
    let query = read.query_built(sql).bind(tenant).bind(after).bind(limit).bind_all(scope.sites());
    query.fetch_all().await?.iter().map(read_bridge).collect()
}

/// Writes a bridge that was read with the version before this one.
pub async fn update(tx: &mut Tx, bridge: &Bridge) -> Result<()> {
    let tenant = tx.tenant();
    let done = tx
        .query(
            "UPDATE bridge SET site = $1, name = $2, prefixes = $3, max_devices = $4, update_time = $5, version = $6 \
             WHERE tenant = $7 AND bridge_id = $8 AND version = $9",
        )
        .bind(&bridge.site)
        .bind(&bridge.name)
        .bind(prefixes_text(&bridge.prefixes)?)
        .bind(bridge.max_devices)
        .bind(bridge.stamp.update_time)
        .bind(bridge.stamp.version)
        .bind(tenant)
        .bind(&bridge.bridge_id)
        .bind(bridge.stamp.version - 1)
        .execute()
        .await?;
    written(done, "bridge", &bridge.bridge_id)
}

/// Removes a bridge.
pub async fn delete(tx: &mut Tx, bridge_id: &str) -> Result<()> {
    let tenant = tx.tenant();
    let query = tx.query("DELETE FROM bridge WHERE tenant = $1 AND bridge_id = $2");
    query.bind(tenant).bind(bridge_id).execute().await?;
    Ok(())
}
