//! What telemetry's messages do to tests, in the transaction of the cursor: tests begin, count and end.

use std::collections::{BTreeMap, HashMap};

use sensormesh_proto::telemetry::v1::{Quality, WatchReadingsResponse};
use sensormesh_store::Tx;
use sensormesh_types::{DEFAULT_TENANT, Result, time};

use crate::db;
use crate::record::{self, Author};
use crate::tally::{Around, Arrival};
use crate::telemetry::Heard;
use crate::test::{State, Test};

/// How often it is noted that telemetry was heard, microseconds.
const NOTED: i64 = 1_000_000;
/// Sensors that one query names.
const CHUNK: usize = 500;

/// Takes messages into account that came at this time in microseconds. `reset` = what came before them was missed.
pub async fn apply(tx: &mut Tx, now: i64, reset: bool, messages: &[Heard]) -> Result<()> {
    if reset {
        db::mark_missed(tx).await?;
    }
    let Some(last) = messages.last() else { return Ok(()) };
    let (mut running, mut queued): (Vec<Test>, Vec<Test>) =
        db::list_unfinished(tx).await?.into_iter().partition(|test| test.state == State::Running);
    let anew = messages.iter().any(|heard| heard.anew);
    for test in &mut running {
        let before = (test.heard, test.due);
        test.hear(now, anew);
        if test.heard - before.0 >= NOTED || test.due != before.1 {
            db::save_test(tx, test).await?;
        }
    }
    let live = messages.iter().position(|heard| heard.live).unwrap_or(messages.len());
    count(tx, now, &running, &messages[..live]).await?;
    if last.live {
        // the stream has the sensors of those whose turn it is
        queued.retain(|test| last.tests.contains(&(test.tenant.clone(), test.id.clone())));
        for mut test in queued {
            test.begin(now);
            if db::save_test(tx, &test).await? {
                record::test(tx, &Author::service(&test.tenant), "test.started", &test, &[]);
                running.push(test);
            }
        }
    }
    count(tx, now, &running, &messages[live..]).await?;
    for test in running {
        // nothing that was taken before it was due is on its way any more: this came later
        if (last.live && now >= test.due) || db::is_complete(tx, &test).await? {
            end(tx, test, now).await?;
        }
    }
    Ok(())
}

/// Counts the readings for the tests that run.
async fn count(tx: &mut Tx, now: i64, running: &[Test], messages: &[Heard]) -> Result<()> {
    if running.is_empty() {
        return Ok(());
    }
    let mut tenants: BTreeMap<&str, BTreeMap<&str, Vec<Arrival>>> = BTreeMap::new();
    // recorded data says nothing of a sensor that is there
    for message in messages.iter().map(|heard| &heard.message).filter(|message| !message.backfill) {
        let tenant = if message.tenant.is_empty() { DEFAULT_TENANT } else { &message.tenant };
        for (sensor, arrival) in arrivals(message) {
            tenants.entry(tenant).or_default().entry(sensor).or_default().push(arrival);
        }
    }
    let tests: HashMap<(&str, &str), &Test> =
        running.iter().map(|test| ((test.tenant.as_str(), test.id.as_str()), test)).collect();
    for (tenant, sensors) in tenants {
        let names: Vec<&str> = sensors.keys().copied().collect();
        for names in names.chunks(CHUNK) {
            for (id, mut tested) in db::list_open(tx, tenant, names).await? {
                let Some(test) = tests.get(&(tenant, id.as_str())) else { continue };
                let (started, now) = (test.started.saturating_mul(1000), now.saturating_mul(1000));
                let around = Around { started, now, breaks: &test.breaks_ns() };
                for arrival in sensors.get(tested.sensor.as_str()).into_iter().flatten() {
                    tested.tally.take(*arrival, &tested.limits, &around);
                }
                db::save_tally(tx, tenant, &id, &tested).await?;
            }
        }
    }
    Ok(())
}

/// The readings of a message that have a value.
fn arrivals(message: &WatchReadingsResponse) -> impl Iterator<Item = (&str, Arrival)> {
    message.readings.iter().filter_map(|reading| {
        let time = reading.time.as_ref().and_then(time::to_nanos)?;
        let value = reading.value.filter(|value| value.is_finite())?;
        let out_of_range = reading.quality == i32::from(Quality::OutOfRange);
        (reading.quality != i32::from(Quality::Missing))
            .then_some((reading.sensor_id.as_str(), Arrival { time, value, out_of_range }))
    })
}

/// A test is over: what its sensors came to is kept.
async fn end(tx: &mut Tx, mut test: Test, now: i64) -> Result<()> {
    (test.state, test.ended) = (State::Done, now);
    close(tx, &Author::service(&test.tenant), "test.done", &test).await?;
    Ok(())
}

/// Writes that a test is over, and what its sensors came to; says whether it was not over before.
pub async fn close(tx: &mut Tx, author: &Author, kind: &str, test: &Test) -> Result<bool> {
    if !db::save_test(tx, test).await? {
        return Ok(false);
    }
    let mut results = Vec::new();
    for tested in db::list_tested(tx, &test.tenant, &test.id).await? {
        let result = record::judge(test, &tested, test.ended);
        db::close_tested(tx, test, &result).await?;
        results.push(result);
    }
    record::test(tx, author, kind, test, &results);
    Ok(true)
}
