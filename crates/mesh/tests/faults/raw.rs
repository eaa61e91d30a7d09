//! HTTP/2 frame by frame, spoken to a served service.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;
use sensormesh_mesh::Transport;
use sensormesh_testkit::http2::{Heard, Raw, header};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::server::world::{World, client_config};

/// A gRPC message with its prefix.
pub fn message(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).expect("a small message"));
    message.encode(&mut bytes).expect("room for it");
    bytes.freeze()
}

/// The headers of a call.
pub fn call() -> Vec<u8> {
    [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", "/sensormesh.devices.v1.DevicesService/GetDevice"),
        header(":authority", "devices"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ]
    .concat()
}

/// A served service that anybody may speak to: what happens before the first call is looked at.
pub async fn open_world() -> World {
    World::with(|config| {
        config.transport = Transport::Plaintext;
        config.dev = true;
        config.limits.pending_accept_reset_streams = 20;
        config.limits.local_error_reset_streams = 1024;
        config.limits.empty_frames = 100;
    })
    .await
}

/// A connection to it.
pub async fn connect(world: &World) -> Raw {
    let stream = TcpStream::connect(world.address()).await.expect("connected");
    Raw::begin(stream).await.expect("begun")
}

/// A TLS connection of `adapters` to a served service.
pub async fn secure(world: &World) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(world.address()).await.expect("connected");
    let connector = tokio_rustls::TlsConnector::from(client_config(&world.config.pki_dir, "adapters"));
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    connector.connect(name, stream).await.expect("a handshake")
}

/// Sends this and listens until a frame of the kind comes back, or the end.
pub async fn ask(raw: Raw, bytes: &[u8], kind: u8) -> Heard {
    let enough = |heard: &Heard| heard.count(kind) > 0;
    let heard = raw.ask(bytes, Duration::from_secs(10), enough).await;
    assert!(heard.closed || enough(&heard), "no answer in time: {heard:?}");
    heard
}
