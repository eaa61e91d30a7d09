//! Starting a test: which sensors, and what they are held to.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message;
use sensormesh_proto::commissioning::v1 as proto;
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::devices::v1::{GetSensorRequest, ListSensorsRequest};
use sensormesh_store::Tx;
use sensormesh_types::{Caller, Code, Error, Result, random};

use super::Api;
use crate::limits::{self, Limits};
use crate::record::{self, Author, View};
use crate::sensor::{Sensor, Traits, type_key};
use crate::tally::Tally;
use crate::test::{State, Test, Tested, common_site};
use crate::{db, projection};

/// The most sensors of one test: as many as telemetry takes in one filter.
const MOST_SENSORS: u32 = 1000;
/// Pages of 1,000 sensors that `devices` is asked for where none was heard of.
const MOST_PAGES: usize = 10;
/// When to try again while too many tests wait.
const LATER: Duration = Duration::from_secs(10);

impl Api {
    pub(super) async fn start_test(
        &self,
        caller: &Caller,
        request: proto::StartTestRequest,
    ) -> Result<proto::StartTestResponse> {
        check(&request)?;
        let body = request.encode_to_vec();
        let found = self.sensors(caller, &request).await?;
        let mut tx = self.store.tx(&caller.scope).await?;
        if let Some(answer) = tx.recall_request("StartTest", &request.request_id, &body).await? {
            return proto::StartTestResponse::decode(answer.as_slice()).map_err(Error::internal);
        }
        let unfinished = db::count_unfinished(&mut tx, caller.tenant()).await?;
        if unfinished >= self.config.unfinished_tests && !found.is_empty() {
            let message = format!("{unfinished} tests wait or run already");
            return Err(Error::exhausted("TOO_MANY_TESTS", message, LATER));
        }
        let profiles = db::list_profiles(&mut tx, caller.tenant()).await?;
        let tested = tested(&request, found, &profiles);
        let note = if tested.is_empty() { nothing(&mut tx, caller, &request).await? } else { String::new() };
        let test = self.new_test(caller, &request, &tested, note);
        db::insert_test(&mut tx, &test).await?;
        db::insert_tested(&mut tx, &test, &tested).await?;
        let sensors: Vec<_> = tested.iter().map(|tested| record::judge(&test, tested, test.created)).collect();
        record::test(&mut tx, &Author::of(caller), "test.created", &test, &sensors);
        let view = View { now: test.created, lost: false, heard: 0 };
        let response = proto::StartTestResponse { test: Some(record::encode(&test, sensors, &view)) };
        tx.remember_request("StartTest", &request.request_id, &body, &response.encode_to_vec()).await?;
        tx.commit().await?;
        Ok(response)
    }

    fn new_test(&self, caller: &Caller, request: &proto::StartTestRequest, tested: &[Tested], note: String) -> Test {
        let now = self.mesh.clock().now_micros();
        let over = tested.is_empty();
        let asked = Some(request.site_id.as_str()).filter(|site| !site.is_empty());
        let site = match (asked, caller.scope.sites()) {
            (Some(site), _) => site.to_owned(),
            (None, [site]) if over => site.clone(),
            _ => common_site(tested.iter().map(|tested| tested.site.as_str())),
        };
        Test {
            tenant: caller.tenant().to_owned(),
            id: random::id(now),
            request: request.clone(),
            site,
            state: if over { State::Done } else { State::Queued },
            actor: caller.actor(),
            duration: limits::duration(request, tested.iter().map(|tested| &tested.limits)),
            readings: limits::readings(request),
            created: now,
            started: 0,
            ended: if over { now } else { 0 },
            heard: 0,
            due: 0,
            breaks: Vec::new(),
            missed: false,
            note,
        }
    }

    /// The sensors that are asked for, as far as the caller sees them, by id.
    async fn sensors(&self, caller: &Caller, request: &proto::StartTestRequest) -> Result<Vec<Sensor>> {
        let key = type_key(&request.sensor_type);
        let fits = |sensor: &Sensor| {
            (key.is_empty() || sensor.is_of(&key))
                && (request.device_id.is_empty() || sensor.device == request.device_id)
                && (request.site_id.is_empty() || sensor.site == request.site_id)
                && caller.scope.admits(caller.tenant(), &sensor.site)
        };
        let mut sensors = if request.sensor_ids.is_empty() {
            let wanted = db::Wanted {
                key: key.clone(),
                device: request.device_id.clone(),
                site: request.site_id.clone(),
                sites: caller.scope.sites().to_vec(),
                most: MOST_SENSORS + 1,
            };
            let mut read = self.store.read(&caller.scope).await?;
            let known = db::list_sensors(&mut read, caller.tenant(), &wanted).await?;
            drop(read);
            if known.is_empty() { self.ask_for_all(caller, &request.device_id, fits).await? } else { known }
        } else {
            let mut sensors = Vec::new();
            for id in &request.sensor_ids {
                sensors.push(self.sensor(caller, id).await?);
            }
            sensors.retain(fits);
            sensors
        };
        if sensors.len() > MOST_SENSORS as usize {
            let message = format!("more than {MOST_SENSORS} sensors at once: say of which device or site");
            return Err(Error::precondition("TOO_MANY_SENSORS", message));
        }
        sensors.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(sensors)
    }

