//! Placements, and the sensors that have none.

use prost::Message;
use sensormesh_proto::devices::v1::GetSensorRequest;
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::rooms::v1 as proto;
use sensormesh_types::{Caller, Code, Error, Result, page, time};

use super::Api;
use crate::model::Sensor;
use crate::placement::{self, Placement, Wish};
use crate::record::{self, Author};
use crate::{db, projection};

impl Api {
    pub(super) async fn list_placements(
        &self,
        caller: &Caller,
        request: proto::ListPlacementsRequest,
    ) -> Result<proto::ListPlacementsResponse> {
        let size = page::size(request.page_size, 100, 1000)?;
        let (room, sensor) = (&request.room_id, &request.sensor_id);
        let query = format!("placements/{}/{room}/{sensor}/{}", caller.tenant(), request.include_ended);
        let after = page::after(&query, &request.page_token)?;
        let mut wanted = db::Page {
            room: room.clone(),
            sensor: sensor.clone(),
            include_ended: request.include_ended,
            after: after.as_deref().map(unkey).transpose()?,
            size: size + 1,
        };
        let mut read = self.store.read(&caller.scope).await?;
        let mut seen: Vec<Placement> = Vec::new();
        loop {
            let rows = db::list_placements(&mut read, caller.tenant(), &wanted).await?;
            let full = rows.len() > size as usize;
            wanted.after =
                rows.last().map(|last| (last.room.clone(), last.metric.clone(), last.start, last.sensor.clone()));
            seen.extend(rows.into_iter().filter(|row| caller.scope.admits(caller.tenant(), &row.site)));
            if !full || seen.len() > size as usize {
                break;
            }
        }
        let more = seen.len() > size as usize;
        seen.truncate(size as usize);
        let next_page_token = seen.last().filter(|_| more).map(|last| page::token(&query, &key(last)));
        Ok(proto::ListPlacementsResponse {
            placements: seen.iter().map(record::encode_placement).collect(),
            next_page_token: next_page_token.unwrap_or_default(),
        })
    }

    pub(super) async fn create_placement(
        &self,
        caller: &Caller,
        request: proto::CreatePlacementRequest,
    ) -> Result<proto::CreatePlacementResponse> {
        let body = request.encode_to_vec();
        let proto::CreatePlacementRequest { placement, request_id } = request;
        let proto::Placement { sensor_id, room_id, metric, start_time, end_time } = placement.unwrap_or_default();
        let told = self.sensor(caller, &sensor_id).await?;
        let mut tx = self.store.tx(&caller.scope).await?;
        db::lock(&mut tx, caller.tenant()).await?;
        if let Some(answer) = tx.recall_request("CreatePlacement", &request_id, &body).await? {
            return proto::CreatePlacementResponse::decode(answer.as_slice()).map_err(Error::internal);
        }
        let room = self.room(caller, &mut tx, &room_id).await?;
        // what `devices` has told of it meanwhile holds
        let sensor = match (db::find_sensor(&mut tx, caller.tenant(), &sensor_id).await?, told) {
            (Some(now), _) if caller.scope.admits(caller.tenant(), &now.site) => now,
            (None, Told { sensor, asked: true }) => {
                db::save_sensor(&mut tx, caller.tenant(), &sensor).await?;
                sensor
            }
            _ => return Err(Error::not_found("sensor", &sensor_id)),
        };
        record::check_site(&room.site, &sensor.site, &sensor_id)?;
        let metric = if metric.is_empty() { placement::default_metric(&sensor_id) } else { metric };
        let start = nanos("placement.start_time", start_time.as_ref())?;
        let end = nanos("placement.end_time", end_time.as_ref())?;
        let wish = Wish { sensor: sensor_id, room: room_id, metric, start, end, site: sensor.site };
        let known = db::list_of_sensor(&mut tx, caller.tenant(), &wish.sensor).await?;
        let plan = placement::plan(wish, &known, self.mesh.clock().now_nanos())?;
        let placed = record::carry_out(&mut tx, &Author::of(caller), plan).await?;
        let response = proto::CreatePlacementResponse { placement: Some(record::encode_placement(&placed)) };
        tx.remember_request("CreatePlacement", &request_id, &body, &response.encode_to_vec()).await?;
        tx.commit().await?;
        Ok(response)
    }

