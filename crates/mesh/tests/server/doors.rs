//! Connections: silent ones, too many, old ones, and the end of the service.

use std::time::Duration;

use sensormesh_mesh::server::{Door, Drain, listen};
use sensormesh_mesh::{Config, Listeners, Mesh, PeerAddr, ServerLimits, Service, Shutdown, Transport, serve};
use sensormesh_types::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tonic::Code;
use tower::ServiceExt as _;

use super::world::*;

const SOON: Duration = Duration::from_secs(5);

/// Waits until the other side closes the connection, whatever it says before.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("closed in time");
}

#[tokio::test]
async fn f55_a_silent_connection_is_cut() {
    let world = World::with(|config| {
        config.limits.first_byte_timeout = Duration::from_millis(100);
        config.limits.handshake_timeout = Duration::from_millis(300);
    })
    .await;
    let mut before_tls = TcpStream::connect(world.address()).await.expect("connected");
    closed(&mut before_tls).await;
    let stream = TcpStream::connect(world.address()).await.expect("connected");
    let connector = tokio_rustls::TlsConnector::from(client_config(&world.config.pki_dir, "adapters"));
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let mut after_tls = connector.connect(name, stream).await.expect("a handshake");
    closed(&mut after_tls).await;
    world.devices("adapters").get_device(device("ok")).await.expect("others are served");
}

#[tokio::test]
async fn f75_a_stop_with_open_streams_and_silent_connections_ends_in_time() {
    let world = World::start().await;
    let limit = world.config.limits.drain() + Duration::from_secs(1);
    let _silent = TcpStream::connect(world.address()).await.expect("connected");
    let stream = TcpStream::connect(world.address()).await.expect("connected");
    let connector = tokio_rustls::TlsConnector::from(client_config(&world.config.pki_dir, "adapters"));
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let _said_nothing = connector.connect(name, stream).await.expect("a handshake");
    let mut far = world.devices("adapters").watch_devices(watch("")).await.expect("a stream").into_inner();
    let mut near = world.devices_here("adapters").watch_devices(watch("")).await.expect("a stream").into_inner();
    far.message().await.expect("a message");
    near.message().await.expect("a message");
    let slow = {
        let mut client = world.devices("adapters");
        tokio::spawn(async move { client.get_device(device("slow")).await })
    };
    until("the slow call", || async { world.seen.calls.load(std::sync::atomic::Ordering::SeqCst) > 0 }).await;
    let began = Instant::now();
    world.shutdown.request();
    let (_, ended) = whole(far).await;
    let told = ended.expect_err("told to go elsewhere");
    assert_eq!((told.code(), told.message().contains("resume")), (Code::Unavailable, true), "{told}");
    assert!(told.metadata().contains_key("grpc-retry-pushback-ms"));
    assert_eq!(whole(near).await.1.expect_err("told, too").code(), Code::Unavailable);
    world.running.stopped().await;
    assert!(began.elapsed() < limit, "it took {:?}", began.elapsed());
    assert!(slow.await.expect("an outcome").is_err());
    assert!(world.registry.get("devices").is_none());
}

