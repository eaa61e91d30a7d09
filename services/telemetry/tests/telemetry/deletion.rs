//! Readings that are deleted where several replicas serve.

use std::collections::BTreeMap;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_telemetry::Config;
use sensormesh_types::{AuditQuery, Role, Scope, time};

use crate::history::{fill, noise};
use crate::system::{Engine, NOW, SECOND, System, User, call, eventually, reading};

const START: i64 = NOW - 100_000 * SECOND;

async fn delete(system: &System, sensor_id: &str, from: i64, to: i64) -> u64 {
    let request = pb::DeleteReadingsRequest {
        sensor_id: sensor_id.into(),
        start_time: Some(time::from_nanos(from)),
        end_time: Some(time::from_nanos(to)),
        all: false,
    };
    let admin = system.user("default", Role::Admin, &[]);
    call!(admin.delete_readings(request)).expect("deleted").readings
}

/// Waits until a replica shows these readings, and the last of them as the latest.
async fn shows(user: &User, sensor_id: &str, expected: &BTreeMap<i64, f64>) {
    let readings: Vec<(i64, f64)> = expected.iter().map(|(time, value)| (*time, *value)).collect();
    let latest: Vec<_> =
        readings.last().map(|(time, value)| (sensor_id.to_owned(), *time, *value)).into_iter().collect();
    let so = || async { user.readings(sensor_id).await == readings && user.latest().await == latest };
    eventually("the replica shows what is left", so).await;
}

pub async fn a_watcher_is_told_what_was_deleted(engine: Engine) {
    let system = System::start(engine).await;
    watched(&system, &system).await;
}

pub async fn a_watcher_is_told_what_another_replica_deleted(url: String) {
    let first = System::with(Engine::Postgres(url), Config::default()).await;
    let second = first.replica().await;
    watched(&first, &second).await;
}

/// Deletes at one replica what is watched at another.
async fn watched(deletes: &System, watches: &System) {
    let user = watches.operator();
    let sent = |i: i64| reading("lab.a", NOW - 100 * SECOND + i, i as f64);
    user.send((0..3).map(sent).collect()).await.expect("taken");
    user.send(vec![reading("lab.b", NOW, 9.0)]).await.expect("taken");
    let mut watch = user.watch(pb::WatchReadingsRequest::default()).await;
    let (_, before) = watch.until_live().await;
    let others =
        pb::WatchReadingsRequest { cursor: before.clone(), sensor_ids: vec!["lab.b".into()], ..Default::default() };
    let mut others = user.watch(others).await;
    let time = |i: i64| NOW - 100 * SECOND + i;
    let mut told = Vec::new();
    for (from, left) in [(2, Some(1.0)), (0, None)] {
        assert!(delete(deletes, "lab.a", time(from), time(10)).await > 0);
        let message = loop {
            let message = watch.next().await;
            if !message.deleted.is_empty() {
                break message;
            }
        };
        let [deleted] = &message.deleted[..] else { panic!("one: {message:?}") };
        assert_eq!((deleted.sensor_id.as_str(), deleted.reading.as_ref().and_then(|r| r.value)), ("lab.a", left));
        assert!(!message.cursor.is_empty());
        told.push(message.cursor);
    }
    assert!(told[0] != told[1]);
    user.send(vec![reading("lab.b", NOW + 1, 10.0)]).await.expect("taken");
    let next = others.next().await;
    assert!(next.deleted.is_empty() && next.readings.len() == 1, "nothing of other sensors: {next:?}");
    // who resumes is told too, in every form
    for form in [pb::ReadingForm::Rows, pb::ReadingForm::Columns, pb::ReadingForm::Latest] {
        let again = pb::WatchReadingsRequest { cursor: before.clone(), form: form.into(), ..Default::default() };
        let mut again = user.watch(again).await;
        let mut deleted = Vec::new();
        while deleted.len() < 2 {
            deleted.extend(again.next().await.deleted);
        }
        assert!(deleted.iter().all(|told| told.sensor_id == "lab.a" && told.reading.is_none()), "{deleted:?}");
    }
}

