//! `WatchReadings`.

use std::collections::BTreeMap;
use std::time::Duration;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::ReadingForm;
use sensormesh_series::wire;
use sensormesh_telemetry::Config;
use sensormesh_types::Code;

use crate::devices::sensor;
use crate::stream::values;
use crate::system::{Engine, NOW, SECOND, System, User, batch, call, eventually, group, groups, plain, reading};

pub async fn the_latest_readings_come_first_then_what_arrives(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.send(vec![reading("lab.a", NOW, 1.0), reading("lab.a", NOW + 1, 2.0), reading("lab.b", NOW, 3.0)])
        .await
        .expect("taken");
    let mut watch = user.watch(pb::WatchReadingsRequest::default()).await;
    let (snapshot, cursor) = watch.until_live().await;
    let shown: Vec<_> = snapshot.iter().flat_map(|m| &m.readings).map(|r| (r.sensor_id.clone(), plain(r).1)).collect();
    assert_eq!(shown, [("lab.a".to_owned(), 2.0), ("lab.b".to_owned(), 3.0)]);
    assert!(snapshot.iter().all(|m| m.cursor.is_empty()) && !cursor.is_empty());
    let answer = user.send(vec![reading("lab.b", NOW + 5, 4.0)]).await.expect("taken");
    let message = watch.next().await;
    assert_eq!(plain(&message.readings[0]), (NOW + 5, 4.0));
    assert_eq!(message.cursor, answer.cursor);
    assert!(!message.backfill);
    let recorded = pb::IngestReadingsRequest {
        readings: vec![reading("lab.b", NOW - SECOND, 0.5)],
        batch_id: String::new(),
        backfill: true,
    };
    call!(user.ingest_readings(recorded)).expect("taken");
    assert!(watch.next().await.backfill);
    // duplicates are no news
    user.send(vec![reading("lab.b", NOW + 5, 4.0)]).await.expect("taken");
    user.send(vec![reading("lab.b", NOW + 6, 5.0)]).await.expect("taken");
    assert_eq!(plain(&watch.next().await.readings[0]), (NOW + 6, 5.0));
    // the idle reader hears of its progress
    let message = watch.message().await.expect("open").expect("no error");
    assert!(message.bookmark.is_some_and(|b| b.live && b.as_of.is_some()) && !message.cursor.is_empty());
}

/// Sends numbered readings of three sensors from several senders at once until told to stop; answers how many of each.
async fn send_many(user: &User, total: i64) {
    let senders = (0..3).map(|sender| {
        let user = user.clone();
        async move {
            for i in 0..total {
                let sent = (0..3).map(|k| reading(&format!("s{sender}.k{k}"), NOW + i, i as f64)).collect();
                user.send(sent).await.expect("taken");
            }
        }
    });
    futures::future::join_all(senders).await;
}

pub async fn a_watcher_that_resumes_sees_everything_once(engine: Engine) {
    const TOTAL: i64 = 60;
    let config = Config { live_bytes: 20_000, ..Config::default() };
    let system = System::with(engine, config).await;
    let user = system.operator();
    let watcher = system.viewer();
    let watching = tokio::spawn(async move {
        let mut seen: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut cursor = String::new();
        let mut patience = 1;
        while seen.len() < 9 || seen.values().any(|values| values.len() < TOTAL as usize) {
            let mut watch =
                watcher.watch(pb::WatchReadingsRequest { cursor: cursor.clone(), ..Default::default() }).await;
            // each stream is left after some messages and resumed from its last cursor
            for _ in 0..patience {
                let message = watch.message().await.expect("open").expect("no error");
                if !message.cursor.is_empty() {
                    cursor = message.cursor.clone();
                }
                for reading in &message.readings {
                    seen.entry(reading.sensor_id.clone()).or_default().push(plain(reading).1);
                }
            }
            patience = patience % 7 + 1;
        }
        seen
    });
    // the watcher is there before anything is
    tokio::time::sleep(Duration::from_millis(100)).await;
    send_many(&user, TOTAL).await;
    let seen = tokio::time::timeout(Duration::from_secs(60), watching).await.expect("in time").expect("no panic");
    let expected: Vec<f64> = (0..TOTAL).map(|i| i as f64).collect();
    for (sensor_id, values) in seen {
        assert_eq!(values, expected, "{sensor_id}: something is missing, twice or out of order");
    }
}

pub async fn only_what_was_asked_for_is_sent(engine: Engine) {
    let system = System::start(engine).await;
    let labelled = |mut s: sensormesh_proto::devices::v1::Sensor| {
        s.labels.insert("floor".into(), "2".into());
        s
    };
    system.devices.put("default", labelled(sensor("a.t", "north", None)));
    system.devices.put("default", sensor("a.h", "north", None));
    system.devices.put("default", sensor("b.t", "south", None));
    let user = system.operator();
    let known = || async {
        let list = pb::ListReadingsRequest { sensor_id: "b.t".into(), ..Default::default() };
        call!(user.list_readings(list)).is_ok()
    };
    eventually("the sensors are known", known).await;
    let requests = [
        (pb::WatchReadingsRequest { sensor_ids: vec!["a.h".into(), "b.t".into()], ..Default::default() }, "a.h b.t"),
        (pb::WatchReadingsRequest { device_ids: vec!["a".into()], ..Default::default() }, "a.h a.t"),
        (pb::WatchReadingsRequest { site_ids: vec!["south".into()], ..Default::default() }, "b.t"),
        (
            pb::WatchReadingsRequest { labels: [("floor".to_owned(), "2".to_owned())].into(), ..Default::default() },
            "a.t",
        ),
    ];
    let mut watches = Vec::new();
    for (request, expected) in requests {
        let mut watch = user.watch(request).await;
        watch.until_live().await;
        watches.push((watch, expected));
    }
    user.send(["a.h", "a.t", "b.t"].map(|id| reading(id, NOW, 1.0)).to_vec()).await.expect("taken");
    for (mut watch, expected) in watches {
        let message = watch.next().await;
        let mut got: Vec<_> = message.readings.iter().map(|r| r.sensor_id.as_str()).collect();
        got.sort_unstable();
        assert_eq!(got.join(" "), expected);
    }
}

