//! Who sends readings, and of which sensors: known ones, ones to be registered, ones to be kept aside.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sensormesh_mesh::Mesh;
use sensormesh_mesh::client::Channel;
use sensormesh_proto::devices::v1 as devices;
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::telemetry::v1::Verdict;
use sensormesh_types::{Caller, Code, Error, Principal, Result, Scope};

use crate::catalog::{Known, Sensor, Series};
use crate::db;
use crate::db::answer::{Door, Name};
use crate::engine::State;
use crate::tasks::told;
use crate::validate::{device_of, is_sensor_id};

/// Sensors registered with one call.
const AT_ONCE: usize = 1000;
/// Sensors of a machine that are asked for one by one where not all can be registered.
const FEW: usize = 16;

/// Somebody who sends readings.
#[derive(Clone, Debug)]
pub struct Sender {
    /// The tenant of the readings.
    pub tenant: Arc<str>,
    /// How the sender is written down: `user:ada`.
    pub actor: String,
    /// When the edge received the readings, microseconds since the Unix epoch, where it kept them for a while.
    pub accepted_time: Option<i64>,
    scope: Scope,
    kind: Kind,
}

/// What of its scope a sender speaks for.
#[derive(Clone, Debug)]
enum Kind {
    /// A user or a service: all of it.
    Any,
    /// A device: itself.
    Device(String),
    /// A bridge: the devices whose ids begin so, or all.
    Bridge { id: String, prefixes: Arc<[String]>, may_register: bool },
}

/// What a sender's reading of an unknown sensor leads to.
enum Unknown {
    /// It is registered; `later` = also by ourselves where `devices` cannot be asked now: for a bridge `devices` has to count.
    Register { later: bool },
    /// It is kept aside.
    Aside,
    /// It is refused.
    Refused,
}

/// What is to be done with a sensor's readings.
#[derive(Clone, Debug)]
pub enum Place {
    /// Stored in this series.
    Series(Arc<Series>, Arc<Sensor>),
    /// Kept aside.
    Aside {
        /// The sensor may be registered by us as soon as `devices` can be asked.
        register: bool,
        /// `devices` could not be asked now: the sender may try again.
        again: bool,
    },
    /// Refused, and why.
    Refused(Verdict, String),
}

impl Sender {
    /// The sender of a call.
    pub fn of(caller: &Caller) -> Self {
        let kind = match &caller.principal {
            Principal::Device { id } => Kind::Device(id.clone()),
            Principal::Bridge { id, prefixes, may_register } => {
                let (id, prefixes) = (id.clone(), Arc::clone(prefixes));
                Kind::Bridge { id, prefixes, may_register: *may_register }
            }
            Principal::User { .. } | Principal::Service { .. } | Principal::Anonymous => Kind::Any,
        };
        let (tenant, actor, scope) = (caller.tenant().into(), caller.actor(), caller.scope.clone());
        Self { tenant, actor, accepted_time: caller.accepted_time, scope, kind }
    }

    /// What a batch of the sender's is known by; `None` where it has no id.
    pub fn name(&self, batch_id: &str, door: Door) -> Option<Name> {
        let (tenant, sender, batch_id) = (self.tenant.to_string(), self.actor.clone(), batch_id.to_owned());
        Some(Name { tenant, sender, batch_id, door }).filter(|name| !name.batch_id.is_empty())
    }

    /// Whether the sender may send a registered sensor's readings.
    pub fn may_send(&self, sensor: &Sensor) -> bool {
        self.speaks_for(&sensor.device)
            && (matches!(self.kind, Kind::Device(_)) || self.scope.admits(&self.tenant, &sensor.site))
    }

    fn speaks_for(&self, device_id: &str) -> bool {
        match &self.kind {
            Kind::Any => true,
            Kind::Device(id) => id == device_id,
            Kind::Bridge { prefixes, .. } => {
                prefixes.is_empty() || prefixes.iter().any(|prefix| device_id.starts_with(prefix))
            }
        }
    }

    /// What is done with a sensor that is unknown. Whoever sees the whole tenant brings it into being, and a bridge what it
    /// speaks for; the readings of a device, and of a bridge that may not, are kept aside until somebody registers it.
    fn unknown(&self, sensor_id: &str) -> Unknown {
        let device_id = device_of(sensor_id);
        match &self.kind {
            Kind::Any if self.scope.sites().is_empty() => Unknown::Register { later: true },
            Kind::Bridge { may_register: true, .. } if self.speaks_for(device_id) => Unknown::Register { later: false },
            Kind::Bridge { .. } if self.speaks_for(device_id) => Unknown::Aside,
            // which device carries it is for whoever registers it to say
            Kind::Device(_) => Unknown::Aside,
            Kind::Any | Kind::Bridge { .. } => Unknown::Refused,
        }
    }

