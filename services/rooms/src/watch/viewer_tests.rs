//! Viewers against a hub and a stream of telemetry that say what the test wants, when it wants it.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use sensormesh_store::Store;
use sensormesh_store::testing::Temporary;

use super::*;
use crate::model::Tenant;
use crate::place::{Kind, Place};
use crate::placement::Placement;
use crate::watch::batch::Sample;

/// The streams that telemetry will open, in order, and from where they were asked for.
#[derive(Clone, Default)]
struct Script {
    streams: Arc<Mutex<VecDeque<Vec<Incoming>>>>,
    asked: Arc<Mutex<Vec<String>>>,
    opened: Arc<AtomicUsize>,
}

struct Stage {
    hub: Hub,
    script: Script,
    store: Temporary,
}

fn place(id: &str) -> Place {
    let (name, parent, site) = (id.to_owned(), String::new(), String::new());
    Place { id: id.into(), kind: Kind::Room, name, parent, site, created: 0, updated: 0, revision: 1 }
}

fn placement(sensor: &str, room: &str) -> Placement {
    let (metric, site) = ("co2".to_owned(), String::new());
    Placement { sensor: sensor.into(), room: room.into(), metric, start: 0, end: None, site }
}

/// One reading of sensor `a` for each value, measured at that second.
fn batch(values: impl IntoIterator<Item = i64>) -> Batch {
    let sample = |value: i64| {
        let (time, value) = (value * 1_000_000_000, value as f64);
        Sample { sensor: "a".into(), reading: Reading { time, value, out_of_range: false } }
    };
    Batch {
        tenant: "default".into(),
        samples: values.into_iter().map(sample).collect(),
        backfill: false,
        deleted: vec![],
    }
}

fn incoming(values: impl IntoIterator<Item = i64>, cursor: &str) -> Incoming {
    Incoming { cursor: cursor.into(), batch: Some(batch(values)), live: None, reset: false }
}

fn live(cursor: &str) -> Incoming {
    Incoming { cursor: cursor.into(), batch: None, live: Some(true), reset: false }
}

impl Stage {
    async fn new(ring: usize) -> Self {
        let hub = Hub::new(ring, Clock::fixed(0));
        let tree = [place("lab"), place("hall")].into_iter().collect();
        let placements = vec![placement("a", "lab"), placement("b", "hall")];
        let tenant = Tenant::new(tree, placements, &Default::default(), &Default::default());
        hub.change_model(|model| model.replace("default", tenant));
        let store = Store::open_temp("rooms", crate::MIGRATIONS, Clock::fixed(0)).await.expect("store");
        // only now: the database has threads of its own, for which paused time runs away
        tokio::time::pause();
        Self { hub, script: Script::default(), store }
    }

    fn plays(&self, messages: Vec<Incoming>) {
        self.script.streams.lock().push_back(messages);
    }

    /// A viewer whose reader was at this place and knew the members as they are.
    async fn resumed(&self, reading: &str, sent: u64) -> Viewer {
        let mut fresh = self.open("").await;
        fresh.out.clear();
        let at = Cursor { reading: reading.into(), sent, ..fresh.at.clone() };
        let at = Cursor { members: fresh.members.digest(), stale: fresh.members.stale_digest(), ..at };
        self.open(&at.encode(&self.store.store.cursors())).await
    }

    async fn open(&self, cursor: &str) -> Viewer {
        let script = self.script.clone();
        let upstream: Upstream = Arc::new(move |cursor, _| {
            let script = script.clone();
            Box::pin(async move {
                script.opened.fetch_add(1, Ordering::SeqCst);
                script.asked.lock().push(cursor);
                let messages = script.streams.lock().pop_front().expect("a stream was planned");
                Ok(stream::iter(messages.into_iter().map(Ok)).chain(stream::pending()).boxed())
            })
        });
        let given = Opening {
            hub: self.hub.clone(),
            upstream,
            seal: self.store.store.cursors(),
            clock: Clock::fixed(0),
            scope: Scope::tenant_of("default"),
            filter: Filter::default(),
            deadline: None,
        };
        Viewer::open(given, cursor).await.expect("opened")
    }

    fn decode(&self, message: &WatchRoomMetricsResponse) -> Cursor {
        Cursor::decode(&message.cursor, &self.store.store.cursors()).expect("a cursor")
    }
}

