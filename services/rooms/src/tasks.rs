//! The loops: following telemetry's readings, the registry of `devices`, and the service's own log.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use prost::Message;
use sensormesh_mesh::{Channel, Shutdown};
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::devices::v1::watch_devices_response::Event as Told;
use sensormesh_proto::devices::v1::{WatchDevicesRequest, WatchDevicesResponse};
use sensormesh_store::{EventKind, Incoming, Read, Store, Tx, WatchRequest};
use sensormesh_types::{Clock, Code, Error, Result, Scope};
use tokio::time::{sleep, timeout};

use crate::db;
use crate::model::Tenant;
use crate::projection::Projection;
use crate::telemetry::Telemetry;
use crate::watch::{Batch, Decoder, Hub};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Telemetry sends a bookmark every 5 s; silence for longer means that the connection is dead.
const SILENCE: Duration = Duration::from_secs(15);

/// Keeps the hub at telemetry's heels until stopping is asked for.
pub async fn follow_readings(telemetry: Telemetry, hub: Hub, shutdown: Shutdown) -> Result<()> {
    let mut pause = FIRST_PAUSE;
    let mut cursor = String::new();
    loop {
        let mut heard = false;
        let ended = tokio::select! {
            () = shutdown.requested() => return Ok(()),
            ended = follow_once(&telemetry, &hub, cursor, &mut heard) => ended,
        };
        hub.lose();
        cursor = hub.cursor();
        if heard {
            pause = FIRST_PAUSE;
        }
        match ended {
            Ok(()) => {}
            Err(error) if error.code() == Code::Gone => {
                tracing::warn!(%error, "readings were missed; starts again from the latest ones");
                cursor = String::new();
            }
            Err(error) => tracing::debug!(?error, "telemetry cannot be followed"),
        }
        if shutdown.cut(sleep(pause)).await.is_none() {
            return Ok(());
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn follow_once(telemetry: &Telemetry, hub: &Hub, cursor: String, heard: &mut bool) -> Result<()> {
    let mut snapshot: Option<Vec<Batch>> = cursor.is_empty().then(Vec::new);
    let mut stream = telemetry.watch(cursor, Vec::new(), Decoder::of_placed(hub.clone())).await?;
    loop {
        let Ok(next) = timeout(SILENCE, stream.next()).await else {
            return Err(Error::unavailable("STREAM_SILENT", "telemetry has gone silent", FIRST_PAUSE));
        };
        let Some(incoming) = next.transpose()? else { return Ok(()) };
        *heard = true;
        if incoming.reset {
            snapshot = Some(incoming.batch.into_iter().collect());
            continue;
        }
        let cursor = if incoming.cursor.is_empty() { hub.cursor() } else { incoming.cursor };
        match (&mut snapshot, incoming.batch) {
            (Some(latest), batch) => {
                latest.extend(batch);
                if incoming.live.is_some() {
                    hub.replace(latest, &cursor);
                    snapshot = None;
                }
            }
            (None, Some(batch)) => hub.push(batch, &cursor),
            (None, None) => hub.pass(&cursor),
        }
    }
}

/// Takes over what `devices` says until stopping is asked for.
pub async fn follow_devices(
    devices: DevicesServiceClient<Channel>,
    store: Store,
    clock: Clock,
    shutdown: Shutdown,
) -> Result<()> {
    shutdown.cut(store.follow("devices", Registry { devices, clock })).await.unwrap_or(Ok(()))
}

/// The stream of `devices`, and what becomes of it.
struct Registry {
    devices: DevicesServiceClient<Channel>,
    clock: Clock,
}

impl sensormesh_store::Projection for Registry {
    type Message = WatchDevicesResponse;

    async fn open(&self, cursor: Option<String>) -> Result<BoxStream<'static, Result<Incoming<WatchDevicesResponse>>>> {
        let request = WatchDevicesRequest { cursor: cursor.unwrap_or_default() };
        let stream = self.devices.clone().watch_devices(request).await?.into_inner();
        Ok(stream
            .map(|message| {
                let message = message.map_err(Error::from)?;
                let told = !matches!(message.event, None | Some(Told::Bookmark(_)));
                let (cursor, size) = (message.cursor.clone(), message.encoded_len());
                Ok(Incoming { cursor, size, payload: told.then_some(message) })
            })
            .boxed())
    }

    async fn apply(&self, tx: &mut Tx, reset: bool, messages: &[WatchDevicesResponse]) -> Result<()> {
        Projection::new(tx, self.clock.now_nanos()).apply(reset, messages).await
    }

    fn letter(&self, message: &WatchDevicesResponse) -> Vec<u8> {
        message.encode_to_vec()
    }
}

/// Keeps in memory what is where: read anew whenever the service's own log says that something changed, here or in another
/// replica.
pub async fn follow_own_log(store: Store, hub: Hub, shutdown: Shutdown) -> Result<()> {
    let mut events = store.watch(WatchRequest::new("", Scope::system()), |read| Box::pin(load(read)));
    let mut tenants = HashMap::new();
    let mut loaded = false;
    while let Some(Some(event)) = shutdown.cut(events.next()).await {
        let mut changed = BTreeSet::new();
        let mut next = Some(event);
        while let Some(event) = next {
            match event?.kind {
                EventKind::Snapshot((name, tenant)) => {
                    tenants.insert(name, tenant);
                }
                EventKind::Entry(entry) => {
                    changed.insert(entry.tenant.clone());
                }
                EventKind::Bookmark { .. } if !loaded => {
                    loaded = true;
                    let tenants = std::mem::take(&mut tenants);
                    hub.change_model(|model| model.reset(tenants));
                }
                EventKind::Bookmark { .. } => {}
            }
            next = events.next().now_or_never().flatten();
        }
        if !changed.is_empty() {
            let mut read = store.read(&Scope::system()).await?;
            for name in changed {
                let tenant = load_tenant(&mut read, &name).await?;
                hub.change_model(|model| model.replace(&name, tenant));
            }
        }
    }
    Ok(())
}

async fn load(read: &mut Read) -> Result<Vec<(String, Tenant)>> {
    let mut tenants = Vec::new();
    for name in db::tenants(read).await? {
        let tenant = load_tenant(read, &name).await?;
        tenants.push((name, tenant));
    }
    Ok(tenants)
}

async fn load_tenant(read: &mut Read, name: &str) -> Result<Tenant> {
    Ok(Tenant::new(
        db::list_places(read, name).await?,
        db::list_current(read, name, "").await?,
        &db::list_placed_sensors(read, name, "").await?,
        &db::list_profiles(read, name).await?,
    ))
}
