//! Readings over REST: what is taken, what is refused, and in which words.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sensormesh_testkit::system::{Shape, eventually};
use serde_json::{Value, json};

use crate::{both_shapes, start};

both_shapes!(
    a_reading_comes_back_as_it_was_sent,
    who_may_not_is_told_so,
    a_bad_reading_is_named_by_index_field_and_reason,
    one_bad_reading_of_ten_leaves_nine,
    history_and_summaries_come_as_tables_too,
    readings_are_deleted_only_where_it_is_said_which,
);

async fn readings_are_deleted_only_where_it_is_said_which(shape: Shape) {
    let system = start(shape).await;
    let admin = system.admin().await.expect("token");
    let at = |hour: u32| format!("2026-01-01T{hour:02}:00:00Z");
    let readings: Vec<_> = (0..5).map(|hour| json!({"sensorId": "lab.n", "time": at(hour), "value": hour})).collect();
    let body = json!({"readings": readings, "backfill": true});
    let (status, answer) = system.post("/v1/readings", &admin, &body).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
    let delete = async |query: &str| {
        let path = format!("/v1/sensors/lab.n/readings{query}");
        system.send("DELETE", &path, Some(&admin), None).await.expect("answer")
    };
    // nothing is said, it is misspelt, or two things are
    for (query, field) in [
        ("", "all"),
        ("?all=false", "all"),
        ("?endTimes=2026-01-02T00:00:00Z", "endTimes"),
        ("?all=true&endTime=2026-01-02T00:00:00Z", "all"),
    ] {
        let (status, answer) = delete(query).await;
        assert!(status == 400 && answer.to_string().contains(field), "{query:?}: {status} {answer}");
    }
    // a room shows what is left
    for (path, body) in [
        ("/v1/places", json!({"placeId": "lab", "kind": "PLACE_KIND_ROOM", "name": "Lab"})),
        ("/v1/placements", json!({"sensorId": "lab.n", "roomId": "lab"})),
    ] {
        let (status, answer) = system.post(path, &admin, &body).await.expect("answer");
        assert_eq!(status, 200, "{answer}");
    }
    let shows = async |value: Value| {
        let shown = eventually(Duration::from_secs(10), || async {
            let (_, room) = system.get("/rooms/lab/metrics", &admin).await.ok()?;
            (room["metrics"].as_array()?.first()?["value"] == value).then_some(())
        });
        assert!(shown.await.is_some(), "{value}: {:?}", system.get("/rooms/lab/metrics", &admin).await);
    };
    shows(json!(4)).await;
    assert_eq!(delete("?endTime=2026-01-01T02:00:00Z").await.1["readings"], "2");
    assert_eq!(delete("?startTime=2026-01-01T04:00:00Z").await.1["readings"], "1");
    shows(json!(3)).await;
    assert_eq!(delete("?all=true").await.1["readings"], "2");
    shows(Value::Null).await;
}

async fn history_and_summaries_come_as_tables_too(shape: Shape) {
    let system = start(shape).await;
    let admin = system.admin().await.expect("token");
    // a counter over a day of 25 hours in Berlin, with a reset in the middle
    let midnight: Timestamp = "2025-10-26T00:00:00+02:00".parse().expect("a time");
    let at = |hour: i64| (midnight + SignedDuration::from_hours(hour)).to_string();
    let values = [5, 9, 2, 4, 100];
    let readings: Vec<_> = [0, 6, 12, 24, 25]
        .iter()
        .zip(values)
        .map(|(hour, value)| json!({"sensorId": "lab.meter", "time": at(*hour), "value": value}))
        .collect();
    let body = json!({"readings": readings, "backfill": true});
    let (status, answer) = system.post("/sensors/data", &admin, &body).await.expect("answer");
    assert_eq!((status, &answer["accepted"]), (200, &json!(5)), "{answer}");

    let table = async |path: &str| {
        let request = system.http().get(system.url(path)).bearer_auth(&admin).header("accept", "text/csv");
        let response = request.send().await.expect("answer");
        assert_eq!(response.headers()["content-type"], "text/csv; charset=utf-8; header=present");
        response.text().await.expect("text")
    };
    let history = table("/sensors/lab.meter/data?timeZone=Europe/Berlin").await;
    let rows: Vec<&str> = history.split("\r\n").collect();
    assert_eq!(rows.len(), 7, "{history}");
    assert_eq!(rows[0], "time,sensor_id,value,unit,quality");
    assert_eq!(
        (rows[1], rows[4]),
        ("2025-10-26T00:00:00+02:00,lab.meter,5,,", "2025-10-26T23:00:00+01:00,lab.meter,4,,",)
    );
    let days = "/v1/readings:aggregate?sensorIds=lab.meter&calendar=CALENDAR_UNIT_DAY&timeZone=Europe/Berlin\
        &statistics=STATISTIC_INCREASE&statistics=STATISTIC_LAST&percentiles=50";
    let summaries = table(days).await;
    let rows: Vec<&str> = summaries.split("\r\n").collect();
    assert_eq!(rows[0], "start,sensor_id,unit,count,increase,last,p50");
    assert_eq!(rows[1], "2025-10-26T00:00:00+02:00,lab.meter,,4,8,4,4.5");
    assert_eq!(rows[2], "2025-10-27T00:00:00+01:00,lab.meter,,1,96,100,100");

    let (status, json) = system.get(days, &admin).await.expect("answer");
    let bucket = &json["sensors"][0]["buckets"][0];
    assert_eq!((status, &bucket["increase"], &bucket["percentiles"]), (200, &json!(8), &json!([4.5])), "{json}");
    assert!(bucket.get("mean").is_none() && json["stale"] == json!(false), "{json}");
    let chart = "/v1/readings:downsample?sensorIds=lab.meter&maxPoints=3";
    let (status, json) = system.get(chart, &admin).await.expect("answer");
    let points = json["sensors"][0]["points"].as_array().expect("points");
    assert_eq!((status, points.len(), &points[0]["value"], &points[2]["value"]), (200, 3, &json!(5), &json!(100)));
}

