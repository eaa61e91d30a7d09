//! `sensormesh load`: what it sends is verified through every door.

use sensormesh_testkit::system::{Shape, System};
use serde_json::Value;

use crate::{both_shapes, start};

both_shapes!(a_load_is_verified_and_can_be_verified_again, a_load_through_the_edge_is_verified);

async fn load(system: &System, args: &[&str]) -> Value {
    let args: Vec<&str> = ["load", "--json", "--duration", "1s"].iter().chain(args).copied().collect();
    serde_json::from_str(&system.command(&args).await.expect("a clean verdict")).expect("JSON")
}

async fn a_load_is_verified_and_can_be_verified_again(shape: Shape) {
    let system = start(shape).await;
    let history = system.data_dir().join("history");
    let history = history.to_str().expect("a path");
    let first = load(&system, &["--sensors", "20", "--batch", "100", "--rate", "20000", "--history", history]).await;
    assert!(first["batches"].as_u64() > Some(0), "{first}");
    let calls = load(&system, &["--calls", "--sensors", "20", "--lanes", "4", "--batch", "5"]).await;
    assert!(calls["batches"].as_u64() > Some(0) && calls["p50_us"].as_u64() > Some(0), "{calls}");
    let both = load(&system, &["--sensors", "20", "--batch", "100", "--rate", "20000", "--history", history]).await;
    let sent = first["batches"].as_u64().zip(both["batches"].as_u64()).map(|(first, then)| first + then);
    assert_eq!(both["acknowledged"].as_u64(), sent, "the history is gone on with");
    let again = system.command(&["load", "check", "--json", "--history", history]).await.expect("it is all there");
    let again: Value = serde_json::from_str(&again).expect("JSON");
    assert_eq!(again["acknowledged"].as_u64(), sent);

    // somebody takes some of it away
    let device = std::fs::read_to_string(history).expect("a history");
    let plan: Value = serde_json::from_str(device.lines().next().expect("a line")).expect("JSON");
    let sensor = format!("load-{:08x}.s3", plan["plan"]["seed"].as_u64().expect("a seed"));
    let admin = system.admin().await.expect("token");
    let url = format!("/v1/sensors/{sensor}/readings?startTime=2000-01-01T00:00:00Z&endTime=2100-01-01T00:00:00Z");
    let (status, answer) = system.send("DELETE", &url, Some(&admin), None).await.expect("an answer");
    assert_eq!(status, 200, "{answer}");
    let error = system.command(&["load", "check", "--history", history]).await.expect_err("some is lost");
    let error = format!("{error:#}");
    assert!(error.contains("lost") && !error.contains("lost 0"), "{error}");
}

async fn a_load_through_the_edge_is_verified(shape: Shape) {
    let system = start(shape).await;
    let server = system.url("");
    let streams = load(&system, &["--server", &server, "--sensors", "20", "--batch", "100", "--rate", "5000"]).await;
    assert!(streams["batches"].as_u64() > Some(0), "{streams}");
    let calls = ["--server", &server, "--calls", "--sensors", "4", "--lanes", "2", "--batch", "20", "--rate", "400"];
    let calls = load(&system, &calls).await;
    assert!(calls["batches"].as_u64() > Some(0), "{calls}");
}
