//! How often memory is asked for while a batch of readings becomes durable: `allocations DIRECTORY` takes batches of several
//! shapes into telemetry's engine on SQLite in an empty directory, one after the other, and prints the mean of each shape as
//! one line of JSON. What the network adds is left out.

use std::alloc::System;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use prost::Message as _;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_telemetry::{Config, Databases, Engine};
use sensormesh_types::Clock;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Sensors of a batch, and readings of each.
const SHAPES: [(usize, usize); 4] = [(20, 5), (20, 50), (200, 5), (1, 1)];
/// Batches before those that count, which fill what is kept from one to the next, and those that do.
const BEFORE: usize = 50;
const COUNTED: usize = 200;
/// Nanoseconds.
const MILLISECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600_000 * MILLISECOND;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, directory] = args.as_slice() else { bail!("allocations DIRECTORY") };
    let url = format!("sqlite:{}", Path::new(directory).join("{service}.db").display());
    let databases = Databases::open(&sensormesh_store::Config::at(&url), Clock::system()).await?;
    // nothing is sealed meanwhile
    let config = Config { unsealed_readings: u64::MAX, unsealed_bytes: u64::MAX, ..Config::default() };
    let engine = Engine::open(config, databases, Clock::system()).await?;
    let tenant: Arc<str> = "default".into();
    let mut found = Vec::new();
    for (sensors, readings) in SHAPES {
        let ids: Vec<String> = (0..sensors).map(|sensor| format!("of{sensors}x{readings}.s{sensor}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let series = engine.register("default", &ids).await?;
        let from = Clock::system().now_nanos() - HOUR;
        let batches: Vec<_> = (0..BEFORE + COUNTED).map(|number| batch(number, &series, readings, from)).collect();
        let mut asked = 0;
        for (number, batch) in batches.into_iter().enumerate() {
            let region = Region::new(&INSTRUMENTED_SYSTEM);
            let outcome = engine.ingest(&tenant, batch).await?.await?;
            let change = region.change();
            ensure!(outcome.accepted == sensors * readings, "readings were not taken");
            if number >= BEFORE {
                asked += change.allocations + change.reallocations;
            }
        }
        let mean = asked as f64 / COUNTED as f64;
        found.push(format!(r#"{{"sensors": {sensors}, "readings": {readings}, "allocations": {mean:.1}}}"#));
    }
    println!("[{}]", found.join(", "));
    Ok(())
}

/// Readings of all sensors taken together, a millisecond apart, in hundredths.
fn batch(number: usize, series: &[u32], readings: usize, from: i64) -> pb::ReadingBatch {
    let place = i64::try_from(number * readings).unwrap_or_default();
    let channels = series.iter().map(|series| {
        let deltas = std::iter::once(2000 + place % 50).chain((1..readings).map(|at| at as i64 % 3 - 1)).collect();
        let values = Some(pb::channel::Values::Scaled(pb::Scaled { decimals: 2, deltas }));
        pb::Channel { series: *series, values, ..pb::Channel::default() }
    });
    let group = pb::Group {
        start_ns: from + place * MILLISECOND,
        tick_ns: MILLISECOND.unsigned_abs(),
        steps: vec![1; readings - 1],
        channels: channels.collect(),
    };
    pb::ReadingBatch { number: number as u64 + 1, groups: vec![group.encode_to_vec().into()], ..Default::default() }
}