#[tokio::test]
async fn a_stop_lets_running_calls_finish() {
    let world = World::start().await;
    let mut client = world.devices("operator");
    let call = tokio::spawn(async move {
        client
            .delete_device(sensormesh_proto::devices::v1::DeleteDeviceRequest { device_id: "d".into(), force: false })
            .await
    });
    until("the call", || async { world.seen.calls.load(std::sync::atomic::Ordering::SeqCst) > 0 }).await;
    world.shutdown.request();
    call.await.expect("joined").expect("answered");
    let began = Instant::now();
    world.running.stopped().await;
    assert!(began.elapsed() < Duration::from_secs(1), "nothing is waited for: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_connection_is_told_to_go_when_it_is_old_and_its_calls_go_on() {
    let world = World::with(|config| {
        config.limits.connection_age = Duration::from_millis(300);
        config.limits.connection_age_grace = Duration::from_millis(600);
    })
    .await;
    let stream = TcpStream::connect(world.address()).await.expect("connected");
    let connector = tokio_rustls::TlsConnector::from(client_config(&world.config.pki_dir, "adapters"));
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let stream = connector.connect(name, stream).await.expect("a handshake");
    let (mut send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let began = Instant::now();
    let connection = tokio::spawn(async move { (connection.await, began.elapsed()) });
    // a stream that stays open: the connection is told at its age and cut after the grace, not before
    let request = http::Request::post("http://devices/sensormesh.devices.v1.DevicesService/WatchDevices")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let (response, mut body) = send.send_request(request, false).expect("sent");
    body.send_data(vec![0; 5].into(), true).expect("an empty message");
    let mut messages = response.await.expect("an answer").into_body();
    let mut last = began.elapsed();
    while let Some(Ok(data)) = messages.data().await {
        let _ = messages.flow_control().release_capacity(data.len());
        last = began.elapsed();
        if last > Duration::from_millis(450) {
            let told = send.clone().ready().await.err().and_then(|error| error.reason());
            assert_eq!(told, Some(h2::Reason::NO_ERROR), "it was told to go while the stream goes on");
        }
    }
    assert!(last > Duration::from_millis(400), "the stream went on after the connection's age: {last:?}");
    let (_, lived) = timeout(SOON, connection).await.expect("closed").expect("joined");
    assert!(lived >= Duration::from_millis(700) && lived < Duration::from_secs(3), "{lived:?}");
}

#[tokio::test]
async fn f55_an_address_has_only_so_many_connections() {
    let world = World::with(|config| config.limits.connections_per_address = 2).await;
    let first = TcpStream::connect(world.address()).await.expect("connected");
    let _second = TcpStream::connect(world.address()).await.expect("connected");
    let mut third = TcpStream::connect(world.address()).await.expect("connected by the kernel");
    closed(&mut third).await;
    drop(first);
    until("a free place", || {
        let mut client = world.devices("adapters");
        async move { client.get_device(device("ok")).await.is_ok() }
    })
    .await;
}

#[test]
fn f82_a_runtime_whose_threads_all_wait_for_each_other_is_not_alive() {
    use std::io::{Read as _, Write as _};
    const THREADS: usize = 2;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let world = runtime.block_on(World::start());
    let address = world.running.operations.expect("a port");
    let lives = || {
        let mut stream = std::net::TcpStream::connect(address).expect("connected by the kernel");
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a time");
        stream.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer.starts_with(b"HTTP/1.1 200")
    };
    let soon = || (0..20).any(|_| lives());
    assert!(soon());
    let held = std::sync::Arc::new(parking_lot::Mutex::new(0));
    let lock = held.lock();
    let waiting = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for _ in 0..THREADS {
        let (held, waiting) = (std::sync::Arc::clone(&held), std::sync::Arc::clone(&waiting));
        runtime.spawn(async move {
            waiting.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            *held.lock() += 1;
        });
    }
    let began = Instant::now();
    while waiting.load(std::sync::atomic::Ordering::SeqCst) < THREADS {
        assert!(began.elapsed() < Duration::from_secs(20), "every thread waits");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!lives(), "who restarts it has to notice");
    drop(lock);
    assert!(soon(), "and so may it, by itself");
}

#[tokio::test]
async fn the_operations_port_says_how_the_service_does() {
    let world = World::start().await;
    let address = world.running.operations.expect("a port");
    let get = |path: &'static str| async move {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).expect("a code").to_owned(), body.to_owned())
    };
    let (code, body) = get("/health").await;
    let health: serde_json::Value = serde_json::from_str(&body).expect("json");
    assert_eq!((code.as_str(), &health["status"]), ("200", &"degraded".into()));
    assert_eq!(health["checks"]["database"]["detail"], "slow today");
    assert!(health["timestamp"].is_string() && health["version"].is_string());
    assert_eq!(get("/ready").await.0, "200");
    let (_, metrics) = get("/metrics").await;
    assert!(metrics.contains("# HELP"), "{metrics}");
    assert_eq!(get("/secrets").await.0, "404");
    // kubelet asks for gRPC health here, without a certificate
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    client.check(tonic_health::pb::HealthCheckRequest::default()).await.expect("health");
}

#[tokio::test]
async fn a_door_for_everybody_speaks_both_versions_of_http_and_knows_who_connects() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (limits, shutdown) = (ServerLimits::public().prompt(), Shutdown::new());
    let drain = Drain::new(&limits, &shutdown);
    let seen = |request: axum::extract::Request| async move {
        let PeerAddr(from) = request.extensions().get::<PeerAddr>().expect("an address");
        format!("{:?} {}", request.version(), from.ip())
    };
    let router = axum::Router::new().route("/", axum::routing::get(seen));
    let app = router.into_service().map_request(|r: http::Request<hyper::body::Incoming>| r.map(axum::body::Body::new));
    let served = tokio::spawn(async move {
        tokio::join!(drain.run(), listen(Door::new("edge", listener, limits), app, &drain));
    });
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("text");
    assert!(text.ends_with("HTTP/1.1 127.0.0.1"), "{text}");
    let stream = TcpStream::connect(address).await.expect("connected");
    let (mut send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let (answer, _) =
        send.send_request(http::Request::get("http://x/").body(()).expect("a request"), true).expect("sent");
    let body = answer.await.expect("an answer").into_body().data().await.expect("data").expect("data");
    assert_eq!(&body[..], b"HTTP/2.0 127.0.0.1");
    shutdown.request();
    timeout(SOON, served).await.expect("stops").expect("joined");
}

#[tokio::test]
async fn plaintext_listens_on_loopback_only() {
    let config = Config { transport: Transport::Plaintext, dev: true, ..Config::default() };
    let mesh = Mesh::new(config, "devices", Clock::system()).expect("with dev");
    let grpc = Some(TcpListener::bind("0.0.0.0:0").await.expect("a port"));
    let listeners = Listeners { grpc, operations: None };
    let refused = serve(Service::new("devices"), &mesh, listeners, Shutdown::new()).await.expect_err("refused");
    assert!(refused.to_string().contains("use mtls"), "{refused}");
}
