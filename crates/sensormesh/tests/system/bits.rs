//! Bits that flip, on disk and in backups: each is found, whatever it belongs to.

use std::fs;
use std::path::{Path, PathBuf};

use sensormesh_testkit::system::Shape;
use serde_json::json;

use crate::backup::program;
use crate::start;

/// How many bits are flipped; `TEST_BITS` says another number.
const BITS: usize = 60;

/// A sequence of numbers that a seed decides: splitmix64, <https://prng.di.unimi.it/splitmix64.c>.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

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

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_bit_is_found() {
    let mut system = start(Shape::OneProcess).await;
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
    system.stop().await.expect("stopped");
    let data = system.data_dir();
    let folder = tempfile::tempdir().expect("a folder");
    let backup = folder.path().join("backup");
    let words = |path: &Path| path.to_str().expect("text").to_owned();
    assert!(program(&["backup", "--output", &words(&backup), "--data-dir", &words(&data)]).status.success());
    let (mut databases, mut kept) = (Vec::new(), Vec::new());
    files(&data, &mut databases);
    databases.retain(|path| path.extension().is_some_and(|end| end == "db" || end == "sums"));
    assert!(databases.iter().any(|path| path.ends_with("telemetry.db.sums")), "sealed when it stopped: {databases:?}");
    files(&backup, &mut kept);
    let check_data = || program(&["check", "--data-dir", &words(&data)]);
    let check_backup = || program(&["check", &words(&backup)]);
    assert!(check_data().status.success() && check_backup().status.success());

    let seed = variable("TEST_SEED").unwrap_or_else(|| u64::from_le_bytes(sensormesh_types::random::bytes()));
    let count = variable("TEST_BITS").map_or(BITS, |n| usize::try_from(n).expect("small"));
    println!("{count} bits, TEST_SEED={seed}");
    let mut numbers = Numbers(seed);
    for i in 0..count {
        let of = if i % 2 == 0 { &databases } else { &kept };
        let total: u64 = of.iter().map(|path| fs::metadata(path).expect("there").len()).sum();
        let mut at = numbers.next() % total;
        let path = of
            .iter()
            .find(|path| {
                let length = fs::metadata(path).expect("there").len();
                let here = at < length;
                if !here {
                    at -= length;
                }
                here
            })
            .expect("a place");
        let bit = numbers.next() % 8;
        let honest = fs::read(path).expect("read");
        let mut bent = honest.clone();
        bent[usize::try_from(at).expect("small")] ^= 1 << bit;
        fs::write(path, &bent).expect("written");
        let output = if i % 2 == 0 { check_data() } else { check_backup() };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "bit {bit} of byte {at} of {} was not found: {said}", path.display());
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
