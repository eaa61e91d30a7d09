//! Keeps what devices and bridges are known by up to date with `devices`, and its last state on disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use sensormesh_proto::devices::v1::credentials_service_client::CredentialsServiceClient;
use sensormesh_proto::devices::v1::watch_credentials_response::Event;
use sensormesh_proto::devices::v1::{NoteCredentialUseRequest, WatchCredentialsRequest};
use sensormesh_types::{Code, Error, Result};

use tokio::time::{Instant, timeout};

use super::Verifier;
use super::machine::{Machine, Machines};
use crate::client::Channel;
use crate::{Mesh, Shutdown};

/// How often changes are saved at most.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Who says nothing for so long, not even that nothing happens, is asked anew: there is a bookmark every 5 s.
const SILENCE: Duration = Duration::from_secs(30);
/// How often `devices` is told which credentials were used.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Uses that are told with one call.
const AT_ONCE: usize = 1000;

/// Follows `CredentialsService.WatchCredentials` until the stream ends; the task that runs it begins again.
pub(crate) async fn follow_machines(mesh: Mesh, shutdown: Shutdown) -> Result<()> {
    let verifier = mesh.verifier().clone();
    let path = (!mesh.config().state_dir.as_os_str().is_empty())
        .then(|| mesh.config().state_dir.join(format!("credentials-{}.json", mesh.service())));
    if !verifier.machines().is_known()
        && let Some(path) = &path
    {
        restore(verifier.machines(), path).await;
    }
    let mut cursor = String::new();
    loop {
        match shutdown.cut(once(&mesh, &verifier, path.as_deref(), &mut cursor)).await {
            None => return Ok(()),
            // a clean end is the stream's greatest age: go on from the cursor
            Some(Ok(())) => tokio::time::sleep(Duration::from_millis(100)).await,
            Some(Err(error)) if error.code() == Code::Gone && !cursor.is_empty() => cursor.clear(),
            Some(Err(error)) => return Err(error),
        }
    }
}

async fn once(mesh: &Mesh, verifier: &Verifier, path: Option<&Path>, cursor: &mut String) -> Result<()> {
    let machines = verifier.machines();
    let mut client: CredentialsServiceClient<Channel> = mesh.client()?;
    let request = WatchCredentialsRequest { cursor: cursor.clone() };
    let mut stream = client.watch_credentials(request).await.map_err(Error::from)?.into_inner();
    // what is not in a snapshot has ended
    let mut snapshot = cursor.is_empty().then(Vec::new);
    let mut unsaved = false;
    let mut saved: Option<Instant> = None;
    loop {
        let late = |_| Error::unavailable("CREDENTIALS_SILENT", "devices says nothing", Duration::from_secs(1));
        let Some(message) = timeout(SILENCE, stream.next()).await.map_err(late)? else { return Ok(()) };
        let message = message.map_err(Error::from)?;
        unsaved |= match (message.event, &mut snapshot) {
            (Some(Event::Credential(told)), Some(snapshot)) => {
                snapshot.extend(Machine::read(message.tenant, told));
                false
            }
            (Some(Event::Credential(told)), None) => {
                Machine::read(message.tenant, told).into_iter().for_each(|machine| machines.put(machine));
                true
            }
            (Some(Event::DeletedCredentialId(id)), _) => {
                machines.remove(&message.tenant, &id);
                true
            }
            (Some(Event::Bookmark(_)), all) => match all.take() {
                Some(all) => {
                    machines.replace(all);
                    true
                }
                None => false,
            },
            (None, _) => false,
        };
        // within a snapshot there is nothing to go on from
        if snapshot.is_none() {
            *cursor = message.cursor;
        }
        // many at once are saved once; a bookmark comes soon after the last
        if unsaved
            && saved.is_none_or(|at| at.elapsed() >= SAVE_EVERY)
            && let Some(path) = path
            && let Some(text) = machines.saved(mesh.clock().now_seconds())
        {
            save(text, path.to_owned()).await;
            (unsaved, saved) = (false, Some(Instant::now()));
        }
    }
}

/// Tells `devices` now and then which credentials were used. While it is down, nothing is forgotten.
pub(crate) async fn tell_uses(mesh: Mesh, shutdown: Shutdown) -> Result<()> {
    let mut client: CredentialsServiceClient<Channel> = mesh.client()?;
    while shutdown.cut(tokio::time::sleep(TELL_EVERY)).await.is_some() {
        for some in mesh.verifier().machines().uses().chunks(AT_ONCE) {
            let (uses, times): (Vec<_>, Vec<_>) = some.iter().map(|machine| machine.last_use()).unzip();
            let told = shutdown.cut(client.note_credential_use(NoteCredentialUseRequest { uses })).await;
            match told {
                None => return Ok(()),
                Some(Ok(_)) => some.iter().zip(times).for_each(|(machine, used)| machine.was_told(used)),
                Some(Err(status)) => {
                    tracing::debug!(error = ?Error::from(status), "the use of credentials was not told");
                }
            }
        }
    }
    Ok(())
}

async fn restore(machines: &Machines, path: &Path) {
    let Ok(text) = tokio::fs::read(path).await else { return };
    match serde_json::from_slice::<Vec<Machine>>(&text) {
        Ok(known) => machines.replace(known),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the saved credentials cannot be read and are ignored");
        }
    }
}

async fn save(text: Vec<u8>, path: PathBuf) {
    let written = tokio::task::spawn_blocking(move || crate::pki::write_private(&path, &text));
    if let Ok(Err(error)) = written.await {
        tracing::warn!(%error, "the credentials of devices could not be saved; a start without devices would not know them");
    }
}
