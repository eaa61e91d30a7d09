//! The loss matrix, row by row, on both databases: what goes on without a service, and what it comes down to. The service hangs
//! (its process is stopped), which is harder on the others than its death; `failure` kills each.

use std::time::Duration;

use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_proto::telemetry::v1::{IngestReadingRequest, ListReadingsRequest};
use sensormesh_testkit::postgres::{Server, run, url_for_new_database};
use sensormesh_testkit::system::{Builder, Shape, System, eventually};
use serde_json::{Value, json};

use crate::builder;
use crate::operator::channel;
use crate::streams::Events;

const PATIENCE: Duration = Duration::from_secs(60);
const TELEMETRY: u16 = 3;
const SERVICES: [&str; 7] = ["edge", "auth", "devices", "telemetry", "adapters", "rooms", "commissioning"];

/// A system with a room `lab`, where `lab.co2` was 1, and an administrator's token.
async fn built(builder: Builder) -> (System, String) {
    let system = builder.start().await.expect("the system starts");
    let admin = system.admin().await.expect("token");
    for (path, body) in [
        ("/sensors/lab.co2/data", json!({"value": 1})),
        ("/v1/places", json!({"placeId": "lab", "kind": "PLACE_KIND_ROOM", "name": "Lab"})),
    ] {
        let (status, answer) = system.post(path, &admin, &body).await.expect("answer");
        assert_eq!(status, 200, "{path}: {answer}");
    }
    // rooms hears of the sensor a moment later
    let placement = json!({"sensorId": "lab.co2", "roomId": "lab", "metric": "co2"});
    let placed = eventually(PATIENCE, || async {
        (system.post("/v1/placements", &admin, &placement).await.ok()?.0 == 200).then_some(())
    });
    placed.await.expect("placed");
    once(&system, &admin, "/rooms/lab/metrics", |status, room| status == 200 && value(room) == 1.0).await;
    (system, admin)
}

/// The room's one value.
fn value(room: &Value) -> f64 {
    room["metrics"][0]["value"].as_f64().unwrap_or(f64::NAN)
}

/// Asks until the answer is such.
async fn once(system: &System, token: &str, path: &str, such: impl Fn(u16, &Value) -> bool) -> Value {
    let found = eventually(PATIENCE, || async {
        let (status, answer) = system.get(path, token).await.ok()?;
        such(status, &answer).then_some(answer)
    });
    match found.await {
        Some(answer) => answer,
        None => panic!("{path} stays {:?}", system.get(path, token).await),
    }
}

/// These go on: each is asked, and answers.
async fn go_on(system: &System, token: &str, paths: &[&str]) {
    for path in paths {
        let (status, answer) = system.get(path, token).await.expect("an answer");
        assert_eq!(status, 200, "{path}: {answer}");
    }
}

async fn is_taken(system: &System, token: &str, reading: f64) {
    let (status, answer) =
        system.post("/sensors/lab.co2/data", token, &json!({"value": reading})).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
}

/// Refused in the end, with when to try again.
async fn is_refused(system: &System, token: &str, path: &str) {
    once(system, token, path, |status, answer| status == 503 && answer.to_string().contains("RetryInfo")).await;
}

/// Refused in the end, with when to try again.
async fn log_in_is_refused(system: &System) {
    let body = json!({"username": "admin", "password": system.admin_password().expect("password")});
    let refused = eventually(PATIENCE, || async {
        let (status, answer) = system.send("POST", "/token", None, Some(&body)).await.ok()?;
        (status == 503 && answer.to_string().contains("RetryInfo")).then_some(())
    });
    refused.await.expect("log-in says when to try again");
}

const READINGS: &str = "/sensors/lab.co2/data";
const DEVICES: &str = "/v1/devices";
const ROOM: &str = "/rooms/lab/metrics";
const CONNECTIONS: &str = "/v1/connections";
const TESTS: &str = "/v1/tests";
const PLACES: &str = "/v1/places";

async fn without_edge_services_serve_and_a_browser_resumes(builder: Builder) {
    let (system, admin) = built(builder).await;
    let mut events = Events::new("/v1/readings:watch?sensorIds=lab.co2", &admin);
    while events.next(&system, PATIENCE).await.expect("a message")["bookmark"]["live"] != true {}
    system.freeze_service("edge", true).expect("frozen");
    let mut telemetry = TelemetryServiceClient::new(channel(&system, TELEMETRY, Some("operator")));
    for value in [2.0, 3.0] {
        let request = IngestReadingRequest { sensor_id: "lab.co2".into(), value: Some(value), ..Default::default() };
        telemetry.ingest_reading(request).await.expect("taken");
    }
    let request = ListReadingsRequest { sensor_id: "lab.co2".into(), ..Default::default() };
    let list = telemetry.list_readings(request).await.expect("listed").into_inner();
    assert_eq!(list.readings.len(), 3);
    system.kill_service("edge").expect("killed, and started by the supervisor");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let message = events.next(&system, PATIENCE).await.expect("a message");
        seen.extend(message["readings"].as_array().into_iter().flatten().filter_map(|r| r["value"].as_f64()));
    }
    assert_eq!(seen, [2.0, 3.0]);
}

