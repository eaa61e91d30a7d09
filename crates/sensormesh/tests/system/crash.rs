//! The program is killed, and its power is cut, at random moments under load: what it acknowledged is there, once, and no place
//! in the log is given twice. `CRASH_POINTS` says how often; `make crash` does it 200 times.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sensormesh_testkit::chance::Chance;
use sensormesh_testkit::system::{Shape, System};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::builder;
use crate::powercut::{Left, PowerCut};

/// How often it is killed where nothing else is said.
const POINTS: u32 = 12;
/// A start has about so many writes and syncs: databases are made and migrated.
const FIRST_MOMENTS: usize = 2_000;
/// What must not happen, as `sensormesh load` counts it.
const FAULTS: [&str; 8] = ["lost", "phantom", "duplicate", "gap", "reorder", "rewind", "mismatch", "reused"];
/// Both doors: batches in streams, one of whose lanes has arbitrary values too, and small calls.
const LOADS: [&[&str]; 2] = [
    &["--sensors", "40", "--lanes", "2", "--batch", "200", "--rate", "20000"],
    &["--calls", "--sensors", "24", "--lanes", "8", "--batch", "3", "--rate", "600"],
];

/// What is done to the system at each point.
#[derive(Clone, Copy, PartialEq)]
enum Harm {
    Kill,
    /// It is killed before or after one of its writes or syncs, in the start, which may be the first of all, or later.
    AtMoment,
    PowerCut,
    /// A power cut under a system that acknowledges before the log of readings is synced.
    EarlyAcknowledgement,
}

