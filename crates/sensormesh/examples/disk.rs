//! How many bytes a reading takes on disk: `disk CORPUS DIRECTORY` stores the series of a corpus (`tools/bench/corpus.py`) in
//! telemetry's engine on SQLite in an empty directory, seals and merges them, cuts the log, and prints the size of the whole
//! database files and of the blocks alone as one line of JSON.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use prost::Message as _;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_series::wire;
use sensormesh_telemetry::{Config, Databases, Engine, Sizes};
use sensormesh_types::Clock;

const BATCH: usize = 1000;
/// One day, nanoseconds.
const DAY: i64 = 86_400_000_000_000;

/// A series of the corpus.
struct Series {
    name: String,
    times: Vec<i64>,
    values: Vec<f64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, corpus, directory] = args.as_slice() else { bail!("disk CORPUS DIRECTORY") };
    let series = read(&std::fs::read(corpus).with_context(|| format!("cannot read {corpus}"))?)?;
    let directory = Path::new(directory);
    std::fs::create_dir_all(directory)?;
    let url = format!("sqlite:{}", directory.join("{service}.db").display());
    let databases = Databases::open(&sensormesh_store::Config::at(&url), Clock::system()).await?;
    let config =
        Config { log_max_bytes: 0, unsealed_readings: u64::MAX, unsealed_bytes: u64::MAX, ..Config::default() };
    let engine = Engine::open(config, databases.clone(), Clock::system()).await?;
    let tenant: Arc<str> = "default".into();
    let mut ends: HashMap<&str, i64> = HashMap::new();
    for one in &series {
        let end = ends.entry(device(&one.name)).or_insert(i64::MIN);
        *end = (*end).max(*one.times.last().context("an empty series")?);
    }
    let mut readings = 0;
    for one in &series {
        let number = engine.register("default", &[&one.name]).await?[0];
        // the doors take nothing older than 7 years: each device ends yesterday
        let shift = Clock::system().now_nanos() / DAY * DAY - DAY - ends[device(&one.name)];
        for (times, values) in one.times.chunks(BATCH).zip(one.values.chunks(BATCH)) {
            let times: Vec<i64> = times.iter().map(|time| time + shift).collect();
            let steps = wire::steps(&times).context("times too far apart")?;
            let doubles = pb::channel::Values::Doubles(pb::Doubles { values: values.to_vec() });
            let channel = pb::Channel { series: number, values: Some(doubles), exceptions: Vec::new() };
            let group =
                pb::Group { start_ns: steps.start, tick_ns: steps.tick, steps: steps.steps, channels: vec![channel] };
            let groups = vec![group.encode_to_vec().into()];
            let outcome = engine.ingest(&tenant, pb::ReadingBatch { groups, ..Default::default() }).await?.await?;
            ensure!(outcome.accepted == values.len(), "{}: readings were not taken", one.name);
            readings += outcome.accepted;
        }
        engine.settle().await?;
    }
    engine.cut().await?;
    let Sizes { blocks, headers, data } = engine.sizes().await?;
    drop(engine);
    databases.main.close().await;
    databases.log.close().await;
    let mut files = 0;
    for file in std::fs::read_dir(directory)? {
        files += file?.metadata()?.len();
    }
    println!(
        r#"{{"series": {}, "readings": {readings}, "files": {files}, "blocks": {blocks}, "headers": {headers}, "data": {data}}}"#,
        series.len()
    );
    Ok(())
}

/// The device of a series: the text before the first dot.
fn device(name: &str) -> &str {
    name.split_once('.').map_or(name, |(device, _)| device)
}

fn read(mut bytes: &[u8]) -> Result<Vec<Series>> {
    let mut series = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16::from_le_bytes(take(&mut bytes, 2)?.try_into()?));
        let name = String::from_utf8(take(&mut bytes, length)?.to_vec())?;
        let n = u32::from_le_bytes(take(&mut bytes, 4)?.try_into()?) as usize;
        let eights =
            |bytes: &[u8]| bytes.chunks_exact(8).map(|b| b.try_into().unwrap_or_default()).collect::<Vec<[u8; 8]>>();
        let times = eights(take(&mut bytes, 8 * n)?).into_iter().map(i64::from_le_bytes).collect();
        let values = eights(take(&mut bytes, 8 * n)?).into_iter().map(f64::from_le_bytes).collect();
        series.push(Series { name, times, values });
    }
    Ok(series)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length).context("the corpus is cut off")?;
    *bytes = rest;
    Ok(taken)
}
