//! Links that are cut, slow, narrow, or break in the middle, under the client stack over mutual TLS.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sensormesh_mesh::client::{BreakerMode, Resilience};
use sensormesh_mesh::tls::Credentials;
use sensormesh_mesh::{Config, Context, Mesh, Pki};
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::devices::v1::{GetDeviceResponse, WatchDevicesRequest, WatchDevicesResponse};
use sensormesh_testkit::chance::Chance;
use sensormesh_testkit::proxy::{Faults, Line, Proxy};
use sensormesh_testkit::stream::{self, Item, Said, Session};
use sensormesh_types::{Clock, Code, Error};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tonic::Request;

use crate::client::fake::*;

/// `devices` as a fake does it, behind a proxy, and the edge that calls it, over mutual TLS.
struct Between {
    fake: Fake,
    proxy: Proxy,
    mesh: Mesh,
    _running: Running,
    _dir: TempDir,
}

async fn between(fake: Fake, rules: Resilience) -> Between {
    let dir = TempDir::new().expect("a directory");
    let mut config = Config { pki_dir: dir.path().to_owned(), resilience: rules, ..Config::default() };
    Pki::ensure(&config, &["edge", "devices", "auth"], &[], &Clock::system()).expect("certificates");
    let credentials = Credentials::load(dir.path(), &config.identity("devices")).expect("its certificate");
    let running = fake.listen_as(credentials).await;
    let proxy = Proxy::to(running.address).await.expect("a proxy");
    config.endpoints.insert("devices".into(), vec![proxy.address.to_string()]);
    let mesh = Mesh::new(config, "edge", Clock::system()).expect("a mesh");
    Between { fake, proxy, mesh, _running: running, _dir: dir }
}

/// Keep-alives that notice silence in less than half a second.
fn watchful(rules: &Resilience) -> Resilience {
    let quick = Duration::from_millis(200);
    Resilience { keepalive_interval: quick, keepalive_timeout: quick, ..rules.clone() }
}

async fn within<T>(time: Duration, call: impl Future<Output = T>) -> T {
    let context = Context { deadline: Some(Instant::now() + time), ..Context::default() };
    Context::scope(context, call).await
}

#[tokio::test]
async fn f21_a_link_that_is_cut_opens_the_breaker_and_heals_without_a_restart() {
    let fake = Fake::new(|asked| async move {
        match asked.path.ends_with("WatchDevices") {
            true => watched(1, true),
            false => message(&GetDeviceResponse::default()),
        }
    });
    let rules = Resilience { breaker_failures: 3, breaker_pause_max: Duration::from_millis(400), ..quick() };
    let at = between(fake, watchful(&rules)).await;
    get_device(&at.mesh).await.expect("an answer");
    let mut open = watch_devices(&at.mesh).await.expect("a stream");
    open.message().await.expect("a message").expect("the first");
    at.proxy.set(Faults::blackhole());
    let ended = tokio::time::timeout(Duration::from_secs(15), open.message()).await.expect("noticed within 15 s");
    assert_eq!(Error::from(ended.expect_err("cut")).reason(), "UPSTREAM_LOST");
    eventually("calls are refused at once", || async {
        let error = within(Duration::from_secs(3), get_device(&at.mesh)).await.err().map(Error::from);
        error.is_some_and(|e| e.reason() == "CIRCUIT_OPEN")
    })
    .await;
    let asked = at.fake.asked();
    assert_ne!(breaker(&at.mesh, "devices").mode, BreakerMode::Closed);
    at.proxy.heal();
    eventually("it answers again", || async { get_device(&at.mesh).await.is_ok() }).await;
    assert!(at.fake.asked() > asked);
    eventually("the breaker is closed", || async { breaker(&at.mesh, "devices").mode == BreakerMode::Closed }).await;
    let mut again = watch_devices(&at.mesh).await.expect("a stream");
    again.message().await.expect("a message").expect("the first");
}

