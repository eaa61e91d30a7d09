//! A peer that has much to do on one connection, and is never taken for one that floods it.

use bytes::Bytes;
use h2::{Ping, RecvStream};

use super::raw;
use super::readers::{asked, watching};
use crate::server::world::*;

/// Reads so many pieces, granting as much as was read at once, as a careless client does.
async fn read(body: &mut RecvStream, pieces: usize) -> usize {
    let mut bytes = 0;
    for _ in 0..pieces {
        let data = body.data().await.expect("goes on").expect("the connection lives");
        bytes += data.len();
        body.flow_control().release_capacity(data.len()).expect("granted");
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f53_a_busy_client_is_never_cut() {
    // as few as for strangers
    let world = World::with(|config| config.limits.empty_frames = 100).await;
    // h2's client ends its own connection where it gave up a thousand streams whose answers were on their way, and where many
    // small answers wait because the machine is busy
    let mut client = h2::client::Builder::new();
    client.max_local_error_reset_streams(None).data_frame_budget(usize::MAX);
    let (mut send, mut connection) = client.handshake(raw::secure(&world).await).await.expect("HTTP/2");
    let mut pings = connection.ping_pong().expect("the first to ask");
    let connection = tokio::spawn(connection);
    // it measures the way there all the time while it is answered, as clients do that size their windows
    let mut measured = watching(&mut send, "flood").await;
    let measuring = tokio::spawn(async move {
        let mut bytes = 0;
        for _ in 0..3_000 {
            bytes += read(&mut measured, 1).await;
            pings.ping(Ping::opaque()).await.expect("an answer");
        }
        bytes
    });
    // many calls at once, each a few bytes
    let mut calls = Vec::new();
    for _ in 0..50 {
        let mut send = send.clone();
        calls.push(tokio::spawn(async move {
            for _ in 0..100 {
                send = send.ready().await.expect("room for a call");
                let (response, mut body) = send.send_request(asked("GetDevice"), false).expect("sent");
                body.send_data(raw::message(&device("ok")), true).expect("a message");
                let mut body = response.await.expect("an answer").into_body();
                while let Some(data) = body.data().await {
                    let data: Bytes = data.expect("whole");
                    body.flow_control().release_capacity(data.len()).expect("granted");
                }
            }
        }));
    }
    // and streams that are given up as soon as they have begun
    for _ in 0..100 {
        let opened = (0..30).map(|_| {
            let mut send = send.clone();
            async move { watching(&mut send, "calm").await }
        });
        drop(futures::future::join_all(opened).await);
    }
    for call in calls {
        call.await.expect("answered");
    }
    assert!(measuring.await.expect("measured") > 0);
    assert!(!connection.is_finished(), "it lives");
}
