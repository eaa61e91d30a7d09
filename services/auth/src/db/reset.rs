//! Secrets that a user who has forgotten the password may set another one with, once.

use sensormesh_store::{Read, Tx};
use sensormesh_types::Result;

use crate::user::User;

/// Keeps a user's secret in the place of an earlier one.
pub async fn insert(tx: &mut Tx, user: &User, secret_hash: [u8; 32], expire_time: i64) -> Result<()> {
    delete(tx, user).await?;
    tx.query("INSERT INTO password_reset (tenant, user_id, secret_hash, expire_time) VALUES ($1, $2, $3, $4)")
        .bind(&user.tenant)
        .bind(&user.user_id)
        .bind(secret_hash)
        .bind(expire_time)
        .execute()
        .await?;
    Ok(())
}

/// Whose secret this is, while it is good: the tenant and id of its user.
pub async fn find(read: &mut Read, secret_hash: [u8; 32], now: i64) -> Result<Option<(String, String)>> {
    let query = read.query("SELECT tenant, user_id FROM password_reset WHERE secret_hash = $1 AND expire_time > $2");
    let Some(row) = query.bind(secret_hash).bind(now).fetch_optional().await? else { return Ok(None) };
    Ok(Some((row.get("tenant")?, row.get("user_id")?)))
}

/// Uses up a secret that is still good: the tenant and id of its user. Of several uses at once, one gets it.
pub async fn take(tx: &mut Tx, secret_hash: [u8; 32], now: i64) -> Result<Option<(String, String)>> {
    let query =
        tx.query("DELETE FROM password_reset WHERE secret_hash = $1 AND expire_time > $2 RETURNING tenant, user_id");
    let Some(row) = query.bind(secret_hash).bind(now).fetch_optional().await? else { return Ok(None) };
    Ok(Some((row.get("tenant")?, row.get("user_id")?)))
}

/// Forgets a user's secret.
pub async fn delete(tx: &mut Tx, user: &User) -> Result<()> {
    let query = tx.query("DELETE FROM password_reset WHERE tenant = $1 AND user_id = $2");
    query.bind(&user.tenant).bind(&user.user_id).execute().await?;
    Ok(())
}

/// Removes secrets that have expired.
pub async fn delete_expired(tx: &mut Tx, now: i64) -> Result<u64> {
    tx.query("DELETE FROM password_reset WHERE expire_time <= $1").bind(now).execute().await
}
