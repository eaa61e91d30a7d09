//! Where calls go when addresses are dead, silent, or vanish.

use std::time::Duration;

use sensormesh_mesh::client::{BreakerMode, Resilience};
use sensormesh_testkit::proxy::Proxy;
use sensormesh_types::{Code, Error};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::fake::*;

#[tokio::test]
async fn a_refused_connection_is_unavailable_with_a_hint() {
    let mesh = edge(&[("auth", vec![refusing().await])], quick());
    let error = Error::from(create_token(&mesh).await.expect_err("nobody listens"));
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, "UPSTREAM_UNREACHABLE"));
    assert_eq!(error.message(), "auth unreachable");
    assert!(error.retry_after().is_some());
}

#[tokio::test]
async fn a_service_without_an_address_is_unreachable() {
    let mesh = edge(&[], quick());
    let error = Error::from(create_token(&mesh).await.expect_err("no address"));
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, "UPSTREAM_UNREACHABLE"));
}

#[tokio::test]
async fn a_dead_endpoint_beside_a_live_one_gets_no_calls() {
    let fake = Fake::well();
    let running = fake.listen().await;
    let mesh = edge(&[("auth", vec![refusing().await, running.address])], plain());
    // one refused connection is what it takes to know
    for _ in 0..10 {
        let _ = create_token(&mesh).await;
    }
    let before = fake.asked();
    for call in 0..200 {
        create_token(&mesh).await.unwrap_or_else(|e| panic!("call {call}: {e}"));
    }
    assert_eq!(fake.asked() - before, 200);
}

#[tokio::test]
async fn what_was_never_sent_is_sent_elsewhere_whatever_the_contract() {
    let fake = Fake::well();
    let running = fake.listen().await;
    let mesh = edge(&[("auth", vec![refusing().await, running.address])], quick());
    for call in 0..50 {
        create_token(&mesh).await.unwrap_or_else(|e| panic!("call {call}: {e}"));
    }
    assert_eq!(fake.asked(), 50);
}

#[tokio::test]
async fn an_endpoint_that_comes_back_gets_calls_again() {
    let (one, other) = (Fake::well(), Fake::well());
    let address = refusing().await;
    let other_running = other.listen().await;
    let mesh = edge(&[("auth", vec![address, other_running.address])], quick());
    for _ in 0..20 {
        create_token(&mesh).await.expect("the live one answers");
    }
    let _running = one.listen_on(address).await;
    eventually("the endpoint is used again", || async {
        create_token(&mesh).await.expect("one of the two answers");
        one.asked() > 0
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_taken_out_of_several() {
    let good = Fake::well();
    let bad = Fake::new(|_| async { tonic::Status::unavailable("ill").into_http() });
    let (good_running, bad_running) = (good.listen().await, bad.listen().await);
    let mesh = edge(&[("auth", vec![good_running.address, bad_running.address])], plain());
    for _ in 0..100 {
        // those that meet the bad one fail: the call may not be repeated
        let _ = create_token(&mesh).await;
    }
    assert!(bad.asked() <= 15, "{} calls went to the bad endpoint", bad.asked());
    assert!(good.asked() >= 85);
}

#[tokio::test]
async fn f27_a_listener_that_never_speaks_is_not_connected() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("its address");
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            held.push(stream);
        }
    });
    let fake = Fake::well();
    let running = fake.listen().await;
    let rules = Resilience { connect_timeout: Duration::from_millis(100), ..quick() };
    let mesh = edge(&[("auth", vec![address, running.address])], rules);
    let started = Instant::now();
    for call in 0..50 {
        create_token(&mesh).await.unwrap_or_else(|e| panic!("call {call}: {e}"));
    }
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    held.abort();
}

#[tokio::test]
async fn a_restarted_upstream_is_found_again() {
    let fake = Fake::well();
    let running = fake.listen().await;
    let address = running.address;
    let mesh = edge(&[("devices", vec![address])], quick());
    get_device(&mesh).await.expect("an answer");
    running.stop().await;
    let error = Error::from(get_device(&mesh).await.expect_err("it is gone"));
    assert_eq!(error.code(), Code::Unavailable);
    let _running = fake.listen_on(address).await;
    eventually("it answers again", || async { get_device(&mesh).await.is_ok() }).await;
}

