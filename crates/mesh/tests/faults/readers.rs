//! Peers that do not read, read slowly, or write slowly.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use tokio::time::timeout;

use super::raw;
use crate::client::fake::{Fake, edge, plain, watch_devices, watched};
use crate::server::world::*;

const SOON: Duration = Duration::from_secs(20);

pub fn asked(method: &str) -> http::Request<()> {
    http::Request::post(format!("http://devices/sensormesh.devices.v1.DevicesService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request")
}

/// A connection that grants each stream so much.
pub async fn connection(world: &World, window: u32) -> SendRequest<Bytes> {
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .handshake(raw::secure(world).await)
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    send
}

/// Asks for a stream of devices; what it sends is not read by itself.
pub async fn watching(send: &mut SendRequest<Bytes>, what: &str) -> RecvStream {
    *send = send.clone().ready().await.expect("room for a stream");
    let (response, mut body) = send.send_request(asked("WatchDevices"), false).expect("sent");
    body.send_data(raw::message(&watch(what)), true).expect("a message");
    response.await.expect("headers").into_body()
}

/// How a stream ended; what is left of its data is read without granting more.
async fn end(mut body: RecvStream) -> Option<Reason> {
    loop {
        match timeout(SOON, body.data()).await.expect("it ends") {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.reason(),
            None => return None,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f54_streams_without_a_window_are_cut_and_give_their_places_back() {
    const STREAMS: u32 = 100;
    let world = World::with(|config| {
        config.limits.stalled_after = Duration::from_secs(4);
        config.limits.streams = STREAMS + 1;
    })
    .await;
    let mut bystander = world.devices("adapters").watch_devices(watch("")).await.expect("a stream").into_inner();
    bystander.message().await.expect("a message").expect("the first");
    let mut send = connection(&world, 0).await;
    let mut stalled = Vec::new();
    for _ in 0..STREAMS {
        stalled.push(watching(&mut send, "").await);
    }
    let refused = world.devices("adapters").watch_devices(watch("")).await.expect_err("no place is left");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    for body in stalled {
        assert_eq!(end(body).await, Some(Reason::CANCEL));
    }
    let mut again = world.devices("adapters").watch_devices(watch("")).await.expect("places are free").into_inner();
    for _ in 0..30 {
        again.message().await.expect("a message").expect("another");
        bystander.message().await.expect("a message").expect("who reads is left alone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f29_readers_that_stop_are_cut_and_others_are_not() {
    let world = World::with(|config| config.limits.stalled_after = Duration::from_secs(2)).await;
    let mut send = connection(&world, 65_535).await;
    let mut stopped = Vec::new();
    for _ in 0..50 {
        stopped.push(watching(&mut send, "flood").await);
    }
    // and one that takes a byte at a time, five a second
    let mut drop_by_drop = watching(&mut connection(&world, 2).await, "flood").await;
    let drops = tokio::spawn(async move {
        loop {
            match timeout(SOON, drop_by_drop.data()).await.expect("it ends") {
                Some(Ok(_)) => drop_by_drop.flow_control().release_capacity(1).expect("a byte"),
                Some(Err(error)) => return error.reason(),
                None => return None,
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    // slow, and yet it takes something all the time, for longer than the patience
    let mut slow = world.devices("adapters").watch_devices(watch("flood")).await.expect("a stream").into_inner();
    for _ in 0..30 {
        slow.message().await.expect("a message").expect("another");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for body in stopped {
        assert_eq!(end(body).await, Some(Reason::CANCEL));
    }
    assert_eq!(drops.await.expect("ended"), Some(Reason::CANCEL));
    slow.message().await.expect("a message").expect("another");
    let idle = world.devices("adapters").get_device(device("ok")).await;
    idle.expect("calls are served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f29_a_reader_that_lags_does_not_end_the_connection_of_others() {
    const MESSAGES: usize = 20_000;
    let fake = Fake::new(|_| async { watched(MESSAGES, false) });
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], plain());
    // together they let more small messages wait than h2 allows by itself
    let mut lagging = Vec::new();
    for _ in 0..10 {
        lagging.push(watch_devices(&mesh).await.expect("a stream"));
    }
    for mut stream in [watch_devices(&mesh).await.expect("a stream")].into_iter().chain(lagging) {
        let mut count = 0;
        while stream.message().await.expect("the connection lives").is_some() {
            count += 1;
        }
        assert_eq!(count, MESSAGES);
    }
    assert_eq!(fake.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_a_request_that_never_ends_is_late() {
    let world = World::start().await;
    let mut send = connection(&world, 65_535).await;
    // a message of which the last byte never comes, and one behind which the end never comes
    for whole in [false, true] {
        let mut request = asked("GetDevice");
        request.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static("400m"));
        let (response, mut body) = send.send_request(request, false).expect("sent");
        let message = raw::message(&device("ok"));
        let part = if whole { message.len() } else { message.len() - 1 };
        for byte in message.slice(..part) {
            body.send_data(Bytes::copy_from_slice(&[byte]), false).expect("sent");
        }
        let answer = timeout(SOON, response).await.expect("in time").expect("headers");
        let status = answer.headers().get("grpc-status").map(|s| s.to_str().expect("text").to_owned());
        assert_eq!(status.as_deref(), Some("4"), "whole: {whole}");
    }
    assert!(sensormesh_proto::METHODS.iter().all(|m| !m.policy.deadline.is_zero()), "nobody waits for ever");
}
