//! A contract change alone makes a new route: nothing in the edge knows the methods used here.

use std::convert::Infallible;
use std::path::Path;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use sensormesh_edge::contract::Contract;
use sensormesh_types::Role;
use serde_json::json;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Message;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;

use super::world::*;

const EXTRA: &str = r#"
syntax = "proto3";
package sensormesh.rooms.v1;
import "google/api/annotations.proto";
import "google/api/httpbody.proto";
import "sensormesh/options/v1/policy.proto";

// Greets.
service GreetingService {
  // Says hello. To everybody who is named.
  rpc Greet(GreetRequest) returns (GreetResponse) {
    option (google.api.http) = {
      get: "/v1/{name=greetings/*/of/**}:say"
      additional_bindings {put: "/v1/greetings/{name}" body: "words"}
    };
    option (sensormesh.options.v1.policy) = {min_role: ROLE_VIEWER};
  }
  // Keeps a file and gives it back.
  rpc Keep(KeepRequest) returns (google.api.HttpBody) {
    option (google.api.http) = {post: "/v1/files/{name}" body: "file"};
    option (sensormesh.options.v1.policy) = {public: true};
  }
  // Counts what comes in.
  rpc Collect(stream GreetRequest) returns (GreetResponse) {
    option (google.api.http) = {get: "/v1/greetings/{name}:collect"};
    option (sensormesh.options.v1.policy) = {min_role: ROLE_OPERATOR};
  }
}
// Whom to greet.
message GreetRequest { string name = 1; repeated string words = 2; Tone tone = 3; Inner inner = 4; }
// More.
message Inner { int64 times = 1; }
// How.
enum Tone { TONE_UNSPECIFIED = 0; TONE_WARM = 1; }
// The greeting.
message GreetResponse { string text = 1; int64 times = 2; Tone tone = 3; }
// A file.
message KeepRequest { string name = 1; google.api.HttpBody file = 2; }
"#;

fn pool() -> (DescriptorPool, Bytes) {
    struct Text;
    impl protox::file::FileResolver for Text {
        fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
            if name == "extra.proto" {
                return protox::file::File::from_source(name, EXTRA);
            }
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
            let own = protox::file::IncludeFileResolver::new(root.clone()).open_file(name);
            own.or_else(|_| protox::file::IncludeFileResolver::new(root.join("third_party")).open_file(name))
                .or_else(|_| protox::file::GoogleFileResolver::new().open_file(name))
        }
    }
    let mut compiler = protox::Compiler::with_file_resolver(Text);
    compiler.include_imports(true).include_source_info(true);
    let own = ["sensormesh/edge/v1/edge.proto", "sensormesh/rooms/v1/rooms.proto", "google/rpc/error_details.proto"];
    for file in own.into_iter().chain(["google/rpc/status.proto", "extra.proto"]) {
        compiler.open_file(file).unwrap_or_else(|error| panic!("{error:?}"));
    }
    (compiler.descriptor_pool(), compiler.encode_file_descriptor_set().into())
}

fn framed(message: &[u8]) -> Bytes {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).expect("short").to_be_bytes());
    framed.extend_from_slice(message);
    framed.into()
}

/// Answers `GreetingService` by reflection.
async fn greet(pool: DescriptorPool, request: http::Request<Body>) -> http::Response<Body> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let message = |name: &str| pool.get_message_by_name(&format!("sensormesh.rooms.v1.{name}")).expect("a message");
    let (mut rest, mut frames) = (&body[..], Vec::new());
    while let Some((head, tail)) = rest.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        frames.push(&tail[..length]);
        rest = &tail[length..];
    }
    let answer = if path.ends_with("/Keep") {
        let request = DynamicMessage::decode(message("KeepRequest"), frames[0]).expect("a request");
        request.get_field_by_name("file").expect("a file").as_message().expect("a message").encode_to_vec()
    } else {
        let requests: Vec<DynamicMessage> =
            frames.iter().map(|f| DynamicMessage::decode(message("GreetRequest"), *f).expect("a request")).collect();
        let name = requests[0].get_field_by_name("name").expect("a name").as_str().expect("text").to_owned();
        let words: Vec<String> = requests
            .iter()
            .flat_map(|r| r.get_field_by_name("words").expect("words").as_list().expect("a list").to_vec())
            .filter_map(|w| w.as_str().map(str::to_owned))
            .collect();
        let inner = requests[0].get_field_by_name("inner").expect("inner").as_message().expect("a message").clone();
        let mut answer = DynamicMessage::new(message("GreetResponse"));
        answer.set_field_by_name("text", Value::String(format!("{name}: {}", words.join(" "))));
        answer.set_field_by_name("times", inner.get_field_by_name("times").expect("times").into_owned());
        answer.set_field_by_name("tone", requests[0].get_field_by_name("tone").expect("tone").into_owned());
        answer.encode_to_vec()
    };
    let trailers = async {
        Some(Ok(http::HeaderMap::from_iter([("grpc-status".parse().expect("name"), "0".parse().expect("value"))])))
    };
    let body = Full::new(framed(&answer)).with_trailers(trailers).map_err(|never: Infallible| match never {});
    http::Response::new(Body::new(body))
}

