//! Credentials of devices and bridges, and claim codes.

use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Error, Result};

use super::bridge::prefixes_of;
use super::within_sites;
use crate::credential::{ClaimCode, Credential, Holder, Subject};

macro_rules! columns {
    () => {
        "credential_id, device_id, bridge_id, name, token_hash, create_time, use_time, expire_time, life, claim_code_id"
    };
}
macro_rules! claim_columns {
    () => {
        "tenant, claim_code_id, name, site, prefix, uses_left, create_time, expire_time"
    };
}

fn read_credential(row: &Row) -> Result<Credential> {
    let (device_id, bridge_id): (String, String) = (row.get("device_id")?, row.get("bridge_id")?);
    let token_hash: Vec<u8> = row.get("token_hash")?;
    Ok(Credential {
        credential_id: row.get("credential_id")?,
        subject: if bridge_id.is_empty() { Subject::Device(device_id) } else { Subject::Bridge(bridge_id) },
        name: row.get("name")?,
        token_hash: token_hash.try_into().map_err(|_| Error::internal("a token's hash has another length"))?,
        create_time: row.get("create_time")?,
        use_time: row.get("use_time")?,
        expire_time: row.get("expire_time")?,
        life: row.get("life")?,
        claim_code_id: row.get("claim_code_id")?,
    })
}

fn read_claim_code(row: &Row) -> Result<ClaimCode> {
    Ok(ClaimCode {
        tenant: row.get("tenant")?,
        claim_code_id: row.get("claim_code_id")?,
        name: row.get("name")?,
        site: row.get("site")?,
        prefix: row.get("prefix")?,
        uses_left: row.get("uses_left")?,
        create_time: row.get("create_time")?,
        expire_time: row.get("expire_time")?,
    })
}

/// Keeps a credential.
pub async fn insert(tx: &mut Tx, credential: &Credential) -> Result<()> {
    let tenant = tx.tenant();
    tx.query(concat!(
        "INSERT INTO credential (tenant, ",
        columns!(),
        ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
    ))
    .bind(tenant)
    .bind(&credential.credential_id)
    .bind(credential.subject.device_id())
    .bind(credential.subject.bridge_id())
    .bind(&credential.name)
    .bind(credential.token_hash)
    .bind(credential.create_time)
    .bind(credential.use_time)
    .bind(credential.expire_time)
    .bind(credential.life)
    .bind(&credential.claim_code_id)
    .execute()
    .await?;
    Ok(())
}

/// The tenant's credential with this id that has not ended at `now`.
pub async fn find(read: &mut Read, credential_id: &str, now: i64) -> Result<Option<Credential>> {
    let tenant = read.tenant();
    let query = read.query(concat!(
        "SELECT ",
        columns!(),
        " FROM credential WHERE tenant = $1 AND credential_id = $2 AND (expire_time IS NULL OR expire_time > $3)"
    ));
    query.bind(tenant).bind(credential_id).bind(now).fetch_optional().await?.as_ref().map(read_credential).transpose()
}

/// A device's or a bridge's credentials that have not ended at `now`, the newest first.
pub async fn of(read: &mut Read, subject: &Subject, now: i64) -> Result<Vec<Credential>> {
    let tenant = read.tenant();
    let query = read.query(concat!(
        "SELECT ",
        columns!(),
        " FROM credential WHERE tenant = $1 AND device_id = $2 AND bridge_id = $3 \
         AND (expire_time IS NULL OR expire_time > $4) ORDER BY create_time DESC, credential_id"
    ));
    let query = query.bind(tenant).bind(subject.device_id()).bind(subject.bridge_id()).bind(now);
    query.fetch_all().await?.iter().map(read_credential).collect()
}

/// Every tenant's credentials that have not ended at `now`, each with its tenant and whose it is.
pub async fn all(read: &mut Read, now: i64) -> Result<Vec<(String, Credential, Holder)>> {
    let query = read.query(
        "SELECT c.tenant AS tenant, c.credential_id AS credential_id, c.device_id AS device_id, \
         c.bridge_id AS bridge_id, c.name AS name, c.token_hash AS token_hash, c.create_time AS create_time, \
         c.use_time AS use_time, c.expire_time AS expire_time, c.life AS life, c.claim_code_id AS claim_code_id, COALESCE(d.site, b.site, '') AS site, \
         COALESCE(b.prefixes, '[]') AS prefixes, COALESCE(b.max_devices, 0) AS max_devices FROM credential c \
         LEFT JOIN device d ON d.tenant = c.tenant AND d.device_id = c.device_id \
         LEFT JOIN bridge b ON b.tenant = c.tenant AND b.bridge_id = c.bridge_id \
         WHERE (c.expire_time IS NULL OR c.expire_time > $1) AND (d.site IS NOT NULL OR b.site IS NOT NULL)",
    );
    let rows = query.bind(now).fetch_all().await?;
    let each = rows.iter().map(|row| {
        let credential = read_credential(row)?;
        let holder = Holder {
            subject: credential.subject.clone(),
            site: row.get("site")?,
            prefixes: prefixes_of(&row.get::<String>("prefixes")?)?,
            may_register: row.get::<i64>("max_devices")? > 0,
        };
        Ok((row.get("tenant")?, credential, holder))
    });
    each.collect()
}

