//! The stream that others follow the registry by.

use futures::{FutureExt as _, StreamExt as _};
use prost::Message as _;
use sensormesh_mesh::{Context, Streaming, stream};
use sensormesh_proto::devices::v1 as proto;
use sensormesh_proto::devices::v1::watch_devices_response::Event as Content;
use sensormesh_proto::types::v1::Bookmark;
use sensormesh_store::{Event, EventKind, LogEntry, Read, WatchRequest};
use sensormesh_types::{Caller, Error, Result, Scope, time};

use super::credential::CREDENTIAL;
use super::device::LEFT_SITE;
use super::{Api, message};
use crate::db::profile::Profiles;
use crate::{db, profile};

impl Api {
    /// Everything the caller may see as it is now, then every change of it.
    pub(super) fn watch(&self, caller: &Caller, cursor: String) -> Streaming<proto::WatchDevicesResponse> {
        let scope = caller.scope.clone();
        // sites are looked at here: a profile belongs to the whole tenant and is everybody's
        let every_site = if scope.is_system() { Scope::system() } else { Scope::tenant_of(scope.tenant()) };
        let until = Context::current().and_then(|context| context.deadline);
        let request = WatchRequest::new(cursor, every_site).until(until);
        let own = scope.clone();
        let events = self.store.watch(request, move |read| present_state(own, read).boxed());
        stream(events.filter_map(move |event| std::future::ready(told(&scope, event).transpose())))
    }
}

/// The message of an event, if a watcher of this scope is to see it.
fn told(
    scope: &Scope,
    event: Result<Event<proto::WatchDevicesResponse>>,
) -> Result<Option<proto::WatchDevicesResponse>> {
    let Event { cursor, kind } = event?;
    let message = match kind {
        EventKind::Snapshot(message) => message,
        EventKind::Entry(entry) if !concerns(scope, &entry) => return Ok(None),
        EventKind::Entry(entry) => {
            proto::WatchDevicesResponse::decode(entry.payload.as_slice()).map_err(Error::internal)?
        }
        EventKind::Bookmark { live, as_of } => {
            message("", Content::Bookmark(Bookmark { live, reset: false, as_of: Some(time::from_micros(as_of)) }))
        }
    };
    Ok(Some(proto::WatchDevicesResponse { cursor, ..message }))
}

/// Profiles first, then devices, then sensors: what a message refers to was said before.
async fn present_state(scope: Scope, read: &mut Read) -> Result<Vec<proto::WatchDevicesResponse>> {
    // built-in profiles are every tenant's
    let tenant = if scope.is_system() { String::new() } else { read.tenant() };
    let builtins = profile::builtins().map(|builtin| message(&tenant, Content::Profile(builtin.to_proto())));
    let mut messages: Vec<_> = builtins.collect();
    for (tenant, profile) in db::profile::all(read).await? {
        messages.push(message(&tenant, Content::Profile(profile.to_proto())));
    }
    for (tenant, device) in db::device::all(read, &scope).await? {
        messages.push(message(&tenant, Content::Device(device.to_proto())));
    }
    let mut profiles = Profiles::default();
    for (tenant, sensor) in db::sensor::all(read, &scope).await? {
        let shown = sensor.to_proto(profiles.get_of(read, &tenant, &sensor.profile_id).await?);
        messages.push(message(&tenant, Content::Sensor(shown)));
    }
    Ok(messages)
}

/// What the kinds of entries begin with that watchers of devices, sensors and profiles are not told.
const OTHERS: [&str; 3] = [CREDENTIAL, "bridge.", "claim_code."];

/// Whether a watcher of this scope is to see an entry of its tenant. Profiles are the whole tenant's, whatever the sites.
fn concerns(scope: &Scope, entry: &LogEntry) -> bool {
    if OTHERS.iter().any(|kind| entry.kind.starts_with(kind)) {
        return false;
    }
    if entry.kind.starts_with("profile.") {
        return true;
    }
    let whole_tenant = scope.sites().is_empty();
    scope.admits(&entry.tenant, &entry.site) && !(entry.kind == LEFT_SITE && whole_tenant)
}
