//! Personal access tokens: made, listed, ended, exchanged.

use std::time::Duration;

use prost::Message as _;
use sensormesh_observability::Secret;
use sensormesh_proto::auth::v1 as proto;
use sensormesh_store::Entry;
use sensormesh_types::{Author, Caller, Code, Error, Result, Role, Scope};

use super::second_factor::{own, take};
use super::token::{answer, by_user, confirm, confirmed};
use super::{commit, keep, user_and_session};
use crate::key::micros;
use crate::personal::{MOST_TOKENS, PersonalToken, new_id, new_secret};
use crate::session::{Asker, digest};
use crate::user::role_of;
use crate::verification::Revocation;
use crate::{Auth, db};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long one lives where nobody says, days.
const USUAL_DAYS: u32 = 90;

/// One text for a token that is unknown, has ended, or whose user may do nothing with it any more.
fn wrong() -> Error {
    Error::new(Code::Unauthenticated, "INVALID_PERSONAL_TOKEN", "the personal access token is not valid")
}

fn entry(kind: &str, token: &PersonalToken, author: Author) -> Entry {
    Entry {
        site: String::new(),
        kind: kind.to_owned(),
        subject: token.token_id.clone(),
        author,
        payload: token.to_proto().encode_to_vec(),
        ..Entry::default()
    }
}

pub(super) async fn create(
    auth: &Auth,
    caller: &Caller,
    asker: &Asker,
    request: proto::CreatePersonalTokenRequest,
) -> Result<proto::CreatePersonalTokenResponse> {
    let (user_id, _) = user_and_session(caller)?;
    // it lives longer than an access token that was stolen
    let (owner, hash) = own(auth, caller).await?;
    confirm(auth, &owner, hash, Secret::new(request.password), asker).await?;
    let mut tx = auth.store.tx(&caller.scope).await?;
    if owner.totp_enabled && !take(auth, &mut tx, &owner, &request.otp).await? {
        return Err(Error::invalid("otp", "is neither the app's code of this moment nor a recovery code"));
    }
    confirmed(auth, &owner, asker);
    // one after the other, so that the number is right
    let user = db::user::lock(&mut tx, caller.tenant(), user_id).await?;
    let user = user.ok_or_else(|| Error::not_found("user", user_id))?;
    let now = auth.clock.now_micros();
    let days = if request.days == 0 { USUAL_DAYS } else { u32::try_from(request.days).unwrap_or(USUAL_DAYS) };
    let token = PersonalToken {
        tenant: user.tenant.clone(),
        token_id: new_id(now),
        user_id: user.user_id.clone(),
        name: request.name,
        role: if request.role == 0 { Role::Viewer } else { role_of(request.role, "role")? },
        sites: request.site_ids,
        create_time: now,
        use_time: None,
        expire_time: now.saturating_add(micros(DAY * days)),
    };
    token.check(user.role, &user.sites)?;
    if db::personal::list(&mut tx, &user.tenant, user_id, now).await?.len() >= MOST_TOKENS {
        let message = format!("an account has at most {MOST_TOKENS} personal access tokens; delete one first");
        return Err(Error::precondition("TOO_MANY_TOKENS", message));
    }
    let secret = new_secret();
    db::personal::insert(&mut tx, &token, digest(secret.reveal())).await?;
    tx.append(entry("personal_token.created", &token, caller.author()));
    tx.commit().await?;
    Ok(proto::CreatePersonalTokenResponse { secret: secret.reveal().clone(), token: Some(token.to_proto()) })
}

pub(super) async fn list(auth: &Auth, caller: &Caller) -> Result<Vec<proto::PersonalToken>> {
    let (user_id, _) = user_and_session(caller)?;
    let mut read = auth.store.read(&caller.scope).await?;
    let tokens = db::personal::list(&mut read, caller.tenant(), user_id, auth.clock.now_micros()).await?;
    Ok(tokens.iter().map(PersonalToken::to_proto).collect())
}

pub(super) async fn delete(auth: &Auth, caller: &Caller, token_id: &str) -> Result<()> {
    let (user_id, _) = user_and_session(caller)?;
    let tenant = caller.tenant();
    let mut tx = auth.store.tx(&caller.scope).await?;
    if !db::personal::delete(&mut tx, tenant, user_id, token_id).await? {
        return Err(Error::not_found("personal token", token_id));
    }
    let now = auth.clock.now_micros();
    let revocation = Revocation::of_session(token_id.to_owned(), now, auth.config.access_token_life);
    let revocation = keep(&mut tx, caller, tenant, revocation).await?;
    tx.append(Entry {
        kind: "personal_token.deleted".to_owned(),
        subject: token_id.to_owned(),
        author: caller.author(),
        ..Entry::default()
    });
    commit(auth, tx, &[revocation]).await
}

/// Exchanges one for an access token, which allows no more.
pub(super) async fn exchange(
    auth: &Auth,
    caller: &Caller,
    secret: &Secret<String>,
) -> Result<proto::CreateTokenResponse> {
    let now = auth.clock.now_micros();
    // one that is made up costs no turn of those who write
    let mut read = auth.store.read(&Scope::system()).await?;
    db::personal::find(&mut read, digest(secret.reveal()), now).await?.ok_or_else(wrong)?;
    drop(read);
    let mut tx = auth.store.tx(&Scope::system()).await?;
    let token = db::personal::use_token(&mut tx, digest(secret.reveal()), now).await?.ok_or_else(wrong)?;
    let owner = db::user::find(&mut tx, &token.tenant, &token.user_id).await?;
    let user = owner.and_then(|(user, _)| token.narrow(user)).ok_or_else(wrong)?;
    let left = Duration::from_micros(u64::try_from(token.expire_time.saturating_sub(now)).unwrap_or(0));
    let answer = answer(auth, &user, &token.token_id, None, now, auth.config.access_token_life.min(left))?;
    tx.append_for(token.tenant.clone(), entry("personal_token.used", &token, by_user(caller, &user)));
    tx.commit().await?;
    Ok(answer)
}
