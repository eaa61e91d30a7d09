//! Loops: turning signing keys, forgetting what has expired, following what other replicas revoke.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use prost::Message as _;
use sensormesh_mesh::Shutdown;
use sensormesh_proto::auth::v1 as proto;
use sensormesh_proto::auth::v1::watch_verification_response::Event;
use sensormesh_store::EventKind;
use sensormesh_types::{Result, Scope};

use crate::key::{Ring, Schedule, StoredKey};
use crate::verification::Revocation;
use crate::{Auth, api, db, verification};

/// How often keys and expiries are looked at.
const EVERY: Duration = Duration::from_secs(60);

/// Makes the next key if it is time, removes retired ones, and loads what is published now.
pub(crate) async fn turn_keys(auth: &Auth) -> Result<()> {
    let _one_at_a_time = auth.turning.lock().await;
    let now = auth.clock.now_micros();
    let mut read = auth.store.read(&Scope::system()).await?;
    let stored = db::key::list(&mut read).await?;
    drop(read);
    let retired: Vec<String> =
        stored.iter().filter(|key| key.retire_time <= now).map(|key| key.key_id.clone()).collect();
    let ring = Ring::new(stored.clone(), auth.files.as_ref(), now);
    let due = ring.due(now);
    if due.is_none() && retired.is_empty() {
        publish(auth, ring);
        return Ok(());
    }
    let mut stored = stored;
    let mut tx = auth.store.tx(&Scope::system()).await?;
    if let Some(not_before) = due {
        let schedule = Schedule { sign_for: auth.config.signing_key_life, token_life: auth.config.access_token_life };
        let mut key = StoredKey::generate(now, not_before, schedule)?;
        if let Some(files) = &auth.files
            && let Some(pem) = key.private_pem.take()
        {
            files.write(&key.key_id, &pem)?;
        }
        db::key::insert(&mut tx, &key).await?;
        tracing::info!(key_id = key.key_id, not_before, "a new signing key was made");
        stored.push(key);
    }
    for key_id in &retired {
        db::key::delete(&mut tx, key_id).await?;
    }
    let ring = Ring::new(stored, auth.files.as_ref(), now);
    tx.append(verification::keys_entry(&ring));
    tx.commit().await?;
    publish(auth, ring);
    if let Some(files) = &auth.files {
        retired.iter().for_each(|key_id| files.remove(key_id));
    }
    Ok(())
}

fn publish(auth: &Auth, ring: Ring) {
    auth.verifier.update_keys(ring.jwks());
    *auth.ring.write() = Arc::new(ring);
}

/// Tells the own verifier what is revoked.
pub(crate) async fn know_revocations(auth: &Auth) -> Result<()> {
    let mut read = auth.store.read(&Scope::system()).await?;
    let revocations = db::revocation::list(&mut read, auth.clock.now_micros()).await?;
    revocations.iter().for_each(|revocation| auth.verifier.revoke(revocation.to_mesh()));
    Ok(())
}

/// Turns keys as long as the service runs.
pub(crate) async fn keep_turning_keys(auth: Arc<Auth>, shutdown: Shutdown) -> Result<()> {
    while shutdown.cut(tokio::time::sleep(EVERY)).await.is_some() {
        turn_keys(&auth).await?;
    }
    Ok(())
}

/// Forgets expired sessions, invitations and revocations as long as the service runs.
pub(crate) async fn keep_forgetting(auth: Arc<Auth>, shutdown: Shutdown) -> Result<()> {
    while shutdown.cut(tokio::time::sleep(EVERY)).await.is_some() {
        forget(&auth).await?;
    }
    Ok(())
}

async fn forget(auth: &Auth) -> Result<()> {
    let now = auth.clock.now_micros();
    loop {
        let mut tx = auth.store.tx(&Scope::system()).await?;
        db::invitation::delete_expired(&mut tx, now).await?;
        db::revocation::delete_expired(&mut tx, now).await?;
        db::personal::delete_expired(&mut tx, now).await?;
        db::reset::delete_expired(&mut tx, now).await?;
        let sessions = db::session::delete_expired(&mut tx, now).await?;
        tx.commit().await?;
        if sessions < 1000 {
            return Ok(());
        }
    }
}

/// Follows the service's own log: with several replicas, another one may revoke tokens or publish a key.
pub(crate) async fn follow_own_log(auth: Arc<Auth>, shutdown: Shutdown) -> Result<()> {
    let mut events = api::verification_events(&auth, String::new());
    while let Some(Some(event)) = shutdown.cut(events.next()).await {
        let message = match event?.kind {
            EventKind::Snapshot(message) => message,
            EventKind::Entry(entry) => match proto::WatchVerificationResponse::decode(entry.payload.as_slice()) {
                Ok(message) => message,
                Err(error) => {
                    tracing::error!(seq = entry.seq, %error, "an entry of the own log cannot be read");
                    continue;
                }
            },
            EventKind::Bookmark { .. } => continue,
        };
        match message.event {
            Some(Event::Keys(keys)) if keys != auth.ring.read().to_proto() => turn_keys(&auth).await?,
            Some(Event::Revocation(revocation)) => {
                if let Some(revocation) = Revocation::from_proto(&revocation) {
                    auth.verifier.revoke(revocation.to_mesh());
                }
            }
            _ => {}
        }
    }
    Ok(())
}
