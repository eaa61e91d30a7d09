//! Revocations in force.

use sensormesh_store::{Read, Tx};
use sensormesh_types::{Error, Result};

use crate::verification::{Revocation, Subject};

/// Keeps a revocation; a later one of the same subject replaces it.
pub async fn insert(tx: &mut Tx, tenant: &str, revocation: &Revocation) -> Result<()> {
    let (kind, id) = match &revocation.subject {
        Subject::Session(id) => ("session", id),
        Subject::User(id) => ("user", id),
    };
    tx.query(
        "INSERT INTO revocation (tenant, subject_kind, subject_id, revoke_time, expire_time) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, subject_kind, subject_id) \
         DO UPDATE SET revoke_time = excluded.revoke_time, expire_time = excluded.expire_time",
    )
    .bind(tenant)
    .bind(kind)
    .bind(id)
    .bind(revocation.revoke_time)
    .bind(revocation.expire_time)
    .execute()
    .await?;
    Ok(())
}

/// The revocations in force, of every tenant, oldest first.
pub async fn list(read: &mut Read, now: i64) -> Result<Vec<Revocation>> {
    let query = read.query(
        "SELECT subject_kind, subject_id, revoke_time, expire_time FROM revocation \
         WHERE expire_time > $1 ORDER BY revoke_time, subject_id",
    );
    let rows = query.bind(now).fetch_all().await?;
    rows.iter()
        .map(|row| {
            let id = row.get("subject_id")?;
            let subject = match row.get::<String>("subject_kind")?.as_str() {
                "session" => Subject::Session(id),
                "user" => Subject::User(id),
                other => return Err(Error::internal(format!("a revocation is of {other:?}"))),
            };
            Ok(Revocation { subject, revoke_time: row.get("revoke_time")?, expire_time: row.get("expire_time")? })
        })
        .collect()
}

/// Removes revocations that are no longer needed.
pub async fn delete_expired(tx: &mut Tx, now: i64) -> Result<u64> {
    tx.query("DELETE FROM revocation WHERE expire_time <= $1").bind(now).execute().await
}