/// The next message that tells values, and those values.
async fn values(viewer: &mut Viewer) -> (WatchRoomMetricsResponse, Vec<i64>) {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(60), viewer.next()).await.expect("in time");
        let message = message.expect("open").expect("a message");
        if let Some(Told::Change(change)) = &message.event {
            let values = change.metrics.iter().filter_map(|metric| Some(metric.value? as i64)).collect();
            return (message, values);
        }
        assert!(!matches!(&message.event, Some(Told::Bookmark(bookmark)) if bookmark.reset), "no reset was needed");
    }
}

#[tokio::test]
async fn what_telemetry_sent_ahead_of_the_ring_is_told_once() {
    let stage = Stage::new(1000).await;
    stage.hub.replace(&[batch([10])], "t10");
    stage.plays(vec![incoming(6..=9, "t9"), incoming(10..=12, "t12"), live("t12")]);
    let mut viewer = stage.resumed("t5", 0).await;
    assert_eq!(values(&mut viewer).await.1, [6, 7, 8, 9]);
    assert_eq!(values(&mut viewer).await.1, [10, 11, 12]);
    // the ring lags behind what telemetry has sent to the viewer, and cuts the log elsewhere
    stage.hub.push(batch([11]), "t11");
    stage.hub.push(batch(12..=14), "t14");
    let (message, told) = values(&mut viewer).await;
    assert_eq!(told, [13, 14]);
    assert_eq!(stage.decode(&message).reading, "t14");
    assert_eq!(*stage.script.asked.lock(), ["t5"]);
}

#[tokio::test]
async fn the_first_message_from_the_ring_says_where_the_ring_was() {
    let stage = Stage::new(1000).await;
    stage.hub.replace(&[batch([10])], "t10");
    stage.plays(vec![incoming(6..=12, "t12"), live("t12")]);
    let mut viewer = stage.resumed("t5", 0).await;
    values(&mut viewer).await;
    stage.hub.push(batch([11]), "t11");
    let mut mixed = batch(12..=14);
    mixed.samples[2].sensor = "b".into();
    stage.hub.push(mixed, "t14");
    let (message, told) = values(&mut viewer).await;
    let at = stage.decode(&message);
    assert_eq!((told, at.reading.as_str(), at.sent), (vec![13], "t11", 2));
    assert_eq!(*stage.script.asked.lock(), ["t5"]);
}

#[tokio::test]
async fn while_the_ring_lags_a_cursor_does_not_go_back() {
    let stage = Stage::new(1000).await;
    stage.hub.replace(&[batch([10])], "t10");
    stage.plays(vec![incoming(6..=12, "t12"), live("t12")]);
    let mut viewer = stage.resumed("t5", 0).await;
    assert_eq!(values(&mut viewer).await.1, (6..=12).collect::<Vec<_>>());
    stage.hub.push(batch([11]), "t11");
    let bookmark = viewer.next().await.expect("open").expect("a bookmark");
    assert_eq!(stage.decode(&bookmark).reading, "t12");
}

#[tokio::test]
async fn a_ring_that_began_later_than_telemetrys_stream_is_not_trusted() {
    let stage = Stage::new(1000).await;
    stage.plays(vec![incoming(6..=8, "t8"), live("t8"), live("t8")]);
    // the hub has heard of nothing: what it will begin with may lie beyond what this stream has sent
    let mut viewer = stage.resumed_unknown("t5").await;
    assert_eq!(values(&mut viewer).await.1, [6, 7, 8]);
    stage.hub.replace(&[batch([11])], "t11");
    stage.plays(vec![incoming(9..=11, "t11"), live("t11")]);
    assert_eq!(values(&mut viewer).await.1, [9, 10, 11]);
    stage.hub.push(batch([12]), "t12");
    assert_eq!(values(&mut viewer).await.1, [12]);
    assert_eq!(*stage.script.asked.lock(), ["t5", "t8"]);
}

impl Stage {
    /// A viewer that resumes before the hub has heard of anything.
    async fn resumed_unknown(&self, reading: &str) -> Viewer {
        let members = Members::new(&self.hub.model(), &Filter::default(), &Scope::tenant_of("default"));
        let at = Cursor { reading: reading.into(), members: members.digest(), ..Cursor::default() };
        self.open(&at.encode(&self.store.store.cursors())).await
    }
}

