//! Long streams: connections of their own, clean ends, and thousands of them given up.

use std::time::Duration;

use sensormesh_mesh::LocalRegistry;
use sensormesh_mesh::client::Resilience;
use sensormesh_proto::devices::v1::GetDeviceResponse;
use sensormesh_types::{Code, Error};

use super::fake::*;

fn streaming() -> Fake {
    Fake::new(|asked| async move {
        if asked.path.ends_with("WatchDevices") { watched(3, true) } else { message(&GetDeviceResponse::default()) }
    })
}

/// Messages that keep coming, so that there are some under way when their stream is given up.
fn talkative() -> Fake {
    Fake::new(|_| async { flowing(400) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f56_three_thousand_streams_given_up_leave_a_bystander_alone() {
    let fake = talkative();
    let running = fake.listen().await;
    // one connection for all of them: the bystander is as near as it can be
    let mesh = edge(&[("devices", vec![running.address])], Resilience { streams_per_connection: 200, ..plain() });
    let mut bystander = watch_devices(&mesh).await.expect("a stream");
    bystander.message().await.expect("a message").expect("the first");
    for round in 0..150 {
        let opened = futures::future::join_all((0..20).map(|_| watch_devices(&mesh))).await;
        for (n, stream) in opened.into_iter().enumerate() {
            drop(stream.unwrap_or_else(|e| panic!("stream {n} of round {round}: {e}")));
        }
    }
    assert!(fake.asked() > 3000, "{} streams", fake.asked());
    assert_eq!(fake.connections(), 1);
    let mut left = 0;
    while let Some(_message) = bystander.message().await.expect("the bystander lives") {
        left += 1;
    }
    assert_eq!(left, 399);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f29_streams_that_nobody_reads_leave_another_its_window() {
    let fake = Fake::new(|_| async { flowing(2_000) });
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], plain());
    // all but one of those that share a connection, each with more on its way than any window holds
    let mut unread = Vec::new();
    for _ in 0..63 {
        unread.push(watch_devices(&mesh).await.expect("a stream"));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut read = watch_devices(&mesh).await.expect("a stream");
    assert_eq!(fake.connections(), 1, "it is beside them");
    let whole = async {
        let mut messages = 0;
        while let Some(_message) = read.message().await.expect("no failure") {
            messages += 1;
        }
        messages
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), whole).await.expect("it goes on"), 2_000);
    // and those that were not read wait where they are
    let first = unread[0].message().await.expect("no failure");
    assert!(first.is_some());
}

#[tokio::test]
async fn streams_do_not_share_connections_with_calls_and_few_share_one() {
    let fake = streaming();
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], Resilience { streams_per_connection: 2, ..quick() });
    get_device(&mesh).await.expect("an answer");
    assert_eq!(fake.connections(), 1);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(watch_devices(&mesh).await.expect("a stream"));
    }
    assert_eq!(fake.connections(), 3, "one for calls, two for four streams");
    get_device(&mesh).await.expect("an answer");
    drop(open);
    open = vec![watch_devices(&mesh).await.expect("a stream")];
    assert_eq!(fake.connections(), 3, "a free connection is used again");
    drop(open);
}

#[tokio::test]
async fn a_stream_whose_server_dies_ends_unavailable() {
    let fake = streaming();
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], plain());
    let mut stream = watch_devices(&mesh).await.expect("a stream");
    for n in 0..3 {
        let message = stream.message().await.expect("a message").expect("one of three");
        assert_eq!(message.cursor, format!("c{n}"));
    }
    running.stop().await;
    let error = Error::from(stream.message().await.expect_err("the server is gone"));
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, "UPSTREAM_LOST"));
    assert!(error.retry_after().is_some());
    assert!(stream.message().await.expect("ended").is_none());
}

#[tokio::test]
async fn a_stream_that_ends_well_ends_well_here_and_there() {
    let fake = Fake::new(|_| async { watched(3, false) });
    let running = fake.listen().await;
    let registry = LocalRegistry::new();
    registry.register("devices", fake.here());
    let there = edge(&[("devices", vec![running.address])], plain());
    let here = edge_beside(&registry, &[], plain());
    for mesh in [&there, &here] {
        let mut stream = watch_devices(mesh).await.expect("a stream");
        let mut cursors = Vec::new();
        while let Some(message) = stream.message().await.expect("no failure") {
            cursors.push(message.cursor);
        }
        assert_eq!(cursors, ["c0", "c1", "c2"]);
    }
}

#[tokio::test]
async fn a_stream_is_cut_at_its_deadline_here_and_there() {
    let fake = streaming();
    let running = fake.listen().await;
    let registry = LocalRegistry::new();
    registry.register("devices", fake.here());
    let there = edge(&[("devices", vec![running.address])], plain());
    let here = edge_beside(&registry, &[], plain());
    for mesh in [&there, &here] {
        let deadline = Some(tokio::time::Instant::now() + Duration::from_millis(300));
        let context = sensormesh_mesh::Context { deadline, ..Default::default() };
        let mut stream = sensormesh_mesh::Context::scope(context, watch_devices(mesh)).await.expect("a stream");
        for _ in 0..3 {
            stream.message().await.expect("a message").expect("one of three");
        }
        let status = stream.message().await.expect_err("time is up");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }
}
