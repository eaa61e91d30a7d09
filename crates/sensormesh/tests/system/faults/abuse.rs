//! HTTP/2 as the edge hears it from strangers, and crowds of them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use sensormesh_testkit::http2::cases;
use sensormesh_testkit::system::{Builder, Shape, System};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::{acknowledged, stored};
use crate::builder;

#[tokio::test(flavor = "multi_thread")]
async fn f49_the_edge_keeps_to_the_rules_of_http2() {
    let system = builder(Shape::OneProcess).start().await.expect("the system starts");
    let mut wrong = Vec::new();
    for case in cases::all() {
        let stream = TcpStream::connect(system.address("edge")).await.expect("connected");
        let (right, heard) = case.play(stream).await.expect("begun");
        if !right {
            wrong.push(format!("{} {}: {:?}, and heard {heard:?}", case.section, case.what, case.right));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A system whose edge lets one user do as much as the test wants.
async fn generous(more: &[(&str, &str)]) -> System {
    let mut builder = builder(Shape::Split)
        .setting("SENSORMESH_EDGE__USER_RATE__PER_SECOND", "0")
        .setting("SENSORMESH_EDGE__STREAMS_PER_CALLER", "4000");
    for (name, value) in more {
        builder = builder.setting(*name, *value);
    }
    builder.start().await.expect("the system starts")
}

/// An HTTP/2 connection to the edge that grants each stream so much.
pub async fn connection(system: &System, window: u32) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(system.address("edge")).await.expect("connected");
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .max_local_error_reset_streams(None)
        .handshake(stream)
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    send
}

/// A live stream of readings, as Server-Sent Events.
async fn watching(send: &SendRequest<Bytes>, token: &str) -> RecvStream {
    let mut send = send.clone().ready().await.expect("room for a stream");
    let request = http::Request::get("http://localhost/v1/readings:watch?sensorIds=lab.n")
        .header("accept", "text/event-stream")
        .header("authorization", format!("Bearer {token}"))
        .body(())
        .expect("a request");
    let (response, _) = send.send_request(request, true).expect("sent");
    let response = response.await.expect("the connection lives");
    assert_eq!(response.status(), 200);
    response.into_body()
}

/// Reads a stream until something that contains `what` has come.
async fn shows(body: &mut RecvStream, what: &str) {
    let mut text = String::new();
    while !text.contains(what) {
        let data = timeout(Duration::from_secs(30), body.data()).await.expect("in time");
        let data = data.expect("the stream goes on").expect("the connection lives");
        body.flow_control().release_capacity(data.len()).expect("granted");
        text += &String::from_utf8_lossy(&data);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: 20,000 streams"]
async fn f56_twenty_thousand_streams_given_up_at_the_edge_leave_others_alone() {
    let system = generous(&[]).await;
    let admin = system.admin().await.expect("token");
    assert!(acknowledged(&system, &admin, 0).await);
    let (send, elsewhere) = (connection(&system, 65_535).await, connection(&system, 65_535).await);
    let mut bystanders = Vec::new();
    for send in [&send, &elsewhere] {
        bystanders.push(watching(send, &admin).await);
    }
    for round in 0..1_000 {
        drop(futures::future::join_all((0..20).map(|_| watching(&send, &admin))).await);
        if round % 250 == 0 {
            let value = 1 + round / 250;
            assert!(acknowledged(&system, &admin, value).await);
            for bystander in &mut bystanders {
                shows(bystander, &format!("\"value\":{value}")).await;
            }
        }
    }
    assert_eq!(stored(&system, &admin).await, (0..5).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: 1,000 streams"]
async fn f29_a_thousand_readers_at_the_edge_that_stop_are_cut_and_others_are_not() {
    const STOPPED: usize = 1_000;
    let system = generous(&[("SENSORMESH_EDGE__LIMITS__STALLED_AFTER", "5s")]).await;
    let admin = system.admin().await.expect("token");
    assert!(acknowledged(&system, &admin, 0).await);
    let reads = connection(&system, 65_535).await;
    let mut reader = watching(&reads, &admin).await;
    let mut connections = Vec::new();
    let mut stopped = Vec::new();
    for _ in 0..STOPPED / 50 {
        // nothing of an answer's body fits
        let send = connection(&system, 0).await;
        stopped.extend(futures::future::join_all((0..50).map(|_| watching(&send, &admin))).await);
        connections.push(send);
    }
    let began = Instant::now();
    assert!(acknowledged(&system, &admin, 1).await);
    shows(&mut reader, "\"value\":1").await;
    assert!(began.elapsed() < Duration::from_secs(5), "who reads is shown it meanwhile: {:?}", began.elapsed());
    for mut body in stopped {
        let end = timeout(Duration::from_secs(40), body.data()).await.expect("cut in time");
        let reason = end.and_then(Result::err).and_then(|error| error.reason());
        assert_eq!(reason, Some(Reason::CANCEL));
    }
    assert!(acknowledged(&system, &admin, 2).await);
    shows(&mut reader, "\"value\":2").await;
    // their places are free again
    for send in &connections {
        drop(watching(send, &admin).await);
    }
}

/// As many connections as the edge takes from this many addresses, each of which says so much and nothing more.
async fn crowd(to: SocketAddr, addresses: u8, each: usize, says: &[u8]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for address in 1..=addresses {
        for _ in 0..each {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind(SocketAddr::from(([127, 0, 1, address], 0))).expect("bound");
            let mut stream = socket.connect(to).await.expect("connected");
            stream.write_all(says).await.expect("sent");
            held.push(stream);
        }
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: 10,000 connections"]
async fn f55_ten_thousand_connections_at_the_edge_that_say_nothing_keep_nobody_out() {
    let dir = tempfile::tempdir().expect("dir");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    let listen = ["--listen".to_owned(), to.to_string()];
    let tls = ["--tls-cert".to_owned(), cert.display().to_string(), "--tls-key".to_owned(), key.display().to_string()];
    let builder = listen.into_iter().chain(tls).fold(builder(Shape::OneProcess), Builder::arg);
    let _system = builder.start().await.expect("the system starts");
    let http = reqwest::Client::builder().danger_accept_invalid_certs(true).pool_max_idle_per_host(0);
    let http = http.timeout(Duration::from_secs(10)).build().expect("a client");
    // nothing, and the first half of a greeting
    for says in [&[][..], &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]] {
        let began = Instant::now();
        let held = crowd(to, 100, 99, says).await;
        eprintln!("{} connections after {:?}", held.len(), began.elapsed());
        let mut times = Vec::new();
        for _ in 0..50 {
            let began = Instant::now();
            let answer = http.get(format!("https://localhost:{port}/health")).send().await.expect("served");
            assert!(answer.status().as_u16() < 500, "{}", answer.status());
            times.push(began.elapsed());
        }
        times.sort_unstable();
        eprintln!("others are served within {:?}", times[49]);
        assert!(times[49] < Duration::from_secs(2), "{:?}", times[49]);
        let cut = Instant::now();
        for mut stream in held {
            let mut rest = Vec::new();
            let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.expect("cut in time");
        }
        eprintln!("all are cut {:?} later", cut.elapsed());
        assert!(cut.elapsed() < Duration::from_secs(6), "within 5 s each: {:?}", cut.elapsed());
    }
}
