//! A real recording, in and out.

use std::collections::BTreeMap;
use std::io::Read as _;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_types::time;

use crate::system::{Engine, SECOND, System, call, reading};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/series/robod_room1.csv.gz");

/// The CO2 column of the recording: nanoseconds since the epoch and the value.
fn recording() -> Option<Vec<(i64, f64)>> {
    let file = match std::fs::File::open(FILE) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("skipped: {FILE}: {error}");
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

pub async fn a_recording_comes_back_and_its_means_are_exact(engine: Engine) {
    let Some(recording) = recording() else { return };
    assert!(recording.len() > 5_000);
    let mut system = System::start(engine).await;
    let user = system.operator();
    for part in recording.chunks(1000) {
        let readings = part.iter().map(|(t, v)| reading("robod-1.co2", *t, *v)).collect();
        let request = pb::IngestReadingsRequest { readings, batch_id: String::new(), backfill: true };
        assert_eq!(call!(user.ingest_readings(request)).expect("taken").accepted as usize, part.len());
    }
    let mut naive: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for (time, value) in &recording {
        naive.entry(time.div_euclid(3600 * SECOND) * 3600 * SECOND).or_default().push(*value);
    }
    for _ in 0..2 {
        let user = system.operator();
        assert_eq!(user.readings("robod-1.co2").await, recording);
        let request = pb::AggregateReadingsRequest {
            sensor_ids: vec!["robod-1.co2".into()],
            interval: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
            page_size: 100,
            ..Default::default()
        };
        let buckets = user.buckets(request).await;
        assert_eq!(buckets.len(), naive.len());
        for (bucket, (start, values)) in buckets.iter().zip(&naive) {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            assert_eq!(time::to_nanos(bucket.start.as_ref().expect("start")), Some(*start));
            assert_eq!(bucket.count as usize, values.len());
            let got = bucket.mean.expect("a mean");
            assert!((got - mean).abs() <= 1e-9 * mean.abs(), "{got} instead of {mean}");
        }
        system.restart().await;
    }
}
