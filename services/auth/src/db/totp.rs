//! Second factors and their recovery codes.

use sensormesh_store::{Read, Tx};
use sensormesh_types::Result;

use crate::user::User;

/// The secret of a user's authenticator app; of an account that asks for no code, one that is not shown to work yet.
pub async fn secret(read: &mut Read, user: &User) -> Result<Option<Vec<u8>>> {
    let query = read.query("SELECT totp_secret FROM account WHERE tenant = $1 AND user_id = $2");
    let row = query.bind(&user.tenant).bind(&user.user_id).fetch_optional().await?;
    Ok(row.map(|row| row.get("totp_secret")).transpose()?.flatten())
}

/// Keeps a secret that is yet to be shown to work; false where a code is asked for already.
pub async fn begin(tx: &mut Tx, user: &User, secret: &[u8]) -> Result<bool> {
    let done = tx
        .query(
            "UPDATE account SET totp_secret = $1, totp_step = 0 \
             WHERE tenant = $2 AND user_id = $3 AND totp_enabled = 0",
        )
        .bind(secret)
        .bind(&user.tenant)
        .bind(&user.user_id)
        .execute()
        .await?;
    Ok(done == 1)
}

/// Asks for a code from now on, where `secret` is still the one; the code of `step` is used up.
pub async fn enable(tx: &mut Tx, user: &User, secret: &[u8], step: i64, recovery: &[[u8; 32]]) -> Result<bool> {
    let done = tx
        .query(
            "UPDATE account SET totp_enabled = 1, totp_step = $1 \
             WHERE tenant = $2 AND user_id = $3 AND totp_secret = $4 AND totp_enabled = 0",
        )
        .bind(step)
        .bind(&user.tenant)
        .bind(&user.user_id)
        .bind(secret)
        .execute()
        .await?;
    for hash in recovery.iter().filter(|_| done == 1) {
        tx.query("INSERT INTO recovery_code (tenant, user_id, code_hash) VALUES ($1, $2, $3)")
            .bind(&user.tenant)
            .bind(&user.user_id)
            .bind(*hash)
            .execute()
            .await?;
    }
    Ok(done == 1)
}

/// Uses up the code of a step; false where it, or that of a later step, was used before.
pub async fn use_step(tx: &mut Tx, user: &User, step: i64) -> Result<bool> {
    let done = tx
        .query(
            "UPDATE account SET totp_step = $1 \
             WHERE tenant = $2 AND user_id = $3 AND totp_enabled = 1 AND totp_step < $1",
        )
        .bind(step)
        .bind(&user.tenant)
        .bind(&user.user_id)
        .execute()
        .await?;
    Ok(done == 1)
}

/// Uses up a recovery code; false where there is no such code.
pub async fn use_recovery(tx: &mut Tx, user: &User, hash: [u8; 32]) -> Result<bool> {
    let done = tx
        .query("DELETE FROM recovery_code WHERE tenant = $1 AND user_id = $2 AND code_hash = $3")
        .bind(&user.tenant)
        .bind(&user.user_id)
        .bind(hash)
        .execute()
        .await?;
    Ok(done == 1)
}

/// Forgets a user's second factor.
pub async fn delete(tx: &mut Tx, user: &User) -> Result<()> {
    tx.query(
        "UPDATE account SET totp_enabled = 0, totp_secret = NULL, totp_step = 0 WHERE tenant = $1 AND user_id = $2",
    )
    .bind(&user.tenant)
    .bind(&user.user_id)
    .execute()
    .await?;
    delete_recovery(tx, user).await
}

/// Forgets a user's recovery codes.
pub async fn delete_recovery(tx: &mut Tx, user: &User) -> Result<()> {
    let query = tx.query("DELETE FROM recovery_code WHERE tenant = $1 AND user_id = $2");
    query.bind(&user.tenant).bind(&user.user_id).execute().await?;
    Ok(())
}
