//! What must still be there, whatever happens.

use std::time::Duration;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_telemetry::Config;
use sensormesh_types::Code;

use crate::history::{fill, noise};
use crate::system::{Engine, NOW, SECOND, System, call, eventually, reading};

pub async fn what_was_acknowledged_survives_a_crash(engine: Engine) {
    let mut system = System::start(engine).await;
    let values: Vec<f64> = noise(3).take(3_300).map(|n| n as f64 / 8.0).collect();
    let start = NOW - 10_000 * SECOND;
    fill(&system.operator(), "lab.a", start, SECOND, &values).await;
    for round in 0..5 {
        let user = system.operator();
        let sent = (0..7).map(|i| reading("lab.b", NOW + round * 10 + i, i as f64)).collect();
        user.send(sent).await.expect("taken");
        system.crash().await;
        let user = system.operator();
        let read = user.readings("lab.a").await;
        assert_eq!(read.iter().map(|r| r.1).collect::<Vec<_>>(), values);
        assert_eq!(user.readings("lab.b").await.len() as i64, (round + 1) * 7);
        let latest = user.latest().await;
        assert_eq!(latest[0], ("lab.a".to_owned(), start + 3_299 * SECOND, values[3_299]));
        assert_eq!(latest[1], ("lab.b".to_owned(), NOW + round * 10 + 6, 6.0));
        // what was there before the crash is still known
        let answer = user.send(vec![reading("lab.b", NOW, 0.0), reading("lab.a", start, values[0])]).await;
        assert_eq!(answer.expect("taken").duplicates, 2);
    }
}

pub async fn the_log_is_cut_and_the_readings_stay(engine: Engine) {
    let config = Config {
        log_max_age: Duration::from_secs(3600),
        unsealed_readings: 500,
        log_max_bytes: 4096,
        ..Config::default()
    };
    let mut system = System::with(engine, config).await;
    let user = system.operator();
    let mut watch = user.watch(pb::WatchReadingsRequest::default()).await;
    let (_, old) = watch.until_live().await;
    drop(watch);
    let values: Vec<f64> = noise(4).take(6_000).map(|n| n as f64 / 8.0).collect();
    fill(&user, "lab.a", NOW - 10_000 * SECOND, SECOND, &values).await;
    fill(&user, "lab.b", NOW - 10_000 * SECOND, SECOND, &values[..30]).await;
    system.clock.advance(Duration::from_secs(4000));
    let cut = || async {
        let request = pb::WatchReadingsRequest { cursor: old.clone(), ..Default::default() };
        let user = system.operator();
        let mut client = user.client();
        match user.act(client.watch_readings(request)).await {
            Ok(_) => false,
            Err(status) => {
                let error = sensormesh_types::Error::from(status);
                assert_eq!(error.code(), Code::Gone);
                assert!(error.metadata("earliest_cursor").is_some());
                true
            }
        }
    };
    eventually("the log is cut", cut).await;
    for _ in 0..2 {
        let user = system.operator();
        let read = user.readings("lab.a").await;
        assert_eq!(read.iter().map(|r| r.1).collect::<Vec<_>>(), values);
        assert_eq!(user.readings("lab.b").await.len(), 30);
        assert_eq!(user.latest().await[1].2, values[29]);
        system.restart().await;
    }
    // and it goes on
    let user = system.operator();
    assert_eq!(user.send(vec![reading("lab.b", NOW, 1.0)]).await.expect("taken").accepted, 1);
    assert_eq!(user.readings("lab.b").await.len(), 31);
}

pub async fn sensors_known_before_are_taken_without_devices(engine: Engine) {
    let mut system = System::start(engine).await;
    system.operator().send(vec![reading("lab.a", NOW, 1.0)]).await.expect("taken");
    system.stop_devices().await;
    system.restart().await;
    let user = system.operator();
    assert_eq!(user.send(vec![reading("lab.a", NOW + 1, 2.0)]).await.expect("taken").accepted, 1);
    let mut ingest = user.open().await;
    ingest.numbers(&["lab.a"]).await;
    let list = pb::ListReadingsRequest { sensor_id: "lab.a".into(), ..Default::default() };
    assert_eq!(call!(user.list_readings(list)).expect("list").readings.len(), 2);
}

