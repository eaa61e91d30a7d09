//! Devices and bridges with credentials of their own, in the real program.

use std::time::Duration;

use sensormesh_proto::telemetry::v1::IngestStreamRequest;
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_testkit::system::{Shape, System, eventually};
use serde_json::{Value, json};
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use crate::{both_shapes, start};

both_shapes!(
    a_device_sends_its_own_readings_and_nothing_else,
    a_bridge_speaks_for_its_devices,
    a_device_is_claimed_and_sends,
    credentials_hold_without_devices_and_end_at_once,
);

const PATIENCE: Duration = Duration::from_secs(60);

async fn post(system: &System, path: &str, token: &str, body: Value) -> (u16, Value) {
    system.post(path, token, &body).await.expect("an answer")
}

async fn made(system: &System, path: &str, token: &str, body: Value) -> Value {
    let (status, answer) = post(system, path, token, body).await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// A credential's token and id.
async fn credential(system: &System, holder: &str, admin: &str) -> (String, String) {
    let made = made(system, &format!("/v1/{holder}/credentials"), admin, json!({"name": "test"})).await;
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    (text(&made["token"]), text(&made["credential"]["credentialId"]))
}

/// Sends until it is answered so: services hear of a credential a moment after it was made or ended.
async fn until(system: &System, token: &str, sensor: &str, expected: u16) -> Value {
    let path = format!("/sensors/{sensor}/data");
    let found = eventually(PATIENCE, || async {
        let (status, answer) = system.post(&path, token, &json!({"value": 1})).await.ok()?;
        (status == expected).then_some(answer)
    });
    match found.await {
        Some(answer) => answer,
        None => panic!("{path} stays {:?}", system.post(&path, token, &json!({"value": 1})).await),
    }
}

async fn a_device_sends_its_own_readings_and_nothing_else(shape: Shape) {
    let system = start(shape).await;
    let admin = system.admin().await.expect("token");
    for sensor in ["lab.co2", "roof.co2"] {
        made(&system, "/v1/sensors", &admin, json!({"sensorId": sensor})).await;
    }
    let (token, _) = credential(&system, "devices/lab", &admin).await;
    until(&system, &token, "lab.co2", 200).await;
    let both = json!({"readings": [{"sensorId": "lab.co2", "value": 2}, {"sensorId": "roof.co2", "value": 2}, {"sensorId": "lab.new", "value": 2}]});
    let (status, answer) = post(&system, "/sensors/data", &token, both).await;
    let verdicts: Vec<&Value> = answer["results"].as_array().expect("results").iter().map(|r| &r["verdict"]).collect();
    let expected = ["VERDICT_NOT_PERMITTED", "VERDICT_QUARANTINED"].map(|verdict| json!(verdict));
    assert_eq!((status, verdicts), (200, expected.iter().collect()), "{answer}");
    let (status, answer) = post(&system, "/sensors/roof.co2/data", &token, json!({"value": 3})).await;
    assert!((400..500).contains(&status), "{answer}");
    for path in ["/sensors/lab.co2/data", "/v1/devices", "/v1/devices/lab/credentials", "/v1/users", "/v1/audit"] {
        let (status, answer) = system.get(path, &token).await.expect("an answer");
        assert_eq!(status, 403, "{path}: {answer}");
        assert!(!answer.to_string().contains(&token), "{answer}");
    }
    let (status, answer) = post(&system, "/v1/devices/lab/credentials", &token, json!({})).await;
    assert_eq!(status, 403, "{answer}");
    let (status, answer) = post(&system, "/sensors/lab.co2/data", &format!("{token}x"), json!({"value": 3})).await;
    assert_eq!((status, &answer["details"][0]["reason"]), (401, &json!("CREDENTIAL_INVALID")), "{answer}");
    let (_, readings) = system.get("/sensors/roof.co2/data", &admin).await.expect("an answer");
    assert_eq!(readings["readings"], json!([]), "nobody else's reading came in");
}

async fn a_bridge_speaks_for_its_devices(shape: Shape) {
    let system = start(shape).await;
    let admin = system.admin().await.expect("token");
    let bridge = json!({"bridgeId": "gw1", "prefixes": ["gw1-"], "maxDevices": 1, "siteId": "north"});
    made(&system, "/v1/bridges", &admin, bridge).await;
    made(&system, "/v1/sensors", &admin, json!({"sensorId": "lab.co2"})).await;
    let (token, _) = credential(&system, "bridges/gw1", &admin).await;
    until(&system, &token, "gw1-a.t", 200).await;
    let device = eventually(PATIENCE, || async {
        let (status, device) = system.get("/v1/devices/gw1-a", &admin).await.ok()?;
        (status == 200).then_some(device)
    });
    let device = device.await.expect("registered");
    assert_eq!((&device["siteId"], &device["origin"]), (&json!("north"), &json!("bridge:gw1")), "{device}");
    let sent = json!({"readings": [
        {"sensorId": "gw1-a.h", "value": 1},
        {"sensorId": "gw1-b.t", "value": 1},
        {"sensorId": "lab.co2", "value": 1},
        {"sensorId": "gw2-a.t", "value": 1},
    ]});
    let (status, answer) = post(&system, "/sensors/data", &token, sent).await;
    let told: Vec<_> =
        answer["results"].as_array().expect("results").iter().map(|r| (&r["index"], &r["verdict"])).collect();
    let expected = [(1, "VERDICT_QUOTA"), (2, "VERDICT_NOT_PERMITTED"), (3, "VERDICT_NOT_PERMITTED")];
    let expected = expected.map(|(index, verdict)| (json!(index), json!(verdict)));
    assert_eq!((status, told), (200, expected.iter().map(|(index, verdict)| (index, verdict)).collect()), "{answer}");
    let (status, _) = system.get("/v1/devices", &token).await.expect("an answer");
    assert_eq!(status, 403);
}

async fn a_device_is_claimed_and_sends(shape: Shape) {
    let system = start(shape).await;
    let admin = system.admin().await.expect("token");
    let code = made(&system, "/v1/claimCodes", &admin, json!({"prefix": "aq-", "siteId": "north"})).await;
    let claim = json!({"code": code["code"], "deviceId": "aq-1", "model": "AQ1"});
    let (status, claimed) = system.send("POST", "/v1/devices:claim", None, Some(&claim)).await.expect("an answer");
    assert_eq!(status, 200, "{claimed}");
    let other = json!({"code": code["code"], "deviceId": "aq-2"});
    let (status, again) = system.send("POST", "/v1/devices:claim", None, Some(&other)).await.expect("an answer");
    assert_eq!(status, 401, "used up: {again}");
    made(&system, "/v1/sensors", &admin, json!({"sensorId": "aq-1.pm25"})).await;
    until(&system, claimed["token"].as_str().expect("a token"), "aq-1.pm25", 200).await;
}

async fn credentials_hold_without_devices_and_end_at_once(shape: Shape) {
    let system = start(shape).await;
    let admin = system.admin().await.expect("token");
    made(&system, "/v1/sensors", &admin, json!({"sensorId": "lab.co2"})).await;
    let (token, id) = credential(&system, "devices/lab", &admin).await;
    until(&system, &token, "lab.co2", 200).await;
    if shape == Shape::Split {
        system.freeze_service("devices", true).expect("frozen");
        until(&system, &token, "lab.co2", 200).await;
        // also who starts while it is away knows them
        system.kill_service("telemetry").expect("killed, and started by the supervisor");
        until(&system, &token, "lab.co2", 200).await;
        system.freeze_service("devices", false).expect("thawed");
    }

    let edge = Endpoint::from_shared(system.url("")).expect("an address").connect().await.expect("the edge");
    let mut telemetry = TelemetryServiceClient::new(edge);
    let mut request = Request::new(tokio_stream::pending::<IngestStreamRequest>());
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    let mut stream = tokio::spawn(async move {
        match telemetry.ingest_stream(request).await {
            Ok(answers) => answers.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        }
    });
    let open = tokio::time::timeout(Duration::from_secs(1), &mut stream).await;
    assert!(open.is_err(), "the stream is open: {open:?}");

    let path = format!("/v1/credentials/{id}");
    let deleted = eventually(PATIENCE, || async {
        let (status, _) = system.send("DELETE", &path, Some(&admin), None).await.ok()?;
        (status == 200).then_some(())
    });
    deleted.await.expect("deleted");
    until(&system, &token, "lab.co2", 401).await;
    let ended = tokio::time::timeout(PATIENCE, stream).await.expect("ends").expect("runs").expect_err("is refused");
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended:?}");
}