    pub(super) async fn delete_placement(
        &self,
        caller: &Caller,
        request: proto::DeletePlacementRequest,
    ) -> Result<proto::DeletePlacementResponse> {
        let mut tx = self.store.tx(&caller.scope).await?;
        db::lock(&mut tx, caller.tenant()).await?;
        let known = db::list_of_sensor(&mut tx, caller.tenant(), &request.sensor_id).await?;
        let current = known
            .into_iter()
            .find(|placement| placement.is_current() && caller.scope.admits(caller.tenant(), &placement.site))
            .ok_or_else(|| Error::not_found("placement", &request.sensor_id))?;
        record::end(&mut tx, &Author::of(caller), current, self.mesh.clock().now_nanos()).await?;
        tx.commit().await?;
        Ok(proto::DeletePlacementResponse {})
    }

    pub(super) async fn list_unplaced_sensors(
        &self,
        caller: &Caller,
        request: proto::ListUnplacedSensorsRequest,
    ) -> Result<proto::ListUnplacedSensorsResponse> {
        let size = page::size(request.page_size, 100, 1000)?;
        let query = format!("unplaced/{}", caller.tenant());
        let after = page::after(&query, &request.page_token)?.unwrap_or_default();
        let mut read = self.store.read(&caller.scope).await?;
        let profiles = db::list_profiles(&mut read, caller.tenant()).await?;
        let mut sensors = db::list_unplaced(&mut read, caller.tenant(), caller.scope.sites(), &after, size + 1).await?;
        let more = sensors.len() > size as usize;
        sensors.truncate(size as usize);
        let next_page_token = sensors.last().filter(|_| more).map(|last| page::token(&query, &last.id));
        let encode = |sensor: Sensor| proto::UnplacedSensor {
            unit: sensor.completed(&profiles).unit,
            name: if sensor.name.is_empty() { sensor.id.clone() } else { sensor.name },
            sensor_id: sensor.id,
            device_id: sensor.device,
        };
        Ok(proto::ListUnplacedSensorsResponse {
            sensors: sensors.into_iter().map(encode).collect(),
            next_page_token: next_page_token.unwrap_or_default(),
        })
    }

    /// A sensor that the caller sees. One that the stream of `devices` has not told of yet is asked for.
    async fn sensor(&self, caller: &Caller, id: &str) -> Result<Told> {
        let unknown = || Error::not_found("sensor", id);
        let mut read = self.store.read(&caller.scope).await?;
        let known = db::find_sensor(&mut read, caller.tenant(), id).await?;
        drop(read);
        let asked = known.is_none();
        let sensor = match known {
            Some(sensor) => sensor,
            None => {
                let mut devices = self.mesh.client::<DevicesServiceClient<_>>()?;
                match devices.get_sensor(GetSensorRequest { sensor_id: id.to_owned() }).await.map_err(Error::from) {
                    Ok(answer) => projection::sensor(answer.into_inner().sensor.ok_or_else(unknown)?),
                    Err(error) if matches!(error.code(), Code::NotFound | Code::Forbidden) => return Err(unknown()),
                    Err(error) => return Err(error),
                }
            }
        };
        if caller.scope.admits(caller.tenant(), &sensor.site) { Ok(Told { sensor, asked }) } else { Err(unknown()) }
    }
}

/// A sensor as `devices` told of it: by its stream, or asked just now.
struct Told {
    sensor: Sensor,
    asked: bool,
}

fn nanos(field: &str, time: Option<&prost_types::Timestamp>) -> Result<Option<i64>> {
    time.map(|at| time::nanos(field, at)).transpose()
}

fn key(placement: &Placement) -> String {
    format!("{}\n{}\n{}\n{}", placement.room, placement.metric, placement.start, placement.sensor)
}

fn unkey(key: &str) -> Result<(String, String, i64, String)> {
    let wrong = || Error::invalid("page_token", "is not a token of this list and its arguments");
    let parts: Vec<&str> = key.split('\n').collect();
    let &[room, metric, start, sensor] = parts.as_slice() else { return Err(wrong()) };
    Ok((room.to_owned(), metric.to_owned(), start.parse().map_err(|_| wrong())?, sensor.to_owned()))
}