    /// Whether the sender is a device or a bridge.
    pub fn is_machine(&self) -> bool {
        !matches!(self.kind, Kind::Any)
    }

    /// The site that it speaks for; empty = the whole tenant, or several.
    pub fn site(&self) -> &str {
        match self.scope.sites() {
            [one] => one,
            _ => "",
        }
    }

    /// Whether the sender is a device, which speaks for itself only.
    pub fn is_device(&self) -> bool {
        matches!(self.kind, Kind::Device(_))
    }

    /// The bridge that it is; empty = none.
    fn bridge(&self) -> &str {
        match &self.kind {
            Kind::Bridge { id, .. } => id,
            Kind::Any | Kind::Device(_) => "",
        }
    }
}

/// The way to `devices`.
#[derive(Clone)]
pub struct Registry(DevicesServiceClient<Channel>);

impl Registry {
    /// The registry as this service reaches it, for itself.
    pub fn new(mesh: &Mesh) -> Result<Self> {
        mesh.client_as_service().map(Self)
    }

    async fn ensure(&self, tenant: &str, bridge: &str, ids: &[&str]) -> Result<Vec<devices::Sensor>> {
        let sensor = |id: &&str| devices::Sensor { sensor_id: (*id).to_owned(), ..devices::Sensor::default() };
        let request = devices::EnsureSensorsRequest {
            sensors: ids.iter().map(sensor).collect(),
            devices: Vec::new(),
            tenant: tenant.to_owned(),
            bridge_id: bridge.to_owned(),
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(Duration::from_secs(5));
        Ok(self.0.clone().ensure_sensors(request).await?.into_inner().sensors)
    }
}

/// Says for every sensor what is to be done with its readings. Registers what is unknown where the sender may.
pub async fn places<'a>(
    state: &State,
    registry: &Registry,
    sender: &Sender,
    ids: impl IntoIterator<Item = &'a str>,
) -> Result<HashMap<&'a str, Place>> {
    let mut places = HashMap::new();
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    let mut quota = Quota { state, tenant: &sender.tenant, left: None };
    for id in ids {
        if places.contains_key(id) {
            continue;
        }
        let place = match state.catalog.find(&sender.tenant, id) {
            Some(found) if found.registered().is_some_and(|sensor| !sender.may_send(sensor)) => not_permitted(),
            Some(Known { sensor: Some(sensor), series: Some(series), .. }) if !sensor.deleted => {
                Place::Series(series, sensor)
            }
            Some(found) if found.registered().is_some() => match quota.take() {
                Some(refused) => refused,
                None => {
                    known.push(id);
                    Place::Aside { register: false, again: false }
                }
            },
            _ if !is_sensor_id(id) => Place::Refused(Verdict::Invalid, words_for_id(id)),
            found => match sender.unknown(id) {
                Unknown::Register { later } => {
                    // one that was deleted has its number already
                    let numbered = found.is_some_and(|found| found.series.is_some());
                    match if numbered { None } else { quota.take() } {
                        Some(refused) => refused,
                        None => {
                            unknown.push(id);
                            Place::Aside { register: later, again: true }
                        }
                    }
                }
                Unknown::Aside => Place::Aside { register: false, again: false },
                Unknown::Refused => not_permitted(),
            },
        };
        places.insert(id, place);
    }
    for some in unknown.chunks(AT_ONCE) {
        match ensure(state, registry, sender, some).await {
            Ok(()) => known.extend(some),
            Err(error) if error.reason() == "BRIDGE_DEVICES" => {
                // what it has brought before has room still; of the rest nothing is asked again
                let devices = some.iter().map(|id| device_of(id)).collect();
                let its = state.catalog.devices_among(&sender.tenant, &devices);
                let (own, new): (Vec<&str>, Vec<&str>) = some.iter().partition(|id| its.contains(device_of(id)));
                new.iter().for_each(|id| drop(places.insert(id, quota_of(&error))));
                match ensure(state, registry, sender, &own).await {
                    Ok(()) => known.extend(own),
                    Err(error) => tracing::warn!(?error, sensors = own.len(), "sensors could not be registered"),
                }
            }
            Err(error)
                if matches!(error.code(), Code::Invalid | Code::Precondition | Code::Exhausted | Code::NotFound)
                    && error.retry_after().is_none() =>
            {
                // one wrong id fails the call for all: ask for each alone, of a machine for a few
                let few = if sender.is_machine() { FEW } else { some.len() };
                for id in some.iter().take(few) {
                    match ensure(state, registry, sender, &[*id]).await {
                        Ok(()) => known.push(id),
                        Err(error) if error.code() == Code::Invalid => {
                            places.insert(id, Place::Refused(Verdict::Invalid, error.message().to_owned()));
                        }
                        Err(error) if error.code() == Code::NotFound => {
                            // a device of another site, or a bridge that is gone
                            places.insert(id, not_permitted());
                        }
                        Err(error) if error.code() == Code::Exhausted && error.retry_after().is_none() => {
                            places.insert(id, quota_of(&error));
                        }
                        Err(error) => tracing::warn!(?error, sensor_id = id, "a sensor could not be registered"),
                    }
                }
            }
            Err(error) => tracing::warn!(?error, sensors = some.len(), "sensors could not be registered"),
        }
    }
    known.retain(|id| !matches!(places.get(id), Some(Place::Series(..))));
    let series = if known.is_empty() { Vec::new() } else { state.number(&sender.tenant, &known).await? };
    for (id, series) in known.into_iter().zip(series) {
        if let Some(sensor) = series.sensor() {
            let place = if sender.may_send(&sensor) { Place::Series(series, sensor) } else { not_permitted() };
            places.insert(id, place);
        }
    }
    Ok(places)
}

