//! Loops: follow `devices`, seal, cut the log, let go of what was kept aside.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use prost::Message as _;
use rustc_hash::FxHashMap;
use sensormesh_mesh::client::Channel;
use sensormesh_mesh::{Mesh, Shutdown};
use sensormesh_proto::devices::v1 as devices;
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::devices::v1::watch_devices_response::Event;
use sensormesh_series::Resolution;
use sensormesh_store::{Incoming, Projection, Tx};
use sensormesh_types::{Code, Error, Result, Scope, time};
use tokio::time::{Instant, timeout};

use crate::batch::{self, Channel as Values, Group};
use crate::catalog::Sensor;
use crate::compact;
use crate::db;
use crate::db::sensor::Told;
use crate::engine::{Engine, State};
use crate::retention;
use crate::seal;
use crate::sender::{self, Registry};
use crate::validate;
use crate::writer::Request;

/// How often the tails are looked at for what holds the log back.
const OVERDUE_EVERY: Duration = Duration::from_secs(1);
/// How often the log is cut.
const CUT_EVERY: Duration = Duration::from_secs(10);
/// How often what is past its time is removed: as often by the time of day, in seconds.
const EXPIRE_EVERY: i64 = 3600;
/// How often registering is tried again for what is kept aside.
const RELEASE_EVERY: Duration = Duration::from_secs(10);
/// Readings let go at once.
const RELEASE: u32 = 1000;

/// A sensor as `devices` tells it.
pub fn told(tenant: &str, sensor: &devices::Sensor) -> Told {
    Told {
        tenant: tenant.to_owned(),
        sensor_id: sensor.sensor_id.clone(),
        sensor: Sensor {
            device: sensor.device_id.clone(),
            site: sensor.site_id.clone(),
            unit: sensor.unit.clone(),
            min: sensor.range_min,
            max: sensor.range_max,
            interval: sensor.expected_interval.as_ref().and_then(time::to_duration).and_then(nanos),
            quality_tests: sensor.quality_tests,
            retention_days: sensor.retention_days,
            resolution: sensor.decimals.and_then(Resolution::of),
            labels: sensor.labels.clone().into_iter().collect(),
            deleted: false,
        },
    }
}

fn nanos(interval: Duration) -> Option<i64> {
    i64::try_from(interval.as_nanos()).ok().filter(|nanos| *nanos > 0)
}

/// The sensors of `devices`, followed.
#[derive(Clone)]
pub struct Sensors {
    state: Arc<State>,
    client: DevicesServiceClient<Channel>,
    /// When the stream was asked for: a snapshot knows nothing of what was registered later.
    asked: Arc<Mutex<Instant>>,
}

impl Sensors {
    /// The projection of an engine.
    pub fn new(engine: &Engine, mesh: &Mesh) -> Result<Self> {
        let asked = Arc::new(Mutex::new(Instant::now()));
        Ok(Self { state: Arc::clone(engine.state()), client: mesh.client_as_service()?, asked })
    }
}

impl Projection for Sensors {
    type Message = devices::WatchDevicesResponse;

