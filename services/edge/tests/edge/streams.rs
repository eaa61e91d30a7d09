//! Streams in plain HTTP and over WebSockets.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use sensormesh_types::Role;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::world::*;

const WATCH: &str = "/v1/readings:watch";

fn lines(text: &str) -> Vec<Value> {
    text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn a_plain_request_gets_lines_of_json() {
    let world = World::start().await;
    let response = world.get(WATCH).send().await.expect("sent");
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let messages = lines(&response.text().await.expect("text"));
    let cursors: Vec<&str> = messages.iter().filter_map(|m| m["cursor"].as_str()).collect();
    assert_eq!(cursors, ["1", "2", "3"]);
    assert_eq!(messages[0]["readings"], json!([]));

    let failed = world.get("/v1/readings:watch?sensorIds=fail").send().await.expect("sent");
    let messages = lines(&failed.text().await.expect("text"));
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[2]["error"]["code"], 11, "{:?}", messages[2]);
    let refused = answer(world.get("/v1/readings:watch?sensorIds=refused")).await;
    assert!(refused.status == 400 || refused.json["error"]["code"] == 11, "{}", refused.json);
}

#[tokio::test]
async fn server_sent_events_resume_where_they_were() {
    let world = World::start().await;
    let events = world.get(WATCH).header("accept", "text/event-stream");
    let response = events.try_clone().expect("a copy").send().await.expect("sent");
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let text = response.text().await.expect("text");
    let events_of = |text: &str| -> Vec<String> {
        text.split("\n\n").filter(|event| event.starts_with("id: ")).map(str::to_owned).collect()
    };
    let all = events_of(&text);
    assert_eq!(all.len(), 3, "{text}");
    assert!(all[0].starts_with("id: 1\ndata: {\"cursor\":\"1\""), "{text}");
    assert!(text.starts_with("retry: "), "{text}");

    let resumed = events.header("last-event-id", "2").send().await.expect("sent").text().await.expect("text");
    assert_eq!(events_of(&resumed).len(), 1, "{resumed}");
    assert!(world.seen.message().contains("cursor: \"2\""), "{}", world.seen.message());

    let failing = world.get("/v1/readings:watch?sensor_ids=fail").header("accept", "text/event-stream");
    let text = failing.send().await.expect("sent").text().await.expect("text");
    let last = text.trim_end().split("\n\n").last().expect("an event");
    let data = last.strip_prefix("event: error\ndata: ").unwrap_or_else(|| panic!("{text}"));
    let status: Value = serde_json::from_str(data).expect("JSON");
    assert_eq!((&status["code"], &status["message"]), (&json!(11), &json!("the cursor is too old")));
}

