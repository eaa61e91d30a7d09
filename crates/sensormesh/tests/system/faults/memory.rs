//! A service that may use little memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use h2::RecvStream;
use sensormesh_testkit::system::{Shape, System, eventually};
use serde_json::json;
use tokio::time::timeout;

use super::abuse::connection;
use super::becomes_healthy;
use crate::builder;

const LIMIT: u64 = 128 << 20;

/// A control group with so much memory, gone with this; the processes in it go to the one above.
struct Group(PathBuf);

impl Group {
    /// `None`, with a message, where none can be made.
    fn make(limit: u64) -> Option<Self> {
        let name = format!("sensormesh-test-{}", std::process::id());
        let versions = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        for (root, file) in versions {
            let group = Self(Path::new(root).join(&name));
            if std::fs::create_dir(&group.0).is_ok()
                && std::fs::write(group.0.join(file), limit.to_string()).is_ok()
                && group.0.join("cgroup.procs").exists()
            {
                return Some(group);
            }
        }
        sensormesh_testkit::skip("no control group with a limit of memory can be made here (it needs root)");
        None
    }

    fn take(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("moved");
    }

    fn release(&self, pid: u32) {
        std::fs::write(self.0.with_file_name("cgroup.procs"), pid.to_string()).expect("moved");
    }

    /// How many processes were killed for want of memory, and how often there was none, as far as the kernel tells.
    fn events(&self) -> String {
        let read = |file: &str| std::fs::read_to_string(self.0.join(file)).unwrap_or_default().replace('\n', " ");
        ["memory.events", "memory.oom_control", "memory.failcnt", "memory.max_usage_in_bytes"].map(read).join(" ")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for pid in std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            std::fs::write(self.0.with_file_name("cgroup.procs"), pid).ok();
        }
        std::fs::remove_dir(&self.0).ok();
    }
}

/// Exports whose readers take nothing, so many on each of so many connections; answers those that began, and how many were refused.
async fn stalled(
    system: &System,
    token: &str,
    sensors: &[String],
    connections: usize,
    each: usize,
) -> (Vec<RecvStream>, usize) {
    let (mut held, mut refused) = (Vec::new(), 0);
    for n in 0..connections {
        let send = connection(system, 0).await;
        let exports = (0..each).map(|m| {
            let request =
                http::Request::get(format!("http://localhost/sensors/{}/data", sensors[(n + m) % sensors.len()]))
                    .header("accept", "text/csv")
                    .header("authorization", format!("Bearer {token}"))
                    .body(())
                    .expect("a request");
            let send = send.clone();
            async move {
                let (response, _) = send.ready().await.expect("room").send_request(request, true).expect("sent");
                response.await.expect("the connection lives")
            }
        });
        let answers = futures::future::join_all(exports);
        for response in timeout(Duration::from_secs(20), answers).await.expect("answered in time") {
            match response.status().as_u16() {
                200 => held.push(response.into_body()),
                429 => refused += 1,
                other => panic!("{other}"),
            }
        }
    }
    (held, refused)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: a thousand exports"]
async fn f07_with_little_memory_exports_are_refused_and_the_process_lives() {
    let Some(group) = Group::make(LIMIT) else { return };
    let generous = builder(Shape::Split)
        .setting("SENSORMESH_EDGE__USER_RATE__PER_SECOND", "0")
        .setting("SENSORMESH_EDGE__STREAMS_PER_CALLER", "4000")
        // so that memory is what is short
        .setting("SENSORMESH_TELEMETRY__LONG_READS", "4000");
    let system = generous.start().await.expect("starts");
    // telemetry is born into the group, and is alone in it
    let supervisor = system.pid().expect("it runs");
    group.take(supervisor);
    let before = system.service_pid("telemetry").expect("pid");
    system.kill_service("telemetry").expect("killed");
    let born = || async { system.service_pid("telemetry").ok().filter(|pid| *pid != before) };
    let pid = eventually(Duration::from_secs(30), born).await.expect("started by the supervisor");
    group.release(supervisor);
    let knows = || async { system.log().contains("memory=128 MiB").then_some(()) };
    eventually(Duration::from_secs(30), knows).await.expect("it knows its limit");
    becomes_healthy(&system).await;

    let admin = system.admin().await.expect("token");
    let load = ["load", "--duration", "10s", "--sensors", "16", "--batch", "1000", "--no-check", "--no-watch"];
    system.command(&load).await.expect("loaded");
    let (_, list) = system.get("/v1/sensors?pageSize=100", &admin).await.expect("an answer");
    let ids = list["sensors"].as_array().expect("sensors").iter().filter_map(|sensor| sensor["sensorId"].as_str());
    let ids: Vec<String> = ids.filter(|id| id.starts_with("load-")).map(str::to_owned).collect();
    let (held, refused) = stalled(&system, &admin, &ids, 30, 50).await;
    eprintln!("{} exports began, {refused} were refused; {}", held.len(), group.events());
    assert!(!held.is_empty() && refused > 0, "some begin, and not all");
    let operations = format!("http://127.0.0.1:{}/health", system.address("telemetry").port() + 1000);
    let health = system.http().get(operations).send().await.expect("an answer").text().await.expect("text");
    assert!(health.contains("of 128 MiB of memory are used"), "it says so: {health}");
    assert_eq!(system.service_pid("telemetry").expect("pid"), pid, "the same process");
    // and once nobody wants anything it is well again
    drop(held);
    becomes_healthy(&system).await;
    let taken = eventually(Duration::from_secs(30), || async {
        (system.post("/sensors/lab.n/data", &admin, &json!({"value": 1})).await.ok()?.0 == 200).then_some(())
    });
    taken.await.expect("readings are taken");
}
