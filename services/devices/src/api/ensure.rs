//! Sensors that come into being because something is said about them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sensormesh_proto::devices::v1 as proto;
use sensormesh_store::{Read, Tx};
use sensormesh_types::{Caller, Code, DEFAULT_TENANT, Error, Principal, Result, Scope};

use super::device::append_device;
use super::sensor::append_sensor;
use super::{Api, sensor};
use crate::bridge::Bridge;
use crate::db;
use crate::db::profile::Profiles;
use crate::device::{Device, INGEST, site_for};
use crate::rules;
use crate::sensor::{Sensor, device_of};

/// Sensors of one device that a bridge brings at most.
const SENSORS_OF_DEVICE: i64 = 256;

impl Api {
    /// Registers those of the sensors that do not exist, all in one transaction, and returns all, in the order asked for.
    pub(super) async fn ensure(
        &self,
        caller: &Caller,
        request: proto::EnsureSensorsRequest,
    ) -> Result<Vec<proto::Sensor>> {
        let caller = &Caller { scope: scope_of(caller, &request.tenant)?, ..caller.clone() };
        for (i, device) in request.devices.iter().enumerate() {
            rules::origin(&device.origin, &format!("devices[{i}].origin"))?;
        }
        if !request.bridge_id.is_empty() && !matches!(caller.principal, Principal::Service { .. }) {
            return Err(Error::invalid("bridge_id", "only a peer service may say"));
        }
        let ids: Vec<&str> = request.sensors.iter().map(|sensor| sensor.sensor_id.as_str()).collect();
        let mut read = self.store.read(&caller.scope).await?;
        let known = db::sensor::find_many(&mut read, &ids).await?;
        if ids.iter().all(|id| known.contains_key(*id)) {
            return shown(caller, &mut read, &ids, &known, &mut Profiles::default()).await;
        }
        if !request.bridge_id.is_empty() {
            // who is refused does not take the writer's time
            let bridge = db::bridge::find(&mut read, &request.bridge_id).await?;
            let bridge = bridge.ok_or_else(|| Error::not_found("bridge", &request.bridge_id))?;
            let unknown = request.sensors.iter().filter(|sensor| !known.contains_key(&sensor.sensor_id));
            demand(&mut read, &bridge, unknown.map(device_named).collect()).await?;
        }
        drop(read);

        let now = self.clock.now_micros();
        let mut tx = self.store.tx(&caller.scope).await?;
        let mut known = db::sensor::find_many(&mut tx, &ids).await?;
        // by id, and devices before profiles before sensors: two such calls at once never wait for each other in a circle
        let mut new = BTreeMap::new();
        for (i, asked) in request.sensors.iter().enumerate() {
            if !known.contains_key(&asked.sensor_id) && !new.contains_key(&asked.sensor_id) {
                let sensor = Sensor::from_proto(asked, &format!("sensors[{i}]"), now)?;
                new.insert(sensor.sensor_id.clone(), sensor);
            }
        }
        let bridge = match request.bridge_id.as_str() {
            "" => None,
            id => Some(self.lock_bridge(&mut tx, id).await?),
        };
        let caller = &match bridge.as_ref().map(|bridge| bridge.site.as_str()) {
            None | Some("") => caller.clone(),
            Some(site) => Caller { scope: Scope::sites_of(caller.tenant(), vec![site.to_owned()]), ..caller.clone() },
        };
        if let Some(bridge) = &bridge {
            demand(&mut tx, bridge, new.values().map(|sensor| sensor.device_id.as_str()).collect()).await?;
        }
        let mut brought: HashMap<String, proto::Device> =
            request.devices.iter().map(|device| (device.device_id.clone(), device.clone())).collect();
        let mut sites = BTreeMap::new();
        for device_id in new.values().map(|sensor| &sensor.device_id).collect::<BTreeSet<_>>() {
            let mut brought = brought.remove(device_id).unwrap_or_default();
            if let Some(bridge) = &bridge {
                brought.origin = bridge.origin();
            }
            let site = self.ensure_device(&mut tx, caller, device_id, brought, now).await?;
            sites.insert(device_id.clone(), site);
        }
        let mut profiles = Profiles::default();
        for profile_id in new.values().map(|sensor| &sensor.profile_id).collect::<BTreeSet<_>>() {
            profiles.demand(&mut tx, profile_id).await?;
        }
        for (sensor_id, mut sensor) in new {
            sensor.site = sites.get(&sensor.device_id).cloned().unwrap_or_default();
            if db::sensor::insert(&mut tx, &sensor).await? {
                let shown = sensor.to_proto(profiles.get(&mut tx, &sensor.profile_id).await?);
                append_sensor(&mut tx, caller, "sensor.created", &sensor, shown);
                known.insert(sensor_id, sensor);
            } else if let Some(others) = db::sensor::find(&mut tx, &sensor_id).await? {
                known.insert(sensor_id, others);
            }
        }
        let sensors = shown(caller, &mut tx, &ids, &known, &mut profiles).await?;
        tx.commit().await?;
        Ok(sensors)
    }