pub async fn readings_are_deleted_at_whichever_replica_is_asked(url: String) {
    let config = Config { unsealed_readings: 300, ..Config::default() };
    let mut first = System::with(Engine::Postgres(url), config).await;
    let second = first.replica().await;
    let (a, b) = (first.operator(), second.operator());
    let values: Vec<f64> = (0..3_000).map(f64::from).collect();
    fill(&a, "lab.a", START, SECOND, &values).await;
    let mut expected: BTreeMap<i64, f64> = (START..).step_by(SECOND as usize).zip(values).collect();
    // out of blocks and out of what is not sealed yet, the latest with it, at the one that does not seal
    let range = START + 2_000 * SECOND..START + 9_000 * SECOND;
    assert_eq!(delete(&second, "lab.a", range.start, range.end).await, 1_000);
    expected.retain(|time, _| !range.contains(time));
    assert_eq!(b.readings("lab.a").await.len(), 2_000);
    for user in [&a, &b] {
        shows(user, "lab.a", &expected).await;
    }
    assert_eq!(delete(&second, "lab.a", range.start, range.end).await, 0);
    // what comes for the same times is new, whichever replica takes and seals it, and whoever's latest reading it is
    for round in 0..4 {
        let user = if round % 2 == 0 { &a } else { &b };
        let from = range.start + round * 400 * SECOND;
        fill(user, "lab.a", from, SECOND, &[7.0; 400]).await;
        expected.extend((0..400).map(|i| (from + i * SECOND, 7.0)));
    }
    for user in [&a, &b] {
        shows(user, "lab.a", &expected).await;
    }
    // the one that seals deletes, and the other hears of it
    assert_eq!(delete(&first, "lab.a", START + 3_000 * SECOND, START + 5_000 * SECOND).await, 600);
    expected.retain(|time, _| *time < START + 3_000 * SECOND);
    for user in [&a, &b] {
        shows(user, "lab.a", &expected).await;
    }
    assert_eq!(delete(&second, "lab.a", START, NOW).await, 3_000);
    for user in [&a, &b] {
        shows(user, "lab.a", &BTreeMap::new()).await;
    }
    let audit = first
        .databases()
        .await
        .main
        .list_audit(&Scope::system(), &AuditQuery { limit: 100, ..Default::default() })
        .await
        .expect("audit");
    let kinds: Vec<_> = audit.iter().map(|record| record.kind.as_str()).collect();
    assert_eq!(kinds, ["readings.deleted"; 3], "what replicas tell each other is none of it");
    fill(&a, "lab.a", START, SECOND, &[1.0; 10]).await;
    expected = (0..10).map(|i| (START + i * SECOND, 1.0)).collect();
    first.stop().await;
    fill(&b, "lab.a", START + 10 * SECOND, SECOND, &[2.0; 2_000]).await;
    expected.extend((10..2_010).map(|i| (START + i * SECOND, 2.0)));
    shows(&b, "lab.a", &expected).await;
    shows(&second.replica().await.operator(), "lab.a", &expected).await;
}

pub async fn replicas_that_delete_and_write_at_once_agree(url: String) {
    const ROUNDS: u64 = 60;
    let config = Config { unsealed_readings: 100, ..Config::default() };
    let mut first = System::with(Engine::Postgres(url), config).await;
    let second = first.replica().await;
    let mut noise = noise(11);
    let mut expected: BTreeMap<i64, f64> = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut pick = |most: u64| noise.next().expect("endless") % most;
        let systems = [&first, &second];
        let (writes, deletes) = (systems[pick(2) as usize], systems[pick(2) as usize]);
        // new ones, and some that are late: at times that no reading ever had
        let mut sent = Vec::new();
        for place in 0..20 {
            let second = round * 20 + place;
            let late = pick(3) == 0;
            let time = if late {
                START + pick(second + 1) as i64 * SECOND + second as i64 * 1_000 + 1
            } else {
                START + second as i64 * SECOND
            };
            sent.push((time, second as f64));
        }
        let readings = sent.iter().map(|(time, value)| reading("lab.a", *time, *value)).collect();
        let taken = writes.operator().send(readings).await.expect("taken");
        assert_eq!(taken.accepted, 20, "round {round}: {:?}", taken.results);
        expected.extend(sent);
        if pick(2) == 0 {
            let last = round * 20 + 20;
            let from = pick(last);
            // often to the end, the latest with it
            let to = if pick(2) == 0 { last } else { from + pick(last - from) };
            let range = START + from as i64 * SECOND..START + to as i64 * SECOND;
            let before = expected.len();
            expected.retain(|time, _| !range.contains(time));
            let gone = before - expected.len();
            assert_eq!(delete(deletes, "lab.a", range.start, range.end).await, gone as u64, "round {round}");
        }
    }
    for system in [&first, &second] {
        shows(&system.operator(), "lab.a", &expected).await;
    }
    first.stop().await;
    let from = START + ROUNDS as i64 * 20 * SECOND;
    fill(&second.operator(), "lab.a", from, SECOND, &[5.0; 500]).await;
    expected.extend((0..500).map(|i| (from + i * SECOND, 5.0)));
    shows(&second.operator(), "lab.a", &expected).await;
    shows(&second.replica().await.operator(), "lab.a", &expected).await;
}
