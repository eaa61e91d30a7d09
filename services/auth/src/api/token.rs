//! Logging in, staying in, getting out.

use std::time::Duration;

use prost::Message as _;
use sensormesh_observability::Secret;
use sensormesh_proto::auth::v1 as proto;
use sensormesh_store::Entry;
use sensormesh_types::{Author, Caller, Code, Error, Principal, Result, Scope, random, time};

use super::{commit, commit_and, end_session, personal, revoke_user, second_factor, user_and_session};
use crate::db::session::Presented;
use crate::key::micros;
use crate::session::{Asker, Session, digest, new_refresh_token};
use crate::user::{User, key_of, role_number};
use crate::{Auth, bootstrap, db, tasks};

/// One text for an unknown name, a wrong password and a disabled account.
fn wrong_credentials() -> Error {
    Error::new(Code::Unauthenticated, "INVALID_CREDENTIALS", "the user name or the password is wrong")
}

/// One text for a refresh token that is unknown, used, expired or of an ended session.
fn wrong_refresh_token() -> Error {
    Error::new(Code::Unauthenticated, "INVALID_REFRESH_TOKEN", "the refresh token is not valid; log in again")
}

pub(super) async fn create(
    auth: &Auth,
    caller: &Caller,
    asker: Asker,
    request: proto::CreateTokenRequest,
) -> Result<proto::CreateTokenResponse> {
    if !auth.ring.read().can_sign(auth.clock.now_micros()) {
        tasks::turn_keys(auth).await?;
    }
    if request.grant_type == "personal_token" {
        return personal::exchange(auth, caller, &Secret::new(request.personal_token)).await;
    }
    if request.grant_type == "refresh_token" {
        return refresh(auth, caller, asker, &Secret::new(request.refresh_token)).await;
    }
    log_in(auth, caller, asker, request).await
}

async fn log_in(
    auth: &Auth,
    caller: &Caller,
    asker: Asker,
    request: proto::CreateTokenRequest,
) -> Result<proto::CreateTokenResponse> {
    let proto::CreateTokenRequest { username, password, client_id, otp, .. } = request;
    for (field, value) in [("username", &username), ("password", &password)] {
        if value.is_empty() {
            return Err(Error::invalid(field, "is required"));
        }
    }
    let (password, address) = (Secret::new(password), asker.address.clone());
    auth.throttle.admit(&key_of(&username), address.as_deref(), auth.clock.now_micros())?;
    let checked = check(auth, &username, &password).await;
    match &checked {
        Ok(Some((user, ..))) if user.totp_enabled && otp.is_empty() => {
            auth.throttle.undecided(&key_of(&username), address.as_deref());
            let message = "the account asks for the code of an authenticator app";
            return Err(Error::new(Code::Unauthenticated, "OTP_REQUIRED", message));
        }
        Ok(_) => {}
        Err(_) => auth.throttle.undecided(&key_of(&username), address.as_deref()),
    }
    let Some((user, hash, outdated)) = checked? else {
        tracing::info!(address, "a log-in with wrong credentials was refused");
        return Err(wrong_credentials());
    };
    let new_hash = if outdated { auth.hasher.hash(password).await? } else { hash.clone() };
    let mut tx = auth.store.tx(&Scope::system()).await?;
    let now = auth.clock.now_micros();
    let user = db::user::log_in(&mut tx, &user, &hash, &new_hash, now).await?.ok_or_else(wrong_credentials)?;
    if user.totp_enabled && !second_factor::take(auth, &mut tx, &user, &otp).await? {
        tracing::info!(address, "a log-in with a wrong code was refused");
        return Err(Error::new(Code::Unauthenticated, "OTP_INVALID", "the code is wrong, or was used before"));
    }
    // only now: whoever has the password alone must not try codes without end
    auth.throttle.succeeded(&key_of(&username), address.as_deref());
    let session = Session {
        tenant: user.tenant.clone(),
        session_id: random::id(now),
        user_id: user.user_id.clone(),
        client: client_id,
        asker,
        create_time: now,
        use_time: now,
        expire_time: now.saturating_add(micros(auth.config.session_life)),
    };
    let refresh_token = new_refresh_token();
    db::session::insert(&mut tx, &session, digest(refresh_token.reveal())).await?;
    tx.append_for(user.tenant.clone(), session_entry("session.started", &session, &user, caller));
    let life = auth.config.access_token_life;
    let answer = answer(auth, &user, &session.session_id, Some(&refresh_token), now, life)?;
    tx.commit().await?;
    Ok(answer)
}