/// Lets a credential end at another time.
pub async fn expire(tx: &mut Tx, credential_id: &str, expire_time: i64) -> Result<()> {
    let tenant = tx.tenant();
    let query = tx.query("UPDATE credential SET expire_time = $1 WHERE tenant = $2 AND credential_id = $3");
    query.bind(expire_time).bind(tenant).bind(credential_id).execute().await?;
    Ok(())
}

/// Notes that a tenant's credential was used; the system's scope.
pub async fn note_use(tx: &mut Tx, tenant: &str, credential_id: &str, time: i64) -> Result<()> {
    let query = tx.query(
        "UPDATE credential SET use_time = $1 WHERE tenant = $2 AND credential_id = $3 \
         AND (use_time IS NULL OR use_time < $1)",
    );
    query.bind(time).bind(tenant).bind(credential_id).execute().await?;
    Ok(())
}

/// Ends a credential.
pub async fn delete(tx: &mut Tx, credential_id: &str) -> Result<()> {
    let tenant = tx.tenant();
    let query = tx.query("DELETE FROM credential WHERE tenant = $1 AND credential_id = $2");
    query.bind(tenant).bind(credential_id).execute().await?;
    Ok(())
}

/// Removes the tenant's credentials and claim codes that have ended.
pub async fn delete_ended(tx: &mut Tx, now: i64) -> Result<()> {
    let tenant = tx.tenant();
    let query = tx.query("DELETE FROM credential WHERE tenant = $1 AND expire_time <= $2");
    query.bind(&tenant).bind(now).execute().await?;
    let query = tx.query("DELETE FROM claim_code WHERE tenant = $1 AND expire_time <= $2");
    query.bind(&tenant).bind(now).execute().await?;
    Ok(())
}

/// Keeps a claim code.
pub async fn insert_claim_code(tx: &mut Tx, code: &ClaimCode, code_hash: [u8; 32]) -> Result<()> {
    tx.query(concat!(
        "INSERT INTO claim_code (code_hash, ",
        claim_columns!(),
        ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
    ))
    .bind(code_hash)
    .bind(&code.tenant)
    .bind(&code.claim_code_id)
    .bind(&code.name)
    .bind(&code.site)
    .bind(&code.prefix)
    .bind(code.uses_left)
    .bind(code.create_time)
    .bind(code.expire_time)
    .execute()
    .await?;
    Ok(())
}

/// The claim code, of whichever tenant, that has not ended at `now`; it may be used up.
pub async fn find_claim_code(read: &mut Read, code_hash: [u8; 32], now: i64) -> Result<Option<ClaimCode>> {
    let query =
        read.query(concat!("SELECT ", claim_columns!(), " FROM claim_code WHERE code_hash = $1 AND expire_time > $2"));
    query.bind(code_hash).bind(now).fetch_optional().await?.as_ref().map(read_claim_code).transpose()
}

/// Uses a claim code once; false where it cannot be used any more.
pub async fn use_claim_code(tx: &mut Tx, claim_code_id: &str, now: i64) -> Result<bool> {
    let tenant = tx.tenant();
    let query = tx.query(
        "UPDATE claim_code SET uses_left = uses_left - 1 \
         WHERE tenant = $1 AND claim_code_id = $2 AND expire_time > $3 AND uses_left > 0",
    );
    Ok(query.bind(tenant).bind(claim_code_id).bind(now).execute().await? == 1)
}

/// The scope's claim codes that can still be used at `now`, the newest first.
pub async fn claim_codes(read: &mut Read, now: i64, limit: u32) -> Result<Vec<ClaimCode>> {
    let (tenant, scope) = (read.tenant(), read.scope().clone());
    let sites = within_sites(&scope, 4);
    let sql = format!(
        "SELECT {} FROM claim_code WHERE tenant = $1 AND expire_time > $2 AND uses_left > 0{sites} \
         ORDER BY create_time DESC, claim_code_id LIMIT $3",
        claim_columns!()
    );
    let query = read.query_built(sql).bind(tenant).bind(now).bind(limit).bind_all(scope.sites());
    query.fetch_all().await?.iter().map(read_claim_code).collect()
}

/// Ends a claim code of the scope's, and says what it was; `None` where there is none.
pub async fn delete_claim_code(tx: &mut Tx, claim_code_id: &str) -> Result<Option<ClaimCode>> {
    let (tenant, scope) = (tx.tenant(), tx.scope().clone());
    let sites = within_sites(&scope, 3);
    let query = tx.query_built(format!(
        "DELETE FROM claim_code WHERE tenant = $1 AND claim_code_id = $2{sites} RETURNING {}",
        claim_columns!()
    ));
    let query = query.bind(tenant).bind(claim_code_id).bind_all(scope.sites());
    query.fetch_optional().await?.as_ref().map(read_claim_code).transpose()
}