async fn a_reading_comes_back_as_it_was_sent(shape: Shape) {
    let system = start(shape).await;
    let admin = system.admin().await.expect("token");
    let now = Timestamp::now();
    let body = json!({"readings": [{"sensorId": "lab.co2", "time": now.to_string(), "value": 612}]});
    let (status, answer) = system.post("/sensors/data", &admin, &body).await.expect("answer");
    assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{answer}");
    let (status, answer) =
        system.post("/sensors/lab.co2/data", &admin, &json!({"value": 613.5})).await.expect("answer");
    assert_eq!((status, &answer["verdict"]), (200, &json!("VERDICT_ACCEPTED")), "{answer}");

    let (status, list) = system.get("/sensors/lab.co2/data", &admin).await.expect("answer");
    assert_eq!(status, 200, "{list}");
    let values: Vec<f64> =
        list["readings"].as_array().expect("readings").iter().filter_map(|r| r["value"].as_f64()).collect();
    assert_eq!(values, [612.0, 613.5], "{list}");
    let first: Timestamp = list["readings"][0]["time"].as_str().expect("time").parse().expect("RFC 3339");
    assert_eq!(first, now, "the time is kept to the nanosecond");

    let (_, again) = system.post("/sensors/data", &admin, &body).await.expect("answer");
    assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(0), &json!(1)), "{again}");
    let (_, canonical) = system.get("/v1/sensors/lab.co2/readings", &admin).await.expect("answer");
    assert_eq!(canonical["readings"], list["readings"], "both paths give the same answer");
}

async fn who_may_not_is_told_so(shape: Shape) {
    let system = start(shape).await;
    let viewer = system.viewer("vera").await.expect("viewer");
    let body = json!({"value": 612});
    let (status, answer) = system.send("POST", "/sensors/lab.co2/data", None, Some(&body)).await.expect("answer");
    assert_eq!(status, 401, "{answer}");
    let (status, answer) = system.post("/sensors/lab.co2/data", &viewer, &body).await.expect("answer");
    assert_eq!(status, 403, "{answer}");
    let (status, _) = system.get("/sensors", &viewer).await.expect("answer");
    assert_eq!(status, 200, "a viewer reads");
    let (status, _) = system.get("/sensors", "not.a.token").await.expect("answer");
    assert_eq!(status, 401);
}

async fn a_bad_reading_is_named_by_index_field_and_reason(shape: Shape) {
    let system = start(shape).await;
    let admin = system.admin().await.expect("token");
    let now = Timestamp::now();
    let hours = |h: i64| (now + SignedDuration::from_hours(h)).to_string();
    let cases = [
        (json!({"sensorId": "lab.co2", "value": "NaN"}), "readings[0].value", "finite"),
        (json!({"sensorId": "lab.co2", "value": 1, "time": hours(-30 * 365 * 24)}), "readings[0].time", "years"),
        (json!({"sensorId": "lab.co2", "value": 1, "time": hours(1)}), "readings[0].time", "ahead"),
        (json!({"sensorId": "", "value": 1}), "readings[0].sensor_id", ""),
        (json!({"sensorId": "lab.co2"}), "readings[0].value", ""),
    ];
    for (reading, field, word) in cases {
        let (status, answer) =
            system.post("/sensors/data", &admin, &json!({"readings": [reading]})).await.expect("answer");
        assert_eq!(status, 400, "{reading} → {answer}");
        let text = answer.to_string();
        assert!(text.contains(field) && text.contains(word), "{reading} → {answer}");
    }
    let body = json!({"readings": [{"sensorId": "lab.co2", "timestamp": now.to_string(), "value": 1}]});
    let (status, answer) = system.post("/sensors/data", &admin, &body).await.expect("answer");
    assert_eq!(status, 400);
    let text = answer.to_string();
    assert!(text.contains("timestamp") && text.contains(r#"use \"time\""#), "{answer}");
}

async fn one_bad_reading_of_ten_leaves_nine(shape: Shape) {
    let system = start(shape).await;
    let admin = system.admin().await.expect("token");
    let now = Timestamp::now();
    let reading = |i: i64| {
        let value = if i == 7 { json!("Infinity") } else { json!(i) };
        json!({"sensorId": "lab.t", "time": (now - SignedDuration::from_secs(i)).to_string(), "value": value})
    };
    let body = json!({"readings": (0..10).map(reading).collect::<Vec<_>>()});
    let (status, answer) = system.post("/sensors/data", &admin, &body).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
    assert_eq!((&answer["accepted"], &answer["refused"]), (&json!(9), &json!(1)), "{answer}");
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), 1, "{answer}");
    assert_eq!((&results[0]["index"], &results[0]["verdict"]), (&json!(7), &json!("VERDICT_NON_FINITE")));
    assert_eq!(results[0]["field"], "readings[7].value");
}
