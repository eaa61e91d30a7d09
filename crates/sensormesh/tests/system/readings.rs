//! Readings over REST: what is taken, what is refused, and in which words.

use jiff::{SignedDuration, Timestamp};
use sensormesh_testkit::system::Shape;
use serde_json::json;

use crate::{both_shapes, start};

both_shapes!(
    a_reading_comes_back_as_it_was_sent,
    who_may_not_is_told_so,
    a_bad_reading_is_named_by_index_field_and_reason,
    one_bad_reading_of_ten_leaves_nine,
);

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
