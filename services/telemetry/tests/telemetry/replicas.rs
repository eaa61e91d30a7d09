//! Several replicas on one PostgreSQL: each takes readings and serves all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_telemetry::{Config, Databases, Engine as Readings};
use sensormesh_types::{Clock, Code, Scope};
use tokio::time::{Instant, timeout};

use crate::history::{fill, noise};
use crate::system::{Engine, NOW, SECOND, System, User, batch, call, eventually, group, plain, reading};

/// Every reading of a sensor, with everything up to the cursor.
async fn read(user: &User, sensor_id: &str, min_seq: &str) -> Vec<(i64, f64)> {
    let request =
        pb::ListReadingsRequest { sensor_id: sensor_id.into(), min_seq: min_seq.into(), ..Default::default() };
    user.list(request).await.expect("list").iter().map(plain).collect()
}

pub async fn what_one_replica_takes_all_of_them_serve(url: String) {
    let mut first = System::start(Engine::Postgres(url)).await;
    let second = first.replica().await;
    let (a, b) = (first.operator(), second.operator());
    let mut watch = b.watch(pb::WatchReadingsRequest::default()).await;
    watch.until_live().await;
    let mut expected = Vec::new();
    for round in 0..10 {
        let (user, other) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let time = NOW - 1000 * SECOND + round * SECOND;
        let taken = user.send(vec![reading("lab.a", time, round as f64)]).await.expect("taken");
        assert_eq!((taken.accepted, taken.duplicates), (1, 0));
        expected.push((time, round as f64));
        assert_eq!(read(other, "lab.a", &taken.cursor).await, expected, "round {round}");
        assert_eq!(other.latest().await, [("lab.a".to_owned(), time, round as f64)]);
        let again = other.send(vec![reading("lab.a", time, round as f64)]).await.expect("taken");
        assert_eq!((again.accepted, again.duplicates), (0, 1), "round {round}");
    }
    let revised = b.send(vec![reading("lab.a", expected[0].0, 99.0)]).await.expect("taken");
    assert_eq!(revised.results[0].verdict(), pb::Verdict::Revised);
    expected[0].1 = 99.0;
    assert_eq!(read(&a, "lab.a", &revised.cursor).await, expected);
    // the live stream of one replica shows all in order, and goes on at the other
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    while seen.len() < 6 {
        let message = watch.next().await;
        seen.extend(message.readings.iter().map(plain));
        cursor = message.cursor;
    }
    drop(watch);
    let mut watch = a.watch(pb::WatchReadingsRequest { cursor, ..Default::default() }).await;
    while seen.len() < 11 {
        seen.extend(watch.next().await.readings.iter().map(plain));
    }
    let mut order: Vec<_> = (0..10).map(|i| (NOW - 1000 * SECOND + i * SECOND, i as f64)).collect();
    order.push((expected[0].0, 99.0));
    assert_eq!(seen, order);
    // a cursor that is fresher than the replica asked is waited for
    let last = b.send(vec![reading("lab.a", NOW, 1.0)]).await.expect("taken");
    let mut watch = a.watch(pb::WatchReadingsRequest { cursor: last.cursor, ..Default::default() }).await;
    watch.until_live().await;
    first.stop().await;
    assert_eq!(b.send(vec![reading("lab.a", NOW + 1, 2.0)]).await.expect("taken").accepted, 1);
}

pub async fn a_batch_has_one_answer_whichever_replica_is_asked(url: String) {
    let first = System::start(Engine::Postgres(url)).await;
    let second = first.replica().await;
    let users = [first.operator(), second.operator()];
    for round in 0..20 {
        let request = pb::IngestReadingsRequest {
            readings: vec![reading("lab.a", NOW + round, 1.0), reading("hall.b", NOW + round, 2.0)],
            batch_id: format!("batch-{round}"),
            ..Default::default()
        };
        let [a, b] = &users;
        let (one, other) = tokio::join!(async { call!(a.ingest_readings(request.clone())).expect("taken") }, async {
            call!(b.ingest_readings(request.clone())).expect("taken")
        },);
        assert_eq!((one.accepted, one.duplicates), (2, 0), "round {round}");
        assert_eq!(one, other, "round {round}");
        assert_eq!(call!(b.ingest_readings(request.clone())).expect("taken"), one);
    }
    for user in &users {
        eventually("all are there", || async { user.readings("lab.a").await.len() == 20 }).await;
        assert_eq!(user.readings("hall.b").await.len(), 20);
    }
}

async fn open(url: &str) -> Readings {
    let config = sensormesh_store::Config::at(url);
    let databases = Databases::open(&config, Clock::system()).await.expect("databases");
    Readings::open(Config::default(), databases, Clock::system()).await.expect("engine")
}