/// Compares the password. Unknown and disabled users take as long as others.
async fn check(auth: &Auth, username: &str, password: &Secret<String>) -> Result<Option<(User, String, bool)>> {
    let mut read = auth.store.read(&Scope::system()).await?;
    let found = db::user::find_by_name(&mut read, username).await?;
    drop(read);
    let stored = found.as_ref().map(|(_, hash)| hash.clone());
    let verdict = auth.hasher.verify(stored, password.clone()).await?;
    Ok(found.filter(|(user, _)| verdict.right && !user.disabled).map(|(user, hash)| (user, hash, verdict.outdated)))
}

async fn refresh(
    auth: &Auth,
    caller: &Caller,
    asker: Asker,
    token: &Secret<String>,
) -> Result<proto::CreateTokenResponse> {
    let mut tx = auth.store.tx(&Scope::system()).await?;
    let now = auth.clock.now_micros();
    let mut session = match db::session::take_token(&mut tx, digest(token.reveal()), now).await? {
        Presented::Good(session) => session,
        Presented::Unknown => return Err(wrong_refresh_token()),
        Presented::Reused(session) => {
            // two parties hold the token, and nobody can tell which of them is the user
            let revocation = end_session(auth, &mut tx, caller, &session.tenant, &session.session_id).await?;
            let owner = db::user::find(&mut tx, &session.tenant, &session.user_id).await?;
            if let Some((user, _)) = owner {
                tx.append_for(user.tenant.clone(), session_entry("session.reused", &session, &user, caller));
            }
            commit(auth, tx, &[revocation]).await?;
            tracing::warn!(session = session.session_id, user = session.user_id, "a used refresh token was presented");
            return Err(wrong_refresh_token());
        }
    };
    session.expire_time = now.saturating_add(micros(auth.config.session_life));
    session.asker = asker;
    db::session::extend(&mut tx, &session).await?;
    let user = match db::user::find(&mut tx, &session.tenant, &session.user_id).await? {
        Some((user, _)) if !user.disabled => user,
        _ => return Err(wrong_refresh_token()),
    };
    let refresh_token = new_refresh_token();
    db::session::insert_token(&mut tx, &session, digest(refresh_token.reveal())).await?;
    tx.append_for(user.tenant.clone(), session_entry("session.refreshed", &session, &user, caller));
    let life = auth.config.access_token_life;
    let answer = answer(auth, &user, &session.session_id, Some(&refresh_token), now, life)?;
    tx.commit().await?;
    Ok(answer)
}

pub(super) fn answer(
    auth: &Auth,
    user: &User,
    session_id: &str,
    refresh_token: Option<&Secret<String>>,
    now: i64,
    life: Duration,
) -> Result<proto::CreateTokenResponse> {
    Ok(proto::CreateTokenResponse {
        access_token: auth.ring.read().sign(user, session_id, now, life)?,
        refresh_token: refresh_token.map(|token| token.reveal().clone()).unwrap_or_default(),
        token_type: "Bearer".to_owned(),
        expires_in: i32::try_from(life.as_secs()).unwrap_or(600),
    })
}

/// What a user does before the call is the user's.
pub(super) fn by_user(caller: &Caller, user: &User) -> Author {
    Author { actor: format!("user:{}", user.username), ..caller.author() }
}

fn session_entry(kind: &str, session: &Session, user: &User, caller: &Caller) -> Entry {
    // a log-in is made by the user, who was nobody when the call began
    let author = match caller.principal {
        Principal::Anonymous | Principal::Service { .. } => by_user(caller, user),
        _ => caller.author(),
    };
    Entry {
        site: String::new(),
        kind: kind.to_owned(),
        subject: session.session_id.clone(),
        author,
        payload: user.to_proto().encode_to_vec(),
        ..Entry::default()
    }
}

/// Says whose the call's token is.
pub(super) fn describe(auth: &Auth, caller: &Caller, header: Option<&str>) -> Result<proto::VerifyTokenResponse> {
    let Principal::User { id, name, role, .. } = &caller.principal else {
        return Err(Error::unauthenticated("the call was not made with an access token"));
    };
    // the operator certificate is a user without a token
    let token = header.and_then(|header| header.split_once(' ')).map(|(_, token)| token.trim());
    let claims = token.map(|token| auth.verifier.verify(token)).transpose()?;
    Ok(proto::VerifyTokenResponse {
        valid: true,
        user_id: id.clone(),
        username: name.clone(),
        role: role_number(*role),
        expire_time: claims.map(|claims| time::from_micros(claims.exp.saturating_mul(1_000_000))),
    })
}