    async fn open(&self, cursor: Option<String>) -> Result<BoxStream<'static, Result<Incoming<Self::Message>>>> {
        *self.asked.lock() = Instant::now();
        if cursor.is_some() && self.state.is_shared() {
            self.state.load_sensors(&mut self.state.databases.main.read(&Scope::system()).await?).await?;
        }
        let request = devices::WatchDevicesRequest { cursor: cursor.unwrap_or_default() };
        let stream = self.client.clone().watch_devices(request).await?.into_inner();
        let incoming = |message: devices::WatchDevicesResponse| {
            let bookmark = matches!(message.event, Some(Event::Bookmark(_)) | None);
            let (cursor, size) = (message.cursor.clone(), message.encoded_len());
            Incoming { cursor, payload: (!bookmark).then_some(message), size }
        };
        Ok(stream.map(move |message| message.map(incoming).map_err(Error::from)).boxed())
    }

    async fn apply(&self, tx: &mut Tx, reset: bool, messages: &[Self::Message]) -> Result<()> {
        if reset {
            db::sensor::forget_all(tx).await?;
            let asked = *self.asked.lock();
            for (tenant, sensor_id) in self.state.catalog.ensured_since(asked) {
                db::sensor::restore(tx, &tenant, &sensor_id).await?;
            }
        }
        for message in messages {
            match &message.event {
                Some(Event::Sensor(sensor)) => db::sensor::upsert(tx, &told(&message.tenant, sensor)).await?,
                Some(Event::DeletedSensorId(id)) => db::sensor::delete(tx, &message.tenant, id).await?,
                _ => {}
            }
        }
        Ok(())
    }

    fn applied(&self, reset: bool, messages: &[Self::Message]) {
        let catalog = &self.state.catalog;
        let mut present = HashSet::new();
        for message in messages {
            match &message.event {
                Some(Event::Sensor(sensor)) => {
                    present.insert((message.tenant.as_str(), sensor.sensor_id.as_str()));
                    catalog.put_sensor(&message.tenant, &sensor.sensor_id, told(&message.tenant, sensor).sensor);
                }
                Some(Event::DeletedSensorId(id)) => catalog.delete_sensor(&message.tenant, id),
                _ => {}
            }
        }
        if reset {
            catalog.delete_all_but(&present, *self.asked.lock());
        }
        self.state.releasing.notify_one();
    }

    fn letter(&self, message: &Self::Message) -> Vec<u8> {
        message.encode_to_vec()
    }
}

/// Seals whole blocks as they come, and what holds the log back once a second.
pub async fn seal(state: Arc<State>, shutdown: Shutdown) -> Result<()> {
    let mut looked = Instant::now();
    while !shutdown.is_requested() {
        if !state.ownership.is_held() {
            shutdown.cut(tokio::time::sleep(OVERDUE_EVERY)).await;
            continue;
        }
        seal::seal_ripe(&state).await?;
        if looked.elapsed() >= OVERDUE_EVERY {
            looked = Instant::now();
            seal::seal_overdue(&state).await?;
        }
        shutdown.cut(timeout(OVERDUE_EVERY, state.sealing.notified())).await;
    }
    Ok(())
}

