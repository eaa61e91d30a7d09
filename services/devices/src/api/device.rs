//! Devices through the contract.

use prost::Message as _;
use sensormesh_proto::devices::v1 as proto;
use sensormesh_proto::devices::v1::watch_devices_response::Event;
use sensormesh_store::Tx;
use sensormesh_types::{Caller, Error, Result, page};

use super::credential::{holder_changed, holder_gone};
use super::{Api, append, append_changed, body_of, page_size, recall, required};
use crate::db;
use crate::db::profile::Profiles;
use crate::device::{self, Device};
use crate::rules::{self, Stamp};

/// An entry about a device or sensor that has left a site: only watchers narrowed to sites see it, who would otherwise
/// keep showing what is no longer there.
pub(super) const LEFT_SITE: &str = "left_site";

pub(super) fn visible(caller: &Caller, found: Option<Device>, device_id: &str) -> Result<Device> {
    found
        .filter(|device| caller.scope.admits(caller.tenant(), &device.site))
        .ok_or_else(|| Error::not_found("device", device_id))
}

pub(super) fn append_device(tx: &mut Tx, caller: &Caller, kind: &str, device: &Device) {
    append(tx, caller, &device.site, kind, &device.device_id, Event::Device(device.to_proto()));
}

impl Api {
    pub(super) async fn find_device(&self, caller: &Caller, device_id: &str) -> Result<proto::Device> {
        let mut read = self.store.read(&caller.scope).await?;
        let found = db::device::find(&mut read, device_id).await?;
        Ok(visible(caller, found, device_id)?.to_proto())
    }

    pub(super) async fn page_of_devices(
        &self,
        caller: &Caller,
        request: &proto::ListDevicesRequest,
    ) -> Result<proto::ListDevicesResponse> {
        let size = page_size(request.page_size)?;
        let query = format!("devices/{}", caller.tenant());
        let after = page::after(&query, &request.page_token)?.unwrap_or_default();
        let mut read = self.store.read(&caller.scope).await?;
        let mut devices = db::device::list(&mut read, &after, size as u32 + 1).await?;
        let more = devices.len() > size;
        devices.truncate(size);
        let last = devices.last().filter(|_| more);
        let next_page_token = last.map(|device| page::token(&query, &device.device_id)).unwrap_or_default();
        Ok(proto::ListDevicesResponse { devices: devices.iter().map(Device::to_proto).collect(), next_page_token })
    }

    pub(super) async fn register_device(
        &self,
        caller: &Caller,
        request: proto::CreateDeviceRequest,
    ) -> Result<proto::CreateDeviceResponse> {
        let brought = required(request.device, "device")?;
        rules::origin(&brought.origin, "device.origin")?;
        let device = Device::from_proto(brought, &caller.scope, self.clock.now_micros())?;
        let body = body_of(&Device { stamp: Stamp::default(), ..device.clone() });
        let mut tx = self.store.tx(&caller.scope).await?;
        if let Some(answer) = recall(&mut tx, "CreateDevice", &request.request_id, &body).await? {
            return Ok(answer);
        }
        if !db::device::insert(&mut tx, &device).await? {
            return Err(Error::exists("device", &device.device_id));
        }
        append_device(&mut tx, caller, "device.created", &device);
        let answer = proto::CreateDeviceResponse { device: Some(device.to_proto()) };
        tx.remember_request("CreateDevice", &request.request_id, &body, &answer.encode_to_vec()).await?;
        tx.commit().await?;
        Ok(answer)
    }

    pub(super) async fn change_device(
        &self,
        caller: &Caller,
        request: proto::UpdateDeviceRequest,
    ) -> Result<proto::Device> {
        let brought = required(request.device, "device")?;
        let fields = device::fields(request.update_mask.as_ref(), &brought)?;
        let mut tx = self.store.tx(&caller.scope).await?;
        let found = db::device::lock(&mut tx, &brought.device_id).await?;
        let device = visible(caller, found, &brought.device_id)?;
        device.stamp.check("device", &device.device_id, &brought.etag)?;
        let mut changed = device.updated(&brought, &fields, &caller.scope)?;
        if changed == device {
            return Ok(device.to_proto());
        }
        let now = self.clock.now_micros();
        changed.stamp = device.stamp.changed(now);
        db::device::update(&mut tx, &changed).await?;
        let moved = changed.site != device.site;
        if moved {
            let event = Event::DeletedDeviceId(device.device_id.clone());
            append(&mut tx, caller, &device.site, LEFT_SITE, &device.device_id, event);
        }
        let told = (Event::Device(changed.to_proto()), device.changes(&changed));
        append_changed(&mut tx, caller, &changed.site, "device.updated", &changed.device_id, told);
        if moved {
            self.move_sensors(&mut tx, caller, &changed, now).await?;
            holder_changed(&mut tx, caller, &changed.holder(), now).await?;
        }
        tx.commit().await?;
        Ok(changed.to_proto())
    }

    /// A device's sensors go where it goes.
    async fn move_sensors(&self, tx: &mut Tx, caller: &Caller, device: &Device, now: i64) -> Result<()> {
        let mut profiles = Profiles::default();
        for mut sensor in db::sensor::of_device(tx, &device.device_id).await? {
            let event = Event::DeletedSensorId(sensor.sensor_id.clone());
            append(tx, caller, &sensor.site, LEFT_SITE, &sensor.sensor_id, event);
            device.site.clone_into(&mut sensor.site);
            sensor.stamp = sensor.stamp.changed(now);
            db::sensor::update(tx, &sensor).await?;
            let shown = sensor.to_proto(profiles.get(tx, &sensor.profile_id).await?);
            append(tx, caller, &sensor.site, "sensor.updated", &sensor.sensor_id, Event::Sensor(shown));
        }
        Ok(())
    }

    pub(super) async fn remove_device(&self, caller: &Caller, device_id: &str, force: bool) -> Result<()> {
        let mut tx = self.store.tx(&caller.scope).await?;
        let found = db::device::lock(&mut tx, device_id).await?;
        let device = visible(caller, found, device_id)?;
        let sensors = db::sensor::of_device(&mut tx, device_id).await?;
        if !sensors.is_empty() && !force {
            let message = format!("the device has {} sensors; delete them first, or set force", sensors.len());
            return Err(Error::precondition("DEVICE_HAS_SENSORS", message));
        }
        for sensor in &sensors {
            db::sensor::delete(&mut tx, &sensor.sensor_id).await?;
            let event = Event::DeletedSensorId(sensor.sensor_id.clone());
            append(&mut tx, caller, &sensor.site, "sensor.deleted", &sensor.sensor_id, event);
        }
        holder_gone(&mut tx, caller, &device.holder(), self.clock.now_micros()).await?;
        db::device::delete(&mut tx, device_id).await?;
        let event = Event::DeletedDeviceId(device_id.to_owned());
        append(&mut tx, caller, &device.site, "device.deleted", device_id, event);
        tx.commit().await?;
        Ok(())
    }
}