async fn without_auth_tokens_hold_and_nobody_logs_in(builder: Builder) {
    let (system, admin) = built(builder).await;
    system.freeze_service("auth", true).expect("frozen");
    is_taken(&system, &admin, 2.0).await;
    go_on(&system, &admin, &[READINGS, DEVICES, ROOM, CONNECTIONS, TESTS]).await;
    log_in_is_refused(&system).await;
    is_taken(&system, &admin, 3.0).await;
    system.freeze_service("auth", false).expect("thawed");
    let back = eventually(PATIENCE, || async { system.admin().await.ok() });
    back.await.expect("log-in works again");
}

async fn without_devices_known_sensors_go_on_and_new_ones_wait(builder: Builder) {
    let (system, admin) = built(builder).await;
    system.freeze_service("devices", true).expect("frozen");
    is_taken(&system, &admin, 2.0).await;
    let new = json!({"readings": [{"sensorId": "lab.new", "value": 7}]});
    let (status, answer) = system.post("/sensors/data", &admin, &new).await.expect("answer");
    assert_eq!((status, &answer["results"][0]["verdict"]), (200, &json!("VERDICT_QUARANTINED")), "{answer}");
    go_on(&system, &admin, &[READINGS, ROOM, CONNECTIONS, TESTS]).await;
    is_refused(&system, &admin, DEVICES).await;
    system.freeze_service("devices", false).expect("thawed");
    let found = once(&system, &admin, "/sensors/lab.new/data", |status, list| {
        status == 200 && list["readings"].as_array().is_some_and(|readings| !readings.is_empty())
    })
    .await;
    assert_eq!(found["readings"][0]["value"], 7.0, "replayed: {found}");
}

async fn without_telemetry_readings_wait_and_rooms_are_stale(builder: Builder) {
    let (system, admin) = built(builder).await;
    system.freeze_service("telemetry", true).expect("frozen");
    let room = once(&system, &admin, ROOM, |status, room| status == 200 && room["metrics"][0]["stale"] == true).await;
    assert_eq!(value(&room), 1.0, "the last known: {room}");
    let reading = json!({"value": 2, "time": jiff::Timestamp::now().to_string()});
    let kept = eventually(PATIENCE, || async {
        let (status, receipt) = system.post(READINGS, &admin, &reading).await.ok()?;
        (status == 202).then_some(receipt)
    });
    kept.await.expect("accepted for later");
    go_on(&system, &admin, &[DEVICES, CONNECTIONS, TESTS]).await;
    system.admin().await.expect("log-in works");
    is_refused(&system, &admin, READINGS).await;
    system.freeze_service("telemetry", false).expect("thawed");
    once(&system, &admin, ROOM, |_, room| value(room) == 2.0 && room["metrics"][0]["stale"] == false).await;
}

async fn without_adapters_rooms_or_commissioning_all_else_goes_on(builder: Builder) {
    let (system, admin) = built(builder).await;
    let mut reading = 1.0;
    for (service, its_own) in [("adapters", CONNECTIONS), ("rooms", ROOM), ("commissioning", TESTS)] {
        system.freeze_service(service, true).expect("frozen");
        reading += 1.0;
        is_taken(&system, &admin, reading).await;
        let others: Vec<&str> =
            [READINGS, DEVICES, ROOM, CONNECTIONS, TESTS].into_iter().filter(|path| *path != its_own).collect();
        go_on(&system, &admin, &others).await;
        is_refused(&system, &admin, its_own).await;
        system.freeze_service(service, false).expect("thawed");
        once(&system, &admin, its_own, |status, _| status == 200).await;
    }
    once(&system, &admin, ROOM, |_, room| value(room) == reading).await;
}

async fn without_a_collector_or_the_authoritys_key_nothing_is_missing(builder: Builder) {
    let nobody = builder.setting("SENSORMESH_LOG__OTLP_ENDPOINT", "http://127.0.0.1:9");
    let (system, admin) = built(nobody).await;
    std::fs::remove_file(system.data_dir().join("pki/ca-key.pem")).expect("the authority is lost");
    let before = system.service_pid("rooms").expect("pid");
    system.kill_service("rooms").expect("killed");
    is_taken(&system, &admin, 2.0).await;
    go_on(&system, &admin, &[READINGS, DEVICES, CONNECTIONS, TESTS]).await;
    once(&system, &admin, ROOM, |status, room| status == 200 && value(room) == 2.0).await;
    assert_ne!(system.service_pid("rooms").expect("pid"), before, "a new process, with the certificate that is there");
}

