//! Recorded data of a real room, from the file to the answers, compared with the file itself.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use sensormesh_testkit::postgres;
use sensormesh_testkit::system::{Builder, Shape, System, recorded};
use serde_json::Value;

use crate::{both_shapes, builder};

both_shapes!(a_recorded_room_equals_its_file);

const FILE: &str = "series/robod_room1.csv.gz";
/// Columns that the test renames, as the README shows it.
const COLUMNS: [(&str, &str); 2] = [("indoor_co2 [ppm]", "co2:ppm"), ("air_temperature [Celsius]", "temperature:Cel")];

/// What the file says: for each metric, time (seconds since the Unix epoch) and value.
fn read(file: &Path) -> BTreeMap<String, Vec<(i64, f64)>> {
    let mut text = String::new();
    let open = std::fs::File::open(file).expect("the file");
    flate2::read::GzDecoder::new(open).read_to_string(&mut text).expect("gzip");
    let mut lines = text.lines();
    let headers: Vec<&str> = lines.next().expect("a header").split(',').collect();
    let mut series: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let time = jiff::fmt::strtime::parse("%Y-%m-%d %H:%M %:z", cells[0]).expect("a time");
        let seconds = time.to_timestamp().expect("a time").as_second();
        for (header, cell) in headers.iter().zip(&cells).skip(1) {
            let Ok(value) = cell.trim().parse::<f64>() else { continue };
            let renamed =
                COLUMNS.iter().find(|(from, _)| from == header).map(|(_, to)| to.split(':').next().unwrap_or(to));
            let plain = header.split(" [").next().unwrap_or(header);
            series.entry(renamed.unwrap_or(plain).replace('.', "_").to_lowercase()).or_default().push((seconds, value));
        }
    }
    series
}

async fn a_recorded_room_equals_its_file(shape: Shape) {
    equals_its_file(builder(shape)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_room_equals_its_file_on_postgresql() {
    let Some(url) = postgres::url_for_new_database() else { return };
    equals_its_file(builder(Shape::OneProcess).arg("--database-url").arg(url)).await;
}

async fn equals_its_file(builder: Builder) {
    let Some(file) = recorded(FILE) else { return };
    let series = read(&file);
    let cells: usize = series.values().map(Vec::len).sum();
    let mut system = builder.start().await.expect("the system starts");
    let path = file.to_string_lossy();
    let mut args = vec!["replay", &path, "--utc-offset", "+08:00", "--device", "robod-1", "--room", "robod-1"];
    let columns: Vec<String> = COLUMNS.iter().map(|(from, to)| format!("{from}={to}")).collect();
    for column in &columns {
        args.extend(["--column", column]);
    }
    let summary = system.command(&args).await.expect("the replay");
    assert!(summary.contains(&format!("accepted {cells}, duplicate 0, refused 0")), "{cells} cells: {summary}");
    let again = system.command(&args).await.expect("the second replay");
    assert!(again.contains(&format!("accepted 0, duplicate {cells}")), "{again}");

    compare(&system, &series).await;
    system.kill().await.expect("killed");
    system.up().await.expect("up again");
    compare(&system, &series).await;
}

async fn compare(system: &System, series: &BTreeMap<String, Vec<(i64, f64)>>) {
    let admin = system.admin().await.expect("token");
    let metrics = sensormesh_testkit::system::eventually(std::time::Duration::from_secs(20), || async {
        let (status, answer) = system.get("/rooms/robod-1/metrics", &admin).await.ok()?;
        let all = answer["metrics"].as_array()?.clone();
        (status == 200 && all.len() == series.len() && all.iter().all(|m| m["value"].is_number())).then_some(answer)
    })
    .await
    .expect("every metric has a value");
    assert_eq!(metrics["roomId"], "robod-1");
    assert!(metrics["asOf"].is_string());
    for (name, readings) in series {
        let (seconds, value) = *readings.iter().max_by_key(|(time, _)| time).expect("readings");
        let shown = metrics["metrics"].as_array().expect("metrics").iter().find(|m| m["metric"] == *name).expect(name);
        assert_eq!(shown["sensorId"], format!("robod-1.{name}"));
        assert_eq!(shown["value"].as_f64(), Some(value), "{name}");
        let time: jiff::Timestamp = shown["time"].as_str().expect("a time").parse().expect("RFC 3339");
        assert_eq!(time.as_second(), seconds, "{name}");
        assert_eq!(shown["stale"], true, "a recording is old");
    }
    for name in ["co2", "temperature", "wifi_connected_devices"] {
        history_equals(system, &admin, name, &series[name]).await;
    }
}

async fn history_equals(system: &System, token: &str, metric: &str, readings: &[(i64, f64)]) {
    let mut expected: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for (time, value) in readings {
        expected.entry(time.div_euclid(3600) * 3600).or_default().push(*value);
    }
    let mut buckets: Vec<Value> = Vec::new();
    let mut page = String::new();
    loop {
        let path = format!("/rooms/robod-1/history?metric={metric}&interval=3600s&pageSize=500&pageToken={page}");
        let (status, answer) = system.get(&path, token).await.expect("answer");
        assert_eq!(status, 200, "{answer}");
        buckets.extend(answer["buckets"].as_array().expect("buckets").iter().cloned());
        match answer["nextPageToken"].as_str() {
            Some(next) if !next.is_empty() => next.clone_into(&mut page),
            _ => break,
        }
    }
    assert_eq!(buckets.len(), expected.len(), "{metric}");
    for (bucket, (start, values)) in buckets.iter().zip(&expected) {
        let shown: jiff::Timestamp = bucket["start"].as_str().expect("start").parse().expect("RFC 3339");
        assert_eq!(shown.as_second(), *start, "{metric}");
        assert_eq!(bucket["count"].as_u64(), Some(values.len() as u64), "{metric} at {start}");
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let shown = bucket["mean"].as_f64().expect("mean");
        assert!((shown - mean).abs() <= 1e-9 * mean.abs().max(1e-300), "{metric} at {start}: {shown} is not {mean}");
        assert_eq!(bucket["min"].as_f64(), values.iter().copied().reduce(f64::min));
        assert_eq!(bucket["max"].as_f64(), values.iter().copied().reduce(f64::max));
    }
}
