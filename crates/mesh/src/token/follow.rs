//! Keeps a verifier up to date with `auth`, and its last state on disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use sensormesh_proto::auth::v1::auth_service_client::AuthServiceClient;
use sensormesh_proto::auth::v1::revocation::Subject as ProtoSubject;
use sensormesh_proto::auth::v1::watch_verification_response::Event;
use sensormesh_proto::auth::v1::{self as proto, WatchVerificationRequest};
use sensormesh_types::{Error, Result};
use tokio::time::Instant;

use super::verifier::Known;
use super::{Jwk, Revocation, Subject, Verifier};
use crate::{Mesh, Shutdown};

/// How often "nothing changed" is written down.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Follows `AuthService.WatchVerification` until the stream ends; the task that runs it begins again.
pub(crate) async fn follow(mesh: Mesh, shutdown: Shutdown) -> Result<()> {
    let verifier = mesh.verifier().clone();
    let path = (!mesh.config().state_dir.as_os_str().is_empty())
        .then(|| mesh.config().state_dir.join(format!("verification-{}.json", mesh.service())));
    if verifier.known().keys.is_empty()
        && let Some(path) = &path
    {
        restore(&verifier, path).await;
    }
    let mut cursor = String::new();
    loop {
        let ended = shutdown.cut(once(&mesh, &verifier, path.as_deref(), &mut cursor)).await;
        match ended {
            None => return Ok(()),
            // a clean end is the stream's greatest age: go on from the cursor
            Some(Ok(())) => tokio::time::sleep(Duration::from_millis(100)).await,
            Some(Err(error)) if error.code() == sensormesh_types::Code::Gone && !cursor.is_empty() => cursor.clear(),
            Some(Err(error)) => return Err(error),
        }
    }
}

async fn once(mesh: &Mesh, verifier: &Verifier, path: Option<&Path>, cursor: &mut String) -> Result<()> {
    let mut client: AuthServiceClient<crate::client::Channel> = mesh.client()?;
    let request = WatchVerificationRequest { cursor: cursor.clone() };
    let mut stream = client.watch_verification(request).await.map_err(Error::from)?.into_inner();
    let mut saved: Option<Instant> = None;
    while let Some(message) = stream.next().await {
        let message = message.map_err(Error::from)?;
        *cursor = message.cursor;
        let changed = match message.event {
            Some(Event::Keys(keys)) => {
                verifier.update_keys(keys.keys.into_iter().map(Jwk::from));
                true
            }
            Some(Event::Revocation(revocation)) => {
                if let Some(revocation) = read(revocation) {
                    verifier.revoke(revocation);
                }
                true
            }
            Some(Event::Bookmark(bookmark)) => {
                if bookmark.live {
                    verifier.complete_at(mesh.clock().now_seconds());
                }
                false
            }
            None => false,
        };
        if changed || saved.is_none_or(|at| at.elapsed() >= SAVE_EVERY) {
            saved = Some(Instant::now());
            if let Some(path) = path {
                save(verifier.known(), path.to_owned()).await;
            }
        }
    }
    Ok(())
}

fn read(revocation: proto::Revocation) -> Option<Revocation> {
    let subject = match revocation.subject? {
        ProtoSubject::SessionId(id) => Subject::Session(id),
        ProtoSubject::UserId(id) => Subject::User(id),
    };
    let revoked_at = revocation.revoke_time?.seconds;
    let expires_at = revocation.expire_time.map_or(i64::MAX, |time| time.seconds);
    Some(Revocation { subject, revoked_at, expires_at })
}

async fn restore(verifier: &Verifier, path: &Path) {
    let Ok(text) = tokio::fs::read(path).await else { return };
    match serde_json::from_slice::<Known>(&text) {
        Ok(known) => verifier.restore(known),
        Err(error) => tracing::warn!(path = %path.display(), %error, "the saved keys cannot be read and are ignored"),
    }
}

async fn save(known: Known, path: PathBuf) {
    let written = tokio::task::spawn_blocking(move || {
        let text = serde_json::to_vec(&known).map_err(std::io::Error::other)?;
        crate::pki::write_private(&path, &text)
    });
    if let Ok(Err(error)) = written.await {
        tracing::warn!(%error, "the keys could not be saved; a start without auth would not know them");
    }
}
