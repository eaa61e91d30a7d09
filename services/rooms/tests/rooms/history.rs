//! What metrics showed over time.

use futures::StreamExt as _;
use jiff::Timestamp;
use sensormesh_proto::rooms::v1 as proto;
use sensormesh_types::{Code, Error, Result, time};

use crate::fakes::{Entry, sensor};
use crate::system::{Engine, SECOND, START, System, User, call};

const HOUR: i64 = 3600;

fn request(metric: &str) -> proto::GetRoomHistoryRequest {
    proto::GetRoomHistoryRequest { room_id: "lab".into(), metric: metric.into(), ..Default::default() }
}

async fn history(user: &User, request: proto::GetRoomHistoryRequest) -> Result<proto::GetRoomHistoryResponse> {
    call!(user.get_room_history(request))
}

/// A whole table.
async fn exported(user: &User, request: proto::ExportRoomHistoryRequest) -> Result<String> {
    let mut client = user.client();
    let mut stream = user.act(client.export_room_history(request)).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(message) = stream.next().await {
        bytes.extend_from_slice(&message.map_err(Error::from)?.body.expect("a body").data);
    }
    Ok(String::from_utf8(bytes).expect("text"))
}

/// Buckets in short: the hour since the start, and count, mean, min, max.
fn short(buckets: &[proto::HistoryBucket]) -> Vec<(i64, u32, f64, f64, f64)> {
    let hour = |bucket: &proto::HistoryBucket| (bucket.start.expect("start").seconds - START) / HOUR;
    buckets.iter().map(|b| (hour(b), b.count, b.mean, b.min, b.max)).collect()
}

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(time::from_nanos((START + seconds) * SECOND))
}

/// A room whose metric `co2` was sensor `a.co2` until 2 h 30 min 10 s before the end, and `b.co2` since.
async fn lab(system: &System) -> User {
    let user = system.operator();
    user.create_room("lab").await;
    user.create_room("hall").await;
    for id in ["a.co2", "b.co2"] {
        system.devices.know_silently(sensor(id, "[ppm]"));
    }
    let reading = |id: &str, seconds: i64, value: f64| Entry {
        tenant: "default".into(),
        sensor: id.into(),
        time: (START + seconds) * SECOND,
        value,
        backfill: true,
    };
    let mut readings = Vec::new();
    for seconds in (-6 * HOUR..0).step_by(10) {
        readings.push(reading("a.co2", seconds, 400.0));
        readings.push(reading("b.co2", seconds, 1000.0 + (seconds + 6 * HOUR) as f64 / HOUR as f64));
    }
    system.telemetry.append(readings);
    user.place_since("a.co2", "lab", "", at(-5 * HOUR)).await.expect("placed");
    let moved = at(-2 * HOUR - 30 * 60 - 10);
    user.place_since("a.co2", "hall", "", moved).await.expect("moved");
    user.place_since("b.co2", "lab", "", moved).await.expect("placed");
    user
}

pub async fn a_metric_is_summarised_across_its_sensors(engine: Engine) {
    let system = System::start(engine).await;
    let user = lab(&system).await;
    let answer = history(&user, request("co2")).await.expect("history");
    assert_eq!(answer.unit, "[ppm]");
    let buckets = short(&answer.buckets);
    assert_eq!(buckets.iter().map(|b| b.0).collect::<Vec<_>>(), [-5, -4, -3, -2, -1]);
    assert_eq!(buckets[0], (-5, 360, 400.0, 400.0, 400.0));
    // the hour of the change: 29 min 50 s of one sensor and 30 min 10 s of the other
    let of_b: Vec<f64> =
        (0..181).map(|n| 1000.0 + (3.0 * 3600.0 + 29.0 * 60.0 + 50.0 + n as f64 * 10.0) / 3600.0).collect();
    let mean = (of_b.iter().sum::<f64>() + 179.0 * 400.0) / 360.0;
    assert_eq!((buckets[2].1, buckets[2].3, buckets[2].4), (360, 400.0, of_b[180]));
    assert!((buckets[2].2 - mean).abs() < 1e-9 * mean, "{} {mean}", buckets[2].2);
    assert_eq!((buckets[3].1, buckets[3].3), (360, 1004.0));

    let range = proto::GetRoomHistoryRequest {
        start_time: at(-4 * HOUR + 100),
        end_time: at(-3 * HOUR + 600),
        ..request("co2")
    };
    let some = short(&history(&user, range).await.expect("history").buckets);
    assert_eq!(some.iter().map(|b| (b.0, b.1)).collect::<Vec<_>>(), [(-4, 360), (-3, 60)]);
    let hall = proto::GetRoomHistoryRequest { room_id: "hall".into(), ..request("co2") };
    let hall = short(&history(&user, hall).await.expect("history").buckets);
    assert_eq!(hall.iter().map(|b| (b.0, b.1)).collect::<Vec<_>>(), [(-3, 181), (-2, 360), (-1, 360)]);
}

