//! A backup of a running system, restored; and `check`, which finds what is not as it was written.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sensormesh_testkit::postgres;
use sensormesh_testkit::system::{Shape, System};
use serde_json::{Value, json};

use crate::streams::{Events, live};
use crate::{both_shapes, start};

both_shapes!(a_backup_of_a_running_system_is_restored_with_everything_acknowledged_before);

/// Runs a command of the program that may fail.
pub fn program(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sensormesh"));
    for name in ["DATABASE_URL", "DATABASE_URL_FILE", "SENSORMESH_CONFIG", "SENSORMESH_DATA_DIR"] {
        command.env_remove(name);
    }
    command.args(args).output().expect("the program runs")
}

/// What it said, and whether it succeeded.
fn said(output: &Output) -> (bool, String) {
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

async fn values(system: &System, admin: &str) -> Vec<u64> {
    let path = "/sensors/lab.n/data?pageSize=10000";
    let (status, list) = system.get(path, admin).await.expect("an answer");
    assert_eq!(status, 200, "{list}");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the test sends whole numbers
    let mut values: Vec<u64> = list["readings"]
        .as_array()
        .expect("readings")
        .iter()
        .map(|reading| reading["value"].as_f64().expect("a number") as u64)
        .collect();
    values.sort_unstable();
    values
}

/// One batch of readings, so many and with these values, one a second from the year 2026 on.
fn batch(from: u64, count: u64) -> Value {
    let readings: Vec<Value> = (from..from + count)
        .map(|n| {
            let time = format!("2026-01-01T{:02}:{:02}:{:02}Z", n / 3600, n / 60 % 60, n % 60);
            json!({"sensorId": "lab.n", "time": time, "value": n})
        })
        .collect();
    json!({"readings": readings, "backfill": true})
}

async fn a_backup_of_a_running_system_is_restored_with_everything_acknowledged_before(shape: Shape) {
    let mut system = start(shape).await;
    let admin = system.admin().await.expect("token");
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    // more than a block, so that some are sealed and some are not
    let mut sent = 0;
    for _ in 0..3 {
        let (status, answer) = system.post("/v1/readings", &admin, &batch(sent, 700)).await.expect("answer");
        assert_eq!(status, 200, "{answer}");
        sent += 700;
    }
    let within = system.data_dir().join("backups/first");
    let refused = system.command(&["backup", "--output", text(&within)]).await.expect_err("it would copy itself");
    assert!(refused.to_string().contains("into itself") && !within.exists(), "{refused:?}");
    let done = system.command(&["backup", "--output", text(&first)]).await.expect("the first backup");
    assert!(done.contains("everything is as it was written"), "{done}");

    // while others write
    let stop = AtomicBool::new(false);
    let load = async {
        let mut at = sent;
        while !stop.load(Ordering::Relaxed) {
            let (status, answer) = system.post("/v1/readings", &admin, &batch(at, 50)).await.expect("answer");
            assert_eq!(status, 200, "{answer}");
            at += 50;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        at
    };
    let backup = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let acknowledged = values(&system, &admin).await.len() as u64;
        let args = ["backup", "--output", text(&second), "--base", text(&first)];
        let done = system.command(&args).await.expect("the second backup");
        stop.store(true, Ordering::Relaxed);
        (acknowledged, done)
    };
    let (at, (acknowledged, done)) = tokio::join!(load, backup);
    assert!(done.contains("everything is as it was written"), "{done}");
    let number = |word: &str| -> u64 {
        let before = done.split(word).next().and_then(|text| text.split_whitespace().last()).expect("a number");
        before.parse().expect("a number")
    };
    assert!(number(" of them new") < number(" bytes,"), "what did not change is shared: {done}");
    assert!(acknowledged <= at && acknowledged > sent);

    let watch = "/v1/readings:watch?sensorIds=lab.n";
    let mut events = Events::new(watch, &admin);
    live(&mut events, &system).await;

    system.stop().await.expect("stopped");
    let data = system.data_dir();
    let (ok, words) = said(&program(&["check", "--data-dir", text(&data)]));
    assert!(ok, "{words}");
    let (ok, words) = said(&program(&["check", text(&second)]));
    assert!(ok, "{words}");
    let (ok, words) = said(&program(&["restore", text(&second), "--data-dir", text(&data)]));
    assert!(!ok && words.contains("not overwritten"), "{words}");
    std::fs::rename(&data, folder.path().join("old life")).expect("moved away");
    // the earlier backup is not needed for the later one
    std::fs::remove_dir_all(&first).expect("removed");
    let (ok, words) = said(&program(&["restore", text(&second), "--data-dir", text(&data)]));
    assert!(ok, "{words}");
    system.up().await.expect("the restored system starts");
    let admin = system.admin().await.expect("the same users");
    let (status, refused) =
        system.get(&format!("{watch}&cursor={}", events.cursor()), &admin).await.expect("an answer");
    assert_eq!((status, &refused["code"]), (400, &json!(11)), "a cursor of the old life: {refused}");
    assert!(refused["message"].as_str().is_some_and(|words| words.contains("earlier life")), "{refused}");
    let kept = values(&system, &admin).await;
    assert!(kept.len() as u64 >= acknowledged, "{} of {acknowledged} acknowledged", kept.len());
    assert!(kept.iter().copied().eq(0..kept.len() as u64), "a beginning of what was sent, each once");
    let (status, answer) = system.post("/v1/readings", &admin, &batch(kept.len() as u64, 5)).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(values(&system, &admin).await.len(), kept.len() + 5, "it goes on");
    system.stop().await.expect("stopped");
    system.up().await.expect("and again");
    let admin = system.admin().await.expect("token");
    assert_eq!(values(&system, &admin).await.len(), kept.len() + 5);
    let (ok, words) = said(&program(&["check", "--data-dir", text(&data), "--json"]));
    let json: Value = serde_json::from_str(&words).unwrap_or_else(|_| panic!("{words}"));
    assert!(ok && json["ok"] == true, "{words}");
}

#[test]
fn databases_on_postgres_are_left_to_its_own_backups() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("backup");
    let args = ["backup", "--output", text(&output), "--database-url", "postgres://nowhere/x"];
    let (ok, words) = said(&program(&args));
    assert!(!ok && words.contains("pg_dump"), "{words}");
    assert!(!output.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_on_postgres_is_checked() {
    let Some(url) = postgres::url_for_new_database() else { return };
    let mut system =
        crate::builder(Shape::OneProcess).arg("--database-url").arg(&url).start().await.expect("the system starts");
    let admin = system.admin().await.expect("token");
    let (status, answer) = system.post("/v1/readings", &admin, &batch(0, 900)).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
    let check = || said(&program(&["check", "--database-url", &url]));
    let (ok, words) = check();
    assert!(ok, "{words}");
    system.stop().await.expect("stopped");
    let config = sensormesh_store::Config::at(&url);
    let open = sensormesh_telemetry::Databases::open(&config, sensormesh_types::Clock::system());
    let databases = open.await.expect("the databases");
    let scope = sensormesh_types::Scope::system();
    let mut tx = databases.log.tx(&scope).await.expect("tx");
    // no checksum of the body alone would tell
    tx.query("UPDATE reading_log SET time = time + 1").execute().await.expect("changed");
    tx.commit().await.expect("commit");
    let (ok, words) = check();
    assert!(
        !ok && words.contains("telemetry-log") && words.contains("reading_log") && words.contains("seq="),
        "{words}"
    );
}
