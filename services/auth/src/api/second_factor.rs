//! A second factor: a code of an authenticator app beside the password.

use sensormesh_observability::Secret;
use sensormesh_proto::auth::v1 as proto;
use sensormesh_store::Tx;
use sensormesh_types::{Caller, Code, Error, Result};

use super::token::{confirm, confirmed};
use super::{commit, user_and_session};
use crate::session::{Asker, digest};
use crate::user::User;
use crate::{Auth, db, totp};

const SECOND: i64 = 1_000_000;

/// The account of the caller, and its password hash.
pub(super) async fn own(auth: &Auth, caller: &Caller) -> Result<(User, String)> {
    let (user_id, _) = user_and_session(caller)?;
    let mut read = auth.store.read(&caller.scope).await?;
    let found = db::user::find(&mut read, caller.tenant(), user_id).await?;
    found.ok_or_else(|| Error::not_found("user", user_id))
}

fn enabled() -> Error {
    Error::precondition("TOTP_ENABLED", "the account has a second factor; disable it first")
}

pub(super) async fn begin(
    auth: &Auth,
    caller: &Caller,
    asker: &Asker,
    request: proto::BeginTotpRequest,
) -> Result<proto::BeginTotpResponse> {
    let (user, hash) = own(auth, caller).await?;
    if user.totp_enabled {
        return Err(enabled());
    }
    confirm(auth, &user, hash, Secret::new(request.password), asker).await?;
    confirmed(auth, &user, asker);
    let new = totp::new_secret();
    let mut tx = auth.store.tx(&caller.scope).await?;
    if !db::totp::begin(&mut tx, &user, &new).await? {
        return Err(enabled());
    }
    tx.append(db::user_entry("user.totp_begun", &user, caller.author()));
    tx.commit().await?;
    let (secret, uri) = totp::shown(&new, &user.username)?;
    Ok(proto::BeginTotpResponse { secret, uri })
}

pub(super) async fn enable(
    auth: &Auth,
    caller: &Caller,
    asker: &Asker,
    request: proto::EnableTotpRequest,
) -> Result<proto::EnableTotpResponse> {
    let (user, _) = own(auth, caller).await?;
    if user.totp_enabled {
        return Err(enabled());
    }
    let now = auth.clock.now_micros();
    auth.codes.admit(&user.username_key(), asker.address.as_deref(), now)?;
    let mut tx = auth.store.tx(&caller.scope).await?;
    let secret = db::totp::secret(&mut tx, &user).await?;
    let secret = secret.ok_or_else(|| Error::precondition("TOTP_NOT_BEGUN", "begin a second factor first"))?;
    let step = totp::step_of(&secret, &request.code, now / SECOND)?;
    let step = step.ok_or_else(|| Error::invalid("code", "is not the app's code of this moment"))?;
    let recovery: Vec<_> = (0..totp::RECOVERY_CODES).map(|_| totp::new_recovery_code()).collect();
    let hashes: Vec<_> = recovery.iter().map(|code| digest(code.reveal())).collect();
    if !db::totp::enable(&mut tx, &user, &secret, step, &hashes).await? {
        return Err(Error::new(Code::Conflict, "TOTP_CHANGED", "the second factor was changed meanwhile"));
    }
    let changed = User { totp_enabled: true, ..user };
    tx.append(db::user_entry("user.totp_enabled", &changed, caller.author()));
    commit(auth, tx, &[]).await?;
    auth.codes.succeeded(&changed.username_key(), asker.address.as_deref());
    Ok(proto::EnableTotpResponse { recovery_codes: recovery.iter().map(|code| code.reveal().clone()).collect() })
}

pub(super) async fn disable(
    auth: &Auth,
    caller: &Caller,
    asker: &Asker,
    request: proto::DisableTotpRequest,
) -> Result<()> {
    let (user, hash) = own(auth, caller).await?;
    if !user.totp_enabled {
        return Err(Error::precondition("TOTP_NOT_ENABLED", "the account has no second factor"));
    }
    confirm(auth, &user, hash, Secret::new(request.password), asker).await?;
    let mut tx = auth.store.tx(&caller.scope).await?;
    if !take(auth, &mut tx, &user, &request.code).await? {
        return Err(Error::invalid("code", "is neither the app's code of this moment nor a recovery code"));
    }
    db::totp::delete(&mut tx, &user).await?;
    let changed = User { totp_enabled: false, ..user };
    tx.append(db::user_entry("user.totp_disabled", &changed, caller.author()));
    tx.commit().await?;
    confirmed(auth, &changed, asker);
    Ok(())
}

/// Uses up a code or a recovery code of a user; false where it is neither, or was used before. Wrong ones are counted by
/// themselves: a right password does not make them forgotten.
pub(super) async fn take(auth: &Auth, tx: &mut Tx, user: &User, code: &str) -> Result<bool> {
    let now = auth.clock.now_micros();
    auth.codes.admit(&user.username_key(), None, now)?;
    let Some(secret) = db::totp::secret(tx, user).await? else { return Ok(false) };
    let right = match totp::step_of(&secret, code, now / SECOND)? {
        Some(step) => db::totp::use_step(tx, user, step).await?,
        None => db::totp::use_recovery(tx, user, digest(code.trim())).await?,
    };
    if right {
        auth.codes.succeeded(&user.username_key(), None);
    }
    Ok(right)
}