    /// A sensor that the caller sees. One that the stream of `devices` has not told of yet is asked for.
    async fn sensor(&self, caller: &Caller, id: &str) -> Result<Sensor> {
        let unknown = || Error::not_found("sensor", id);
        let mut read = self.store.read(&caller.scope).await?;
        let known = db::find_sensor(&mut read, caller.tenant(), id).await?;
        drop(read);
        let sensor = match known {
            Some(sensor) => sensor,
            None => {
                let mut devices = self.mesh.client::<DevicesServiceClient<_>>()?;
                match devices.get_sensor(GetSensorRequest { sensor_id: id.to_owned() }).await.map_err(Error::from) {
                    Ok(answer) => projection::sensor(answer.into_inner().sensor.as_ref().ok_or_else(unknown)?),
                    Err(error) if matches!(error.code(), Code::NotFound | Code::Forbidden) => return Err(unknown()),
                    Err(error) => return Err(error),
                }
            }
        };
        if caller.scope.admits(caller.tenant(), &sensor.site) { Ok(sensor) } else { Err(unknown()) }
    }

    /// None was heard of: one may have been registered a moment ago. Without `devices`, what was heard of holds; where nothing
    /// was, nobody can tell.
    async fn ask_for_all(&self, caller: &Caller, device: &str, fits: impl Fn(&Sensor) -> bool) -> Result<Vec<Sensor>> {
        let mut devices = self.mesh.client::<DevicesServiceClient<_>>()?;
        let mut request =
            ListSensorsRequest { device_id: device.to_owned(), page_size: 1000, page_token: String::new() };
        let mut sensors = Vec::new();
        for _ in 0..MOST_PAGES {
            let answer = match devices.list_sensors(request.clone()).await.map_err(Error::from) {
                Ok(answer) => answer.into_inner(),
                Err(error) if error.code() == Code::NotFound => break,
                Err(error) => {
                    let mut read = self.store.read(&caller.scope).await?;
                    let any = db::Wanted { most: 1, ..db::Wanted::default() };
                    let heard = !db::list_sensors(&mut read, caller.tenant(), &any).await?.is_empty();
                    return if heard { Ok(Vec::new()) } else { Err(error) };
                }
            };
            sensors.extend(answer.sensors.iter().map(projection::sensor).filter(&fits));
            request.page_token = answer.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        Ok(sensors)
    }
}

/// What the contract's rules cannot say.
fn check(request: &proto::StartTestRequest) -> Result<()> {
    if type_key(&request.sensor_type).is_empty() && request.device_id.is_empty() && request.sensor_ids.is_empty() {
        return Err(Error::invalid("sensor_type", "say what to test: sensor_type, device_id or sensor_ids"));
    }
    if request.range_min.zip(request.range_max).is_some_and(|(min, max)| min >= max) {
        return Err(Error::invalid("range_max", "must be greater than range_min"));
    }
    if request.flat_readings == 1 {
        return Err(Error::invalid("flat_readings", "must be 2 or more, or 0"));
    }
    Ok(())
}

fn tested(request: &proto::StartTestRequest, found: Vec<Sensor>, profiles: &HashMap<String, Traits>) -> Vec<Tested> {
    let tested = |sensor: Sensor| Tested {
        limits: Limits::new(request, &sensor.completed(profiles), &sensor.quality),
        tally: Tally::default(),
        sensor: sensor.id,
        device: sensor.device,
        name: sensor.name,
        site: sensor.site,
        result: None,
    };
    found.into_iter().map(tested).collect()
}

/// Why there is nothing to test, and what there would be.
async fn nothing(tx: &mut Tx, caller: &Caller, request: &proto::StartTestRequest) -> Result<String> {
    let what = match (request.sensor_type.as_str(), request.device_id.as_str()) {
        ("", "") => "there is no such sensor".to_owned(),
        ("", device) => format!("device {device:?} has no sensor"),
        (kind, "") => format!("there is no sensor of type {kind:?}"),
        (kind, device) => format!("device {device:?} has no sensor of type {kind:?}"),
    };
    let there = db::list_quantities(tx, caller.tenant(), caller.scope.sites()).await?;
    Ok(if there.is_empty() { what } else { format!("{what}; there are sensors of {}", there.join(", ")) })
}
