//! Personal access tokens.

use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::Result;

use super::{role_of, sites_of, sites_text};
use crate::personal::PersonalToken;
use crate::user::role_number;

macro_rules! columns {
    () => {
        "tenant, token_id, user_id, name, role, sites, create_time, use_time, expire_time"
    };
}

fn read_token(row: &Row) -> Result<PersonalToken> {
    Ok(PersonalToken {
        tenant: row.get("tenant")?,
        token_id: row.get("token_id")?,
        user_id: row.get("user_id")?,
        name: row.get("name")?,
        role: role_of(row.get("role")?)?,
        sites: sites_of(&row.get::<String>("sites")?)?,
        create_time: row.get("create_time")?,
        use_time: row.get("use_time")?,
        expire_time: row.get("expire_time")?,
    })
}

/// Keeps a token.
pub async fn insert(tx: &mut Tx, token: &PersonalToken, token_hash: [u8; 32]) -> Result<()> {
    tx.query(concat!(
        "INSERT INTO personal_token (token_hash, ",
        columns!(),
        ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
    ))
    .bind(token_hash)
    .bind(&token.tenant)
    .bind(&token.token_id)
    .bind(&token.user_id)
    .bind(&token.name)
    .bind(role_number(token.role))
    .bind(sites_text(&token.sites)?)
    .bind(token.create_time)
    .bind(token.use_time)
    .bind(token.expire_time)
    .execute()
    .await?;
    Ok(())
}

/// A token that has not ended.
pub async fn find(read: &mut Read, token_hash: [u8; 32], now: i64) -> Result<Option<PersonalToken>> {
    let query =
        read.query(concat!("SELECT ", columns!(), " FROM personal_token WHERE token_hash = $1 AND expire_time > $2"));
    query.bind(token_hash).bind(now).fetch_optional().await?.as_ref().map(read_token).transpose()
}

/// Notes the use of a token that has not ended, and reads it.
pub async fn use_token(tx: &mut Tx, token_hash: [u8; 32], now: i64) -> Result<Option<PersonalToken>> {
    let query = tx.query(concat!(
        "UPDATE personal_token SET use_time = $1 WHERE token_hash = $2 AND expire_time > $1 RETURNING ",
        columns!()
    ));
    query.bind(now).bind(token_hash).fetch_optional().await?.as_ref().map(read_token).transpose()
}

/// A user's tokens that have not ended, the newest first.
pub async fn list(read: &mut Read, tenant: &str, user_id: &str, now: i64) -> Result<Vec<PersonalToken>> {
    let query = read.query(concat!(
        "SELECT ",
        columns!(),
        " FROM personal_token WHERE tenant = $1 AND user_id = $2 AND expire_time > $3 \
         ORDER BY create_time DESC, token_id DESC"
    ));
    let rows = query.bind(tenant).bind(user_id).bind(now).fetch_all().await?;
    rows.iter().map(read_token).collect()
}

/// Ends a user's token; false where there is none.
pub async fn delete(tx: &mut Tx, tenant: &str, user_id: &str, token_id: &str) -> Result<bool> {
    let query = tx.query("DELETE FROM personal_token WHERE tenant = $1 AND user_id = $2 AND token_id = $3");
    Ok(query.bind(tenant).bind(user_id).bind(token_id).execute().await? == 1)
}

/// Ends every token of a user.
pub async fn delete_all(tx: &mut Tx, tenant: &str, user_id: &str) -> Result<u64> {
    let query = tx.query("DELETE FROM personal_token WHERE tenant = $1 AND user_id = $2");
    query.bind(tenant).bind(user_id).execute().await
}

/// Removes tokens that have expired.
pub async fn delete_expired(tx: &mut Tx, now: i64) -> Result<u64> {
    tx.query("DELETE FROM personal_token WHERE expire_time <= $1").bind(now).execute().await
}
