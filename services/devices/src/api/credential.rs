//! Credentials through the contract, and the stream that services verify them by.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use prost::Message as _;
use sensormesh_mesh::{Context, Streaming, stream};
use sensormesh_proto::devices::v1 as proto;
use sensormesh_proto::devices::v1::watch_credentials_response::Event as Content;
use sensormesh_proto::types::v1::Bookmark;
use sensormesh_store::{Entry, Event, EventKind, Read, Tx, WatchRequest};
use sensormesh_types::{Caller, Error, Result, Scope, time};

use super::{Api, device};
use crate::bridge;
use crate::credential::{Credential, Holder, MOST, Subject, Wanted};
use crate::db;

/// What the kinds of the log's entries begin with that `WatchCredentials` tells of.
pub(super) const CREDENTIAL: &str = "credential.";

const DAY: Duration = Duration::from_secs(24 * 3600);
/// For how long the old credential is good beside the new one.
const OVERLAP: Duration = DAY;
const LONGEST_OVERLAP: Duration = Duration::from_secs(30 * 24 * 3600);

fn message(tenant: &str, event: Content) -> proto::WatchCredentialsResponse {
    proto::WatchCredentialsResponse { cursor: String::new(), tenant: tenant.to_owned(), event: Some(event) }
}

/// Appends what verifiers are told, and the audit is kept of.
fn append(tx: &mut Tx, caller: &Caller, holder: &Holder, what: &str, credential: &Credential, event: Content) {
    let payload = message(&tx.tenant(), event).encode_to_vec();
    tx.append(Entry {
        site: holder.site.clone(),
        kind: format!("{CREDENTIAL}{what}"),
        subject: format!("{}/{}", holder.subject.name(), credential.credential_id),
        author: caller.author(),
        payload,
        ..Entry::default()
    });
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Makes a credential of a holder that is locked, and its token.
pub(super) async fn issue(
    tx: &mut Tx,
    caller: &Caller,
    holder: &Holder,
    wanted: Wanted,
    now: i64,
) -> Result<(String, proto::Credential)> {
    db::credential::delete_ended(tx, now).await?;
    if db::credential::of(tx, &holder.subject, now).await?.len() >= MOST {
        let message = format!("{} has {MOST} credentials; delete one first", holder.subject.name());
        return Err(Error::precondition("TOO_MANY_CREDENTIALS", message));
    }
    let (credential, token) = Credential::new(holder.subject.clone(), wanted, now);
    db::credential::insert(tx, &credential).await?;
    let event = Content::Credential(credential.verifiable(holder));
    append(tx, caller, holder, "created", &credential, event);
    Ok((token, credential.to_proto()))
}

/// Tells verifiers of a holder that has changed.
pub(super) async fn holder_changed(tx: &mut Tx, caller: &Caller, holder: &Holder, now: i64) -> Result<()> {
    for credential in db::credential::of(tx, &holder.subject, now).await? {
        let event = Content::Credential(credential.verifiable(holder));
        append(tx, caller, holder, "updated", &credential, event);
    }
    Ok(())
}

/// Ends every credential of a holder that goes.
pub(super) async fn holder_gone(tx: &mut Tx, caller: &Caller, holder: &Holder, now: i64) -> Result<()> {
    for credential in db::credential::of(tx, &holder.subject, now).await? {
        end(tx, caller, holder, &credential).await?;
    }
    Ok(())
}

pub(super) async fn end(tx: &mut Tx, caller: &Caller, holder: &Holder, credential: &Credential) -> Result<()> {
    db::credential::delete(tx, &credential.credential_id).await?;
    let event = Content::DeletedCredentialId(credential.credential_id.clone());
    append(tx, caller, holder, "deleted", credential, event);
    Ok(())
}

/// Whose a credential is to be, kept from changing until the transaction ends.
async fn lock(tx: &mut Tx, caller: &Caller, subject: &Subject) -> Result<Holder> {
    match subject {
        Subject::Device(id) => {
            let found = db::device::lock(tx, id).await?;
            Ok(device::visible(caller, found, id)?.holder())
        }
        Subject::Bridge(id) => {
            let found = db::bridge::lock(tx, id).await?;
            Ok(bridge::visible(&caller.scope, found, id)?.holder())
        }
    }
}

/// A credential and whose it is, kept from changing until the transaction ends. NOT_FOUND where the caller may not see whose.
async fn lock_credential(tx: &mut Tx, caller: &Caller, credential_id: &str, now: i64) -> Result<(Credential, Holder)> {
    let unknown = || Error::not_found("credential", credential_id);
    let found = db::credential::find(tx, credential_id, now).await?.ok_or_else(unknown)?;
    let holder = lock(tx, caller, &found.subject).await.map_err(|error| match error.code() {
        sensormesh_types::Code::NotFound => unknown(),
        _ => error,
    })?;
    // it may have ended while the holder was waited for
    let found = db::credential::find(tx, credential_id, now).await?.ok_or_else(unknown)?;
    Ok((found, holder))
}

impl Api {
    pub(super) async fn make_credential(
        &self,
        caller: &Caller,
        request: proto::CreateCredentialRequest,
    ) -> Result<proto::CreateCredentialResponse> {
        let subject = Subject::of(&request.device_id, &request.bridge_id)?;
        let now = self.clock.now_micros();
        let life = (request.days > 0).then(|| micros(DAY * request.days));
        let wanted = Wanted { name: request.name, life, ..Wanted::default() };
        let mut tx = self.store.tx(&caller.scope).await?;
        let holder = lock(&mut tx, caller, &subject).await?;
        let (token, credential) = issue(&mut tx, caller, &holder, wanted, now).await?;
        tx.commit().await?;
        Ok(proto::CreateCredentialResponse { token, credential: Some(credential) })
    }

    pub(super) async fn credentials_of(
        &self,
        caller: &Caller,
        request: &proto::ListCredentialsRequest,
    ) -> Result<Vec<proto::Credential>> {
        let subject = Subject::of(&request.device_id, &request.bridge_id)?;
        let mut read = self.store.read(&caller.scope).await?;
        match &subject {
            Subject::Device(id) => {
                let found = db::device::find(&mut read, id).await?;
                device::visible(caller, found, id).map(drop)?;
            }
            Subject::Bridge(id) => {
                let found = db::bridge::find(&mut read, id).await?;
                bridge::visible(&caller.scope, found, id).map(drop)?;
            }
        }
        let found = db::credential::of(&mut read, &subject, self.clock.now_micros()).await?;
        Ok(found.iter().map(Credential::to_proto).collect())
    }

    pub(super) async fn rotate(
        &self,
        caller: &Caller,
        request: &proto::RotateCredentialRequest,
    ) -> Result<proto::RotateCredentialResponse> {
        let overlap = match &request.overlap {
            None => OVERLAP,
            Some(overlap) => time::to_duration(overlap)
                .filter(|overlap| *overlap <= LONGEST_OVERLAP)
                .ok_or_else(|| Error::invalid("overlap", "must be between 0 and 30 days"))?,
        };
        let now = self.clock.now_micros();
        let mut tx = self.store.tx(&caller.scope).await?;
        let (mut old, holder) = lock_credential(&mut tx, caller, &request.credential_id, now).await?;
        let wanted = Wanted { name: old.name.clone(), life: old.life, ..Wanted::default() };
        if overlap.is_zero() {
            end(&mut tx, caller, &holder, &old).await?;
        }
        let (token, credential) = issue(&mut tx, caller, &holder, wanted, now).await?;
        if !overlap.is_zero() {
            let until = now.saturating_add(micros(overlap));
            let until = old.expire_time.map_or(until, |end| end.min(until));
            old.expire_time = Some(until);
            db::credential::expire(&mut tx, &old.credential_id, until).await?;
            let event = Content::Credential(old.verifiable(&holder));
            append(&mut tx, caller, &holder, "rotated", &old, event);
        }
        tx.commit().await?;
        Ok(proto::RotateCredentialResponse { token, credential: Some(credential) })
    }

    pub(super) async fn end_credential(&self, caller: &Caller, credential_id: &str) -> Result<()> {
        let mut tx = self.store.tx(&caller.scope).await?;
        let now = self.clock.now_micros();
        let (credential, holder) = lock_credential(&mut tx, caller, credential_id, now).await?;
        end(&mut tx, caller, &holder, &credential).await?;
        tx.commit().await?;
        Ok(())
    }

    pub(super) async fn note_uses(&self, uses: Vec<proto::CredentialUse>) -> Result<()> {
        if uses.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.tx(&Scope::system()).await?;
        // by id: two such calls at once never wait for each other in a circle
        let mut uses = uses;
        uses.sort_by(|a, b| (&a.tenant, &a.credential_id).cmp(&(&b.tenant, &b.credential_id)));
        for used in uses {
            if let Some(nanos) = used.time.as_ref().and_then(time::to_nanos) {
                db::credential::note_use(&mut tx, &used.tenant, &used.credential_id, nanos / 1000).await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// What tokens are verified with, of all tenants, then every change.
    pub(super) fn watch_them(&self, cursor: String) -> Streaming<proto::WatchCredentialsResponse> {
        let until = Context::current().and_then(|context| context.deadline);
        let request = WatchRequest::new(cursor, Scope::system()).until(until);
        let now = self.clock.now_micros();
        let events = self.store.watch(request, move |read| present_state(read, now).boxed());
        stream(events.filter_map(|event| std::future::ready(told(event).transpose())))
    }
}

async fn present_state(read: &mut Read, now: i64) -> Result<Vec<proto::WatchCredentialsResponse>> {
    let all = db::credential::all(read, now).await?;
    let credential = |(tenant, credential, holder): &(String, Credential, Holder)| {
        message(tenant, Content::Credential(credential.verifiable(holder)))
    };
    Ok(all.iter().map(credential).collect())
}

fn told(event: Result<Event<proto::WatchCredentialsResponse>>) -> Result<Option<proto::WatchCredentialsResponse>> {
    let Event { cursor, kind } = event?;
    let message = match kind {
        EventKind::Snapshot(message) => message,
        EventKind::Entry(entry) if !entry.kind.starts_with(CREDENTIAL) => return Ok(None),
        EventKind::Entry(entry) => {
            proto::WatchCredentialsResponse::decode(entry.payload.as_slice()).map_err(Error::internal)?
        }
        EventKind::Bookmark { live, as_of } => {
            message("", Content::Bookmark(Bookmark { live, reset: false, as_of: Some(time::from_micros(as_of)) }))
        }
    };
    Ok(Some(proto::WatchCredentialsResponse { cursor, ..message }))
}