    async fn lock_bridge(&self, tx: &mut Tx, bridge_id: &str) -> Result<Bridge> {
        db::bridge::lock(tx, bridge_id).await?.ok_or_else(|| Error::not_found("bridge", bridge_id))
    }

    /// Registers a device unless it exists, and says which site it is in.
    async fn ensure_device(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        device_id: &str,
        new: proto::Device,
        now: i64,
    ) -> Result<String> {
        if let Some(device) = db::device::lock(tx, device_id).await? {
            return match caller.scope.admits(caller.tenant(), &device.site) {
                true => Ok(device.site),
                false => Err(Error::not_found("device", device_id)),
            };
        }
        let origin = if new.origin.is_empty() { INGEST.to_owned() } else { new.origin.clone() };
        let site_id = site_for(&new.site_id, &caller.scope, "devices.site_id")?;
        let new = proto::Device { device_id: device_id.to_owned(), origin, site_id, ..new };
        let device = Device::from_proto(new, &caller.scope, now)?;
        if db::device::insert(tx, &device).await? {
            append_device(tx, caller, "device.created", &device);
            return Ok(device.site);
        }
        let device = db::device::find(tx, device_id).await?;
        let device = device.filter(|device| caller.scope.admits(caller.tenant(), &device.site));
        device.map(|device| device.site).ok_or_else(|| Error::not_found("device", device_id))
    }
}

/// The device of a sensor that somebody wants to register.
fn device_named(sensor: &proto::Sensor) -> &str {
    if sensor.device_id.is_empty() { device_of(&sensor.sensor_id) } else { &sensor.device_id }
}

/// Refuses what a bridge may not bring: sensors, by their devices, of devices that it does not speak for or that belong to another
/// site, more new devices than it may, more sensors of one device than there can be.
async fn demand(read: &mut Read, bridge: &Bridge, sensors: Vec<&str>) -> Result<()> {
    let mut wanted: BTreeMap<&str, i64> = BTreeMap::new();
    sensors.into_iter().for_each(|device_id| *wanted.entry(device_id).or_default() += 1);
    if let Some(id) = wanted.keys().find(|id| !bridge.speaks_for(id)) {
        let message = format!("bridge {:?} does not speak for {id:?}", bridge.bridge_id);
        return Err(Error::invalid("sensors.device_id", message));
    }
    let mut new = 0;
    for (id, sensors) in wanted {
        match db::device::find(read, id).await? {
            None => new += 1,
            Some(device) if !bridge.site.is_empty() && device.site != bridge.site => {
                return Err(Error::not_found("device", id));
            }
            Some(_) => {}
        }
        if sensors + db::sensor::count_of_device(read, id).await? > SENSORS_OF_DEVICE {
            let message = format!("a bridge brings {SENSORS_OF_DEVICE} sensors of a device and no more");
            return Err(Error::new(Code::Exhausted, "BRIDGE_SENSORS", message));
        }
    }
    if new > 0 && db::device::count_of_origin(read, &bridge.origin()).await? + new > i64::from(bridge.max_devices) {
        let message = format!("bridge {:?} may bring {} devices and no more", bridge.bridge_id, bridge.max_devices);
        return Err(Error::new(Code::Exhausted, "BRIDGE_DEVICES", message));
    }
    Ok(())
}

/// The tenant to register in: a peer says it, a user's is the token's.
fn scope_of(caller: &Caller, tenant: &str) -> Result<Scope> {
    match (&caller.principal, tenant) {
        (Principal::Service { .. }, "") => Ok(Scope::tenant_of(DEFAULT_TENANT)),
        (Principal::Service { .. }, tenant) => Ok(Scope::tenant_of(tenant)),
        (_, tenant) if tenant.is_empty() || tenant == caller.tenant() => Ok(caller.scope.clone()),
        _ => Err(Error::invalid("tenant", "only a peer service may say; a user's is the token's")),
    }
}

async fn shown(
    caller: &Caller,
    read: &mut sensormesh_store::Read,
    ids: &[&str],
    known: &HashMap<String, Sensor>,
    profiles: &mut Profiles,
) -> Result<Vec<proto::Sensor>> {
    let mut sensors = Vec::with_capacity(ids.len());
    for id in ids {
        let sensor = sensor::visible(caller, known.get(*id).cloned(), id)?;
        sensors.push(sensor.to_proto(profiles.get(read, &sensor.profile_id).await?));
    }
    Ok(sensors)
}
