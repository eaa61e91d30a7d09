//! Devices.

use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Result, Scope};

use super::{labels_of, labels_text, stamp_of, within_sites, written};
use crate::device::Device;

const SELECT: &str = "SELECT tenant, device_id, site, name, manufacturer, model, labels, origin, create_time, \
                      update_time, version FROM device";

fn read_device(row: &Row) -> Result<Device> {
    Ok(Device {
        device_id: row.get("device_id")?,
        site: row.get("site")?,
        name: row.get("name")?,
        manufacturer: row.get("manufacturer")?,
        model: row.get("model")?,
        labels: labels_of(&row.get::<String>("labels")?)?,
        origin: row.get("origin")?,
        stamp: stamp_of(row)?,
    })
}

/// Adds a device; false where the id is taken.
pub async fn insert(tx: &mut Tx, device: &Device) -> Result<bool> {
    let tenant = tx.tenant();
    let done = tx
        .query(
            "INSERT INTO device (tenant, device_id, site, name, manufacturer, model, labels, origin, create_time, \
             update_time, version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
             ON CONFLICT (tenant, device_id) DO NOTHING",
        )
        .bind(tenant)
        .bind(&device.device_id)
        .bind(&device.site)
        .bind(&device.name)
        .bind(&device.manufacturer)
        .bind(&device.model)
        .bind(labels_text(&device.labels)?)
        .bind(&device.origin)
        .bind(device.stamp.create_time)
        .bind(device.stamp.update_time)
        .bind(device.stamp.version)
        .execute()
        .await?;
    Ok(done == 1)
}

/// The tenant's device with this id, whatever its site.
pub async fn find(read: &mut Read, device_id: &str) -> Result<Option<Device>> {
    let tenant = read.tenant();
    let query = read.query_built(format!("{SELECT} WHERE tenant = $1 AND device_id = $2"));
    query.bind(tenant).bind(device_id).fetch_optional().await?.as_ref().map(read_device).transpose()
}

/// The tenant's device with this id, kept from changing until the transaction ends.
pub async fn lock(tx: &mut Tx, device_id: &str) -> Result<Option<Device>> {
    let tenant = tx.tenant();
    let query = tx.query("UPDATE device SET version = version WHERE tenant = $1 AND device_id = $2");
    query.bind(tenant).bind(device_id).execute().await?;
    find(tx, device_id).await
}

/// How many of the tenant's devices came this way.
pub async fn count_of_origin(read: &mut Read, origin: &str) -> Result<i64> {
    let tenant = read.tenant();
    let query = read.query("SELECT COUNT(*) AS devices FROM device WHERE tenant = $1 AND origin = $2");
    query.bind(tenant).bind(origin).fetch_one().await?.get("devices")
}

/// A page of the scope's devices after an id, by id.
pub async fn list(read: &mut Read, after: &str, limit: u32) -> Result<Vec<Device>> {
    let (tenant, scope) = (read.tenant(), read.scope().clone());
    let sites = within_sites(&scope, 4);
    let sql = format!("{SELECT} WHERE tenant = $1 AND device_id > $2{sites} ORDER BY device_id LIMIT $3");
    let query = read.query_built(sql).bind(tenant).bind(after).bind(limit).bind_all(scope.sites());
    query.fetch_all().await?.iter().map(read_device).collect()
}

/// Every device that the scope may see, with its tenant: of all tenants for the system.
pub async fn all(read: &mut Read, scope: &Scope) -> Result<Vec<(String, Device)>> {
    let tenant = read.tenant();
    let rows = if scope.is_system() {
        read.query_built(format!("{SELECT} ORDER BY tenant, device_id")).fetch_all().await?
    } else {
        let sites = within_sites(scope, 2);
        let query = read.query_built(format!("{SELECT} WHERE tenant = $1{sites} ORDER BY device_id"));
        query.bind(tenant).bind_all(scope.sites()).fetch_all().await?
    };
    rows.iter().map(|row| Ok((row.get("tenant")?, read_device(row)?))).collect()
}

/// Writes a device that was read with the version before this one.
pub async fn update(tx: &mut Tx, device: &Device) -> Result<()> {
    let tenant = tx.tenant();
    let done = tx
        .query(
            "UPDATE device SET site = $1, name = $2, manufacturer = $3, model = $4, labels = $5, update_time = $6, \
             version = $7 WHERE tenant = $8 AND device_id = $9 AND version = $10",
        )
        .bind(&device.site)
        .bind(&device.name)
        .bind(&device.manufacturer)
        .bind(&device.model)
        .bind(labels_text(&device.labels)?)
        .bind(device.stamp.update_time)
        .bind(device.stamp.version)
        .bind(tenant)
        .bind(&device.device_id)
        .bind(device.stamp.version - 1)
        .execute()
        .await?;
    written(done, "device", &device.device_id)
}

/// Removes a device.
pub async fn delete(tx: &mut Tx, device_id: &str) -> Result<()> {
    let tenant = tx.tenant();
    let query = tx.query("DELETE FROM device WHERE tenant = $1 AND device_id = $2");
    query.bind(tenant).bind(device_id).execute().await?;
    Ok(())
}