macro_rules! rows {
    ($($row:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $row() {
                super::$row(super::builder(super::Shape::Split)).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $row() {
                if let Some(url) = super::url_for_new_database() {
                    super::$row(super::builder(super::Shape::Split).arg("--database-url").arg(url)).await;
                }
            })+
        }
    };
}
rows!(
    without_edge_services_serve_and_a_browser_resumes,
    without_auth_tokens_hold_and_nobody_logs_in,
    without_devices_known_sensors_go_on_and_new_ones_wait,
    without_telemetry_readings_wait_and_rooms_are_stale,
    without_adapters_rooms_or_commissioning_all_else_goes_on,
    without_a_collector_or_the_authoritys_key_nothing_is_missing,
);

/// Each service has a database of its own; one after the other lets nobody in.
#[tokio::test(flavor = "multi_thread")]
async fn without_one_database_the_services_of_others_go_on() {
    let server = match Server::start(None) {
        Ok(server) => server,
        Err(error) => return sensormesh_testkit::skip(format_args!("the loss of one database: {error:#}")),
    };
    let sql = |text: &str| run(&server.url, text).expect("done");
    for service in SERVICES {
        sql(&format!("CREATE DATABASE of_{service}"));
    }
    let (address, _) = server.url.rsplit_once('/').expect("a database");
    let url = format!("{address}/of_{{service}}");
    let (system, admin) = built(builder(Shape::Split).arg("--database-url").arg(url)).await;
    let lost = |database: &str| {
        sql(&format!("ALTER DATABASE \"of_{database}\" ALLOW_CONNECTIONS false"));
        sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'of_{database}'"));
    };
    let found = |database: &str| sql(&format!("ALTER DATABASE \"of_{database}\" ALLOW_CONNECTIONS true"));
    let pids = || SERVICES.map(|service| system.service_pid(service).expect("pid"));
    let before = pids();
    let mut reading = 1.0;
    for (service, its_own) in [("devices", DEVICES), ("commissioning", TESTS), ("rooms", PLACES)] {
        lost(service);
        is_refused(&system, &admin, its_own).await;
        reading += 1.0;
        is_taken(&system, &admin, reading).await;
        let others = [READINGS, DEVICES, CONNECTIONS, TESTS, PLACES].into_iter().filter(|path| *path != its_own);
        go_on(&system, &admin, &others.collect::<Vec<_>>()).await;
        system.admin().await.expect("log-in works");
        found(service);
        once(&system, &admin, its_own, |status, _| status == 200).await;
    }
    // connections run from memory, and so do the last readings and their log
    for database in ["adapters", "telemetry"] {
        lost(database);
        reading += 1.0;
        is_taken(&system, &admin, reading).await;
        once(&system, &admin, ROOM, |status, room| status == 200 && value(room) == reading).await;
        go_on(&system, &admin, &[DEVICES, CONNECTIONS, TESTS, PLACES]).await;
        found(database);
        once(&system, &admin, READINGS, |status, _| status == 200).await;
    }
    lost("auth");
    log_in_is_refused(&system).await;
    reading += 1.0;
    is_taken(&system, &admin, reading).await;
    go_on(&system, &admin, &[READINGS, DEVICES, ROOM, CONNECTIONS, TESTS, PLACES]).await;
    found("auth");
    let back = eventually(PATIENCE, || async { system.admin().await.ok() });
    back.await.expect("log-in works again");
    lost("telemetry-log");
    let refused = eventually(PATIENCE, || async {
        let (status, answer) = system.post(READINGS, &admin, &json!({"value": 0})).await.ok()?;
        // taken until the last connection has ended
        assert!(matches!(status, 200 | 503), "{status} {answer}");
        (status == 503 && answer.to_string().contains("RetryInfo")).then_some(())
    });
    refused.await.expect("refused, with when to try again");
    go_on(&system, &admin, &[DEVICES, CONNECTIONS, TESTS, PLACES]).await;
    found("telemetry-log");
    reading += 1.0;
    let taken = eventually(PATIENCE, || async {
        (system.post(READINGS, &admin, &json!({"value": reading})).await.ok()?.0 == 200).then_some(())
    });
    taken.await.expect("taken again");
    once(&system, &admin, ROOM, |status, room| status == 200 && value(room) == reading).await;
    assert_eq!(pids(), before, "the same processes");
}
