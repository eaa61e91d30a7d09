//! Watching rooms.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use sensormesh_proto::rooms::v1 as proto;
use sensormesh_proto::rooms::v1::watch_room_metrics_response::Event;
use sensormesh_rooms::Config;
use sensormesh_types::{Code, Error, Result, Role};

use crate::fakes::sensor;
use crate::system::{Engine, SECOND, START, System, User, call, until};

/// A watch as a dashboard keeps it.
struct Watching {
    user: User,
    request: proto::WatchRoomMetricsRequest,
    stream: Option<tonic::Streaming<proto::WatchRoomMetricsResponse>>,
}

impl Watching {
    fn new(user: &User) -> Self {
        Self { user: user.clone(), request: proto::WatchRoomMetricsRequest::default(), stream: None }
    }

    async fn open(&mut self) -> Result<()> {
        let mut client = self.user.client();
        let stream = self.user.act(client.watch_room_metrics(self.request.clone())).await.map_err(Error::from)?;
        self.stream = Some(stream.into_inner());
        Ok(())
    }

    /// The next message; keeps its cursor.
    async fn next(&mut self) -> Result<Option<Event>> {
        if self.stream.is_none() {
            self.open().await?;
        }
        let stream = self.stream.as_mut().expect("open");
        let next = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("in time");
        let Some(message) = next.transpose().map_err(Error::from)? else { return Ok(None) };
        if !message.cursor.is_empty() {
            self.request.cursor = message.cursor;
        }
        Ok(message.event)
    }

    async fn told(&mut self) -> Vec<String> {
        loop {
            match self.next().await.expect("open").expect("a message") {
                Event::Change(change) => return change.metrics.iter().map(|m| short(&change.room_id, m)).collect(),
                Event::Removed(removed) => return vec![format!("{}/{} gone", removed.room_id, removed.metric)],
                Event::Bookmark(bookmark) if bookmark.reset => return vec!["reset".into()],
                Event::Bookmark(_) => {}
            }
        }
    }

    /// What is told until the next live bookmark.
    async fn until_live(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            match self.next().await.expect("open").expect("a message") {
                Event::Change(change) => told.extend(change.metrics.iter().map(|m| short(&change.room_id, m))),
                Event::Removed(removed) => told.push(format!("{}/{} gone", removed.room_id, removed.metric)),
                Event::Bookmark(bookmark) if bookmark.reset => told.push("reset".into()),
                Event::Bookmark(bookmark) if bookmark.live => return told,
                Event::Bookmark(_) => {}
            }
        }
    }
}

/// `lab/co2 612@-1`: a value and its second since the start.
fn short(room: &str, metric: &proto::RoomMetric) -> String {
    let at = metric.time.map_or("-".to_owned(), |time| (time.seconds - START).to_string());
    format!("{room}/{} {}@{at}", metric.metric, metric.value.map_or("-".to_owned(), |value| value.to_string()))
}

/// Rooms `lab` and `hall` with one sensor each.
async fn two_rooms(system: &System) -> User {
    let user = system.operator();
    for (room, id) in [("lab", "a.co2"), ("hall", "b.co2")] {
        user.create_room(room).await;
        // known at once when asked for, and told: a snapshot that comes late names it too
        system.devices.know_silently(sensor(id, "[ppm]"));
        system.devices.sensor(sensor(id, "[ppm]"));
        user.place(id, room, "").await.expect("placed");
    }
    user
}

async fn shows(user: &User, room: &str, value: f64) {
    let shown = || async { user.metrics(room).await.expect("metrics").metrics[0].value == Some(value) };
    until("the value", shown).await;
}

pub async fn a_viewer_sees_the_present_state_and_then_every_change(engine: Engine) {
    let system = System::start(engine).await;
    let user = two_rooms(&system).await;
    system.read("a.co2", -9, 1.0);
    shows(&user, "lab", 1.0).await;
    let mut watching = Watching::new(&user);
    // the placements may arrive a moment after the calls that made them
    let mut first = watching.until_live().await;
    while first.len() < 2 {
        first.extend(watching.told().await);
    }
    first.sort();
    assert_eq!(first, ["hall/co2 -@-", "lab/co2 1@-9"]);
    for n in 2..6 {
        system.read("a.co2", n - 10, n as f64);
        system.read("b.co2", n - 10, n as f64);
    }
    let mut told = Vec::new();
    while told.len() < 8 {
        told.extend(watching.told().await);
    }
    let of = |room: &str| told.iter().filter(|t| t.starts_with(room)).cloned().collect::<Vec<_>>();
    assert_eq!(of("lab"), ["lab/co2 2@-8", "lab/co2 3@-7", "lab/co2 4@-6", "lab/co2 5@-5"]);
    assert_eq!(of("hall"), ["hall/co2 2@-8", "hall/co2 3@-7", "hall/co2 4@-6", "hall/co2 5@-5"]);
    // a value that grows old is told
    system.clock.advance(Duration::from_secs(1000));
    loop {
        if let Some(Event::Change(change)) = watching.next().await.expect("open") {
            assert!(change.metrics[0].stale);
            break;
        }
    }
}

