//! The loops: following the registry of `devices` and the service's own log, and deleting what is old.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use sensormesh_mesh::{Channel, Shutdown};
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::devices::v1::watch_devices_response::Event as Told;
use sensormesh_proto::devices::v1::{WatchDevicesRequest, WatchDevicesResponse};
use sensormesh_store::{EventKind, Incoming, Read, Store, Tx, WatchRequest};
use sensormesh_types::{Clock, Error, Result, Scope};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::telemetry::Unfinished;
use crate::{db, projection};

/// How often old tests are looked for.
const DELETE_EVERY: Duration = Duration::from_secs(600);
const DAY: i64 = 86_400_000_000;

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
        projection::apply(tx, self.clock.now_micros(), reset, messages).await
    }

    fn letter(&self, message: &WatchDevicesResponse) -> Vec<u8> {
        message.encode_to_vec()
    }
}

/// Keeps in memory which tests are not over: read anew whenever the service's own log says that something changed, here or in
/// another replica.
pub async fn follow_own_log(store: Store, unfinished: watch::Sender<Unfinished>, shutdown: Shutdown) -> Result<()> {
    let mut events = store.watch(WatchRequest::new("", Scope::system()), |_| Box::pin(async { Ok(Vec::<()>::new()) }));
    while let Some(Some(event)) = shutdown.cut(events.next()).await {
        match event?.kind {
            EventKind::Snapshot(()) => {}
            EventKind::Entry(_) | EventKind::Bookmark { .. } => {
                let now = load(&mut store.read(&Scope::system()).await?).await?;
                unfinished.send_if_modified(|before| {
                    let changed = *before != now;
                    *before = now;
                    changed
                });
            }
        }
    }
    Ok(())
}

async fn load(read: &mut Read) -> Result<Unfinished> {
    Ok(db::list_unfinished(read).await?.into_iter().map(|test| (test.tenant, test.id)).collect())
}

/// Deletes tests so many days after they were over, until stopping is asked for. 0 = never.
pub async fn delete_old(store: Store, days: u32, shutdown: Shutdown) -> Result<()> {
    loop {
        let before = store.clock().now_micros().saturating_sub(i64::from(days).saturating_mul(DAY));
        let mut more = days > 0;
        while more && !shutdown.is_requested() {
            let mut tx = store.tx(&Scope::system()).await?;
            more = db::delete_old(&mut tx, before).await?;
            tx.commit().await?;
        }
        if shutdown.cut(sleep(DELETE_EVERY)).await.is_none() {
            return Ok(());
        }
    }
}
