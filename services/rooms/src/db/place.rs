//! Places.

use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Error, Result};

use crate::place::{Kind, Place, Tree};

const COLUMNS: &str = "place_id, kind, name, parent, site, created, updated, revision";

/// Every place of a tenant.
pub async fn list_places(read: &mut Read, tenant: &str) -> Result<Tree> {
    let sql = format!("SELECT {COLUMNS} FROM place WHERE tenant = $1");
    read.query_built(sql).bind(tenant).fetch_all().await?.iter().map(place).collect()
}

/// One place.
pub async fn find_place(read: &mut Read, tenant: &str, id: &str) -> Result<Option<Place>> {
    let sql = format!("SELECT {COLUMNS} FROM place WHERE tenant = $1 AND place_id = $2");
    read.query_built(sql).bind(tenant).bind(id).fetch_optional().await?.as_ref().map(place).transpose()
}

/// Until the transaction ends nobody else changes places and placements of the tenant.
pub async fn lock(tx: &mut Tx, tenant: &str) -> Result<()> {
    let lock = "INSERT INTO writer (tenant, changes) VALUES ($1, 1) ON CONFLICT (tenant) DO UPDATE SET changes = writer.changes + 1";
    tx.query(lock).bind(tenant).execute().await?;
    Ok(())
}

/// Writes a place as it is now.
pub async fn save_place(tx: &mut Tx, tenant: &str, place: &Place) -> Result<()> {
    tx.query(
        "INSERT INTO place (tenant, place_id, kind, name, parent, site, created, updated, revision) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (tenant, place_id) DO UPDATE SET name = excluded.name, parent = excluded.parent, \
         site = excluded.site, updated = excluded.updated, revision = excluded.revision",
    )
    .bind(tenant)
    .bind(&place.id)
    .bind(place.kind as i32)
    .bind(&place.name)
    .bind(&place.parent)
    .bind(&place.site)
    .bind(place.created)
    .bind(place.updated)
    .bind(place.revision)
    .execute()
    .await?;
    Ok(())
}

/// Takes a place out.
pub async fn delete_place(tx: &mut Tx, tenant: &str, id: &str) -> Result<()> {
    tx.query("DELETE FROM place WHERE tenant = $1 AND place_id = $2").bind(tenant).bind(id).execute().await?;
    Ok(())
}

fn place(row: &Row) -> Result<Place> {
    let kind: i64 = row.get("kind")?;
    Ok(Place {
        id: row.get("place_id")?,
        kind: i32::try_from(kind)
            .ok()
            .and_then(Kind::from_i32)
            .ok_or_else(|| Error::internal(format!("a place has the unknown kind {kind}")))?,
        name: row.get("name")?,
        parent: row.get("parent")?,
        site: row.get("site")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        revision: row.get("revision")?,
    })
}
