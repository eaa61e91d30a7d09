//! A real recording, in and out.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_telemetry::Config;
use sensormesh_types::time;

use crate::system::{Engine, SECOND, System, User, call, eventually, reading};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/series/robod_room1.csv.gz");

/// The CO2 column of the recording: nanoseconds since the epoch and the value.
fn recording() -> Option<Vec<(i64, f64)>> {
    let file = match std::fs::File::open(FILE) {
        Ok(file) => file,
        Err(error) => {
            sensormesh_testkit::skip(format_args!("{FILE}: {error}"));
            return None;
        }
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("gzip");
    let column = text.lines().next().expect("header").split(',').position(|h| h.starts_with("indoor_co2"));
    let column = column.expect("a CO2 column");
    let rows = text.lines().skip(1).filter_map(|line| {
        let cells: Vec<&str> = line.split(',').collect();
        let value: f64 = cells.get(column)?.parse().ok()?;
        let (day, rest) = cells[0].split_once(' ')?;
        let (clock, _) = rest.split_once(' ').unwrap_or((rest, ""));
        let at: jiff::Timestamp = format!("{day}T{clock}:00+08:00").parse().expect("time");
        Some((at.as_nanosecond() as i64, value))
    });
    Some(rows.collect())
}

async fn send(user: &User, recording: &[(i64, f64)]) {
    for part in recording.chunks(1000) {
        let readings = part.iter().map(|(t, v)| reading("robod-1.co2", *t, *v)).collect();
        let request = pb::IngestReadingsRequest { readings, batch_id: String::new(), backfill: true };
        assert_eq!(call!(user.ingest_readings(request)).expect("taken").accepted as usize, part.len());
    }
}

/// Compares hourly means and deviations with a naive recount.
async fn compare(user: &User, recording: &[(i64, f64)]) {
    let mut naive: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for (time, value) in recording {
        naive.entry(time.div_euclid(3600 * SECOND) * 3600 * SECOND).or_default().push(*value);
    }
    let request = pb::AggregateReadingsRequest {
        sensor_ids: vec!["robod-1.co2".into()],
        interval: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        page_size: 100,
        ..Default::default()
    };
    let buckets = user.buckets(request.clone()).await;
    let statistics = vec![pb::Statistic::Stddev as i32];
    let deviations = user.buckets(pb::AggregateReadingsRequest { statistics, ..request }).await;
    assert_eq!((buckets.len(), deviations.len()), (naive.len(), naive.len()));
    for ((bucket, deviation), (start, values)) in buckets.iter().zip(&deviations).zip(&naive) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert_eq!(time::to_nanos(bucket.start.as_ref().expect("start")), Some(*start));
        assert_eq!(bucket.count as usize, values.len());
        let got = bucket.mean.expect("a mean");
        assert!((got - mean).abs() <= 1e-9 * mean.abs(), "{got} instead of {mean}");
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let (got, expected) = (deviation.stddev.expect("wanted"), (squares / values.len() as f64).sqrt());
        assert!((got - expected).abs() <= 1e-9 * mean.abs(), "{got} instead of {expected}");
        assert_eq!((bucket.first, bucket.last), (values.first().copied(), values.last().copied()));
    }
}

pub async fn a_recording_comes_back_and_its_means_are_exact(engine: Engine) {
    let Some(recording) = recording() else { return };
    assert!(recording.len() > 5_000);
    let mut system = System::start(engine).await;
    send(&system.operator(), &recording).await;
    for _ in 0..2 {
        let user = system.operator();
        assert_eq!(user.readings("robod-1.co2").await, recording);
        compare(&user, &recording).await;
        system.restart().await;
    }
}

pub async fn a_recordings_means_outlive_its_readings(engine: Engine) {
    let Some(recording) = recording() else { return };
    let system = System::with(engine, Config { retention_days: 1, ..Config::default() }).await;
    send(&system.operator(), &recording).await;
    let gone = || async {
        system.clock.advance(Duration::from_secs(86_400 / 4));
        system.operator().readings("robod-1.co2").await.is_empty()
    };
    eventually("the readings are past their retention", gone).await;
    compare(&system.operator(), &recording).await;
}
