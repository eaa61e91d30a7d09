//! Invitations.

use sensormesh_store::Tx;
use sensormesh_types::{Result, Role};

use super::{role_of, sites_of, sites_text};
use crate::user::role_number;

/// What an invitation allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// The tenant of the new user.
    pub tenant: String,
    /// The role of the new user.
    pub role: Role,
    /// The sites of the new user.
    pub sites: Vec<String>,
    /// When it stops working: microseconds since the Unix epoch.
    pub expire_time: i64,
}

/// Keeps an invitation.
pub async fn insert(tx: &mut Tx, secret_hash: [u8; 32], invitation: &Invitation) -> Result<()> {
    tx.query("INSERT INTO invitation (tenant, secret_hash, role, sites, expire_time) VALUES ($1, $2, $3, $4, $5)")
        .bind(&invitation.tenant)
        .bind(secret_hash)
        .bind(role_number(invitation.role))
        .bind(sites_text(&invitation.sites)?)
        .bind(invitation.expire_time)
        .execute()
        .await?;
    Ok(())
}

/// Uses up an invitation that is still good. Of several uses at once, one gets it.
pub async fn take(tx: &mut Tx, secret_hash: [u8; 32], now: i64) -> Result<Option<Invitation>> {
    let query = tx.query(
        "DELETE FROM invitation WHERE secret_hash = $1 AND expire_time > $2 RETURNING tenant, role, sites, expire_time",
    );
    let Some(row) = query.bind(secret_hash).bind(now).fetch_optional().await? else { return Ok(None) };
    Ok(Some(Invitation {
        tenant: row.get("tenant")?,
        role: role_of(row.get("role")?)?,
        sites: sites_of(&row.get::<String>("sites")?)?,
        expire_time: row.get("expire_time")?,
    }))
}

/// Removes invitations that have expired.
pub async fn delete_expired(tx: &mut Tx, now: i64) -> Result<u64> {
    tx.query("DELETE FROM invitation WHERE expire_time <= $1").bind(now).execute().await
}