pub async fn columns_and_latest_say_the_same_in_fewer_words(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.send(vec![reading("lab.a", NOW - SECOND, 0.0), reading("lab.b", NOW - SECOND, 0.0)]).await.expect("taken");
    let request = |form: ReadingForm| pb::WatchReadingsRequest {
        form: form as i32,
        sensor_ids: vec!["lab.a".into()],
        ..Default::default()
    };
    let mut columns = user.watch(request(ReadingForm::Columns)).await;
    let (snapshot, _) = columns.until_live().await;
    assert_eq!(snapshot[0].names[0].sensor_id, "lab.a");
    let mut latest = user.watch(request(ReadingForm::Latest)).await;
    latest.until_live().await;
    let mut ingest = user.open().await;
    let numbers = ingest.numbers(&["lab.a", "lab.b"]).await;
    let mut both = group(numbers[0], NOW, SECOND, &[1.0, 2.0, 3.0]);
    both.channels.push(group(numbers[1], NOW, SECOND, &[7.0, 8.0, 9.0]).channels.remove(0));
    ingest.send(batch(1, vec![both])).await;
    ingest.through(1).await;
    let message = columns.next().await;
    assert!(message.readings.is_empty());
    let sent = groups(&message);
    assert_eq!((sent.len(), sent[0].channels.len()), (1, 1));
    let group = &sent[0];
    assert_eq!(wire::times(group.start_ns, group.tick_ns, &group.steps).expect("times")[2], NOW + 2 * SECOND);
    assert_eq!((group.channels[0].series, values(&group.channels[0])), (numbers[0], vec![1.0, 2.0, 3.0]));
    let message = latest.next().await;
    assert_eq!((message.readings.len(), message.skipped), (1, 2));
    assert_eq!(plain(&message.readings[0]), (NOW + 2 * SECOND, 3.0));
}

pub async fn cursors_that_cannot_be_resumed_are_refused(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let refused = |cursor: String| {
        let user = user.clone();
        async move {
            let mut client = user.client();
            let request = pb::WatchReadingsRequest { cursor, ..Default::default() };
            let refused = user.act(client.watch_readings(request)).await;
            let Err(status) = refused else { panic!("it was not refused") };
            sensormesh_types::Error::from(status)
        }
    };
    assert_eq!(refused("forged".to_owned()).await.code(), Code::Invalid);
    let mut watch = user.watch(pb::WatchReadingsRequest::default()).await;
    let (_, cursor) = watch.until_live().await;
    let mut bent = cursor.clone();
    let last = bent.pop().expect("a cursor");
    bent.push(if last == 'A' { 'B' } else { 'A' });
    assert_eq!(refused(bent).await.code(), Code::Invalid);
    assert!(user.watch(pb::WatchReadingsRequest { cursor, ..Default::default() }).await.message().await.is_some());
}

pub async fn a_reader_that_takes_nothing_is_ended_with_its_cursor(engine: Engine) {
    let config = Config { slow_reader: Duration::from_millis(300), live_bytes: 1 << 20, ..Config::default() };
    let system = System::with(engine, config).await;
    let user = system.operator();
    let mut ingest = user.open().await;
    let number = ingest.numbers(&["lab.a"]).await[0];
    let mut watch = user.watch(pb::WatchReadingsRequest::default()).await;
    watch.until_live().await;
    let values: Vec<f64> = (0..1000).map(f64::from).collect();
    for i in 0..200 {
        let start = NOW - 300_000 * SECOND + i * 1000 * SECOND;
        ingest.send(batch(i as u64 + 1, vec![group(number, start, SECOND, &values)])).await;
    }
    ingest.through(200).await;
    // it takes nothing, for long enough; then what was on its way, and the reason
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut seen = 0;
    let mut cursor = String::new();
    let error = loop {
        match watch.message().await.expect("an error, not an end") {
            Ok(message) => {
                seen += message.readings.len();
                assert!(seen < 200_000, "all of it was kept for one who takes nothing");
                cursor = message.cursor;
            }
            Err(error) => break error,
        }
    };
    assert_eq!((error.code(), error.reason()), (Code::Conflict, "SLOW_READER"));
    if seen > 0 {
        assert_eq!(error.metadata("cursor"), Some(cursor.as_str()));
    } else {
        cursor = error.metadata("cursor").expect("a cursor").to_owned();
    }
    // from there on nothing is missing
    let mut watch = user.watch(pb::WatchReadingsRequest { cursor, ..Default::default() }).await;
    while seen < 200_000 {
        seen += watch.next().await.readings.len();
    }
    assert_eq!(seen, 200_000);
}