pub async fn what_joins_and_leaves_a_room_is_told(engine: Engine) {
    let system = System::start(engine).await;
    let user = two_rooms(&system).await;
    system.devices.know_silently(sensor("c.t", "Cel"));
    system.read("c.t", -5, 21.0);
    user.create_room("attic").await;
    let mut watching = Watching::new(&user);
    let mut first = watching.until_live().await;
    while first.len() < 2 {
        first.extend(watching.told().await);
    }
    user.place("c.t", "attic", "").await.expect("placed");
    assert_eq!(watching.told().await, ["attic/t 21@-5"]);
    user.place("c.t", "attic", "temp").await.expect("renamed");
    assert_eq!(watching.told().await, ["attic/t gone"]);
    assert_eq!(watching.told().await, ["attic/temp 21@-5"]);
    let delete = proto::DeletePlaceRequest { place_id: "attic".into(), force: true };
    call!(user.delete_place(delete)).expect("deleted");
    assert_eq!(watching.told().await, ["attic/temp gone"]);
    // while nobody looked: the state is told anew
    drop(watching.stream.take());
    user.place("a.co2", "hall", "co2_a").await.expect("moved");
    until("the move is known", || async { user.metrics("lab").await.expect("metrics").metrics.is_empty() }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let told = watching.until_live().await;
    assert_eq!(told, ["reset", "hall/co2 -@-", "hall/co2_a -@-"]);
}

pub async fn a_viewer_resumes_without_gap_or_duplicate_whoever_restarts(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = two_rooms(&system).await;
    // wait until a fresh watch shows both, so that nothing joins later
    until("both rooms", || async { Watching::new(&user).until_live().await.len() == 2 }).await;
    let mut watching = Watching::new(&user);
    watching.until_live().await;
    let telemetry = system.telemetry.clone();
    let writer = tokio::spawn(async move {
        for n in 1i64.. {
            for sensor in ["a.co2", "b.co2"] {
                telemetry.add("default", sensor, (START - 100) * SECOND + n * 1_000_000, n as f64);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let mut seen = Seen::default();
    for round in 0..9 {
        match round {
            1 => system.telemetry.hiccup(),
            2 | 7 => system.restart_rooms().await,
            3 => {
                system.telemetry.kill();
                system.restart_rooms().await;
                system.telemetry.revive();
            }
            5 => {
                system.telemetry.hiccup();
                system.restart_rooms().await;
            }
            _ => {}
        }
        // reads on, wherever it is cut, for a while; and cuts now and then in the middle of one of telemetry's messages
        let until = seen.last() + 100;
        seen.read(&mut watching, until, Some(7 + round)).await;
    }
    writer.abort();
    let _ = writer.await; // aborted, as was asked
    let last = system.telemetry.log().iter().filter(|entry| entry.sensor == "b.co2").count() as i64;
    seen.read(&mut watching, last, None).await;
    assert_eq!(seen.resets, 0);
    for room in ["lab", "hall"] {
        assert_eq!(
            seen.told[room].iter().take(last as usize).copied().collect::<Vec<_>>(),
            (1..=last).collect::<Vec<_>>()
        );
    }
}

/// What a viewer was told over all of its streams.
#[derive(Default)]
struct Seen {
    told: BTreeMap<String, Vec<i64>>,
    stale: BTreeMap<String, bool>,
    resets: u32,
}

impl Seen {
    /// The last value of the room that lags behind.
    fn last(&self) -> i64 {
        let last = |room| self.told.get(room).and_then(|told| told.last()).copied().unwrap_or(0);
        last("lab").min(last("hall"))
    }

    fn take(&mut self, change: &proto::RoomChange) {
        for metric in &change.metrics {
            let (value, before) = (metric.value.expect("a value") as i64, self.stale.get(&change.room_id).copied());
            let told = self.told.entry(change.room_id.clone()).or_default();
            // the same reading again tells only that it is old now, or no longer
            if told.last() != Some(&value) || before == Some(metric.stale) {
                told.push(value);
            }
            self.stale.insert(change.room_id.clone(), metric.stale);
        }
    }

    /// Reads until both rooms are at `until`; drops the stream once, after so many messages.
    async fn read(&mut self, watching: &mut Watching, until: i64, cut_after: Option<i32>) {
        let (mut messages, deadline) = (0, tokio::time::Instant::now() + Duration::from_secs(30));
        while self.last() < until {
            assert!(tokio::time::Instant::now() < deadline, "{until} did not come, only {}", self.last());
            match watching.next().await {
                Ok(Some(Event::Change(change))) => self.take(&change),
                Ok(Some(Event::Bookmark(bookmark))) => self.resets += u32::from(bookmark.reset),
                Ok(Some(Event::Removed(removed))) => panic!("{removed:?}"),
                Ok(None) => watching.stream = None,
                Err(error) if matches!(error.code(), Code::Unavailable | Code::Internal | Code::Conflict) => {
                    watching.stream = None;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error:?}"),
            }
            messages += 1;
            if Some(messages) == cut_after {
                watching.stream = None;
            }
        }
    }
}

pub async fn a_reader_that_is_too_slow_is_told_where_to_resume(engine: Engine) {
    let system = System::with(engine, Config { ring_readings: 64 }).await;
    let user = two_rooms(&system).await;
    until("both rooms", || async { Watching::new(&user).until_live().await.len() == 2 }).await;
    let mut watching = Watching::new(&user);
    watching.until_live().await;
    for n in 0..20_000 {
        system.read("a.co2", n - 30_000, n as f64);
    }
    shows(&user, "lab", 19_999.0).await;
    let mut told: Vec<i64> = Vec::new();
    let mut slow = 0;
    while told.last() != Some(&19_999) {
        match watching.next().await {
            Ok(Some(Event::Change(change))) => told.extend(change.metrics.iter().filter_map(|m| Some(m.value? as i64))),
            Ok(_) => {}
            Err(error) => {
                assert_eq!((error.code(), error.reason()), (Code::Conflict, "SLOW_READER"));
                slow += 1;
                watching.request.cursor = error.metadata("cursor").expect("a cursor").to_owned();
                watching.stream = None;
            }
        }
    }
    assert!(slow > 0);
    assert_eq!(told, (0..20_000).collect::<Vec<i64>>());
}

pub async fn a_viewer_sees_its_tenant_and_its_filter_only(engine: Engine) {
    let system = System::start(engine).await;
    let user = two_rooms(&system).await;
    let other = system.user("acme", Role::Operator, &[]);
    other.create_room("lab").await;
    system
        .devices
        .tell("acme", sensormesh_proto::devices::v1::watch_devices_response::Event::Sensor(sensor("a.co2", "%")));
    until("the registry", || async { other.unplaced().await == ["a.co2"] }).await;
    other.place("a.co2", "lab", "co2").await.expect("placed");
    until("both rooms", || async { Watching::new(&user).until_live().await.len() == 2 }).await;
    until("the other room", || async { Watching::new(&other).until_live().await.len() == 1 }).await;
    let (mut mine, mut theirs) = (Watching::new(&user), Watching::new(&other));
    mine.request.room_ids = vec!["hall".into()];
    assert_eq!(mine.until_live().await, ["hall/co2 -@-"]);
    assert_eq!(theirs.until_live().await, ["lab/co2 -@-"]);
    system.read("a.co2", -3, 1.0);
    system.telemetry.add("acme", "a.co2", (START - 2) * SECOND, 2.0);
    system.read("b.co2", -1, 3.0);
    assert_eq!(mine.told().await, ["hall/co2 3@-1"]);
    assert_eq!(theirs.told().await, ["lab/co2 2@-2"]);
    let mut hidden = Watching::new(&other);
    hidden.request.room_ids = vec!["hall".into()];
    assert_eq!(hidden.next().await.expect_err("hidden").code(), Code::NotFound);
    let mut below = Watching::new(&user);
    below.request.ancestor_id = "nowhere".into();
    assert_eq!(below.next().await.expect_err("unknown").code(), Code::NotFound);
}

pub async fn a_forged_cursor_is_refused(engine: Engine) {
    let system = System::start(engine).await;
    let user = two_rooms(&system).await;
    until("both rooms", || async { Watching::new(&user).until_live().await.len() == 2 }).await;
    let mut watching = Watching::new(&user);
    watching.until_live().await;
    let honest = watching.request.cursor.clone();
    for forged in ["x", "x.y", &honest.replace(".t", ".t9"), &honest[1..]] {
        let mut watching = Watching::new(&user);
        watching.request.cursor = forged.to_owned();
        let error = watching.next().await.expect_err(forged);
        assert_eq!((error.code(), error.fields()[0].field.as_str()), (Code::Invalid, "cursor"), "{forged}");
    }
}
