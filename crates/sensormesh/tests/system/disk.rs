//! A disk that fills up, is full, and has room again: a real small one, for which the test mounts a tmpfs (as root).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sensormesh_testkit::postgres::Server;
use sensormesh_testkit::system::{Shape, System, eventually};
use serde_json::{Value, json};

use crate::{both_shapes, builder};

both_shapes!(a_full_disk_refuses_readings_serves_reads_and_recovers_by_itself);

/// A small disk, gone with this.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// `None`, with a message, where it may not be mounted.
    fn mount(mib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let size = format!("size={mib}m,mode=700");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output().ok();
        if mounted.is_some_and(|done| done.status.success()) {
            return Some(Self { folder });
        }
        sensormesh_testkit::skip("a tmpfs cannot be mounted here (it needs root)");
        None
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Another program writes until `left` MiB are free; 0: until nothing more goes onto the disk.
    fn fill(&self, left: usize) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.filler()).expect("the filler");
        let chunk = vec![1; 64 << 10];
        while left == 0 || self.free() > left << 20 {
            if file.write(&chunk).is_err() {
                return;
            }
        }
    }

    fn free(&self) -> usize {
        let output = Command::new("df").args(["--output=avail", "-B1"]).arg(self.path()).output().expect("df");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("a number")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.folder.path()).status().ok();
    }
}

async fn post(system: &System, admin: &str, value: u32) -> (u16, Value) {
    system.post("/sensors/lab.co2/data", admin, &json!({"value": value})).await.expect("an answer")
}

fn is_full(answer: &(u16, Value)) -> bool {
    let text = answer.1.to_string();
    answer.0 == 429 && text.contains("STORAGE_FULL") && text.contains("google.rpc.RetryInfo")
}

async fn overall(system: &System) -> String {
    let (_, health) = system.send("GET", "/health", None, None).await.expect("an answer");
    health["overall_status"].as_str().expect("a word").to_owned()
}

async fn a_full_disk_refuses_readings_serves_reads_and_recovers_by_itself(shape: Shape) {
    let Some(disk) = Disk::mount(160) else { return };
    let system = builder(shape)
        .below(disk.path())
        .setting("SENSORMESH_DISK__BALLAST", "8 MiB")
        .setting("SENSORMESH_DISK__LEAST_FREE", "8 MiB")
        .setting("SENSORMESH_DISK__WARN_FREE", "24 MiB")
        .start()
        .await
        .expect("the system starts");
    let admin = system.admin().await.expect("token");
    let ballast = system.data_dir().join("ballast");
    let patience = Duration::from_secs(30);
    let mut acknowledged = 0;
    let mut send = 0;
    for _ in 0..20 {
        let answer = post(&system, &admin, send).await;
        assert_eq!(answer.0, 200, "{}", answer.1);
        send += 1;
        acknowledged += 1;
    }
    assert_eq!(std::fs::metadata(&ballast).expect("the ballast").len(), 8 << 20);
    let healthy = || async { (overall(&system).await == "healthy").then_some(()) };
    eventually(patience, healthy).await.expect("healthy while there is room");

    // a warning comes first, and everything works
    disk.fill(20);
    let warned = || async { (overall(&system).await == "degraded").then_some(()) };
    eventually(patience, warned).await.expect("it warns before the disk is full");
    let answer = post(&system, &admin, send).await;
    assert_eq!(answer.0, 200, "it still takes readings: {}", answer.1);
    send += 1;
    acknowledged += 1;

    // below the least there must be: readings are refused, the rest works
    disk.fill(4);
    let refused = || async {
        let answer = post(&system, &admin, 999).await;
        is_full(&answer).then_some(())
    };
    // an attempt in the second until the disk is looked at may have been taken
    eventually(patience, refused).await.expect("refused with the reason");
    let count = || async {
        let (status, list) = system.get("/sensors/lab.co2/data?pageSize=1000", &admin).await.expect("an answer");
        assert_eq!(status, 200, "reads go on: {list}");
        list["readings"].as_array().expect("readings").len()
    };
    let before = count().await;
    assert!(before >= acknowledged, "{before} of {acknowledged}");
    let device = json!({"deviceId": "boiler", "name": "Boiler"});
    let (status, answer) = system.post("/v1/devices", &admin, &device).await.expect("an answer");
    assert_eq!(status, 200, "configuration goes on: {answer}");

    // nothing at all is left: the ballast is let go, and with it things can be deleted
    disk.fill(0);
    let gone = || async { (!ballast.exists()).then_some(()) };
    eventually(patience, gone).await.expect("the ballast is let go");
    assert!(is_full(&post(&system, &admin, 999).await), "readings may not have the ballast");
    let deleted = || async {
        let (status, _) = system.send("DELETE", "/v1/devices/boiler", Some(&admin), None).await.ok()?;
        (status == 200 || status == 404).then_some(())
    };
    eventually(patience, deleted).await.expect("deleting goes on");
    assert_eq!(count().await, before, "reads go on");

    // even that is taken by somebody: every write is refused with the reason, reads go on
    disk.fill(0);
    let attempt = std::sync::atomic::AtomicU32::new(0);
    let told = || async {
        disk.fill(0);
        // each time another one: there may have been room for the one before
        let number = attempt.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let device = json!({"deviceId": format!("boiler-{number}"), "name": "Boiler"});
        let answer = system.post("/v1/devices", &admin, &device).await.ok()?;
        is_full(&answer).then_some(())
    };
    eventually(patience, told).await.expect("a change of configuration is refused with the reason");
    assert_eq!(count().await, before, "reads go on");

    // room again: no restart, nothing lost
    std::fs::remove_file(disk.filler()).expect("removed");
    let taken = || async { (post(&system, &admin, send).await.0 == 200).then_some(()) };
    eventually(patience, taken).await.expect("accepted again");
    assert_eq!(count().await, before + 1, "everything acknowledged is there, nothing refused is");
    eventually(patience, || async { ballast.exists().then_some(()) }).await.expect("the ballast is made again");
    eventually(patience, healthy).await.expect("healthy again");
}

