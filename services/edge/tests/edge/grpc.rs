//! gRPC-Web and gRPC pass through as bytes.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message as _;
use sensormesh_proto::mesh::v1::GetStatusRequest;
use sensormesh_proto::mesh::v1::mesh_service_client::MeshServiceClient;
use sensormesh_proto::rooms::v1::rooms_service_client::RoomsServiceClient;
use sensormesh_proto::rooms::v1::{GetPlaceRequest, GetPlaceResponse};
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_proto::telemetry::v1::{WatchReadingsRequest, WatchReadingsResponse};
use sensormesh_types::Role;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use super::world::*;

const GET_PLACE: &str = "/sensormesh.rooms.v1.RoomsService/GetPlace";
const WATCH: &str = "/sensormesh.telemetry.v1.TelemetryService/WatchReadings";

fn framed(message: &impl prost::Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(bytes.len()).expect("short").to_be_bytes());
    framed.extend_from_slice(&bytes);
    framed
}

/// The messages of a gRPC-Web body, and its trailers.
fn parts(mut body: &[u8]) -> (Vec<Vec<u8>>, String) {
    let (mut messages, mut trailers) = (Vec::new(), String::new());
    while let Some((head, rest)) = body.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if head[0] & 0x80 == 0 {
            messages.push(rest[..length].to_vec());
        } else {
            trailers.push_str(std::str::from_utf8(&rest[..length]).expect("text"));
        }
        body = &rest[length..];
    }
    assert!(body.is_empty());
    (messages, trailers)
}

fn web(world: &World, path: &str, message: &impl prost::Message) -> reqwest::RequestBuilder {
    let request = world.http.post(world.url(path)).header("content-type", "application/grpc-web+proto");
    request.header("x-grpc-web", "1").body(framed(message)).bearer_auth(token(Role::Viewer))
}

#[tokio::test]
async fn grpc_web_carries_unary_calls_and_their_errors() {
    let world = World::start().await;
    let request = GetPlaceRequest { place_id: "hall".to_owned() };
    let response = web(&world, GET_PLACE, &request).send().await.expect("sent");
    assert_eq!(response.headers()["content-type"], "application/grpc-web+proto");
    let (messages, trailers) = parts(&response.bytes().await.expect("bytes"));
    let place = GetPlaceResponse::decode(messages[0].as_slice()).expect("a message").place.expect("a place");
    assert_eq!((place.place_id.as_str(), messages.len()), ("hall", 1));
    assert!(trailers.contains("grpc-status: 0\r\n"), "{trailers}");

    let missing = web(&world, GET_PLACE, &GetPlaceRequest { place_id: "missing".to_owned() });
    let response = missing.send().await.expect("sent");
    let headers = response.headers().clone();
    let (messages, trailers) = parts(&response.bytes().await.expect("bytes"));
    let told = headers
        .get("grpc-status")
        .map_or(trailers.clone(), |v| format!("grpc-status: {}\r\n", v.to_str().expect("text")));
    assert!(messages.is_empty() && told.contains("grpc-status: 5\r\n"), "{told}");
    assert!(headers.contains_key("grpc-status-details-bin") || trailers.contains("grpc-status-details-bin"));

    for (request, code) in [
        (world.http.post(world.url(GET_PLACE)).header("content-type", "application/grpc-web"), "16"),
        (web(&world, "/sensormesh.rooms.v1.RoomsService/Nothing", &request), "12"),
        (web(&world, "/sensormesh.auth.v1.AuthService/WatchVerification", &request), "7"),
        (web(&world, GET_PLACE, &request).header("origin", "https://evil.example"), "7"),
    ] {
        let response = request.send().await.expect("sent");
        assert_eq!((response.status().as_u16(), header(response.headers(), "grpc-status")), (200, code.to_owned()));
    }
}

#[tokio::test]
async fn grpc_web_carries_server_streams_in_both_encodings() {
    let world = World::start().await;
    let request = WatchReadingsRequest { cursor: "1".to_owned(), ..Default::default() };
    let response = web(&world, WATCH, &request).send().await.expect("sent");
    let (messages, trailers) = parts(&response.bytes().await.expect("bytes"));
    let cursors = messages.iter().map(|m| WatchReadingsResponse::decode(m.as_slice()).expect("a message").cursor);
    assert_eq!(cursors.collect::<Vec<_>>(), ["2", "3"]);
    assert!(trailers.contains("grpc-status: 0"), "{trailers}");

    let text = world.http.post(world.url(WATCH)).header("content-type", "application/grpc-web-text");
    let text = text.bearer_auth(token(Role::Viewer)).body(BASE64_STANDARD.encode(framed(&request)));
    let response = text.send().await.expect("sent").text().await.expect("text");
    let mut bytes = Vec::new();
    for part in response.split_inclusive('=').map(|part| part.trim_matches('=')).filter(|part| !part.is_empty()) {
        bytes.extend(base64::prelude::BASE64_STANDARD_NO_PAD.decode(part).expect("base 64"));
    }
    assert_eq!(parts(&bytes).0.len(), 2);
}

