//! The stream that verifiers follow.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use prost::Message as _;
use sensormesh_mesh::{Context, Streaming, stream};
use sensormesh_proto::auth::v1 as proto;
use sensormesh_proto::auth::v1::watch_verification_response::Event as Content;
use sensormesh_proto::types::v1::Bookmark;
use sensormesh_store::{Event, EventKind, Read, WatchRequest};
use sensormesh_types::{Error, Result, Scope, time};

use crate::verification::{KEYS_CHANGED, REVOKED, message};
use crate::{Auth, db};

/// Keys and revocations in force, then every change, of all tenants.
pub(crate) fn verification_events(
    auth: &Arc<Auth>,
    cursor: String,
) -> BoxStream<'static, Result<Event<proto::WatchVerificationResponse>>> {
    let until = Context::current().and_then(|context| context.deadline);
    let request = WatchRequest::new(cursor, Scope::system()).until(until);
    let own = Arc::clone(auth);
    let events = auth.store.watch(request, move |read| present_state(own, read).boxed());
    // log-ins are entries of the same log, and no verifier's business
    let concerns = |event: &Result<Event<_>>| match event {
        Ok(Event { kind: EventKind::Entry(entry), .. }) => matches!(entry.kind.as_str(), KEYS_CHANGED | REVOKED),
        _ => true,
    };
    events.filter(move |event| std::future::ready(concerns(event))).boxed()
}

async fn present_state(auth: Arc<Auth>, read: &mut Read) -> Result<Vec<proto::WatchVerificationResponse>> {
    let keys = message(Content::Keys(auth.ring.read().to_proto()));
    let revocations = db::revocation::list(read, auth.clock.now_micros()).await?;
    let revocations = revocations.iter().map(|revocation| message(Content::Revocation(revocation.to_proto())));
    Ok([keys].into_iter().chain(revocations).collect())
}

/// The same as the contract has it.
pub(super) fn messages(auth: &Arc<Auth>, cursor: String) -> Streaming<proto::WatchVerificationResponse> {
    stream(verification_events(auth, cursor).map(|event| {
        let Event { cursor, kind } = event?;
        let message = match kind {
            EventKind::Snapshot(message) => message,
            EventKind::Entry(entry) => {
                proto::WatchVerificationResponse::decode(entry.payload.as_slice()).map_err(Error::internal)?
            }
            EventKind::Bookmark { live, as_of } => {
                message(Content::Bookmark(Bookmark { live, reset: false, as_of: Some(time::from_micros(as_of)) }))
            }
        };
        Ok(proto::WatchVerificationResponse { cursor, ..message })
    }))
}