#[tokio::test]
async fn f22_a_call_whose_answer_is_lost_is_of_unknown_outcome_and_made_once() {
    let at = between(Fake::well(), quick()).await;
    get_device(&at.mesh).await.expect("an answer");
    let before = at.fake.asked();
    at.proxy.set(Faults::answers_lost());
    let mut devices: DevicesServiceClient<_> = at.mesh.client().expect("a client");
    let delete = sensormesh_proto::devices::v1::DeleteDeviceRequest { device_id: "d".into(), force: false };
    for n in 1..=2 {
        let status = within(Duration::from_millis(400), devices.delete_device(delete.clone())).await.expect_err("lost");
        let unknown = [tonic::Code::DeadlineExceeded, tonic::Code::Unavailable];
        assert!(unknown.contains(&status.code()), "{status}");
        if n == 1 {
            assert_eq!(at.fake.asked() - before, 1, "it arrived, and is not sent again by itself");
        }
    }
    at.proxy.heal();
    eventually("it answers again", || {
        let (mut devices, delete) = (devices.clone(), delete.clone());
        async move { devices.delete_device(delete).await.is_ok() }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_a_slow_link_causes_no_storm_of_timeouts() {
    let at = between(Fake::well(), quick_to_start(&quick())).await;
    at.proxy.set(Faults::slow(Duration::from_millis(200), Duration::from_millis(50)));
    let calls = (0..100).map(|_| get_device(&at.mesh));
    for (n, answer) in futures::future::join_all(calls).await.into_iter().enumerate() {
        answer.unwrap_or_else(|e| panic!("call {n}: {e}"));
    }
    assert_eq!(at.fake.asked(), 100, "none was sent again");
    assert!(at.fake.connections() <= 2, "{} connections", at.fake.connections());
    at.proxy.set(Faults::sliced(1));
    for n in 0..10 {
        get_device(&at.mesh).await.unwrap_or_else(|e| panic!("call {n} in slices: {e}"));
    }
    assert_eq!(breaker(&at.mesh, "devices").failures, 0);
}

/// Time to connect over a link that is slow.
fn quick_to_start(rules: &Resilience) -> Resilience {
    Resilience { connect_timeout: Duration::from_secs(10), ..rules.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_a_narrow_link_is_used_to_four_fifths() {
    const MESSAGES: usize = 250;
    let narrow = || Faults { down: Line { rate: Some(125_000), ..Line::default() }, ..Faults::default() };
    // the same bytes without us, over a link as narrow
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let plain = Proxy::to(listener.local_addr().expect("its address")).await.expect("a proxy");
    plain.set(narrow());
    let bytes = MESSAGES * 1030;
    let sending = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("led on");
        stream.write_all(&vec![7; bytes]).await.expect("sent");
    });
    let mut stream = TcpStream::connect(plain.address).await.expect("connected");
    let began = Instant::now();
    stream.read_to_end(&mut Vec::new()).await.expect("all of it");
    let bare = began.elapsed();
    sending.await.expect("sent");
    let at = between(Fake::new(|_| async { flowing(MESSAGES) }), plain_rules()).await;
    at.proxy.set(narrow());
    let began = Instant::now();
    let mut stream = watch_devices(&at.mesh).await.expect("a stream");
    let mut count = 0;
    while stream.message().await.expect("no failure").is_some() {
        count += 1;
    }
    let ours = began.elapsed();
    assert_eq!(count, MESSAGES);
    assert!(bare.as_secs_f64() / ours.as_secs_f64() >= 0.8, "{bare:?} for the bytes alone, {ours:?} as a stream");
}

fn plain_rules() -> Resilience {
    quick_to_start(&plain())
}

const COMMITS: u64 = 1_000;

/// Streams commits behind the one that the header `x-cursor` names, two in each message.
fn logging() -> Fake {
    Fake::new(|asked| async move {
        let after = asked.headers.get("x-cursor").and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0_u64);
        let commits: VecDeque<u64> = (after + 1..=COMMITS).collect();
        let frames = futures::stream::unfold(commits, |mut commits| async move {
            tokio::time::sleep(Duration::from_micros(200)).await;
            let two: Vec<String> = commits.drain(..commits.len().min(2)).map(|c| c.to_string()).collect();
            let message = WatchDevicesResponse { cursor: two.join(","), ..Default::default() };
            (!two.is_empty()).then(|| (Ok(framed(&message)), commits))
        });
        messages(frames)
    })
}

/// Follows the log to its end over a link that is reset again and again, after as many bytes as `bytes` says; judges what
/// was shown.
async fn follow(bytes: impl Fn(&mut Chance) -> usize) -> usize {
    let at = between(logging(), plain()).await;
    let mut chance = Chance::new("resets");
    let log: Vec<Item> = (1..=COMMITS).map(|commit| Item { commit, index: 0 }).collect();
    let (mut sessions, mut reached): (Vec<Session>, u64) = (Vec::new(), 0);
    let mut failed = 0;
    while reached < COMMITS {
        at.proxy.set(Faults::reset_after(bytes(&mut chance) as u64));
        let mut devices: DevicesServiceClient<_> = at.mesh.client().expect("a client");
        let mut request = Request::new(WatchDevicesRequest::default());
        request.metadata_mut().insert("x-cursor", reached.to_string().parse().expect("text"));
        let began = Instant::now();
        let mut stream = match devices.watch_devices(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                failed += 1;
                assert_eq!(Error::from(status.clone()).code(), Code::Unavailable, "{status}");
                assert!(failed < 10_000, "it never gets through");
                // a broken endpoint is tried again in its own time
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        let mut session = Session { after: Some(reached), ..Session::default() };
        let ended = loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    let commits = message.cursor.split(',').map(|c| c.parse().expect("a number"));
                    let items = commits.map(|commit| Item { commit, index: 0 }).collect();
                    session.said.push((began.elapsed(), Said::Message { items, more: false }));
                }
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
        };
        session.lasted = began.elapsed();
        reached = session.cursor().unwrap_or(reached);
        if let Some(status) = ended {
            assert_eq!(Error::from(status.clone()).code(), Code::Unavailable, "{status}");
        } else {
            assert_eq!(reached, COMMITS, "a good end comes at the end only");
        }
        sessions.push(session);
        at.proxy.heal();
    }
    stream::judge(&sessions, &log, 1, Duration::from_secs(60)).unwrap_or_else(|breach| panic!("{breach}"));
    assert_eq!(sessions.iter().flat_map(Session::items).count() as u64, COMMITS, "each once");
    sessions.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_a_stream_that_is_reset_anywhere_is_resumed_from_its_cursor() {
    // within the handshake, the first headers, and messages
    let sessions = follow(|chance| chance.below(5_000)).await;
    assert!(sessions > 2, "{sessions} sessions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_a_connection_that_is_reset_at_each_byte_of_its_beginning_is_unavailable() {
    let at = between(Fake::well(), Resilience { retries: 0, ..plain() }).await;
    for bytes in (0..3_000).step_by(61) {
        at.proxy.set(Faults::reset_after(bytes));
        if let Err(status) = get_device(&at.mesh).await {
            assert_eq!(Error::from(status.clone()).code(), Code::Unavailable, "after {bytes} bytes: {status}");
        }
        at.proxy.reset();
    }
    at.proxy.heal();
    eventually("it answers again", || async { get_device(&at.mesh).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f25_an_upstream_that_flaps_is_left_to_the_one_that_does_not() {
    let (steady, flapping) = (Fake::well(), Fake::well());
    let (steady_running, flapping_running) = (steady.listen().await, flapping.listen().await);
    let proxy = Arc::new(Proxy::to(flapping_running.address).await.expect("a proxy"));
    let mesh = edge(&[("devices", vec![steady_running.address, proxy.address])], quick());
    let flap = tokio::spawn({
        let proxy = Arc::clone(&proxy);
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                proxy.set(Faults::refusing());
                proxy.reset();
                tokio::time::sleep(Duration::from_millis(500)).await;
                proxy.heal();
            }
        }
    });
    let until = Instant::now() + Duration::from_secs(4);
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let mesh = mesh.clone();
            tokio::spawn(async move {
                let mut calls = 0;
                while Instant::now() < until {
                    get_device(&mesh).await.unwrap_or_else(|e| panic!("call {calls}: {e}"));
                    assert_eq!(breaker(&mesh, "devices").mode, BreakerMode::Closed);
                    calls += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                calls
            })
        })
        .collect();
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.expect("every call was answered");
    }
    flap.abort();
    let attempts = steady.asked() + flapping.asked();
    assert!(attempts * 10 <= calls * 12, "{attempts} attempts for {calls} calls");
    assert!(flapping.asked() > 0 && steady.asked() > flapping.asked(), "{} {}", steady.asked(), flapping.asked());
}

#[tokio::test]
async fn f27_a_port_behind_which_nobody_is_is_left_after_two_tries() {
    let fake = Fake::well();
    let running = fake.listen().await;
    let dead = Proxy::to(running.address).await.expect("a proxy");
    dead.set(Faults::blackhole());
    let rules = Resilience { connect_timeout: Duration::from_millis(100), ..quick() };
    let mesh = edge(&[("auth", vec![dead.address, running.address])], rules);
    let mut tried = Vec::new();
    for call in 0..100 {
        let before = dead.accepted();
        create_token(&mesh).await.unwrap_or_else(|e| panic!("call {call}: {e}"));
        tried.push(dead.accepted() - before);
    }
    assert_eq!(fake.asked(), 100);
    // a task of its own looks whether it is back; calls wait for it twice at most
    let first: usize = tried.iter().take(10).sum();
    assert!(first <= 2, "{tried:?}");
}