pub async fn native(world: &World) -> Channel {
    Endpoint::from_shared(world.url("")).expect("an address").connect().await.expect("connects")
}

pub fn with_token<T>(message: T, role: Role) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {}", token(role)).parse().expect("text"));
    request
}

#[tokio::test]
async fn native_grpc_passes_through_with_its_trailers() {
    let world = World::start().await;
    let mut rooms = RoomsServiceClient::new(native(&world).await);
    let get = |id: &str| GetPlaceRequest { place_id: id.to_owned() };
    let place = rooms.get_place(with_token(get("hall"), Role::Viewer)).await.expect("a place").into_inner();
    assert_eq!(place.place.expect("a place").place_id, "hall");
    let error = rooms.get_place(with_token(get("down"), Role::Viewer)).await.expect_err("down");
    let error = sensormesh_types::Error::from(error);
    assert_eq!((error.reason(), error.retry_after().is_some()), ("DOWN", true));
    assert_eq!(rooms.get_place(get("hall")).await.expect_err("no token").code(), Code::Unauthenticated);

    let mut telemetry = TelemetryServiceClient::new(native(&world).await);
    let request = with_token(WatchReadingsRequest::default(), Role::Viewer);
    let mut stream = telemetry.watch_readings(request).await.expect("a stream").into_inner();
    let mut cursors = Vec::new();
    while let Some(message) = stream.message().await.expect("no error") {
        cursors.push(message.cursor);
    }
    assert_eq!(cursors, ["1", "2", "3"]);
}

#[tokio::test]
async fn the_mesh_is_seen_by_whom_its_contract_names() {
    let world = World::start().await;
    let mut mesh = MeshServiceClient::new(native(&world).await);
    let status = async |role, service: Option<&'static str>| {
        let mut request = with_token(GetStatusRequest {}, role);
        if let Some(service) = service {
            request.metadata_mut().insert("sensormesh-service", service.parse().expect("text"));
        }
        mesh.clone().get_status(request).await.map(|answer| answer.into_inner().service)
    };
    assert_eq!(status(Role::Operator, None).await.expect("allowed"), "edge");
    assert_eq!(status(Role::Operator, Some("rooms")).await.expect("allowed"), "rooms");
    assert_eq!(status(Role::Operator, Some("nobody")).await.expect_err("unknown").code(), Code::NotFound);
    assert_eq!(status(Role::Viewer, None).await.expect_err("refused").code(), Code::PermissionDenied);
    assert_eq!(mesh.get_status(GetStatusRequest {}).await.expect_err("refused").code(), Code::Unauthenticated);
}

#[tokio::test]
async fn reflection_is_for_the_platform_admin() {
    let world = World::start().await;
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        // list_services is field 7 of the request
        let list: &[u8] = &[0, 0, 0, 0, 2, 0x3a, 0];
        let ask = |role: Role| {
            let request = world.http.post(world.url(&path)).header("content-type", "application/grpc-web+proto");
            request.bearer_auth(token(role)).body(list.to_vec())
        };
        let refused = ask(Role::Admin).send().await.expect("sent");
        assert_eq!(refused.headers()["grpc-status"], "7");
        let (messages, trailers) =
            parts(&ask(Role::PlatformAdmin).send().await.expect("sent").bytes().await.expect("bytes"));
        let text = String::from_utf8_lossy(&messages.concat()).into_owned();
        assert!(text.contains("sensormesh.rooms.v1.RoomsService"), "{text} {trailers}");
    }
}

#[tokio::test]
async fn both_sides_of_a_native_stream_pass_through() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};

    let world = World::start().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let requests = futures::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    let mut client = ServerReflectionClient::new(native(&world).await);
    let ask = |symbol: &str| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(symbol.to_owned())),
    };
    sender.send(ask("sensormesh.rooms.v1.RoomsService")).await.expect("sent");
    let request = with_token(requests, Role::PlatformAdmin);
    let mut answers = client.server_reflection_info(request).await.expect("allowed").into_inner();
    for next in ["sensormesh.auth.v1.AuthService", "no.such.Thing"] {
        let answer = answers.message().await.expect("no error").expect("an answer");
        assert!(matches!(answer.message_response, Some(MessageResponse::FileDescriptorResponse(_))));
        // the next question is asked when the last one is answered: neither side waits for the other's end
        sender.send(ask(next)).await.expect("sent");
    }
    let last = answers.message().await;
    assert!(
        last.is_err()
            || matches!(last, Ok(Some(a)) if matches!(a.message_response, Some(MessageResponse::ErrorResponse(_))))
    );
}