pub async fn sensors_get_one_number_though_replicas_number_at_once(url: String) {
    let replicas = [open(&url).await, open(&url).await, open(&url).await];
    let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
    for round in 0..15 {
        // half of them are asked for everywhere
        let ids = |replica: usize| -> Vec<String> {
            let own = (0..5).map(move |i| format!("own.{replica}.{round}.{i}"));
            let common = (0..5).map(move |i| format!("common.{round}.{}", (i + replica) % 5));
            own.chain(common).collect()
        };
        let asked: Vec<Vec<String>> = (0..3).map(ids).collect();
        let given = futures::future::join_all(replicas.iter().zip(&asked).map(|(replica, ids)| async move {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            replica.register("default", &ids).await.expect("numbers")
        }));
        for (ids, given) in asked.iter().zip(given.await) {
            for (id, number) in ids.iter().zip(given) {
                assert_eq!(*numbers.entry(id.clone()).or_insert(number), number, "{id}");
            }
        }
    }
    let mut all: Vec<u32> = numbers.values().copied().collect();
    all.sort_unstable();
    assert_eq!(all, (1..=15 * 20).collect::<Vec<u32>>(), "each has a number of its own and none is left out");
}

pub async fn replicas_that_write_at_once_lose_and_repeat_nothing(url: String) {
    const BATCHES: u64 = 60;
    let system = System::start(Engine::Postgres(url.clone())).await;
    let beside = [system.replica().await, system.replica().await];
    let mut user = system.operator();
    let mut watch = user.watch(pb::WatchReadingsRequest::default()).await;
    watch.until_live().await;
    let write = |user: User, seed: u64| async move {
        // all write the same readings, each in an order of its own: each is new once
        let mut ingest = user.open().await;
        let series = ingest.numbers(&["lab.a", "lab.b"]).await;
        let mut order: Vec<u64> = (0..BATCHES).collect();
        let picks: Vec<u64> = noise(seed).take(order.len()).collect();
        for (i, pick) in picks.iter().enumerate() {
            let other = (*pick % BATCHES) as usize;
            order.swap(i, other);
        }
        for (number, place) in order.iter().enumerate() {
            let start = NOW - 100_000 * SECOND + *place as i64 * 20 * SECOND;
            let values: Vec<f64> = (0..20).map(|i| (place * 20 + i) as f64).collect();
            let groups = series.iter().map(|series| group(*series, start, SECOND, &values)).collect::<Vec<_>>();
            ingest.send(batch(number as u64 + 1, groups)).await;
        }
        let answers = ingest.through(BATCHES).await;
        answers.iter().map(|answer| answer.duplicates).sum::<u64>()
    };
    let duplicates =
        tokio::join!(write(system.operator(), 1), write(beside[0].operator(), 2), write(beside[1].operator(), 3));
    // of three times everything, two are duplicates
    assert_eq!(duplicates.0 + duplicates.1 + duplicates.2, 2 * 2 * 20 * BATCHES);
    let expected: Vec<(i64, f64)> =
        (0..20 * BATCHES as i64).map(|i| (NOW - 100_000 * SECOND + i * SECOND, i as f64)).collect();
    for replica in [&system, &beside[0], &beside[1]] {
        user = replica.operator();
        for sensor in ["lab.a", "lab.b"] {
            eventually("all is there", || async { user.readings(sensor).await.len() == expected.len() }).await;
            assert_eq!(user.readings(sensor).await, expected);
        }
    }
    // every reading was shown once, in the order of the log
    let mut shown = 0;
    while shown < 2 * expected.len() {
        shown += watch.next().await.readings.len();
    }
    assert_eq!(shown, 2 * expected.len());
    let databases = system.databases().await;
    let mut read = databases.log.read(&Scope::system()).await.expect("read");
    let sql = "SELECT COUNT(*) AS n, MIN(seq) AS first, MAX(seq) AS last FROM reading_log";
    let row = read.query(sql).fetch_one().await.expect("row");
    let (n, first, last): (u64, u64, u64) =
        (row.get("n").expect("n"), row.get("first").expect("n"), row.get("last").expect("n"));
    assert_eq!((first, last), (1, n), "no place is left out or used twice");
}