/// Readings of other times each; so many that a batch is a page of a table.
fn batch(number: u32) -> Value {
    let time = |n: u32| format!("2026-01-{:02}T{:02}:{:02}:{:02}Z", number / 24 + 1, number % 24, n / 60, n % 60);
    let value = |n: u32| f64::from(number * 500 + n).sin();
    let reading = |n| json!({"sensorId": "lab.n", "time": time(n), "value": value(n)});
    json!({"readings": (0..500).map(reading).collect::<Vec<_>>(), "backfill": true})
}

/// Its tables are on a disk that is full; its write-ahead log is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_postgresql_refuses_readings_serves_reads_and_recovers_by_itself() {
    let Some(disk) = Disk::mount(192) else { return };
    let server = match Server::start(Some(disk.path())) {
        Ok(server) => server,
        Err(error) => return sensormesh_testkit::skip(format_args!("no PostgreSQL server of its own: {error:#}")),
    };
    let system = builder(Shape::OneProcess).arg("--database-url").arg(&server.url).start().await.expect("it starts");
    let admin = system.admin().await.expect("token");
    let send = async |number| system.post("/v1/readings", &admin, &batch(number)).await.expect("an answer");
    let count = async || {
        let (status, list) = system.get("/sensors/lab.n/data?pageSize=10000", &admin).await.expect("an answer");
        assert_eq!(status, 200, "reads go on: {list}");
        list["readings"].as_array().expect("readings").len()
    };
    let mut number = 0;
    for _ in 0..5 {
        let answer = send(number).await;
        assert_eq!(answer.0, 200, "{}", answer.1);
        number += 1;
    }

    // pages that are there are still filled, then every attempt is told why, and no breaker hides it
    disk.fill(0);
    let mut refused = 0;
    for _ in 0..200 {
        disk.fill(0);
        let answer = send(number).await;
        if answer.0 == 200 {
            number += 1; // the server has found pages that it can fill again
        } else {
            assert!(is_full(&answer), "{} {}", answer.0, answer.1);
            refused += 1;
            // what goes on in the background has its turn, and fails too
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if refused == 20 {
            break;
        }
    }
    assert_eq!(refused, 20, "it is refused with the reason");
    assert_eq!(count().await, 500 * number as usize, "everything acknowledged is there, nothing refused is");
    let (status, answer) = system.get("/v1/readings:latest?sensorIds=lab.n", &admin).await.expect("an answer");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(overall(&system).await, "degraded", "the health tells of it");

    // room again: neither the server nor the system is started anew
    std::fs::remove_file(disk.filler()).expect("removed");
    let taken = || async { (send(number).await.0 == 200).then_some(()) };
    eventually(Duration::from_secs(30), taken).await.expect("accepted again");
    number += 1;
    assert_eq!(count().await, 500 * number as usize);
    let healthy = || async { (overall(&system).await == "healthy").then_some(()) };
    eventually(Duration::from_secs(30), healthy).await.expect("healthy again");
    drop(system);
    drop(server);
}