async fn world() -> World {
    let (pool, descriptors) = pool();
    let world = World::with(|_| {}, Contract::new(&pool, descriptors).expect("a contract")).await;
    let service = tower::service_fn(move |request| {
        let pool = pool.clone();
        async move { Ok::<_, Infallible>(greet(pool, request).await) }
    });
    world.registry.register("rooms", BoxCloneSyncService::new(service));
    world
}

#[tokio::test]
async fn a_new_method_is_a_new_route() {
    let world = world().await;
    let said = answer(
        world.get("/v1/greetings/ada/of/all/time:say?words=good&words=day&tone=TONE_WARM&inner.times=9007199254740993"),
    );
    let said = said.await;
    assert_eq!(
        said.json,
        json!({"text": "greetings/ada/of/all/time: good day", "times": "9007199254740993", "tone": "TONE_WARM"})
    );
    let put = world.http.put(world.url("/v1/greetings/bob?tone=1")).bearer_auth(token(Role::Viewer));
    let put = answer(put.json(&json!(["hi", "there"]))).await;
    assert_eq!(put.json, json!({"text": "bob: hi there", "times": "0", "tone": "TONE_WARM"}));
    assert_eq!(answer(world.http.get(world.url("/v1/greetings/ada/of/x:say"))).await.status, 401);
    let refused =
        answer(world.http.put(world.url("/v1/greetings/bob")).bearer_auth(token(Role::Viewer)).json(&json!({}))).await;
    assert!(refused.violations().contains_key("words"), "{}", refused.json);
    assert_eq!(answer(world.get("/v1/devices")).await.status, 404, "what is not in this contract is no route");
}

#[tokio::test]
async fn bytes_of_any_type_go_in_and_come_out() {
    let world = world().await;
    let body = vec![0_u8, 255, 10, 13];
    let kept = world.http.post(world.url("/v1/files/a.bin")).header("content-type", "image/x-odd").body(body.clone());
    let kept = kept.send().await.expect("sent");
    assert_eq!((kept.status().as_u16(), header(kept.headers(), "content-type")), (200, "image/x-odd".to_owned()));
    assert_eq!(kept.bytes().await.expect("bytes"), body);
}

#[tokio::test]
async fn a_client_stream_is_a_web_socket() {
    let world = world().await;
    let path = "/v1/greetings/ada:collect";
    let plain = answer(world.post(path)).await;
    assert_eq!(plain.status, 405);
    let plain = answer(world.http.get(world.url(path)).bearer_auth(token(Role::Operator))).await;
    assert_eq!((plain.status, plain.reason()), (426, "UPGRADE_REQUIRED".to_owned()));
    let mut request = format!("ws://{}{path}?inner.times=3", world.address).into_client_request().expect("a request");
    let bearer = format!("Bearer {}", token(Role::Operator)).parse().expect("value");
    request.headers_mut().insert("authorization", bearer);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("connects");
    for word in ["one", "two", "three"] {
        socket.send(Message::text(json!({"words": [word]}).to_string())).await.expect("sent");
    }
    socket.send(Message::text("")).await.expect("sent");
    let Some(Ok(Message::Text(text))) = socket.next().await else { panic!("an answer") };
    let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&answer["text"], &answer["times"]), (&json!("ada: one two three"), &json!("3")));
    let Some(Ok(Message::Close(Some(close)))) = socket.next().await else { panic!("a close") };
    assert_eq!(u16::from(close.code), 1000);
}

#[tokio::test]
async fn a_message_that_does_not_fit_ends_the_socket_with_the_reason() {
    let world = world().await;
    let url = format!("ws://{}/v1/greetings/ada:collect", world.address);
    let mut request = url.into_client_request().expect("a request");
    let bearer = format!("Bearer {}", token(Role::Operator)).parse().expect("value");
    request.headers_mut().insert("authorization", bearer);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("connects");
    socket.send(Message::text(r#"{"wrong": 1}"#)).await.expect("sent");
    let Some(Ok(Message::Text(text))) = socket.next().await else { panic!("an answer") };
    assert!(text.contains("\"code\":3") && text.contains("wrong"), "{text}");
    let Some(Ok(Message::Close(Some(close)))) = socket.next().await else { panic!("a close") };
    assert_eq!(u16::from(close.code), 4003);
}

#[tokio::test]
async fn the_new_method_is_in_the_documentation_and_the_published_contracts() {
    let world = world().await;
    let openapi = answer(world.http.get(world.url("/openapi.json"))).await.json;
    let say = &openapi["paths"]["/v1/{name}:say"]["get"];
    assert_eq!((&say["operationId"], &say["summary"]), (&json!("rooms.Greet"), &json!("Says hello.")));
    let names: Vec<&str> =
        say["parameters"].as_array().expect("parameters").iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(names, ["name", "words", "tone", "inner.times"]);
    assert_eq!(openapi["paths"]["/v1/greetings/{name}"]["put"]["operationId"], "rooms.Greet_2");
    assert!(openapi["components"]["schemas"]["rooms.v1.GreetResponse"].is_object());
    let contracts =
        world.http.get(world.url("/contracts.binpb")).send().await.expect("sent").bytes().await.expect("bytes");
    let published = DescriptorPool::decode(contracts).expect("descriptors");
    assert!(published.get_service_by_name("sensormesh.rooms.v1.GreetingService").is_some());
}
