//! Bits that flip, on disk and in backups: each is found, whatever it belongs to.

use std::fs;
use std::path::{Path, PathBuf};

use sensormesh_testkit::chance::Chance;
use sensormesh_testkit::system::{Shape, System};
use serde_json::json;

use crate::backup::program;
use crate::start;

/// How many bits are flipped in files that were closed and in backups, and in logs of a system that was killed; `TEST_BITS` says
/// another number.
const BITS: usize = 60;
const BITS_OF_LOGS: usize = 120;

fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, all);
        } else {
            all.push(path);
        }
    }
}

fn bits(usual: usize) -> usize {
    std::env::var("TEST_BITS").map_or(usual, |text| text.parse().expect("a number"))
}

/// Flips a bit somewhere in these files; answers in which, what it was before, and where.
fn flip<'a>(chance: &mut Chance, files: &'a [PathBuf]) -> (&'a Path, Vec<u8>, String) {
    let length = |path: &PathBuf| fs::metadata(path).expect("there").len();
    let mut at = chance.draw() % files.iter().map(length).sum::<u64>();
    let path = files
        .iter()
        .find(|path| {
            let here = at < length(path);
            if !here {
                at -= length(path);
            }
            here
        })
        .expect("a place");
    let bit = chance.draw() % 8;
    let honest = fs::read(path).expect("read");
    let mut bent = honest.clone();
    bent[usize::try_from(at).expect("small")] ^= 1 << bit;
    fs::write(path, &bent).expect("written");
    (path, honest, format!("bit {bit} of byte {at} of {}", path.display()))
}

