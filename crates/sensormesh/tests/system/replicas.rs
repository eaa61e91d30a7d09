//! Several processes of telemetry on one PostgreSQL, under load, of which some are killed and some are paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sensormesh_testkit::system::{Shape, System, eventually};
use serde_json::{Value, json};

use crate::builder;
use crate::streams::Events;

const SENSORS: [&str; 4] = ["lab.a", "lab.b", "hall.c", "roof.d"];

/// Sends reading after reading of a sensor, each until it is acknowledged, until it is told to stop; answers how many.
async fn load(system: Arc<System>, token: String, sensor: &'static str, stop: Arc<AtomicBool>) -> i64 {
    let began = jiff::Timestamp::now();
    let mut sent = 0;
    while !stop.load(Ordering::SeqCst) {
        let time = (began + Duration::from_millis(sent as u64)).to_string();
        let body = json!({
            "readings": [{"sensorId": sensor, "time": time, "value": sent}],
            "batchId": format!("{sensor}-{sent}"),
        });
        let done = eventually(Duration::from_secs(60), || async {
            let (status, answer) = system.post("/sensors/data", &token, &body).await.ok()?;
            (status == 200).then_some(answer)
        });
        let answer = done.await.unwrap_or_else(|| panic!("reading {sent} of {sensor} was never acknowledged"));
        // whichever replica is asked how often, the batch has its first answer
        assert_eq!(answer["accepted"], 1, "reading {sent} of {sensor}: {answer}");
        sent += 1;
    }
    sent
}

fn values(message: &Value) -> impl Iterator<Item = (String, i64)> + '_ {
    #[allow(clippy::cast_possible_truncation)] // the test sends whole numbers
    let plain =
        |r: &Value| (r["sensorId"].as_str().unwrap_or_default().to_owned(), r["value"].as_f64().unwrap_or(-1.0) as i64);
    message["readings"].as_array().into_iter().flatten().map(plain)
}

