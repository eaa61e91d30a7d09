//! One service after the other with a clock that is wrong.

use std::time::Duration;

use sensormesh_testkit::clockshift::ClockShift;
use sensormesh_testkit::system::{Shape, eventually};
use serde_json::json;

use super::{BEHIND, acknowledged, becomes_healthy, stored};
use crate::start;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: every service with every wrong clock"]
async fn f38_a_service_whose_clock_is_wrong_breaks_nothing_for_long() {
    let work = tempfile::tempdir().expect("a folder");
    let mut system = start(Shape::Split).await;
    let admin = system.admin().await.expect("token");
    system.kill().await.expect("killed");
    let mut shifts = Vec::new();
    for service in BEHIND.into_iter().chain(["edge"]) {
        let folder = work.path().join(service);
        std::fs::create_dir(&folder).expect("a folder");
        let shift = ClockShift::prepare(&folder).expect("a clock");
        system.start_alone(service, &shift.environment()).expect("started");
        shifts.push((service, shift));
    }
    becomes_healthy(&system).await;
    let (mut sent, mut refused) = (0, Vec::new());
    for (service, shift) in &shifts {
        let pid = system.service_pid(service).expect("pid");
        for ahead in [HOUR, -HOUR, 10 * 366 * DAY, -50 * 365 * DAY, 1] {
            shift.ahead(ahead).expect("moved");
            for _ in 0..10 {
                // refused where times or certificates are judged by the wrong clock; never a failure of ours
                let time = jiff::Timestamp::now().to_string();
                let body = json!({"readings": [{"sensorId": "lab.other", "time": time, "value": 1}]});
                let (status, answer) = system.post("/sensors/data", &admin, &body).await.expect("the edge answers");
                assert!([200, 400, 401, 403, 429, 503, 504].contains(&status), "{service} {ahead}: {status} {answer}");
                if status != 200 && !refused.contains(&(*service, ahead, status)) {
                    refused.push((*service, ahead, status));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let (status, _) = system.send("GET", "/health", None, None).await.expect("the edge answers");
            assert_eq!(status, 200, "{service} {ahead}");
        }
        shift.ahead(0).expect("right again");
        becomes_healthy(&system).await;
        let ready = eventually(Duration::from_secs(30), || async { system.is_ready(service).await.then_some(()) });
        assert!(ready.await.is_some(), "{service}: {}", system.log());
        assert!(acknowledged(&system, &admin, sent).await, "after {service} is right again");
        sent += 1;
        assert_eq!(system.service_pid(service).expect("pid"), pid, "{service} is the same process");
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "{service} lives");
    }
    eprintln!("refused: {refused:?}");
    let edge = |ahead| refused.contains(&("edge", ahead, 401));
    assert!(edge(HOUR) && edge(10 * 366 * DAY), "a token that is over is refused by the clock: {refused:?}");
    assert_eq!(stored(&system, &admin).await, (0..sent).collect::<Vec<_>>());
}