pub(super) async fn log_out(auth: &Auth, caller: &Caller, all_sessions: bool) -> Result<()> {
    let (user_id, session_id) = user_and_session(caller)?;
    let tenant = caller.tenant();
    let mut tx = auth.store.tx(&caller.scope).await?;
    let found = if all_sessions { db::user::lock(&mut tx, tenant, user_id).await? } else { None };
    let (kind, subject, revocation) = if let Some(user) = &found {
        db::session::delete_all(&mut tx, tenant, user_id).await?;
        let revocation = revoke_user(auth, &mut tx, caller, user).await?;
        db::user::set_revoked_second(&mut tx, user, revocation.second()).await?;
        ("user.logged_out", user_id, revocation)
    } else {
        ("session.ended", session_id, end_session(auth, &mut tx, caller, tenant, session_id).await?)
    };
    tx.append(Entry {
        kind: kind.to_owned(),
        subject: subject.to_owned(),
        author: caller.author(),
        ..Entry::default()
    });
    commit(auth, tx, &[revocation]).await
}

pub(super) async fn sessions(auth: &Auth, caller: &Caller) -> Result<Vec<proto::Session>> {
    let (user_id, session_id) = user_and_session(caller)?;
    let mut read = auth.store.read(&caller.scope).await?;
    let sessions = db::session::list(&mut read, caller.tenant(), user_id).await?;
    let now = auth.clock.now_micros();
    let alive = sessions.iter().filter(|session| session.expire_time > now);
    Ok(alive.map(|session| session.to_proto(session_id)).collect())
}

pub(super) async fn delete_session(auth: &Auth, caller: &Caller, session_id: &str) -> Result<()> {
    let (user_id, _) = user_and_session(caller)?;
    let tenant = caller.tenant();
    let mut tx = auth.store.tx(&caller.scope).await?;
    if !db::session::is_of(&mut tx, tenant, user_id, session_id).await? {
        return Err(Error::not_found("session", session_id));
    }
    let revocation = end_session(auth, &mut tx, caller, tenant, session_id).await?;
    tx.append(Entry {
        kind: "session.ended".to_owned(),
        subject: session_id.to_owned(),
        author: caller.author(),
        ..Entry::default()
    });
    commit(auth, tx, &[revocation]).await
}

/// That the caller knows the account's password. PERMISSION_DENIED, reason `WRONG_PASSWORD`, where not. It counts as a failed attempt
/// until [`confirmed`], when all else that is asked for was right too.
pub(super) async fn confirm(
    auth: &Auth,
    user: &User,
    hash: String,
    password: Secret<String>,
    asker: &Asker,
) -> Result<()> {
    let (account, address) = (user.username_key(), asker.address.as_deref());
    auth.throttle.admit(&account, address, auth.clock.now_micros())?;
    let verdict = auth.hasher.verify(Some(hash), password).await;
    if verdict.is_err() {
        auth.throttle.undecided(&account, address);
    }
    if !verdict?.right {
        return Err(Error::new(Code::Forbidden, "WRONG_PASSWORD", "the password is wrong"));
    }
    Ok(())
}

pub(super) fn confirmed(auth: &Auth, user: &User, asker: &Asker) {
    auth.throttle.succeeded(&user.username_key(), asker.address.as_deref());
}

pub(super) async fn change_password(
    auth: &Auth,
    caller: &Caller,
    asker: &Asker,
    request: proto::ChangePasswordRequest,
) -> Result<()> {
    let (user_id, session_id) = user_and_session(caller)?;
    let tenant = caller.tenant();
    let (old, new) = (Secret::new(request.old_password), Secret::new(request.new_password));
    let mut read = auth.store.read(&caller.scope).await?;
    let found = db::user::find(&mut read, tenant, user_id).await?;
    drop(read);
    let (user, hash) = found.ok_or_else(|| Error::not_found("user", user_id))?;
    confirm(auth, &user, hash.clone(), old, asker).await?;
    confirmed(auth, &user, asker);
    let known = [user.username.clone(), user.display_name.clone()];
    let new_hash = auth.hash_chosen("new_password", new, known).await?;
    let mut tx = auth.store.tx(&caller.scope).await?;
    if !db::user::set_password(&mut tx, &user, &hash, &new_hash).await? {
        return Err(Error::new(Code::Conflict, "PASSWORD_CHANGED", "the password was changed meanwhile"));
    }
    let mut revocations = Vec::new();
    for other in db::session::list(&mut tx, tenant, user_id).await? {
        if other.session_id != session_id {
            revocations.push(end_session(auth, &mut tx, caller, tenant, &other.session_id).await?);
        }
    }
    tx.append(db::user_entry("user.password_changed", &user, caller.author()));
    let one_time = user.one_time.then(|| auth.config.bootstrap_password_file.clone()).flatten();
    commit_and(auth, tx, &revocations, move || one_time.iter().for_each(|file| bootstrap::forget_password(file))).await
}