#[tokio::test]
async fn a_lost_connection_is_one_failure_however_many_calls_it_carried() {
    let slow = Fake::new(|_| std::future::pending());
    let fast = Fake::well();
    let (slow_running, fast_running) = (slow.listen().await, fast.listen().await);
    let mesh = edge(&[("devices", vec![slow_running.address, fast_running.address])], quick());
    let calls: Vec<_> = (0..40)
        .map(|_| {
            let mesh = mesh.clone();
            tokio::spawn(async move { get_device(&mesh).await })
        })
        .collect();
    eventually("every call is somewhere", || async { slow.asked() + fast.asked() == 40 }).await;
    assert!(slow.asked() >= 10, "{} calls are under way", slow.asked());
    slow_running.stop().await;
    for call in calls {
        // those the budget allows are answered by the other endpoint
        let _ = call.await.expect("no panic");
    }
    assert_eq!(breaker(&mesh, "devices").mode, BreakerMode::Closed);
    get_device(&mesh).await.expect("the other endpoint answers");
}

#[tokio::test]
async fn f26_names_are_looked_up() {
    let fake = Fake::well();
    let running = fake.listen().await;
    let entry = format!("dns:localhost:{}", running.address.port());
    let config = sensormesh_mesh::Config {
        transport: sensormesh_mesh::Transport::Plaintext,
        dev: true,
        endpoints: [("auth".to_owned(), vec![entry])].into(),
        resilience: quick(),
        ..sensormesh_mesh::Config::default()
    };
    let mesh = sensormesh_mesh::Mesh::new(config, "edge", sensormesh_types::Clock::system()).expect("a mesh");
    create_token(&mesh).await.expect("an answer, on the one of the addresses that is served");
}

#[tokio::test]
async fn f21_a_peer_that_vanishes_is_noticed_and_reconnected_to() {
    let fake = Fake::new(|asked| async move {
        if asked.path.ends_with("WatchDevices") {
            return watched(1, true);
        }
        message(&sensormesh_proto::devices::v1::GetDeviceResponse::default())
    });
    let running = fake.listen().await;
    let wire = Proxy::to(running.address).await.expect("a proxy");
    let rules = Resilience {
        keepalive_interval: Duration::from_millis(200),
        keepalive_timeout: Duration::from_millis(200),
        ..plain()
    };
    let mesh = edge(&[("devices", vec![wire.address])], rules);
    get_device(&mesh).await.expect("an answer");
    let mut stream = watch_devices(&mesh).await.expect("a stream");
    stream.message().await.expect("a message").expect("the first");
    wire.lose();
    let started = Instant::now();
    let noticed = tokio::time::timeout(Duration::from_secs(3), stream.message()).await.expect("noticed");
    let error = Error::from(noticed.expect_err("the peer is gone"));
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, "UPSTREAM_LOST"));
    assert!(error.retry_after().is_some());
    assert!(started.elapsed() > Duration::from_millis(100), "it was silence that was noticed");
    eventually("new connections work", || async { get_device(&mesh).await.is_ok() }).await;
}

#[tokio::test]
async fn calls_that_get_no_answer_leave_their_connection_before_the_keep_alive_does() {
    let fake = Fake::well();
    let running = fake.listen().await;
    let wire = Proxy::to(running.address).await.expect("a proxy");
    let mesh = edge(&[("devices", vec![wire.address])], plain());
    get_device(&mesh).await.expect("an answer");
    wire.lose();
    let short = || async {
        let deadline = Some(Instant::now() + Duration::from_millis(100));
        let context = sensormesh_mesh::Context { deadline, ..Default::default() };
        sensormesh_mesh::Context::scope(context, get_device(&mesh)).await
    };
    for _ in 0..2 {
        assert_eq!(short().await.expect_err("silence").code(), tonic::Code::DeadlineExceeded);
    }
    short().await.expect("an answer over a new connection");
}