fn words(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

/// Sends readings of three sensors.
async fn fill(system: &System) {
    let admin = system.admin().await.expect("token");
    for sensor in ["lab.a", "lab.b", "lab.c"] {
        for from in [0, 750] {
            let time = |n: u32| format!("2026-01-01T00:{:02}:{:02}Z", n / 60, n % 60);
            let reading = |n: u32| json!({"sensorId": sensor, "time": time(n), "value": f64::from(n) / 10.0});
            let readings: Vec<_> = (from..from + 750).map(reading).collect();
            let body = json!({"readings": readings, "backfill": true});
            let (status, answer) = system.post("/v1/readings", &admin, &body).await.expect("answer");
            assert_eq!(status, 200, "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_bit_is_found() {
    let mut system = start(Shape::OneProcess).await;
    fill(&system).await;
    system.stop().await.expect("stopped");
    let data = system.data_dir();
    let folder = tempfile::tempdir().expect("a folder");
    let backup = folder.path().join("backup");
    assert!(program(&["backup", "--output", &words(&backup), "--data-dir", &words(&data)]).status.success());
    let (mut databases, mut kept) = (Vec::new(), Vec::new());
    files(&data, &mut databases);
    databases.retain(|path| path.extension().is_some_and(|end| end == "db" || end == "sums"));
    assert!(databases.iter().any(|path| path.ends_with("telemetry.db.sums")), "sealed when it stopped: {databases:?}");
    files(&backup, &mut kept);
    let check_data = || program(&["check", "--data-dir", &words(&data)]);
    let check_backup = || program(&["check", &words(&backup)]);
    assert!(check_data().status.success() && check_backup().status.success());

    let (mut chance, count) = (Chance::new("bits"), bits(BITS));
    for i in 0..count {
        let of = if i % 2 == 0 { &databases } else { &kept };
        let (path, honest, what) = flip(&mut chance, of);
        let output = if i % 2 == 0 { check_data() } else { check_backup() };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{what} was not found: {said}");
        let stem =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next()).expect("name");
        assert!(said.contains(stem), "it names {stem}: {said}");
        fs::write(path, &honest).expect("written");
    }
    for output in [check_data(), check_backup()] {
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "all is as before: {said}");
    }

    // and a start does not serve what changed
    let path = data.join("devices.db");
    let mut bent = fs::read(&path).expect("read");
    let middle = bent.len() / 2;
    bent[middle] ^= 1;
    fs::write(&path, &bent).expect("written");
    let error = system.up().await.expect_err("refused").to_string() + &system.log();
    assert!(error.contains("devices.db is damaged"), "{error}");
}

/// The databases of a system that was killed, with what lies beside them, somewhere else.
struct Killed {
    folder: tempfile::TempDir,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Killed {
    fn of(data: &Path) -> Self {
        let mut all = Vec::new();
        files(data, &mut all);
        all.retain(|path| path.extension().is_some_and(|end| end.to_string_lossy().starts_with("db")));
        let folder = tempfile::tempdir().expect("a folder");
        let file = |path: &PathBuf| (PathBuf::from(path.file_name().expect("a name")), fs::read(path).expect("read"));
        Self { files: all.iter().map(file).collect(), folder }
    }

    /// Puts every file back as the kill left it: whoever opens a database writes a new index of its log.
    fn put(&self) {
        for (name, bytes) in &self.files {
            fs::write(self.folder.path().join(name), bytes).expect("written");
        }
    }

    fn ending(&self, end: &str) -> Vec<PathBuf> {
        let names = self.files.iter().map(|(name, _)| self.folder.path().join(name));
        names.filter(|path| path.extension().is_some_and(|found| found == end)).collect()
    }

    /// Takes away what was on its way when the kill came: what the index of a log (`-shm`) does not tell of was not synced.
    fn cut_unacknowledged(&self) {
        for log in self.ending("db-wal") {
            let index = fs::read(log.with_extension("db-shm")).expect("read");
            let number = |at: usize| u32::from_ne_bytes(index[at..at + 4].try_into().expect("four"));
            let page = u64::from(number(12) >> 16);
            let end = 32 + u64::from(number(16)) * (24 + page);
            let log = fs::File::options().write(true).open(log).expect("opened");
            let length = log.metadata().expect("there").len();
            log.set_len(end.min(length)).expect("cut");
        }
    }

    /// Every page of every database, as one that opens them sees them.
    async fn dump(&self) -> Vec<Vec<u8>> {
        let mut dump = Vec::new();
        for path in self.ending("db") {
            let copy = path.with_extension("copy");
            sensormesh_store::copy_database(&path, &copy).await.expect("copied");
            dump.push(fs::read(&copy).expect("read"));
        }
        dump
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_in_a_log_of_a_killed_system_is_found_or_changes_nothing() {
    let mut system = start(Shape::OneProcess).await;
    fill(&system).await;
    system.kill().await.expect("killed");
    let data = system.data_dir();
    let killed = Killed::of(&data);
    let logs = killed.ending("db-wal");
    assert_eq!(logs.len(), killed.ending("db").len(), "each has a log: {logs:?}");
    killed.put();
    let whole = killed.dump().await;
    killed.put();
    killed.cut_unacknowledged();
    let acknowledged = killed.dump().await;
    let check = || program(&["check", "--data-dir", &words(killed.folder.path())]);

    let (mut chance, count) = (Chance::new("bits of logs"), bits(BITS_OF_LOGS));
    let mut found = 0;
    for _ in 0..count {
        killed.put();
        let (path, _, what) = flip(&mut chance, &logs);
        let output = check();
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            let dump = killed.dump().await;
            let known = |(i, pages): (usize, &Vec<u8>)| *pages == whole[i] || *pages == acknowledged[i];
            assert!(dump.iter().enumerate().all(known), "{what} was not found and is served");
        } else {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            assert!(said.contains(&format!("{name} is damaged")), "{what}: it names {name}: {said}");
            found += 1;
        }
    }
    println!("{found} found");
    assert!(found > count / 2);
    killed.put();
    let output = check();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    // a start says the same, and again; nothing acknowledged is lost when the file is as it was
    killed.put();
    killed.cut_unacknowledged();
    for path in killed.ending("db-wal") {
        fs::copy(&path, data.join(path.file_name().expect("a name"))).expect("copied");
    }
    let path = data.join("telemetry-log.db-wal");
    let honest = fs::read(&path).expect("read");
    let mut bent = honest.clone();
    bent[32 + 24 + 100] ^= 1;
    fs::write(&path, &bent).expect("written");
    for _ in 0..2 {
        let error = system.up().await.expect_err("refused").to_string();
        assert!(system.log().contains("telemetry-log.db-wal is damaged: frame 1 of "), "{error}");
        system.kill().await.expect("killed");
    }
    fs::write(&path, &honest).expect("written");
    system.up().await.expect("it starts");
    let admin = system.admin().await.expect("token");
    for sensor in ["lab.a", "lab.b", "lab.c"] {
        let (status, list) =
            system.get(&format!("/sensors/{sensor}/data?pageSize=10000"), &admin).await.expect("answer");
        assert_eq!((status, list["readings"].as_array().map(Vec::len)), (200, Some(1500)), "{sensor}");
    }
}