pub async fn what_one_replica_seals_the_others_let_go(url: String) {
    let config = Config { unsealed_readings: 300, ..Config::default() };
    let mut first = System::with(Engine::Postgres(url), config).await;
    let second = first.replica().await;
    let (a, b) = (first.operator(), second.operator());
    let start = NOW - 100_000 * SECOND;
    let values: Vec<f64> = noise(7).take(6_000).map(|n| (n % 1000) as f64 / 8.0).collect();
    let mut expected: BTreeMap<i64, f64> = BTreeMap::new();
    let databases = first.databases().await;
    let blocks = || async {
        let mut read = databases.main.read(&Scope::system()).await.expect("read");
        let row = read
            .query("SELECT CAST(COALESCE(SUM(n), 0) AS BIGINT) AS n FROM block WHERE level = 0")
            .fetch_one()
            .await
            .expect("row");
        row.get::<i64>("n").expect("n")
    };
    for (round, part) in values.chunks(500).enumerate() {
        let from = start + round as i64 * 500 * SECOND;
        fill(if round % 2 == 0 { &a } else { &b }, "lab.a", from, SECOND, part).await;
        expected.extend(part.iter().enumerate().map(|(i, v)| (from + i as i64 * SECOND, *v)));
        // late, and revised, at the other
        let late = from + SECOND / 2;
        let revised = from - 100 * SECOND;
        let other = if round % 2 == 0 { &b } else { &a };
        let mut sent = vec![reading("lab.a", late, -1.0)];
        expected.insert(late, -1.0);
        if round > 0 {
            sent.push(reading("lab.a", revised, -2.0));
            expected.insert(revised, -2.0);
        }
        let taken = other.send(sent).await.expect("taken");
        assert_eq!(taken.duplicates, 0, "round {round}");
        let expected: Vec<(i64, f64)> = expected.iter().map(|(time, value)| (*time, *value)).collect();
        assert_eq!(read(&a, "lab.a", &taken.cursor).await, expected, "first, round {round}");
        assert_eq!(read(&b, "lab.a", &taken.cursor).await, expected, "second, round {round}");
    }
    eventually("most is sealed", || async { blocks().await > 5_000 }).await;
    let expected: Vec<(i64, f64)> = expected.into_iter().collect();
    for user in [&a, &b] {
        assert_eq!(user.readings("lab.a").await, expected);
    }
    // what the first looked after, the second does once it is gone
    let before = blocks().await;
    first.stop().await;
    fill(&b, "lab.a", NOW - 10_000 * SECOND, SECOND, &values[..3_000]).await;
    let began = Instant::now();
    eventually("the second seals", || async { blocks().await > before + 2_000 }).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(b.readings("lab.a").await.len(), expected.len() + 3_000);
    let again = first.replica().await;
    assert_eq!(again.operator().readings("lab.a").await, b.readings("lab.a").await);
}

pub async fn a_turn_that_is_not_given_back_is_waited_for(url: String) {
    let system = System::start(Engine::Postgres(url)).await;
    let user = system.operator();
    user.send(vec![reading("lab.a", NOW, 1.0)]).await.expect("taken");
    // a replica that is paused in the middle of its turn: the database ends it
    let databases = system.databases().await;
    let mut paused = databases.log.tx(&Scope::system()).await.expect("tx");
    let sql = "SELECT seq, set_config('idle_in_transaction_session_timeout', '3s', true) AS s FROM shard FOR UPDATE";
    paused.query(sql).fetch_one().await.expect("locked");
    let began = Instant::now();
    let taken = timeout(Duration::from_secs(9), user.send(vec![reading("lab.a", NOW + 1, 2.0)])).await;
    assert_eq!(taken.expect("in time").expect("taken").accepted, 1);
    assert!(began.elapsed() > Duration::from_secs(2), "it was not waited for");
    // what the paused one had in hand is lost with its turn, and nothing of it is written
    let late = paused.query("UPDATE shard SET seq = seq + 5").execute().await;
    assert_eq!(late.expect_err("the turn was taken away").code(), Code::Unavailable);
    drop(paused);
    // one that does not end is told of, to a client that repeats the call until its time is up
    let mut working = databases.log.tx(&Scope::system()).await.expect("tx");
    working.query("SELECT seq FROM shard FOR UPDATE").fetch_one().await.expect("locked");
    let working = tokio::spawn(async move {
        for _ in 0..14 {
            working.query("SELECT 1 AS n FROM pg_sleep(1)").fetch_one().await.expect("at work");
        }
        working.rollback().await.expect("undone");
    });
    let refused = user.send(vec![reading("lab.a", NOW + 2, 3.0)]).await.expect_err("no turn");
    assert!(matches!(refused.code(), Code::Unavailable | Code::Timeout), "{refused:?}");
    working.await.expect("done");
    // what was given up may have been stored since
    let again = user.send(vec![reading("lab.a", NOW + 2, 3.0)]).await.expect("taken");
    assert_eq!(again.accepted + again.duplicates, 1);
    assert_eq!(user.readings("lab.a").await.len(), 3);
}
