//! Signing keys.

use sensormesh_observability::Secret;
use sensormesh_store::{Read, Tx};
use sensormesh_types::Result;

use crate::key::StoredKey;

/// Publishes a key.
pub async fn insert(tx: &mut Tx, key: &StoredKey) -> Result<()> {
    let tenant = tx.tenant();
    tx.query(
        "INSERT INTO signing_key (tenant, key_id, x, y, private_pem, not_before, sign_until, retire_time) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(tenant)
    .bind(&key.key_id)
    .bind(&key.x)
    .bind(&key.y)
    .bind(key.private_pem.as_ref().map(|pem| pem.reveal().clone()))
    .bind(key.not_before)
    .bind(key.sign_until)
    .bind(key.retire_time)
    .execute()
    .await?;
    Ok(())
}

/// Every key, retired ones too until they are removed.
pub async fn list(read: &mut Read) -> Result<Vec<StoredKey>> {
    let query = read.query(
        "SELECT key_id, x, y, private_pem, not_before, sign_until, retire_time FROM signing_key ORDER BY not_before",
    );
    let rows = query.fetch_all().await?;
    rows.iter()
        .map(|row| {
            Ok(StoredKey {
                key_id: row.get("key_id")?,
                x: row.get("x")?,
                y: row.get("y")?,
                private_pem: row.get::<Option<String>>("private_pem")?.map(Secret::new),
                not_before: row.get("not_before")?,
                sign_until: row.get("sign_until")?,
                retire_time: row.get("retire_time")?,
            })
        })
        .collect()
}

/// Removes a retired key.
pub async fn delete(tx: &mut Tx, key_id: &str) -> Result<()> {
    tx.query("DELETE FROM signing_key WHERE key_id = $1").bind(key_id).execute().await?;
    Ok(())
}