/// Merges blocks of the series that were sealed since it last looked, one after the other. Half of the time it rests, so that
/// nobody waits long for it.
pub async fn compact(state: Arc<State>, shutdown: Shutdown) -> Result<()> {
    let mut looked: FxHashMap<u32, u64> = FxHashMap::default();
    while shutdown.cut(tokio::time::sleep(state.config.merge_every)).await.is_some() {
        if !state.ownership.is_held() {
            continue; // another replica does it
        }
        for series in state.catalog.all_series() {
            let sealed = series.tail.lock().sealed_seq;
            if looked.get(&series.number) == Some(&sealed) {
                continue;
            }
            let began = Instant::now();
            let merged = match compact::compact(&state, &series).await {
                Ok(merged) => merged,
                Err(error) if error.code() == Code::Corrupt => {
                    tracing::error!(?error, "the blocks of a series are not merged: one of them is damaged");
                    0
                }
                Err(error) if error.reason() == "BLOCK_GONE" => continue, // the next time it is looked at again
                Err(_) if !state.ownership.is_held() => break,
                Err(error) => return Err(error),
            };
            looked.insert(series.number, sealed);
            let rest = if merged == 0 { began.elapsed() / 4 } else { began.elapsed() };
            if shutdown.cut(tokio::time::sleep(rest)).await.is_none() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Cuts the log and removes what is past its time.
pub async fn upkeep(state: Arc<State>, shutdown: Shutdown) -> Result<()> {
    let mut expired: Option<i64> = None;
    while shutdown.cut(tokio::time::sleep(CUT_EVERY)).await.is_some() {
        if !state.ownership.is_held() {
            continue;
        }
        seal::cut_log(&state).await?;
        let now = state.clock.now_seconds();
        if expired.is_none_or(|at| now < at || now - at >= EXPIRE_EVERY) {
            expired = Some(now);
            retention::expire(&state).await?;
        }
    }
    Ok(())
}

/// Lets readings go that were kept aside, as soon as their sensors are known. Registers those that a sender could have
/// registered had `devices` been there.
pub async fn release(engine: Engine, registry: Registry, shutdown: Shutdown) -> Result<()> {
    while !shutdown.is_requested() {
        let waiting = {
            let mut read = engine.databases.log.read(&Scope::system()).await?;
            db::quarantine::waiting(&mut read).await?
        };
        for (tenant, sensor_id, register) in &waiting {
            let known = || engine.catalog.find(tenant, sensor_id).is_some_and(|known| known.registered().is_some());
            if !known()
                && *register
                && let Err(error) = sender::ensure_for(&engine, &registry, tenant, &[sensor_id]).await
            {
                tracing::debug!(?error, sensor_id, "a sensor still cannot be registered");
            }
            if known() {
                release_sensor(&engine, tenant, sensor_id, |_| None).await?;
            }
        }
        // one that nobody may register is only looked at when a sensor becomes known
        let retry = waiting.iter().any(|(_, _, register)| *register);
        let pause = if retry { RELEASE_EVERY } else { Duration::from_secs(3600) };
        shutdown.cut(timeout(pause, engine.releasing.notified())).await;
    }
    Ok(())
}

/// Stores a sensor's readings that were kept aside, and answers how many; those that the
/// sensor's device and site do not admit stay aside. A crash in between leaves duplicates, which are recognised. `told` says what the log keeps of so many.
pub async fn release_sensor(
    engine: &Engine,
    tenant: &str,
    sensor_id: &str,
    told: impl Fn(u64) -> Option<sensormesh_store::Entry>,
) -> Result<u64> {
    let series = engine.number(tenant, &[sensor_id]).await?;
    let Some((series, sensor)) = series.first().and_then(|series| Some((series, series.sensor()?))) else {
        return Ok(0);
    };
    let mut released = 0;
    loop {
        let mut read = engine.databases.log.read(&Scope::system()).await?;
        let admitted = (sensor.device.as_str(), sensor.site.as_str());
        let mut kept = db::quarantine::list_admitted(&mut read, tenant, sensor_id, admitted, RELEASE).await?;
        drop(read);
        // of one time the last that came; the others are revisions of it, in the next round
        kept.dedup_by_key(|kept| kept.time);
        if kept.is_empty() {
            return Ok(released);
        }
        let values: Vec<f64> = kept.iter().map(|kept| validate::rounded(&sensor, kept.value)).collect();
        let each = values.iter().zip(&kept);
        let qualities = each.map(|(value, kept)| validate::quality(&sensor, *value, kept.quality)).collect();
        let channel = Values { series: Arc::clone(series), values, qualities };
        let groups = vec![Group::new(kept.iter().map(|kept| kept.time).collect(), vec![channel])];
        let body = batch::encode(&groups).into();
        let (request, outcome) = Request::new(Arc::clone(&series.tenant), groups, body, false);
        engine.submit(request, outcome).await?;
        let mut tx = engine.databases.log.tx(&Scope::system()).await?;
        // somebody else may have let some of them go
        let removed = db::quarantine::remove(&mut tx, tenant, sensor_id, &kept).await?;
        if let Some(entry) = told(removed).filter(|_| removed > 0) {
            tx.append_for(tenant.to_owned(), entry);
        }
        tx.commit().await?;
        released += removed;
        tracing::info!(sensor_id, readings = kept.len(), "readings that were kept aside are stored");
    }
}
