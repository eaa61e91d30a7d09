//! Requests that are larger than anybody needs (F48), or leave open what is meant: refused with the status that says so, and the
//! edge goes on.

use sensormesh_proto::rooms::v1::rooms_service_client::RoomsServiceClient;
use sensormesh_proto::rooms::v1::{CreatePlaceRequest, GetPlaceRequest, Place};
use sensormesh_types::Role;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::grpc::{native, with_token};
use crate::world::*;

/// The status of the answer to what is written, as far as it is taken; `None` where the connection ends without one.
async fn status(world: &World, request: String) -> Option<u16> {
    let (mut from, mut to) = TcpStream::connect(world.address).await.expect("connected").into_split();
    let written = tokio::spawn(async move {
        to.write_all(request.as_bytes()).await.ok();
        to
    });
    let mut answer = Vec::new();
    from.read_to_end(&mut answer).await.ok();
    written.abort();
    let answer = String::from_utf8_lossy(&answer);
    answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok())
}

#[tokio::test]
async fn f48_headers_and_addresses_without_end_are_refused_with_their_status() {
    let world = World::start().await;
    let many: String = (0..100_000).map(|n| format!("h{n}: x\r\n")).collect();
    let begin = "GET /health HTTP/1.1\r\nhost: edge\r\n";
    let cases = [
        ("an address of 10 MiB", status(&world, format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(10 << 20))).await),
        ("a header of 300 KiB", status(&world, format!("{begin}big: {}\r\n\r\n", "x".repeat(300 << 10))).await),
        ("100,000 headers", status(&world, format!("{begin}{many}\r\n")).await),
    ];
    for (what, status) in cases {
        eprintln!("{what}: {status:?}");
        assert!(matches!(status, Some(414 | 431) | None), "{what}: {status:?}");
    }
    let fine = format!("{begin}connection: close\r\n\r\n");
    assert_eq!(status(&world, fine).await, Some(200), "others are served");
    assert_eq!(world.seen.count(), 0, "nothing of it came through");
}

/// RFC 9112, section 3.2.
#[tokio::test]
async fn http_1_1_names_its_host_once() {
    let world = World::start().await;
    let cases = [
        ("1.1", "", Some(400)),
        ("1.1", "host: edge\r\nhost: other\r\n", Some(400)),
        ("1.1", "host: edge\r\n", Some(200)),
        ("1.0", "", Some(200)),
    ];
    for (version, hosts, expected) in cases {
        let request = format!("GET /health HTTP/{version}\r\n{hosts}connection: close\r\n\r\n");
        assert_eq!(status(&world, request).await, expected, "HTTP/{version} with {hosts:?}");
    }
}

#[tokio::test]
async fn f48_a_message_or_metadata_that_is_too_large_ends_its_own_call() {
    let world = World::start().await;
    let mut rooms = RoomsServiceClient::new(native(&world).await);
    let place = Place { name: "x".repeat((4 << 20) + 1), ..Place::default() };
    let large = CreatePlaceRequest { place: Some(place), ..CreatePlaceRequest::default() };
    let refused = rooms.create_place(with_token(large, Role::Operator)).await.expect_err("4 MiB and more");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let get = || with_token(GetPlaceRequest { place_id: "hall".to_owned() }, Role::Viewer);
    let mut wordy = get();
    wordy.metadata_mut().insert("words", "x".repeat(64 << 10).parse().expect("text"));
    rooms.get_place(wordy).await.expect_err("metadata of 64 KiB");
    rooms.get_place(get()).await.expect("the next call goes on");
}
