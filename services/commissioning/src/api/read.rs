//! Looking at tests, and ending one.

use sensormesh_proto::commissioning::v1 as proto;
use sensormesh_store::Read;
use sensormesh_types::{Caller, Error, Result, page};

use super::Api;
use crate::record::{self, Author, View};
use crate::telemetry::{CONSUMER, is_lost};
use crate::test::{State, Test, Tested};
use crate::{db, run};

impl Api {
    pub(super) async fn get_test(
        &self,
        caller: &Caller,
        request: proto::GetTestRequest,
    ) -> Result<proto::GetTestResponse> {
        let mut read = self.store.read(&caller.scope).await?;
        let unknown = || Error::not_found("test", &request.test_id);
        let test = db::find_test(&mut read, caller.tenant(), &request.test_id).await?.ok_or_else(unknown)?;
        let seen = seen(&mut read, caller, &test).await?.ok_or_else(unknown)?;
        Ok(proto::GetTestResponse { test: Some(self.show(&test, &seen)) })
    }

    pub(super) async fn list_tests(
        &self,
        caller: &Caller,
        request: proto::ListTestsRequest,
    ) -> Result<proto::ListTestsResponse> {
        let size = page::size(request.page_size, 100, 1000)? as usize;
        let proto::ListTestsRequest { sensor_type, sensor_id, device_id, state, page_token, .. } = request;
        let query = format!("tests/{}/{sensor_type}/{sensor_id}/{device_id}/{state}", caller.tenant());
        let after = page::after(&query, &page_token)?.as_deref().map(unkey).transpose()?;
        let most = u32::try_from(size).unwrap_or(u32::MAX).saturating_add(1);
        let mut wanted = db::Page { sensor_type, sensor: sensor_id, device: device_id, state, after, size: most };
        let mut read = self.store.read(&caller.scope).await?;
        let mut shown: Vec<((i64, String), proto::Test)> = Vec::new();
        loop {
            let tests = db::list_tests(&mut read, caller.tenant(), &wanted).await?;
            let full = tests.len() > size;
            wanted.after = tests.last().map(|last| (last.created, last.id.clone()));
            for test in tests {
                if let Some(seen) = seen(&mut read, caller, &test).await? {
                    // a test that is shown for a sensor is one of whose sensors the caller sees that one
                    let of = |tested: &Tested| {
                        (wanted.sensor.is_empty() || tested.sensor == wanted.sensor)
                            && (wanted.device.is_empty() || tested.device == wanted.device)
                    };
                    if seen.is_empty() || seen.iter().any(of) {
                        let listed = proto::Test { sensors: Vec::new(), ..self.show(&test, &seen) };
                        shown.push(((test.created, test.id), listed));
                    }
                }
            }
            if !full || shown.len() > size {
                break;
            }
        }
        let more = shown.len() > size;
        shown.truncate(size);
        let key = |(created, id): &(i64, String)| page::token(&query, &format!("{created}\n{id}"));
        let next_page_token = shown.last().filter(|_| more).map(|(last, _)| key(last)).unwrap_or_default();
        Ok(proto::ListTestsResponse { tests: shown.into_iter().map(|(_, test)| test).collect(), next_page_token })
    }

    pub(super) async fn cancel_test(
        &self,
        caller: &Caller,
        request: proto::CancelTestRequest,
    ) -> Result<proto::CancelTestResponse> {
        let unknown = || Error::not_found("test", &request.test_id);
        let mut tx = self.store.tx(&caller.scope).await?;
        let mut test = db::find_test(&mut tx, caller.tenant(), &request.test_id).await?.ok_or_else(unknown)?;
        let seen = seen(&mut tx, caller, &test).await?.ok_or_else(unknown)?;
        if seen.len() < db::list_tested(&mut tx, caller.tenant(), &test.id).await?.len() {
            return Err(Error::forbidden("the test is also of sensors that you do not see"));
        }
        let over = || Error::precondition("TEST_OVER", "the test is over");
        if test.state == State::Done {
            return Err(over());
        }
        if test.state != State::Cancelled {
            (test.state, test.ended) = (State::Cancelled, self.mesh.clock().now_micros());
            if !run::close(&mut tx, &Author::of(caller), "test.cancelled", &test).await? {
                return Err(over());
            }
        }
        let tested = db::list_tested(&mut tx, caller.tenant(), &test.id).await?;
        tx.commit().await?;
        Ok(proto::CancelTestResponse { test: Some(self.show(&test, &tested)) })
    }

    fn show(&self, test: &Test, seen: &[Tested]) -> proto::Test {
        let now = self.mesh.clock().now_micros();
        let heard = self.store.consumers().get(CONSUMER).map_or(0, |consumer| consumer.last_time);
        let view = View { now, lost: is_lost(&self.store), heard };
        let sensors = seen.iter().map(|tested| record::judge(test, tested, now)).collect();
        record::encode(test, sensors, &view)
    }
}

/// The sensors of a test that the caller sees; `None` where it does not see the test: it has sensors and the caller sees none of
/// them, or it has none and is of another site and somebody else.
async fn seen(read: &mut Read, caller: &Caller, test: &Test) -> Result<Option<Vec<Tested>>> {
    let admits = |site: &str| caller.scope.admits(caller.tenant(), site);
    let mut tested = db::list_tested(read, caller.tenant(), &test.id).await?;
    if tested.is_empty() {
        return Ok((admits(&test.site) || test.actor == caller.actor()).then_some(tested));
    }
    tested.retain(|tested| admits(&tested.site));
    Ok(Some(tested).filter(|tested| !tested.is_empty()))
}

fn unkey(key: &str) -> Result<(i64, String)> {
    let wrong = || Error::invalid("page_token", "is not a token of this list and its arguments");
    let (created, id) = key.split_once('\n').ok_or_else(wrong)?;
    Ok((created.parse().map_err(|_| wrong())?, id.to_owned()))
}
