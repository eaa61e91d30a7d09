//! Calibrations through the contract.

use prost::Message as _;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_store::{Entry, Tx};
use sensormesh_types::{Caller, Code, Error, Result, page, quantity, time};

use super::Api;
use crate::calibration::Version;
use crate::{calibrations, db};

/// So many versions of a sensor may hold at once.
const MOST_VERSIONS: usize = 100;

impl Api {
    pub(super) async fn make_calibration(
        &self,
        caller: &Caller,
        request: pb::CreateCalibrationRequest,
    ) -> Result<pb::CreateCalibrationResponse> {
        let known = self.known(caller, &request.sensor_id)?;
        let brought = request.calibration.ok_or_else(|| Error::invalid("calibration", "is required"))?;
        let said = pb::Calibration {
            function: brought.function,
            valid_from: brought.valid_from,
            valid_to: brought.valid_to,
            unit: quantity::ucum(&brought.unit).0,
            note: brought.note,
            ..pb::Calibration::default()
        };
        Version::from_proto(&said, "calibration")?;
        let (tenant, sensor_id) = (caller.tenant(), request.sensor_id.as_str());
        let body = format!("{sensor_id} {said:?}").into_bytes();
        let mut tx = self.engine.databases.main.tx(&caller.scope).await?;
        if let Some(answer) = tx.recall_request("CreateCalibration", &request.request_id, &body).await? {
            return pb::CreateCalibrationResponse::decode(answer.as_slice()).map_err(Error::internal);
        }
        let others = db::calibration::of_sensor(&mut tx, tenant, sensor_id).await?;
        if let Some(other) = others.iter().find(|other| other.unit != said.unit) {
            let what =
                format!("must be that of the sensor's version {}, {:?}; or delete it first", other.version, other.unit);
            return Err(Error::invalid("calibration.unit", what));
        }
        if others.len() >= MOST_VERSIONS {
            let message = format!("{MOST_VERSIONS} versions of the sensor's calibration hold; delete some first");
            return Err(Error::precondition("TOO_MANY_CALIBRATIONS", message));
        }
        let now = self.engine.clock.now_micros();
        let calibration = pb::Calibration {
            sensor_id: sensor_id.to_owned(),
            version: db::calibration::greatest(&mut tx, tenant, sensor_id).await? + 1,
            create_time: Some(time::from_micros(now)),
            creator: caller.actor(),
            ..said.clone()
        };
        if !db::calibration::insert(&mut tx, tenant, &calibration, now, &said).await? {
            let message = "another version was made at the same moment; try again";
            return Err(Error::new(Code::Conflict, "CONCURRENT_CHANGE", message));
        }
        let site = known.sensor.map(|sensor| sensor.site.clone()).unwrap_or_default();
        append(&mut tx, caller, site, "calibration.created", &calibration);
        let answer = pb::CreateCalibrationResponse { calibration: Some(calibration) };
        tx.remember_request("CreateCalibration", &request.request_id, &body, &answer.encode_to_vec()).await?;
        tx.commit().await?;
        calibrations::refresh(&self.engine, tenant, sensor_id).await?;
        Ok(answer)
    }

    pub(super) async fn page_of_calibrations(
        &self,
        caller: &Caller,
        request: &pb::ListCalibrationsRequest,
    ) -> Result<pb::ListCalibrationsResponse> {
        self.known(caller, &request.sensor_id)?;
        let size = page::size(request.page_size, 100, 1000)?;
        let query = format!("calibrations/{}/{}/{}", caller.tenant(), request.sensor_id, request.show_deleted);
        let below = match page::after(&query, &request.page_token)? {
            Some(last) => last.parse().map_err(|_| Error::invalid("page_token", "is not a token of this list"))?,
            None => u32::MAX,
        };
        let mut read = self.engine.databases.main.read(&caller.scope).await?;
        let mut calibrations = db::calibration::page(
            &mut read,
            caller.tenant(),
            &request.sensor_id,
            below,
            request.show_deleted,
            size + 1,
        )
        .await?;
        let more = calibrations.len() > size as usize;
        calibrations.truncate(size as usize);
        let last = calibrations.last().filter(|_| more);
        let next_page_token = last.map(|last| page::token(&query, &last.version.to_string())).unwrap_or_default();
        Ok(pb::ListCalibrationsResponse { calibrations, next_page_token })
    }

    pub(super) async fn remove_calibration(
        &self,
        caller: &Caller,
        request: &pb::DeleteCalibrationRequest,
    ) -> Result<pb::DeleteCalibrationResponse> {
        let known = self.known(caller, &request.sensor_id)?;
        let (tenant, sensor_id) = (caller.tenant(), request.sensor_id.as_str());
        let mut tx = self.engine.databases.main.tx(&caller.scope).await?;
        let found = db::calibration::find(&mut tx, tenant, sensor_id, request.version).await?;
        let calibration =
            found.ok_or_else(|| Error::not_found("calibration", &calibrations::subject(sensor_id, request.version)))?;
        let (now, actor) = (self.engine.clock.now_micros(), caller.actor());
        if db::calibration::delete(&mut tx, tenant, sensor_id, request.version, now, &actor).await? {
            let deleted = pb::Calibration { delete_time: Some(time::from_micros(now)), deleter: actor, ..calibration };
            let site = known.sensor.map(|sensor| sensor.site.clone()).unwrap_or_default();
            append(&mut tx, caller, site, "calibration.deleted", &deleted);
            tx.commit().await?;
            calibrations::refresh(&self.engine, tenant, sensor_id).await?;
        }
        Ok(pb::DeleteCalibrationResponse {})
    }
}

/// Tells the audit, and the other replicas.
fn append(tx: &mut Tx, caller: &Caller, site: String, kind: &str, calibration: &pb::Calibration) {
    tx.append(Entry {
        site,
        kind: kind.to_owned(),
        subject: calibrations::subject(&calibration.sensor_id, calibration.version),
        author: caller.author(),
        payload: calibration.encode_to_vec(),
        ..Entry::default()
    });
}
