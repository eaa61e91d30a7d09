//! For users who are locked out: what whoever has the database may do for them, without a token and beside a running system.

use sensormesh_observability::Secret;
use sensormesh_store::{Store, Tx};
use sensormesh_types::{Caller, Clock, Error, Principal, Result, Scope, random};

use crate::password::{Cost, Hasher};
use crate::user::User;
use crate::verification::Revocation;
use crate::{Config, bootstrap, db};

/// Gives a user a new password, which is returned, and ends the user's sessions and personal access tokens. NOT_FOUND where there is no such user.
pub async fn reset_password(store: &Store, clock: &Clock, config: &Config, username: &str) -> Result<Secret<String>> {
    let password = Secret::new(random::secret());
    let hash = hashed(&config.password, &password).await?;
    let (mut tx, user, old) = begin(store, username).await?;
    if !db::user::set_password(&mut tx, &user, &old, &hash).await? {
        return Err(Error::new(
            sensormesh_types::Code::Conflict,
            "PASSWORD_CHANGED",
            "the password was changed meanwhile",
        ));
    }
    let caller = operator();
    db::session::delete_all(&mut tx, &user.tenant, &user.user_id).await?;
    // whoever knew the password may have made some
    db::personal::delete_all(&mut tx, &user.tenant, &user.user_id).await?;
    let revocation = Revocation::of_user(&user, clock.now_micros(), config.access_token_life);
    db::revocation::insert(&mut tx, &user.tenant, &revocation).await?;
    db::user::set_revoked_second(&mut tx, &user, revocation.second()).await?;
    tx.append_for(user.tenant.clone(), revocation.entry(&caller));
    tx.append_for(user.tenant.clone(), db::user_entry("user.password_reset", &user, caller.author()));
    tx.commit().await?;
    if let (true, Some(file)) = (user.one_time, &config.bootstrap_password_file) {
        bootstrap::forget_password(file);
    }
    Ok(password)
}

/// Forgets a user's second factor. NOT_FOUND where there is no such user, FAILED_PRECONDITION where it has none.
pub async fn disable_totp(store: &Store, username: &str) -> Result<()> {
    let (mut tx, user, _) = begin(store, username).await?;
    if !user.totp_enabled {
        return Err(Error::precondition("TOTP_NOT_ENABLED", format!("{} has no second factor", user.username)));
    }
    db::totp::delete(&mut tx, &user).await?;
    let changed = User { totp_enabled: false, ..user };
    tx.append_for(changed.tenant.clone(), db::user_entry("user.totp_disabled", &changed, operator().author()));
    tx.commit().await.map(drop)
}

async fn begin(store: &Store, username: &str) -> Result<(Tx, User, String)> {
    let mut tx = store.tx(&Scope::system()).await?;
    let found = db::user::find_by_name(&mut tx, username).await?;
    let (user, hash) = found.ok_or_else(|| Error::not_found("user", username))?;
    Ok((tx, user, hash))
}

async fn hashed(cost: &Cost, password: &Secret<String>) -> Result<String> {
    Hasher::new(cost)?.hash(password.clone()).await
}

/// Who has the database, as the audit names it.
fn operator() -> Caller {
    Caller {
        principal: Principal::Service { name: "operator".to_owned() },
        scope: Scope::system(),
        peer: None,
        traceparent: String::new(),
        address: String::new(),
        request_id: String::new(),
        accepted_time: None,
    }
}