/// Every value of a sensor, over as many pages as it takes.
pub async fn stored(system: &System, token: &str, sensor: &str) -> Vec<i64> {
    let (mut all, mut page) = (Vec::new(), String::new());
    loop {
        let path = format!("/sensors/{sensor}/data?pageToken={page}");
        // an edge may just have been killed, or the caller's calls of this second are used up
        let answered = eventually(Duration::from_secs(60), || async {
            let (status, answer) = system.get(&path, token).await.ok()?;
            (!matches!(status, 429 | 502..=504)).then_some((status, answer))
        });
        let (status, answer) = answered.await.expect("an answer");
        assert_eq!(status, 200, "{answer}");
        all.extend(values(&answer).map(|(_, value)| value));
        match answer["nextPageToken"].as_str() {
            Some(next) if !next.is_empty() => next.clone_into(&mut page),
            _ => return all,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_telemetry_are_killed_and_paused_under_load_and_nothing_is_lost() {
    let Some(url) = sensormesh_testkit::postgres::url_for_new_database() else { return };
    let system = builder(Shape::Split).arg("--database-url").arg(url).replicas(3).start().await.expect("system");
    let system = Arc::new(system);
    let admin = system.admin().await.expect("token");
    let mut first = system.start_replica(1).await.expect("replica");
    let second = system.start_replica(2).await.expect("replica");
    let stop = Arc::new(AtomicBool::new(false));
    let sending: Vec<_> = SENSORS
        .iter()
        .map(|sensor| tokio::spawn(load(Arc::clone(&system), admin.clone(), sensor, Arc::clone(&stop))))
        .collect();
    let mut events = Events::new("/v1/readings:watch", &admin);
    loop {
        let message = events.next(&system, Duration::from_secs(30)).await.expect("a message");
        if message["bookmark"]["live"] == true {
            break;
        }
    }
    let watching = tokio::spawn({
        let system = Arc::clone(&system);
        async move {
            let mut seen: Vec<(String, i64)> = Vec::new();
            loop {
                let Ok(message) = events.next(&system, Duration::from_secs(30)).await else { return seen };
                seen.extend(values(&message));
                if seen.iter().any(|(_, value)| *value < 0) {
                    return seen;
                }
            }
        }
    });
    let pause = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
    pause(2).await;
    first.kill().await.expect("killed");
    pause(2).await;
    let paused = second.id().expect("it runs");
    system.freeze(paused, true).expect("paused");
    pause(7).await;
    system.freeze(paused, false).expect("goes on");
    pause(2).await;
    // and the one that is left besides it, with all that it had in hand
    system.kill_service("telemetry").expect("killed");
    pause(3).await;
    let _first = system.start_replica(1).await.expect("replica");
    pause(1).await;
    stop.store(true, Ordering::SeqCst);
    let mut sent = Vec::new();
    for task in sending {
        sent.push(task.await.expect("every reading was acknowledged"));
    }
    let last = json!({"readings": [{"sensorId": "lab.end", "value": -1}]});
    // the load may have used up the caller's calls for this second
    let done = eventually(Duration::from_secs(60), || async {
        let (status, _) = system.post("/sensors/data", &admin, &last).await.ok()?;
        (status == 200).then_some(())
    });
    done.await.expect("the last reading was acknowledged");
    let seen = watching.await.expect("watched");
    assert_eq!(seen.last().map(|(sensor, _)| sensor.as_str()), Some("lab.end"), "the stream went on to the end");
    for (sensor, sent) in SENSORS.iter().zip(sent) {
        assert!(sent > 20, "{sensor} sent {sent} only");
        assert_eq!(stored(&system, &admin, sensor).await, (0..sent).collect::<Vec<_>>(), "{sensor}: stored once each");
        let shown: Vec<i64> = seen.iter().filter(|(s, _)| s == sensor).map(|(_, value)| *value).collect();
        let from = shown.first().copied().unwrap_or_default();
        assert_eq!(shown, (from..sent).collect::<Vec<_>>(), "{sensor}: shown in order, without gap or duplicate");
        eprintln!("{sensor}: {sent} readings");
    }
    // the replica that was paused serves without a start
    let mut again = second;
    assert!(again.try_wait().expect("state").is_none(), "it runs still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_away_for_longer_than_the_log_is_kept_starts_over_by_itself() {
    const SENT: i64 = 120;
    let Some(url) = sensormesh_testkit::postgres::url_for_new_database() else { return };
    let small = "[telemetry]\nlog_max_bytes = \"1KiB\"\nunsealed_readings = 20\n";
    let builder = builder(Shape::Split).arg("--database-url").arg(url).replicas(2).config(small);
    let system = builder.start().await.expect("system");
    let admin = system.admin().await.expect("token");
    let replica = system.start_replica(1).await.expect("replica");
    let away = replica.id().expect("it runs");
    let began = jiff::Timestamp::now();
    let send = async |value: i64| {
        let time = (began + Duration::from_millis(value as u64)).to_string();
        let body = json!({"readings": [{"sensorId": "lab.n", "time": time, "value": value}]});
        let done = eventually(Duration::from_secs(60), || async {
            let (status, _) = system.post("/sensors/data", &admin, &body).await.ok()?;
            (status == 200).then_some(())
        });
        done.await.unwrap_or_else(|| panic!("reading {value} was never acknowledged"));
    };
    for value in 0..10 {
        send(value).await;
    }
    system.freeze(away, true).expect("paused");
    for value in 10..SENT {
        send(value).await;
    }
    // until what it has not read is sealed and cut, which is looked at every 10 s
    tokio::time::sleep(Duration::from_secs(22)).await;
    system.freeze(away, false).expect("goes on");
    let over = || async { system.log().contains("starts over").then_some(()) };
    assert!(eventually(Duration::from_secs(20), over).await.is_some(), "it starts over");
    // it alone
    system.freeze_service("telemetry", true).expect("paused");
    let all: Vec<i64> = (0..SENT).collect();
    let complete = || async {
        let (status, answer) = system.get("/sensors/lab.n/data?pageSize=1000", &admin).await.ok()?;
        (status == 200).then(|| values(&answer).map(|(_, value)| value).collect::<Vec<_>>())
    };
    assert_eq!(eventually(Duration::from_secs(60), complete).await.expect("an answer"), all);
    send(SENT).await;
    system.freeze_service("telemetry", false).expect("goes on");
    let more = || async { (complete().await?.len() as i64 == SENT + 1).then_some(()) };
    assert!(eventually(Duration::from_secs(30), more).await.is_some(), "all of it is there");
}
