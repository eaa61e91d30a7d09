//! Sensors through the contract.

use prost::Message as _;
use sensormesh_proto::devices::v1 as proto;
use sensormesh_proto::devices::v1::watch_devices_response::Event;
use sensormesh_store::Tx;
use sensormesh_types::{Caller, Error, Result, page};

use super::device::append_device;
use super::{Api, append, append_changed, body_of, page_size, recall, required};
use crate::db;
use crate::db::profile::Profiles;
use crate::device::{Device, MANUAL, site_for};
use crate::rules::Stamp;
use crate::sensor::{self, Sensor};

pub(super) fn visible(caller: &Caller, found: Option<Sensor>, sensor_id: &str) -> Result<Sensor> {
    found
        .filter(|sensor| caller.scope.admits(caller.tenant(), &sensor.site))
        .ok_or_else(|| Error::not_found("sensor", sensor_id))
}

impl Api {
    pub(super) async fn find_sensor(&self, caller: &Caller, sensor_id: &str) -> Result<proto::Sensor> {
        let mut read = self.store.read(&caller.scope).await?;
        let found = db::sensor::find(&mut read, sensor_id).await?;
        let sensor = visible(caller, found, sensor_id)?;
        let mut profiles = Profiles::default();
        Ok(sensor.to_proto(profiles.get(&mut read, &sensor.profile_id).await?))
    }

    pub(super) async fn page_of_sensors(
        &self,
        caller: &Caller,
        request: &proto::ListSensorsRequest,
    ) -> Result<proto::ListSensorsResponse> {
        let size = page_size(request.page_size)?;
        let query = format!("sensors/{}/{}", caller.tenant(), request.device_id);
        let after = page::after(&query, &request.page_token)?.unwrap_or_default();
        let mut read = self.store.read(&caller.scope).await?;
        let mut found = db::sensor::list(&mut read, &request.device_id, &after, size as u32 + 1).await?;
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more);
        let next_page_token = last.map(|sensor| page::token(&query, &sensor.sensor_id)).unwrap_or_default();
        let mut profiles = Profiles::default();
        let mut sensors = Vec::with_capacity(found.len());
        for sensor in found {
            sensors.push(sensor.to_proto(profiles.get(&mut read, &sensor.profile_id).await?));
        }
        Ok(proto::ListSensorsResponse { sensors, next_page_token })
    }

    pub(super) async fn register_sensor(
        &self,
        caller: &Caller,
        request: proto::CreateSensorRequest,
    ) -> Result<proto::CreateSensorResponse> {
        let brought = required(request.sensor, "sensor")?;
        let mut sensor = Sensor::from_proto(&brought, "sensor", self.clock.now_micros())?;
        let body = body_of(&Sensor { stamp: Stamp::default(), ..sensor.clone() });
        let mut tx = self.store.tx(&caller.scope).await?;
        if let Some(answer) = recall(&mut tx, "CreateSensor", &request.request_id, &body).await? {
            return Ok(answer);
        }
        sensor.site = match db::device::lock(&mut tx, &sensor.device_id).await? {
            Some(device) if caller.scope.admits(caller.tenant(), &device.site) => device.site,
            Some(_) => return Err(Error::not_found("device", &sensor.device_id)),
            None => {
                let device = Device {
                    device_id: sensor.device_id.clone(),
                    site: site_for("", &caller.scope, "sensor.device_id")?,
                    origin: MANUAL.to_owned(),
                    stamp: sensor.stamp,
                    ..Device::default()
                };
                db::device::insert(&mut tx, &device).await?;
                append_device(&mut tx, caller, "device.created", &device);
                device.site
            }
        };
        let mut profiles = Profiles::default();
        let shown = sensor.to_proto(profiles.demand(&mut tx, &sensor.profile_id).await?);
        if !db::sensor::insert(&mut tx, &sensor).await? {
            return Err(Error::exists("sensor", &sensor.sensor_id));
        }
        append_sensor(&mut tx, caller, "sensor.created", &sensor, shown.clone());
        let answer = proto::CreateSensorResponse { sensor: Some(shown) };
        tx.remember_request("CreateSensor", &request.request_id, &body, &answer.encode_to_vec()).await?;
        tx.commit().await?;
        Ok(answer)
    }

    pub(super) async fn change_sensor(
        &self,
        caller: &Caller,
        request: proto::UpdateSensorRequest,
    ) -> Result<proto::Sensor> {
        let brought = required(request.sensor, "sensor")?;
        let fields = sensor::fields(request.update_mask.as_ref(), &brought)?;
        let mut tx = self.store.tx(&caller.scope).await?;
        let found = db::sensor::find(&mut tx, &brought.sensor_id).await?;
        let sensor = visible(caller, found, &brought.sensor_id)?;
        sensor.stamp.check("sensor", &sensor.sensor_id, &brought.etag)?;
        let mut profiles = Profiles::default();
        let before = profiles.get(&mut tx, &sensor.profile_id).await?;
        let mut changed = sensor.updated(&brought, &fields, &sensor.effective(before), "sensor")?;
        if changed == sensor {
            return Ok(sensor.to_proto(before));
        }
        changed.stamp = sensor.stamp.changed(self.clock.now_micros());
        let shown = changed.to_proto(profiles.demand(&mut tx, &changed.profile_id).await?);
        db::sensor::update(&mut tx, &changed).await?;
        let told = (Event::Sensor(shown.clone()), sensor.changes(&changed));
        append_changed(&mut tx, caller, &changed.site, "sensor.updated", &changed.sensor_id, told);
        tx.commit().await?;
        Ok(shown)
    }

    pub(super) async fn remove_sensor(&self, caller: &Caller, sensor_id: &str) -> Result<()> {
        let mut tx = self.store.tx(&caller.scope).await?;
        let found = db::sensor::find(&mut tx, sensor_id).await?;
        let sensor = visible(caller, found, sensor_id)?;
        if !db::sensor::delete(&mut tx, sensor_id).await? {
            return Err(Error::not_found("sensor", sensor_id));
        }
        let event = Event::DeletedSensorId(sensor_id.to_owned());
        append(&mut tx, caller, &sensor.site, "sensor.deleted", sensor_id, event);
        tx.commit().await?;
        Ok(())
    }
}

pub(super) fn append_sensor(tx: &mut Tx, caller: &Caller, kind: &str, sensor: &Sensor, shown: proto::Sensor) {
    append(tx, caller, &sensor.site, kind, &sensor.sensor_id, Event::Sensor(shown));
}

/// The stamp of a sensor that changes because its profile does.
pub(super) fn restamped(sensor: &Sensor, now: i64) -> Sensor {
    Sensor { stamp: Stamp::changed(sensor.stamp, now), ..sensor.clone() }
}
