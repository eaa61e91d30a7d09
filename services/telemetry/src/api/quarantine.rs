//! The quarantine through the contract: listed, let go, thrown away.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_store::Entry;
use sensormesh_types::{Caller, Code, Error, Result, Scope, page, time};

use super::Api;
use crate::db;
use crate::db::quarantine::Kept;
use crate::tasks::release_sensor;

/// Readings of a sensor that the list shows.
const SHOWN: u32 = 3;
/// Sensors that an answer names.
const NAMED: usize = 1000;
/// Sensors looked up at once.
const AT_ONCE: u32 = 500;

impl Api {
    pub(super) async fn page_of_quarantine(
        &self,
        caller: &Caller,
        request: &pb::ListQuarantineRequest,
    ) -> Result<pb::ListQuarantineResponse> {
        if !caller.scope.sites().is_empty() {
            // what nobody has registered belongs to no site
            return Ok(pb::ListQuarantineResponse::default());
        }
        let size = page::size(request.page_size, 100, 1000)?;
        let query = format!("quarantine/{}", caller.tenant());
        let after = page::after(&query, &request.page_token)?.unwrap_or_default();
        let mut read = self.engine.databases.log.read(&Scope::tenant_of(caller.tenant())).await?;
        let mut waiting = db::quarantine::page(&mut read, caller.tenant(), &after, size + 1).await?;
        let more = waiting.len() > size as usize;
        waiting.truncate(size as usize);
        let next_page_token = match waiting.last().filter(|_| more) {
            Some(last) => page::token(&query, &last.sensor_id),
            None => String::new(),
        };
        let mut sensors = Vec::with_capacity(waiting.len());
        for waiting in waiting {
            let first = db::quarantine::list(&mut read, caller.tenant(), &waiting.sensor_id, SHOWN).await?;
            sensors.push(pb::QuarantinedSensor {
                sensor_id: waiting.sensor_id,
                readings: waiting.readings,
                first_time: Some(time::from_micros(waiting.first)),
                last_time: Some(time::from_micros(waiting.last)),
                sender: waiting.sender,
                first_readings: first.into_iter().map(shown).collect(),
            });
        }
        Ok(pb::ListQuarantineResponse { sensors, next_page_token })
    }

    pub(super) async fn release(
        &self,
        caller: &Caller,
        request: &pb::ReleaseQuarantineRequest,
    ) -> Result<pb::ReleaseQuarantineResponse> {
        whole_tenant(caller)?;
        let mut answer = pb::ReleaseQuarantineResponse::default();
        if !request.sensor_id.is_empty() {
            self.demand_kept(caller, &request.sensor_id).await?;
            if !self.is_registered(caller, &request.sensor_id) {
                let message = format!(
                    "nobody has registered the sensor {:?}; register it first (CreateSensor, POST /v1/sensors)",
                    request.sensor_id
                );
                return Err(Error::precondition("SENSOR_NOT_REGISTERED", message));
            }
            answer.readings = self.release_one(caller, &request.sensor_id).await?;
            answer.sensor_ids.push(request.sensor_id.clone());
        } else {
            self.release_all(caller, &mut answer).await?;
        }
        if answer.readings > 0 {
            self.aside.forget(caller.tenant());
        }
        Ok(answer)
    }

    async fn release_one(&self, caller: &Caller, sensor_id: &str) -> Result<u64> {
        let told = |readings| Some(entry(caller, "quarantine.released", sensor_id, readings));
        release_sensor(&self.engine, caller.tenant(), sensor_id, told).await.map_err(Error::in_part)
    }

    async fn release_all(&self, caller: &Caller, answer: &mut pb::ReleaseQuarantineResponse) -> Result<()> {
        let mut after = String::new();
        loop {
            let mut read = self.engine.databases.log.read(&Scope::tenant_of(caller.tenant())).await?;
            let sensors = db::quarantine::sensors(&mut read, caller.tenant(), &after, AT_ONCE).await?;
            drop(read);
            let Some(last) = sensors.last() else { return Ok(()) };
            after.clone_from(last);
            for sensor_id in sensors {
                let named = if self.is_registered(caller, &sensor_id) {
                    answer.readings += self.release_one(caller, &sensor_id).await?;
                    &mut answer.sensor_ids
                } else {
                    &mut answer.unregistered_sensor_ids
                };
                if named.len() < NAMED {
                    named.push(sensor_id);
                }
            }
        }
    }

    pub(super) async fn drop_kept(
        &self,
        caller: &Caller,
        request: &pb::DropQuarantineRequest,
    ) -> Result<pb::DropQuarantineResponse> {
        whole_tenant(caller)?;
        let sensor_id = match (request.sensor_id.as_str(), request.all) {
            ("", true) => None,
            ("", false) => return Err(Error::invalid("sensor_id", "is required, or `all`")),
            (_, true) => return Err(Error::invalid("all", "goes without `sensor_id`")),
            (id, false) => Some(id),
        };
        if let Some(id) = sensor_id {
            self.demand_kept(caller, id).await?;
        }
        let mut tx = self.engine.databases.log.tx(&caller.scope).await?;
        let sensors = match sensor_id {
            Some(_) => 1,
            None => db::quarantine::count_sensors(&mut tx, caller.tenant()).await?,
        };
        let readings = db::quarantine::drop_readings(&mut tx, caller.tenant(), sensor_id).await?;
        if readings > 0 {
            tx.append(entry(caller, "quarantine.dropped", sensor_id.unwrap_or_default(), readings));
        }
        tx.commit().await?;
        self.aside.forget(caller.tenant());
        Ok(pb::DropQuarantineResponse { readings, sensors })
    }

    fn is_registered(&self, caller: &Caller, sensor_id: &str) -> bool {
        self.engine.catalog.find(caller.tenant(), sensor_id).is_some_and(|known| known.registered().is_some())
    }

    async fn demand_kept(&self, caller: &Caller, sensor_id: &str) -> Result<()> {
        let mut read = self.engine.databases.log.read(&Scope::tenant_of(caller.tenant())).await?;
        if db::quarantine::exists(&mut read, caller.tenant(), sensor_id).await? {
            return Ok(());
        }
        Err(Error::not_found("quarantined sensor", sensor_id))
    }
}

/// What nobody has registered belongs to no site, so nobody who is narrowed to some disposes of it.
fn whole_tenant(caller: &Caller) -> Result<()> {
    if caller.scope.sites().is_empty() {
        return Ok(());
    }
    let message = "the quarantine belongs to the whole tenant, and you are narrowed to sites";
    Err(Error::new(Code::Forbidden, "WHOLE_TENANT", message))
}

/// What the audit is told; the payload is how many readings, in digits.
pub(super) fn entry(caller: &Caller, kind: &str, sensor_id: &str, readings: u64) -> Entry {
    Entry {
        site: String::new(),
        kind: kind.to_owned(),
        subject: sensor_id.to_owned(),
        author: caller.author(),
        payload: readings.to_string().into_bytes(),
        ..Entry::default()
    }
}

fn shown(kept: Kept) -> pb::QuarantinedReading {
    pb::QuarantinedReading {
        time: Some(time::from_nanos(kept.time)),
        value: kept.value,
        receive_time: Some(time::from_micros(kept.received)),
        sender: kept.sender,
    }
}