fn points() -> u32 {
    std::env::var("CRASH_POINTS").map_or(POINTS, |points| points.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_it_loses_nothing_and_repeats_nothing() {
    for found in run(Harm::Kill, points()).await.expect("the rig works") {
        assert!(faults(&found).is_empty(), "{found:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_killed_around_a_write_or_a_sync_it_loses_nothing_and_repeats_nothing() {
    for found in run(Harm::AtMoment, points().div_ceil(2)).await.expect("the rig works") {
        assert!(faults(&found).is_empty(), "{found:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_killed_in_its_first_start_it_starts_the_next_time() {
    let mut chance = Chance::new("first start");
    let work = tempfile::tempdir().expect("a folder");
    let mut system = builder(Shape::OneProcess).start().await.expect("starts");
    system.stop().await.expect("stopped");
    PowerCut::prepare(&mut system, work.path(), None);
    system.set("POWERCUT_DELAY", "0");
    let mut killed = 0;
    let points = points().div_ceil(2);
    for _ in 0..points {
        std::fs::remove_dir_all(system.data_dir()).expect("removed");
        std::fs::create_dir(system.data_dir()).expect("empty");
        system.set("POWERCUT_KILL", (1 + chance.below(FIRST_MOMENTS)).to_string());
        killed += u32::from(system.up().await.is_err());
        system.kill().await.expect("killed");
        system.set("POWERCUT_KILL", "0");
        system.up().await.expect("it starts");
        let admin = system.admin().await.expect("and lets the administrator in");
        assert_eq!(system.get("/v1/devices", &admin).await.expect("an answer").0, 200);
        system.stop().await.expect("stopped");
        system.command(&["check"]).await.expect("every checksum holds");
    }
    eprintln!("{killed} of {points} were killed");
    assert!(killed > 0, "it has as many moments");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_power_at_random_it_loses_nothing_and_repeats_nothing() {
    for found in run(Harm::PowerCut, points()).await.expect("the rig works") {
        assert!(faults(&found).is_empty(), "{found:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_before_the_sync_is_found_out() {
    let found = run(Harm::EarlyAcknowledgement, 3).await.expect("the rig works");
    for found in found {
        assert!(faults(&found).contains(&"lost"), "the rig must see what such a system loses: {found:#}");
    }
}

fn faults(found: &Value) -> Vec<&'static str> {
    FAULTS.into_iter().filter(|fault| found[fault] != 0).collect()
}

/// Harms a system under load so many times; answers what each load found.
async fn run(harm: Harm, points: u32) -> Result<Vec<Value>> {
    let mut chance = Chance::new("crash");
    let work = tempfile::tempdir()?;
    let mut system = builder(Shape::OneProcess).start().await?;
    let cut = match harm {
        Harm::Kill => None,
        _ => {
            system.stop().await?;
            let deceive = (harm == Harm::EarlyAcknowledgement).then_some("telemetry-log.db");
            let cut = PowerCut::prepare(&mut system, work.path(), deceive);
            system.up().await?;
            Some(cut)
        }
    };
    let mut loads = Vec::new();
    for (number, shape) in LOADS.iter().enumerate() {
        loads.push(load(&system, &work.path().join(format!("history-{number}")), shape)?);
    }
    let (mut starts, mut unsynced, mut struck) = (Vec::new(), Vec::new(), 0);
    for point in 0..points {
        sleep(chance.millis(20, 1200)).await;
        if harm == Harm::AtMoment {
            system.kill().await?;
            system.set("POWERCUT_KILL", (1 + chance.below(FIRST_MOMENTS)).to_string());
            let ended = match system.up().await {
                Ok(()) => timeout(Duration::from_secs(5), system.ended()).await.is_ok(),
                Err(_) => true,
            };
            struck += u32::from(ended);
            system.set("POWERCUT_KILL", "0");
        }
        // some die while they stop or start
        match chance.below(10) {
            // its checksums would tell of what was never synced
            0 if matches!(harm, Harm::Kill | Harm::PowerCut) => {
                terminate(system.pid())?;
                sleep(chance.millis(1, 400)).await;
            }
            1 if harm != Harm::AtMoment => {
                system.kill().await?;
                timeout(chance.millis(1, 1000), system.up()).await.ok();
            }
            _ => {}
        }
        system.kill().await?;
        if let Some(cut) = cut.as_ref().filter(|_| harm != Harm::AtMoment) {
            let left = match (harm, point % 4) {
                (Harm::EarlyAcknowledgement, _) | (_, 0) => Left::Nothing,
                (_, 1) => Left::Some,
                (_, 2) => Left::Sectors,
                _ => Left::All,
            };
            unsynced.push(cut.cut(&mut chance, left));
        }
        let began = Instant::now();
        system.up().await.with_context(|| format!("after point {point}"))?;
        starts.push(began.elapsed().as_secs_f64());
    }
    anyhow::ensure!(harm != Harm::AtMoment || struck > points / 3, "the moment came {struck} times in {points}");
    sleep(Duration::from_secs(1)).await;
    let mut found = Vec::new();
    for load in loads {
        found.push(outcome(load).await?);
    }
    starts.sort_by(f64::total_cmp);
    let middle = starts.get(starts.len() / 2).copied().unwrap_or_default();
    let last = starts.last().copied().unwrap_or_default();
    eprintln!("{points} points; back after {middle:.2} s, at most {last:.2} s; writes undone: {unsynced:?}");
    found.iter().for_each(|found| eprintln!("{found}"));
    if harm != Harm::EarlyAcknowledgement {
        system.stop().await?;
        system.command(&["check"]).await.context("every checksum holds")?;
    }
    Ok(found)
}

/// Starts a load that goes on until it is told to stop.
fn load(system: &System, history: &Path, shape: &[&str]) -> Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sensormesh"));
    command.args(["load", "--json", "--duration", "1d"]).args(shape).arg("--history").arg(history);
    command.arg("--data-dir").arg(system.data_dir()).arg("--port-base").arg(system.port_base.to_string());
    for name in ["SENSORMESH_CONFIG", "SENSORMESH_DATA_DIR"] {
        command.env_remove(name);
    }
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?)
}

/// Tells a load to stop; answers its line.
async fn outcome(load: Child) -> Result<Value> {
    terminate(load.id())?;
    let output = timeout(Duration::from_secs(300), load.wait_with_output()).await.context("it does not end")??;
    serde_json::from_slice(&output.stdout).with_context(|| format!("ended with {} and no verdict", output.status))
}

fn terminate(pid: Option<u32>) -> Result<()> {
    let pid = pid.context("it ended by itself")?;
    std::process::Command::new("kill").arg(pid.to_string()).status()?;
    Ok(())
}
