//! Passwords that were forgotten: a secret is mailed, and sets another one once.

use std::sync::Arc;
use std::time::Duration;

use sensormesh_observability::Secret;
use sensormesh_proto::auth::v1 as proto;
use sensormesh_types::{Caller, Code, Error, Result, Scope};

use super::token::by_user;
use super::{commit_and, revoke_user};
use crate::key::micros;
use crate::session::{Asker, digest, new_reset_secret};
use crate::user::{User, key_of};
use crate::{Auth, bootstrap, db};

/// How long a secret is good.
const LIFE: Duration = Duration::from_secs(15 * 60);

/// Mails a secret to whoever has this name, if there is somebody with an address. The answer says nothing of that, and does not
/// wait for it.
pub(super) async fn request(
    auth: &Arc<Auth>,
    caller: &Caller,
    asker: &Asker,
    request: proto::RequestPasswordResetRequest,
) -> Result<()> {
    if auth.mailer.is_none() {
        let message = "this system sends no mail; ask an administrator, or whoever runs it";
        return Err(Error::precondition("MAIL_NOT_CONFIGURED", message));
    }
    auth.resets.admit(&key_of(&request.username), asker.address.as_deref(), auth.clock.now_micros())?;
    let (auth, caller) = (Arc::clone(auth), caller.clone());
    tokio::spawn(async move {
        if let Err(error) = mail(&auth, &caller, &request.username).await {
            tracing::warn!(%error, "no password reset was mailed");
        }
    });
    Ok(())
}

async fn mail(auth: &Auth, caller: &Caller, username: &str) -> Result<()> {
    let mut read = auth.store.read(&Scope::system()).await?;
    let found = db::user::find_by_name(&mut read, username).await?.map(|(user, _)| user);
    drop(read);
    let Some(user) = found.filter(|user| !user.disabled && !user.email.is_empty()) else {
        tracing::info!("a password reset was asked for, of nobody who can have one");
        return Ok(());
    };
    let secret = new_reset_secret();
    let expire_time = auth.clock.now_micros().saturating_add(micros(LIFE));
    let mut tx = auth.store.tx(&Scope::system()).await?;
    db::reset::insert(&mut tx, &user, digest(secret.reveal()), expire_time).await?;
    let entry = db::user_entry("user.password_reset_requested", &user, caller.author());
    tx.append_for(user.tenant.clone(), entry);
    tx.commit().await?;
    match &auth.mailer {
        Some(mailer) => mailer.password_reset(&user.email, &user.username, &secret, LIFE.as_secs() / 60).await,
        None => Ok(()),
    }
}

/// Sets another password with a secret that was mailed, and ends whatever was begun with the old one.
pub(super) async fn reset(auth: &Auth, caller: &Caller, request: proto::ResetPasswordRequest) -> Result<()> {
    let (secret, password) = (Secret::new(request.secret), Secret::new(request.new_password));
    let wrong = || Error::new(Code::Forbidden, "RESET_INVALID", "the secret is unknown, used or older than 15 minutes");
    // one that is no good costs no hash
    let mut read = auth.store.read(&Scope::system()).await?;
    let found = db::reset::find(&mut read, digest(secret.reveal()), auth.clock.now_micros()).await?;
    let (tenant, user_id) = found.ok_or_else(wrong)?;
    let (user, _) = db::user::find(&mut read, &tenant, &user_id).await?.ok_or_else(wrong)?;
    drop(read);
    // a password that is refused leaves the secret for a better one
    let known = [user.username.clone(), user.display_name.clone()];
    let new_hash = auth.hash_chosen("new_password", password, known).await?;

    let mut tx = auth.store.tx(&Scope::system()).await?;
    let taken = db::reset::take(&mut tx, digest(secret.reveal()), auth.clock.now_micros()).await?;
    taken.ok_or_else(wrong)?;
    let (user, old) = db::user::find(&mut tx, &tenant, &user_id).await?.ok_or_else(wrong)?;
    if user.disabled || !db::user::set_password(&mut tx, &user, &old, &new_hash).await? {
        return Err(wrong());
    }
    end_all(auth, tx, caller, &user).await?;
    // whoever guessed it made the account wait
    auth.throttle.succeeded(&user.username_key(), None);
    Ok(())
}

/// Ends a user's sessions and personal access tokens, and commits.
async fn end_all(auth: &Auth, mut tx: sensormesh_store::Tx, caller: &Caller, user: &User) -> Result<()> {
    db::session::delete_all(&mut tx, &user.tenant, &user.user_id).await?;
    db::personal::delete_all(&mut tx, &user.tenant, &user.user_id).await?;
    let revocation = revoke_user(auth, &mut tx, caller, user).await?;
    db::user::set_revoked_second(&mut tx, user, revocation.second()).await?;
    tx.append_for(user.tenant.clone(), db::user_entry("user.password_reset", user, by_user(caller, user)));
    let one_time = user.one_time.then(|| auth.config.bootstrap_password_file.clone()).flatten();
    commit_and(auth, tx, &[revocation], move || one_time.iter().for_each(|file| bootstrap::forget_password(file))).await
}
