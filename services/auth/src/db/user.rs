//! Accounts.

use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Result, Role};

use super::{role_of, sites_of, sites_text};
use crate::user::{User, key_of, role_number};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT tenant, user_id, username, display_name, email, role, sites, disabled, one_time, revoked_second, ",
            "create_time, last_login_time, totp_enabled, password_hash FROM account ",
            $rest
        )
    };
}

fn read_user(row: &Row) -> Result<User> {
    Ok(User {
        tenant: row.get("tenant")?,
        user_id: row.get("user_id")?,
        username: row.get("username")?,
        display_name: row.get("display_name")?,
        email: row.get("email")?,
        role: role_of(row.get("role")?)?,
        sites: sites_of(&row.get::<String>("sites")?)?,
        disabled: row.get("disabled")?,
        one_time: row.get("one_time")?,
        revoked_second: row.get("revoked_second")?,
        create_time: row.get("create_time")?,
        last_login_time: row.get("last_login_time")?,
        totp_enabled: row.get("totp_enabled")?,
    })
}

fn read_user_and_hash(row: &Row) -> Result<(User, String)> {
    Ok((read_user(row)?, row.get("password_hash")?))
}

/// Whether there is any user in any tenant.
pub async fn any(read: &mut Read) -> Result<bool> {
    Ok(read.query("SELECT 1 AS found FROM account LIMIT 1").fetch_optional().await?.is_some())
}

/// Adds an account; false where the user name is taken.
pub async fn insert(tx: &mut Tx, user: &User, password_hash: &str) -> Result<bool> {
    let done = tx
        .query(
            "INSERT INTO account (tenant, user_id, username, username_key, display_name, email, role, sites, disabled, \
             password_hash, one_time, revoked_second, create_time, last_login_time) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (username_key) DO NOTHING",
        )
        .bind(&user.tenant)
        .bind(&user.user_id)
        .bind(&user.username)
        .bind(key_of(&user.username))
        .bind(&user.display_name)
        .bind(&user.email)
        .bind(role_number(user.role))
        .bind(sites_text(&user.sites)?)
        .bind(user.disabled)
        .bind(password_hash)
        .bind(user.one_time)
        .bind(user.revoked_second)
        .bind(user.create_time)
        .bind(user.last_login_time)
        .execute()
        .await?;
    Ok(done == 1)
}

/// The user with this name, in any tenant, and the password hash.
pub async fn find_by_name(read: &mut Read, username: &str) -> Result<Option<(User, String)>> {
    let row = read.query(select!("WHERE username_key = $1")).bind(key_of(username)).fetch_optional().await?;
    row.as_ref().map(read_user_and_hash).transpose()
}

/// A user of a tenant and the password hash.
pub async fn find(read: &mut Read, tenant: &str, user_id: &str) -> Result<Option<(User, String)>> {
    let query = read.query(select!("WHERE tenant = $1 AND user_id = $2")).bind(tenant).bind(user_id);
    query.fetch_optional().await?.as_ref().map(read_user_and_hash).transpose()
}

/// A user of a tenant, kept from changing until the transaction ends.
pub async fn lock(tx: &mut Tx, tenant: &str, user_id: &str) -> Result<Option<User>> {
    let query = tx.query("UPDATE account SET role = role WHERE tenant = $1 AND user_id = $2");
    query.bind(tenant).bind(user_id).execute().await?;
    Ok(find(tx, tenant, user_id).await?.map(|(user, _)| user))
}

/// A page of a tenant's users after a user name's key, by name.
pub async fn list(read: &mut Read, tenant: &str, after: &str, limit: u32) -> Result<Vec<User>> {
    let query = read.query(select!("WHERE tenant = $1 AND username_key > $2 ORDER BY username_key LIMIT $3"));
    let rows = query.bind(tenant).bind(after).bind(limit).fetch_all().await?;
    rows.iter().map(read_user).collect()
}

/// Notes a log-in and returns the user as it is now; `None` if the account was disabled, removed or given another
/// password since `password_hash` was read. `new_hash` replaces the password hash.
pub async fn log_in(tx: &mut Tx, user: &User, password_hash: &str, new_hash: &str, now: i64) -> Result<Option<User>> {
    let done = tx
        .query(
            "UPDATE account SET last_login_time = $1, password_hash = $2 \
             WHERE tenant = $3 AND user_id = $4 AND password_hash = $5 AND disabled = 0",
        )
        .bind(now)
        .bind(new_hash)
        .bind(&user.tenant)
        .bind(&user.user_id)
        .bind(password_hash)
        .execute()
        .await?;
    if done == 0 {
        return Ok(None);
    }
    Ok(find(tx, &user.tenant, &user.user_id).await?.map(|(user, _)| user))
}

/// Writes what an update may change.
pub async fn update(tx: &mut Tx, user: &User) -> Result<()> {
    tx.query(
        "UPDATE account SET display_name = $1, role = $2, sites = $3, disabled = $4, revoked_second = $5, email = $6 \
         WHERE tenant = $7 AND user_id = $8",
    )
    .bind(&user.display_name)
    .bind(role_number(user.role))
    .bind(sites_text(&user.sites)?)
    .bind(user.disabled)
    .bind(user.revoked_second)
    .bind(&user.email)
    .bind(&user.tenant)
    .bind(&user.user_id)
    .execute()
    .await?;
    Ok(())
}

/// Gives a user another password; false where it is no longer the one with hash `old`.
pub async fn set_password(tx: &mut Tx, user: &User, old: &str, new: &str) -> Result<bool> {
    let done = tx
        .query(
            "UPDATE account SET password_hash = $1, one_time = 0 \
             WHERE tenant = $2 AND user_id = $3 AND password_hash = $4",
        )
        .bind(new)
        .bind(&user.tenant)
        .bind(&user.user_id)
        .bind(old)
        .execute()
        .await?;
    // what was mailed for the old one is not for the new one
    super::reset::delete(tx, user).await?;
    Ok(done == 1)
}

/// Remembers up to which second the user's tokens are revoked.
pub async fn set_revoked_second(tx: &mut Tx, user: &User, second: i64) -> Result<()> {
    tx.query("UPDATE account SET revoked_second = $1 WHERE tenant = $2 AND user_id = $3")
        .bind(second)
        .bind(&user.tenant)
        .bind(&user.user_id)
        .execute()
        .await?;
    Ok(())
}

/// Removes an account.
pub async fn delete(tx: &mut Tx, user: &User) -> Result<()> {
    super::totp::delete_recovery(tx, user).await?;
    let query = tx.query("DELETE FROM account WHERE tenant = $1 AND user_id = $2");
    query.bind(&user.tenant).bind(&user.user_id).execute().await?;
    Ok(())
}

/// Locks a user's account and the accounts of those who govern the tenant until the transaction ends, so that no two of
/// them can remove each other, and returns those who govern.
pub async fn lock_governors(tx: &mut Tx, tenant: &str, user_id: &str) -> Result<Vec<User>> {
    let admin = role_number(Role::Admin);
    let lock = "UPDATE account SET role = role WHERE tenant = $1 AND (role >= $2 OR user_id = $3)";
    tx.query(lock).bind(tenant).bind(admin).bind(user_id).execute().await?;
    let rows = tx.query(select!("WHERE tenant = $1 AND role >= $2")).bind(tenant).bind(admin).fetch_all().await?;
    let users = rows.iter().map(read_user).collect::<Result<Vec<_>>>()?;
    Ok(users.into_iter().filter(User::governs).collect())
}