/// A log that was put back from before the blocks: what it has that no block has is there, and what follows comes behind all.
pub async fn a_log_that_is_older_than_the_blocks_loses_nothing_it_has() {
    let mut system = System::with(Engine::Sqlite, Config::default()).await;
    let user = system.operator();
    let values: Vec<f64> = noise(6).take(1_500).map(|n| n as f64 / 8.0).collect();
    fill(&user, "lab.a", NOW - 5_000 * SECOND, SECOND, &values).await;
    fill(&user, "lab.b", NOW - 5_000 * SECOND, SECOND, &values[..10]).await;
    let aside = tempfile::tempdir().expect("directory");
    let name = |path: &std::path::Path| aside.path().join(path.file_name().expect("name"));
    system
        .with_log_files(|files| {
            for file in files {
                std::fs::copy(file, name(file)).expect("copied");
            }
        })
        .await;
    let user = system.operator();
    fill(&user, "lab.a", NOW - 3_000 * SECOND, SECOND, &values).await;
    crate::history::settle().await;
    system
        .with_log_files(|files| {
            files.iter().for_each(|file| std::fs::remove_file(file).expect("removed"));
            for file in std::fs::read_dir(aside.path()).expect("files").map(|file| file.expect("file").path()) {
                std::fs::copy(&file, files[0].with_file_name(file.file_name().expect("name"))).expect("put back");
            }
        })
        .await;
    let user = system.operator();
    assert_eq!(user.readings("lab.b").await.len(), 10, "they were in the log only");
    let sealed = user.readings("lab.a").await.len();
    assert!(sealed >= 2_500, "{sealed} readings of which most are in blocks");
    let mut watch = user.watch(pb::WatchReadingsRequest::default()).await;
    watch.until_live().await;
    for i in 1..4 {
        user.send(vec![reading("lab.b", NOW + i, 2.0)]).await.expect("taken");
        assert_eq!(watch.next().await.readings.len(), 1);
    }
    assert_eq!(user.readings("lab.b").await.len(), 13);
}

/// A sender that goes away while its sensors get their numbers leaves nothing in the way of the next one.
pub async fn numbers_are_given_though_who_asked_for_them_has_gone(engine: Engine) {
    use sensormesh_telemetry::{Databases, Engine as Readings};
    use sensormesh_types::Clock;
    let folder = tempfile::tempdir().expect("directory");
    let url = match engine {
        Engine::Sqlite => format!("sqlite:{}", folder.path().join("{service}.db").display()),
        Engine::Postgres(url) => url,
    };
    let config = sensormesh_store::Config::at(url);
    let databases = Databases::open(&config, Clock::system()).await.expect("databases");
    let engine = Readings::open(Config::default(), databases, Clock::system()).await.expect("engine");
    let mut numbers = Vec::new();
    for steps in 0..12 {
        let gone = format!("gone.{steps}");
        let ids = [gone.as_str()];
        let mut asking = Box::pin(engine.register("default", &ids));
        let mut left = steps;
        // given up at its next step, whichever that is
        let given_up = std::future::poll_fn(|context| {
            if left == 0 {
                return std::task::Poll::Ready(());
            }
            left -= 1;
            asking.as_mut().poll(context).map(|_| ())
        });
        given_up.await;
        drop(asking);
        numbers.extend(engine.register("default", &[&format!("next.{steps}")]).await.expect("a number"));
        numbers.extend(engine.register("default", &[&gone]).await.expect("a number"));
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 24, "each sensor has a number of its own");
}

/// The way that measurements take, without mesh and contract.
pub async fn batches_are_taken_in_process() {
    use sensormesh_mesh::Shutdown;
    use sensormesh_telemetry::{Databases, Engine};
    use sensormesh_types::Clock;
    const BATCHES: u64 = 300;
    let folder = tempfile::tempdir().expect("directory");
    let config = sensormesh_store::Config::at(format!("sqlite:{}", folder.path().join("{service}.db").display()));
    let clock = Clock::fixed(NOW / 1000);
    let databases = Databases::open(&config, clock.clone()).await.expect("databases");
    let engine = Engine::open(Config::default(), databases, clock).await.expect("engine");
    let shutdown = Shutdown::new();
    let sealing = tokio::spawn({
        let (engine, shutdown) = (engine.clone(), shutdown.clone());
        async move { engine.seal(shutdown).await }
    });
    let series = engine.register("default", &["a", "b", "c", "d"]).await.expect("numbers");
    let tenant: std::sync::Arc<str> = "default".into();
    let values: Vec<f64> = noise(5).take(250).map(|n| (n % 500) as f64 / 10.0).collect();
    let began = tokio::time::Instant::now();
    let mut waiting = std::collections::VecDeque::new();
    for i in 0..BATCHES {
        let start = NOW - 1_000_000 * SECOND + i as i64 * 250 * SECOND;
        let mut group = crate::system::group(series[0], start, SECOND, &values);
        let more = series[1..].iter().map(|n| crate::system::group(*n, start, SECOND, &values).channels.remove(0));
        group.channels.extend(more);
        waiting.push_back(engine.ingest(&tenant, crate::system::batch(i + 1, vec![group])).await.expect("queued"));
        if waiting.len() == 64 {
            let outcome = waiting.pop_front().expect("one").await.expect("durable");
            assert_eq!((outcome.accepted, outcome.duplicates()), (1000, 0));
        }
    }
    for outcome in waiting {
        outcome.await.expect("durable");
    }
    let rate = BATCHES as f64 * 1000.0 / began.elapsed().as_secs_f64();
    eprintln!("{:.0} readings/s in this build", rate);
    shutdown.request();
    sealing.await.expect("no panic").expect("sealed");
}