#[tokio::test]
async fn a_ring_that_moved_on_while_telemetry_was_read_is_entered_later() {
    let stage = Stage::new(30).await;
    stage.hub.replace(&[batch([10])], "t10");
    stage.plays(vec![incoming(6..=12, "t12"), live("t12")]);
    let mut viewer = stage.resumed("t5", 0).await;
    for n in 11..=40 {
        stage.hub.push(batch([n]), &format!("t{n}"));
    }
    stage.plays(vec![incoming(13..=40, "t40"), live("t40")]);
    assert_eq!(values(&mut viewer).await.1, (6..=12).collect::<Vec<_>>());
    assert_eq!(values(&mut viewer).await.1, (13..=40).collect::<Vec<_>>());
    stage.hub.push(batch([41]), "t41");
    assert_eq!(values(&mut viewer).await.1, [41]);
    assert_eq!(*stage.script.asked.lock(), ["t5", "t12"]);
}

#[tokio::test]
async fn a_reader_that_had_a_part_of_a_message_gets_the_rest() {
    let stage = Stage::new(1000).await;
    stage.hub.replace(&[], "t1");
    let mut viewer = stage.open("").await;
    let mut mixed = batch([2, 3, 4]);
    mixed.samples[1].sensor = "b".into();
    stage.hub.push(mixed, "t4");
    let (first, told) = values_of_readings(&mut viewer).await;
    assert_eq!(told, [2]);
    let at = stage.decode(&first);
    assert_eq!((at.reading.as_str(), at.sent), ("t1", 1));
    let mut rest = stage.open(&first.cursor).await;
    assert_eq!(values_of_readings(&mut rest).await.1, [3]);
    let (last, told) = values_of_readings(&mut rest).await;
    assert_eq!(told, [4]);
    let at = stage.decode(&last);
    assert_eq!((at.reading.as_str(), at.sent), ("t4", 0));
}

async fn values_of_readings(viewer: &mut Viewer) -> (WatchRoomMetricsResponse, Vec<i64>) {
    loop {
        let (message, told) = values(viewer).await;
        if !told.is_empty() {
            return (message, told);
        }
    }
}

#[tokio::test]
async fn bookmarks_come_at_least_every_five_seconds_and_before_the_end() {
    let stage = Stage::new(1000).await;
    stage.hub.replace(&[], "t1");
    let mut viewer = stage.open("").await;
    viewer.given.deadline = Some(Instant::now() + Duration::from_secs(13));
    let mut last = Instant::now();
    let mut bookmarks = 0;
    while let Ok(Some(message)) = viewer.next().await {
        assert!(last.elapsed() <= Duration::from_secs(5), "{:?}", last.elapsed());
        last = Instant::now();
        bookmarks += u32::from(matches!(message.event, Some(Told::Bookmark(_))));
        if viewer.over {
            break;
        }
    }
    assert!(viewer.over && bookmarks >= 4, "{bookmarks}");
    assert_eq!(viewer.stream().count().await, 0);
}

#[tokio::test]
async fn readings_that_were_deleted_are_no_longer_shown() {
    let left = Reading { time: 3_000_000_000, value: 3.0, out_of_range: false };
    let deleting = |sensor: &str, left| Batch { deleted: vec![(sensor.into(), left)], ..batch([]) };
    let stage = Stage::new(1000).await;
    stage.hub.replace(&[batch([10])], "t10");
    let mut viewer = stage.resumed("t10", 0).await;
    stage.hub.push(deleting("elsewhere", None), "t11");
    stage.hub.push(Batch { tenant: "other".into(), ..deleting("a", None) }, "t12");
    stage.hub.push(batch([13]), "t13");
    assert_eq!(values(&mut viewer).await.1, [13]);
    for (cursor, left, shown) in [("t14", Some(left), Some(3.0)), ("t15", None, None)] {
        stage.hub.push(deleting("a", left), cursor);
        let mut resets = 0;
        let told = loop {
            match viewer.next().await.expect("open").expect("a message").event {
                Some(Told::Bookmark(bookmark)) => resets += u32::from(bookmark.reset),
                Some(Told::Change(change)) if change.room_id == "lab" => break change.metrics[0].value,
                _ => {}
            }
        };
        assert_eq!((told, resets), (shown, 1));
    }
    // the same where the ring does not reach back to it
    stage.plays(vec![Incoming { batch: Some(deleting("a", None)), ..incoming([], "t15") }]);
    let mut viewer = stage.resumed("t9", 0).await;
    let message = viewer.next().await.expect("open").expect("a message");
    assert!(matches!(message.event, Some(Told::Bookmark(bookmark)) if bookmark.reset));
}