#[tokio::test]
async fn a_silent_stream_shows_that_it_lives_and_ends_when_the_edge_stops() {
    let world = World::configured(|config| config.heartbeat = Duration::from_millis(20)).await;
    let request = world.get("/v1/readings:watch?sensorIds=quiet").header("accept", "text/event-stream");
    let mut response = request.send().await.expect("sent");
    let mut text = String::new();
    while !text.contains(": alive") {
        text.push_str(&String::from_utf8_lossy(&response.chunk().await.expect("no error").expect("more")));
    }
    assert!(text.contains("id: 1\n"), "{text}");
    world.shutdown.request();
    while let Some(chunk) = response.chunk().await.expect("a clean end") {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(text.contains("event: error\ndata: {\"code\":14"), "{text}");
    for service in world.running {
        service.stopped().await;
    }
}

#[tokio::test]
async fn a_ticket_stands_for_the_token_once() {
    let world = World::start().await;
    let made =
        answer(world.http.post(world.url("/v1/tickets")).bearer_auth(token(Role::Viewer)).json(&json!({}))).await;
    assert_eq!(made.status, 200, "{}", made.json);
    let ticket = made.json["ticket"].as_str().expect("a ticket");
    assert!(made.json["expireTime"].is_string());
    let path = format!("{WATCH}?ticket={ticket}");
    let first = world.http.get(world.url(&path)).send().await.expect("sent");
    assert_eq!(first.status(), 200);
    assert_eq!(lines(&first.text().await.expect("text")).len(), 3);
    assert_eq!(answer(world.http.get(world.url(&path))).await.status, 401, "it works once");
    assert_eq!(answer(world.http.get(world.url(WATCH))).await.status, 401);
    assert_eq!(answer(world.http.post(world.url("/v1/tickets")).json(&json!({}))).await.status, 401);
    // a ticket is for streams only
    let made = answer(world.post("/v1/tickets")).await;
    let path = format!("/v1/places/hall?ticket={}", made.json["ticket"].as_str().expect("a ticket"));
    assert_eq!(answer(world.http.get(world.url(&path))).await.status, 401);
}

#[tokio::test]
async fn one_caller_has_only_so_many_streams() {
    let world = World::configured(|config| config.streams_per_caller = 2).await;
    let quiet = "/v1/readings:watch?sensorIds=quiet";
    let one = world.get(quiet).send().await.expect("sent");
    let _two = world.get(quiet).send().await.expect("sent");
    let refused = answer(world.get(quiet)).await;
    assert_eq!((refused.status, refused.reason()), (429, "TOO_MANY_STREAMS".to_owned()));
    drop(one);
    eventually("a free place", || async { world.get(quiet).send().await.expect("sent").status() == 200 }).await;
}

async fn text(request: reqwest::RequestBuilder) -> (u16, http::HeaderMap, String) {
    let response = request.send().await.expect("sent");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    (status, headers, response.text().await.expect("text"))
}

#[tokio::test]
async fn a_client_that_prefers_a_table_gets_all_of_it() {
    let world = World::start().await;
    for path in ["/v1/sensors/lab.co2/readings", "/sensors/lab.co2/data"] {
        let request = world.get(&format!("{path}?timeZone=Europe/Berlin")).header("accept", "text/csv");
        let (status, headers, table) = text(request).await;
        assert_eq!((status, table.as_str()), (200, "time,Europe/Berlin\r\n1,a\r\n2,b\r\n"));
        assert_eq!(headers["content-type"], "text/csv; charset=utf-8");
        assert_eq!(headers["cache-control"], "no-store");
        assert!(headers.get_all("vary").iter().any(|value| value == "accept"), "{headers:?}");
        assert!(world.seen.message().contains("sensor_id: \"lab.co2\""), "{}", world.seen.message());
    }
    let path = "/v1/sensors/lab.co2/readings";
    for (accept, csv) in [
        ("text/csv, application/json;q=0.9", true),
        ("application/json, text/csv;q=0.9", false),
        ("application/json;q=0.1, text/*;q=0.2", true),
        ("text/html, */*;q=0.8", false),
        ("*/*", false),
        ("image/png", false),
        ("text/csv;q=0, */*", false),
    ] {
        let (status, headers, _) = text(world.get(path).header("accept", accept)).await;
        assert_eq!(
            (status, headers["content-type"].to_str().expect("text").starts_with("text/csv")),
            (200, csv),
            "{accept}"
        );
    }
    let (_, headers, _) = text(world.get(path)).await;
    assert_eq!(headers["content-type"], "application/json");
    assert!(headers.get_all("vary").iter().any(|value| value == "accept"), "a cache has to know");
    let (_, headers, _) = text(world.get("/v1/places/hall").header("accept", "text/csv")).await;
    assert_eq!(headers["content-type"], "application/json", "there is nothing else");
}

#[tokio::test]
async fn a_table_that_nobody_takes_any_more_is_not_written_on() {
    let world = World::start().await;
    let mut taken = world.get("/v1/sensors/endless/readings").header("accept", "text/csv").send().await.expect("sent");
    assert!(taken.chunk().await.expect("no error").is_some());
    assert_eq!(ENDLESS.load(Ordering::SeqCst), 1);
    drop(taken);
    eventually("an end of the call", || async { ENDLESS.load(Ordering::SeqCst) == 0 }).await;
}

#[tokio::test]
async fn a_table_that_fails_is_no_table() {
    let world = World::start().await;
    let get = |sensor: &str| world.get(&format!("/v1/sensors/{sensor}/readings")).header("accept", "text/csv");
    let refused = answer(get("refused")).await;
    assert_eq!((refused.status, refused.violations()["time_zone"].as_str()), (400, "is no time zone"));
    // the connection breaks off, at the latest after what was sent
    if let Ok(broken) = get("fail").send().await {
        assert_eq!(broken.status(), 200);
        assert!(broken.bytes().await.is_err(), "a table that ends early must not look whole");
    }
    let paged = answer(world.get("/v1/sensors/a/readings?pageSize=7").header("accept", "text/csv")).await;
    assert_eq!(paged.status, 400);
    assert!(paged.violations().keys().any(|field| field.contains("pageSize")), "{}", paged.json);
    let anyone = world.http.get(world.url("/v1/sensors/a/readings")).header("accept", "text/csv");
    assert_eq!(answer(anyone).await.status, 401);
}

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

async fn connect(world: &World, path: &str, headers: &[(&'static str, String)]) -> Result<Socket, u16> {
    let mut request = format!("ws://{}{path}", world.address).into_client_request().expect("a request");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("value"));
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

fn bearer(role: Role) -> (&'static str, String) {
    ("authorization", format!("Bearer {}", token(role)))
}

#[tokio::test]
async fn a_web_socket_carries_the_same_stream() {
    let world = World::start().await;
    let mut socket = connect(&world, "/v1/readings:watch?cursor=1", &[bearer(Role::Viewer)]).await.expect("connects");
    let mut cursors = Vec::new();
    let close = loop {
        match socket.next().await.expect("more").expect("no error") {
            Message::Text(text) => {
                let message: Value = serde_json::from_str(&text).expect("JSON");
                cursors.push(message["cursor"].as_str().expect("a cursor").to_owned());
            }
            Message::Close(close) => break close.expect("a reason"),
            _ => {}
        }
    };
    assert_eq!(cursors, ["2", "3"]);
    assert_eq!(u16::from(close.code), 1000);

    let ticket = answer(world.post("/v1/tickets")).await.json["ticket"].as_str().expect("a ticket").to_owned();
    let path = format!("{WATCH}?ticket={ticket}&sensorIds=fail");
    let mut socket = connect(&world, &path, &[]).await.expect("connects");
    let mut last = None;
    let close = loop {
        match socket.next().await.expect("more").expect("no error") {
            Message::Text(text) => last = Some(serde_json::from_str::<Value>(&text).expect("JSON")),
            Message::Close(close) => break close.expect("a reason"),
            _ => {}
        }
    };
    assert_eq!(last.expect("an error")["error"]["code"], 11);
    assert_eq!(u16::from(close.code), 4011);

    assert_eq!(connect(&world, WATCH, &[]).await.err(), Some(401));
    assert_eq!(connect(&world, &path, &[]).await.err(), Some(401));
    let foreign = [bearer(Role::Viewer), ("origin", "https://evil.example".to_owned())];
    assert_eq!(connect(&world, WATCH, &foreign).await.err(), Some(403));
    let own = [bearer(Role::Viewer), ("origin", format!("http://{}", world.address))];
    assert!(connect(&world, WATCH, &own).await.is_ok());
}

#[tokio::test]
async fn a_socket_that_is_closed_ends_its_call() {
    let world = World::configured(|config| config.streams_per_caller = 1).await;
    let path = "/v1/readings:watch?sensorIds=quiet";
    let mut socket = connect(&world, path, &[bearer(Role::Viewer)]).await.expect("connects");
    assert!(matches!(socket.next().await, Some(Ok(Message::Text(_)))));
    assert_eq!(connect(&world, path, &[bearer(Role::Viewer)]).await.err(), Some(429));
    socket.send(Message::Close(None)).await.expect("sent");
    eventually("a free place", || async { connect(&world, path, &[bearer(Role::Viewer)]).await.is_ok() }).await;
}
