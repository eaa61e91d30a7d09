//! Accounts and invitations.

use std::time::Duration;

use sensormesh_observability::Secret;
use sensormesh_proto::auth::v1 as proto;
use sensormesh_store::Entry;
use sensormesh_types::{Caller, Code, DEFAULT_TENANT, Error, Result, Role, Scope, page, random, time};

use super::token::by_user;
use super::{commit, logged_in, revoke_user};
use crate::db::invitation::Invitation;
use crate::key::micros;
use crate::session::{digest, new_invitation};
use crate::user::{self, User, key_of, may_grant};
use crate::{Auth, Registration, db};

const INVITATION_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Users read at once where most of them may belong to other sites.
const NARROWED_AT_ONCE: u32 = 1000;
const LONGEST_INVITATION_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) async fn register(auth: &Auth, caller: &Caller, request: proto::RegisterRequest) -> Result<proto::User> {
    let proto::RegisterRequest { username, password, display_name, invitation, email } = request;
    match auth.config.registration.unwrap_or(Registration::Invitation) {
        Registration::Closed => return Err(closed()),
        Registration::Invitation if invitation.is_empty() => {
            let message = "registering needs an invitation by an admin";
            return Err(Error::new(Code::Forbidden, "INVITATION_REQUIRED", message));
        }
        Registration::Open | Registration::Invitation => {}
    }
    let known = [username.clone(), display_name.clone()];
    let hash = auth.hash_chosen("password", Secret::new(password), known).await?;
    let mut tx = auth.store.tx(&Scope::system()).await?;
    let now = auth.clock.now_micros();
    let (tenant, role, sites) = if invitation.is_empty() {
        (DEFAULT_TENANT.to_owned(), Role::Viewer, Vec::new())
    } else {
        let taken = db::invitation::take(&mut tx, digest(&invitation), now).await?;
        let Invitation { tenant, role, sites, .. } = taken.ok_or_else(|| {
            Error::new(Code::Forbidden, "INVITATION_INVALID", "the invitation is unknown, used or expired")
        })?;
        (tenant, role, sites)
    };
    let user = User {
        tenant,
        user_id: random::id(now),
        username,
        display_name,
        email,
        role,
        sites,
        create_time: now,
        ..User::default()
    };
    if !db::user::insert(&mut tx, &user, &hash).await? {
        return Err(Error::exists("user", &user.username));
    }
    tx.append_for(user.tenant.clone(), db::user_entry("user.created", &user, by_user(caller, &user)));
    tx.commit().await?;
    Ok(user.to_proto())
}

fn closed() -> Error {
    Error::new(Code::Forbidden, "REGISTRATION_CLOSED", "nobody can register here (`auth.registration`)")
}

pub(super) async fn get(auth: &Auth, caller: &Caller, user_id: &str) -> Result<proto::User> {
    let mut read = auth.store.read(&caller.scope).await?;
    let found = db::user::find(&mut read, caller.tenant(), user_id).await?;
    Ok(visible(caller, found, user_id)?.to_proto())
}

/// A user that the caller's sites do not cover is none to the caller.
fn visible(caller: &Caller, found: Option<(User, String)>, user_id: &str) -> Result<User> {
    let user = found.map(|(user, _)| user).filter(|user| user.is_within(&caller.scope));
    user.ok_or_else(|| Error::not_found("user", user_id))
}

pub(super) async fn list(
    auth: &Auth,
    caller: &Caller,
    request: proto::ListUsersRequest,
) -> Result<proto::ListUsersResponse> {
    let size = page::size(request.page_size, 50, 1000)?;
    let query = format!("users/{}", caller.tenant());
    let mut after = page::after(&query, &request.page_token)?.unwrap_or_default();
    let mut read = auth.store.read(&caller.scope).await?;
    let at_once = if caller.scope.sites().is_empty() { size + 1 } else { NARROWED_AT_ONCE };
    let mut users = Vec::new();
    loop {
        let found = db::user::list(&mut read, caller.tenant(), &after, at_once).await?;
        let all = found.len() < at_once as usize;
        if let Some(last) = found.last() {
            after = key_of(&last.username);
        }
        users.extend(found.into_iter().filter(|user| user.is_within(&caller.scope)));
        if all || users.len() > size as usize {
            break;
        }
    }
    let more = users.len() > size as usize;
    users.truncate(size as usize);
    let last = users.last().filter(|_| more);
    let next_page_token = last.map(|user| page::token(&query, &key_of(&user.username))).unwrap_or_default();
    Ok(proto::ListUsersResponse { users: users.iter().map(User::to_proto).collect(), next_page_token })
}