pub async fn history_comes_in_pages_and_names_an_unknown_metric(engine: Engine) {
    let system = System::start(engine).await;
    let user = lab(&system).await;
    let interval = Some(time::from_duration(std::time::Duration::from_secs(600)));
    let whole = history(&user, proto::GetRoomHistoryRequest { interval, ..request("co2") }).await.expect("history");
    assert_eq!(whole.buckets.len(), 30);
    for size in [1, 7, 15, 30] {
        let mut paged = Vec::new();
        let mut asked = proto::GetRoomHistoryRequest { interval, page_size: size, ..request("co2") };
        loop {
            let page = history(&user, asked.clone()).await.expect("page");
            assert!(page.buckets.len() <= size as usize);
            paged.extend(page.buckets);
            if page.next_page_token.is_empty() {
                break;
            }
            asked.page_token = page.next_page_token;
        }
        assert_eq!(paged, whole.buckets, "pages of {size}");
    }
    let table = proto::ExportRoomHistoryRequest {
        room_id: "lab".into(),
        metric: "co2".into(),
        interval,
        time_zone: "Asia/Kathmandu".into(),
        ..Default::default()
    };
    let text = exported(&user, table.clone()).await.expect("a table");
    let rows: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(rows[0], "start,room_id,metric,unit,count,mean,min,max");
    assert_eq!((rows.len(), rows[31]), (32, ""), "every bucket, and an end");
    for (row, bucket) in rows[1..31].iter().zip(&whole.buckets) {
        let cells: Vec<&str> = row.split(',').collect();
        assert_eq!(cells[0].parse::<Timestamp>().expect("a time").as_second(), bucket.start.expect("start").seconds);
        assert!(cells[0].ends_with("+05:45"), "{row}");
        assert_eq!(cells[1..5].join(" "), format!("lab co2 [ppm] {}", bucket.count));
        assert_eq!(cells[5].parse::<f64>().expect("a number"), bucket.mean);
    }
    let nowhere = proto::ExportRoomHistoryRequest { time_zone: "Nowhere".into(), ..table.clone() };
    assert_eq!(exported(&user, nowhere).await.expect_err("no zone").fields()[0].field, "time_zone");
    let nothing = proto::ExportRoomHistoryRequest { metric: "none".into(), ..table };
    assert_eq!(exported(&user, nothing).await.expect_err("no metric").code(), Code::NotFound);
    let unknown = history(&user, request("temperature")).await.expect_err("unknown");
    assert_eq!((unknown.code(), unknown.metadata("id")), (Code::NotFound, Some("temperature")));
    let short = proto::GetRoomHistoryRequest {
        interval: Some(time::from_duration(std::time::Duration::from_millis(500))),
        ..request("co2")
    };
    assert_eq!(history(&user, short).await.expect_err("too short").fields()[0].field, "interval");
    system.telemetry.kill();
    assert_eq!(history(&user, request("co2")).await.expect_err("dead").code(), Code::Unavailable);
}