/// How many more sensors of a tenant may have readings; counted when the first new one is met.
struct Quota<'a> {
    state: &'a State,
    tenant: &'a str,
    left: Option<u64>,
}

impl Quota<'_> {
    /// Takes room for a sensor; answers the refusal where there is none.
    fn take(&mut self) -> Option<Place> {
        let most = self.state.config.sensors;
        if most == 0 {
            return None;
        }
        let left = self.left.get_or_insert_with(|| most.saturating_sub(self.state.catalog.count_series(self.tenant)));
        if *left == 0 {
            let words = "as many sensors have readings as may; ask for a higher limit (`telemetry.sensors`)";
            return Some(Place::Refused(Verdict::Quota, words.to_owned()));
        }
        *left -= 1;
        None
    }
}

/// Registers a sender's sensors with `devices`.
async fn ensure(state: &State, registry: &Registry, sender: &Sender, ids: &[&str]) -> Result<()> {
    let sensors = registry.ensure(&sender.tenant, sender.bridge(), ids).await?;
    take_over(state, &sender.tenant, &sensors).await
}

/// Registers sensors with `devices` for the tenant.
pub async fn ensure_for(state: &State, registry: &Registry, tenant: &str, ids: &[&str]) -> Result<()> {
    let sensors = registry.ensure(tenant, "", ids).await?;
    take_over(state, tenant, &sensors).await
}

/// Takes over what `devices` says of sensors.
async fn take_over(state: &State, tenant: &str, sensors: &[devices::Sensor]) -> Result<()> {
    let mut tx = state.databases.main.tx(&Scope::system()).await?;
    for sensor in sensors {
        db::sensor::insert_if_absent(&mut tx, &told(tenant, sensor)).await?;
    }
    let mut registered = Vec::with_capacity(sensors.len());
    for sensor in sensors {
        registered.extend(db::sensor::find(&mut tx, tenant, &sensor.sensor_id).await?);
    }
    tx.commit().await?;
    for told in registered {
        state.catalog.note_ensured(tenant, &told.sensor_id);
        state.catalog.put_sensor(tenant, &told.sensor_id, told.sensor);
    }
    Ok(())
}

fn quota_of(error: &Error) -> Place {
    Place::Refused(Verdict::Quota, error.message().to_owned())
}

fn not_permitted() -> Place {
    Place::Refused(Verdict::NotPermitted, "the caller may not send this sensor's readings".to_owned())
}

fn words_for_id(id: &str) -> String {
    if id.is_empty() {
        "is required".to_owned()
    } else {
        "must be up to 128 letters, digits, `_`, `-`, `:` and `.`, the first a letter or a digit".to_owned()
    }
}