pub(super) async fn update(auth: &Auth, caller: &Caller, request: proto::UpdateUserRequest) -> Result<proto::User> {
    logged_in(caller)?;
    let brought = request.user.ok_or_else(|| Error::invalid("user", "is required"))?;
    let fields = user::fields(request.update_mask.as_ref(), &brought)?;
    let mut tx = auth.store.tx(&caller.scope).await?;
    let governors = db::user::lock_governors(&mut tx, caller.tenant(), &brought.user_id).await?;
    let found = db::user::find(&mut tx, caller.tenant(), &brought.user_id).await?;
    let user = visible(caller, found, &brought.user_id)?;
    let mut changed = user::update(&user, &brought, &fields)?;
    may_grant(caller, user.role, &user.sites)?;
    may_grant(caller, changed.role, &changed.sites)?;
    if changed == user {
        return Ok(user.to_proto());
    }
    if !changed.governs() {
        keep_a_governor(&user, &governors)?;
    }
    let mut revocations = Vec::new();
    if changed.disabled {
        db::session::delete_all(&mut tx, &user.tenant, &user.user_id).await?;
        db::personal::delete_all(&mut tx, &user.tenant, &user.user_id).await?;
    }
    if changed.disabled || changed.email != user.email {
        // one that was mailed is not for whoever has the account, or the address, from now on
        db::reset::delete(&mut tx, &user).await?;
    }
    if user.exceeds(&changed) {
        let revocation = revoke_user(auth, &mut tx, caller, &user).await?;
        changed.revoked_second = revocation.second();
        revocations.push(revocation);
    }
    db::user::update(&mut tx, &changed).await?;
    let entry = db::user_entry("user.updated", &changed, caller.author());
    tx.append(Entry { changes: user.changes(&changed), ..entry });
    commit(auth, tx, &revocations).await?;
    Ok(changed.to_proto())
}

pub(super) async fn delete(auth: &Auth, caller: &Caller, user_id: &str) -> Result<()> {
    logged_in(caller)?;
    let mut tx = auth.store.tx(&caller.scope).await?;
    let governors = db::user::lock_governors(&mut tx, caller.tenant(), user_id).await?;
    let found = db::user::find(&mut tx, caller.tenant(), user_id).await?;
    let user = visible(caller, found, user_id)?;
    may_grant(caller, user.role, &user.sites)?;
    keep_a_governor(&user, &governors)?;
    db::user::delete(&mut tx, &user).await?;
    db::session::delete_all(&mut tx, &user.tenant, &user.user_id).await?;
    db::personal::delete_all(&mut tx, &user.tenant, &user.user_id).await?;
    db::reset::delete(&mut tx, &user).await?;
    let revocation = revoke_user(auth, &mut tx, caller, &user).await?;
    tx.append(db::user_entry("user.deleted", &user, caller.author()));
    commit(auth, tx, &[revocation]).await
}

/// Refuses to take the last one who can do everything in the tenant.
fn keep_a_governor(user: &User, governors: &[User]) -> Result<()> {
    if user.governs() && governors.iter().all(|other| other.user_id == user.user_id) {
        let message = "this is the last admin of the tenant; make another user admin first";
        return Err(Error::precondition("LAST_ADMIN", message));
    }
    Ok(())
}

pub(super) async fn invite(
    auth: &Auth,
    caller: &Caller,
    request: proto::CreateInvitationRequest,
) -> Result<proto::CreateInvitationResponse> {
    logged_in(caller)?;
    let role = user::role_of(request.role, "role")?;
    if auth.config.registration == Some(Registration::Closed) {
        return Err(closed());
    }
    let sites = match request.site_ids.is_empty() {
        true => caller.scope.sites().to_vec(),
        false => request.site_ids,
    };
    may_grant(caller, role, &sites)?;
    let valid_for = match &request.valid_for {
        None => INVITATION_LIFE,
        Some(asked) => time::to_duration(asked)
            .filter(|asked| !asked.is_zero() && *asked <= LONGEST_INVITATION_LIFE)
            .ok_or_else(|| Error::invalid("valid_for", "must be more than nothing and at most 30 days"))?,
    };
    let mut tx = auth.store.tx(&caller.scope).await?;
    let expire_time = auth.clock.now_micros().saturating_add(micros(valid_for));
    let secret = new_invitation();
    let invitation = Invitation { tenant: caller.tenant().to_owned(), role, sites, expire_time };
    db::invitation::insert(&mut tx, digest(secret.reveal()), &invitation).await?;
    let invited = User { tenant: invitation.tenant, role, sites: invitation.sites, ..User::default() };
    tx.append(db::user_entry("invitation.created", &invited, caller.author()));
    tx.commit().await?;
    Ok(proto::CreateInvitationResponse {
        invitation: secret.reveal().clone(),
        expire_time: Some(time::from_micros(expire_time)),
    })
}
