//! One call: what it carries, how long it may take, when it is sent again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use sensormesh_mesh::client::{BreakerMode, Resilience};
use sensormesh_mesh::{Config, Context, LocalRegistry, Mesh, Transport};
use sensormesh_proto::auth::v1::CreateTokenResponse;
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::devices::v1::{GetDeviceRequest, GetDeviceResponse};
use sensormesh_types::{Clock, Code as OurCode, Error};
use tokio::time::Instant;
use tonic::Code;

use super::fake::*;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn served() -> Context {
    Context {
        deadline: Some(Instant::now() + Duration::from_secs(1)),
        traceparent: TRACE.into(),
        authorization: Some("Bearer ada".into()),
        request_id: "r-1".into(),
    }
}

/// A fake that keeps the headers of what it is asked.
fn recording() -> (Fake, Arc<Mutex<Vec<http::HeaderMap>>>) {
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let kept = Arc::clone(&seen);
    let fake = Fake::new(move |asked| {
        kept.lock().push(asked.headers);
        async { message(&GetDeviceResponse::default()) }
    });
    (fake, seen)
}

fn micros(headers: &http::HeaderMap) -> u64 {
    let text = headers["grpc-timeout"].to_str().expect("text");
    text.strip_suffix('u').and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("microseconds, not {text}"))
}

#[tokio::test]
async fn a_call_carries_trace_request_id_and_the_users_own_token() {
    let (fake, seen) = recording();
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], quick());
    Context::scope(served(), get_device(&mesh)).await.expect("an answer");
    let headers = seen.lock().remove(0);
    assert_eq!(headers["authorization"], "Bearer ada");
    assert_eq!(headers["x-request-id"], "r-1");
    assert!(headers["traceparent"].to_str().expect("text").contains("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert_eq!(headers["te"], "trailers");
}

#[tokio::test]
async fn a_service_that_calls_for_itself_forwards_no_token() {
    let (fake, seen) = recording();
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], quick());
    let mut devices: DevicesServiceClient<_> = mesh.client_as_service().expect("a client");
    let request = GetDeviceRequest { device_id: "d".into() };
    Context::scope(served(), devices.get_device(request)).await.expect("an answer");
    get_device(&mesh).await.expect("an answer outside a call");
    let seen = seen.lock();
    assert!(seen.iter().all(|headers| !headers.contains_key("authorization")));
    assert!(seen[0]["traceparent"].to_str().expect("text").contains("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert!(seen[1].contains_key("traceparent"), "a task begins a trace of its own");
}

#[tokio::test]
async fn f37_the_deadline_shrinks_hop_by_hop() {
    // each hop is served within the time it was given and calls the next
    let depth = Arc::<Mutex<Vec<u64>>>::default();
    let registry = LocalRegistry::new();
    let mesh = edge_beside(&registry, &[], quick());
    let (times, next) = (Arc::clone(&depth), mesh.clone());
    let chain = Fake::new(move |asked| {
        let (times, next) = (Arc::clone(&times), next.clone());
        async move {
            let given = micros(&asked.headers);
            times.lock().push(given);
            if times.lock().len() < 4 {
                let deadline = Some(Instant::now() + Duration::from_micros(given));
                let context = Context { deadline, ..Context::default() };
                Box::pin(Context::scope(context, get_device(&next))).await.expect("the next hop");
            }
            message(&GetDeviceResponse::default())
        }
    });
    registry.register("devices", chain.here());
    Context::scope(served(), get_device(&mesh)).await.expect("an answer");
    let times = depth.lock().clone();
    assert_eq!(times.len(), 4);
    assert!(times[0] <= 900_000, "{times:?}");
    assert!(times.windows(2).all(|hop| hop[1] * 10 <= hop[0] * 9 + 10), "a tenth less each time: {times:?}");
    assert!(times[3] > 300_000, "{times:?}");
}

#[tokio::test]
async fn f37_a_spent_budget_makes_no_call() {
    let fake = Fake::well();
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], quick());
    let context = Context { deadline: Some(Instant::now()), ..Context::default() };
    let status = Context::scope(context, get_device(&mesh)).await.expect_err("no time");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(fake.asked(), 0);
}

#[tokio::test]
async fn an_upstream_that_stays_silent_exceeds_the_deadline() {
    let fake = Fake::new(|_| std::future::pending());
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], quick());
    let context = Context { deadline: Some(Instant::now() + Duration::from_millis(100)), ..Context::default() };
    let status = Context::scope(context, get_device(&mesh)).await.expect_err("no answer");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(fake.asked(), 1, "a call that ran out of time is not repeated");
    assert_eq!(breaker(&mesh, "devices").failures, 0, "a tenth of a second says nothing about the upstream");
}

#[tokio::test]
async fn calls_that_take_too_long_are_not_held_against_an_upstream_that_lives() {
    let fake = Fake::new(|asked| async move {
        match asked.path.ends_with("GetDevice") {
            true => std::future::pending().await,
            false => watched(1, true),
        }
    });
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], quick());
    let slow = || async {
        let context = Context { deadline: Some(Instant::now() + Duration::from_millis(1500)), ..Context::default() };
        Context::scope(context, get_device(&mesh)).await.expect_err("no answer").code()
    };
    let codes = futures::future::join_all((0..30).map(|_| slow())).await;
    assert!(codes.iter().all(|code| *code == Code::DeadlineExceeded), "{codes:?}");
    tokio::time::sleep(quick().connect_timeout * 2).await; // it was asked for a sign of life
    let state = breaker(&mesh, "devices");
    assert_eq!((state.mode, state.failures), (BreakerMode::Closed, 0));
    watch_devices(&mesh).await.expect("others are served");
}

#[tokio::test]
async fn a_call_is_sent_again_only_where_its_contract_allows() {
    let fake = Fake::new(|_| async { tonic::Status::unavailable("try again").into_http() });
    let running = fake.listen().await;
    let rules = Resilience { breaker_failures: 100, ..quick() };
    let mesh = edge(&[("devices", vec![running.address]), ("auth", vec![running.address])], rules);
    assert_eq!(get_device(&mesh).await.expect_err("unavailable").code(), Code::Unavailable);
    assert_eq!(fake.asked(), 3, "once and two retries");
    assert_eq!(create_token(&mesh).await.expect_err("unavailable").code(), Code::Unavailable);
    assert_eq!(fake.asked(), 4, "once");
}

#[tokio::test]
async fn a_retry_that_succeeds_is_an_answer() {
    let times = Arc::<Mutex<u32>>::default();
    let fake = Fake::new(move |asked| {
        let before = std::mem::replace(&mut *times.lock(), 1);
        async move {
            if before == 0 {
                return Error::unavailable("BUSY", "a moment", Duration::from_millis(5)).into_response();
            }
            assert_eq!(asked.headers["grpc-previous-rpc-attempts"], "1");
            message(&GetDeviceResponse::default())
        }
    });
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], quick());
    get_device(&mesh).await.expect("the second answer");
    assert_eq!(fake.asked(), 2);
}

#[tokio::test]
async fn what_was_undone_is_done_again_whatever_it_is_and_nothing_else_that_was_aborted() {
    let conflict = |reason: &'static str| Error::new(OurCode::Conflict, reason, "another came first");
    let undone = || tonic::Status::from(conflict("CONCURRENT_CHANGE").after(Duration::from_millis(5)));
    // of a service behind it, which was asked again already; what this one did stands
    let behind = conflict("CONCURRENT_CHANGE").after(Duration::from_millis(5)).with("upstream", "devices");
    for (times, status, asked, answered) in [
        (2, undone(), 3, true),
        (9, undone(), 3, false),
        // to be read again first
        (1, conflict("ETAG_MISMATCH").into(), 1, false),
        (1, behind.into(), 1, false),
    ] {
        let fake = Fake::new(move |asked| {
            let before = asked.headers.get("grpc-previous-rpc-attempts").map_or("0", |v| v.to_str().expect("a number"));
            let again = before.parse::<u32>().expect("a number") < times;
            let answer = if again { status.clone().into_http() } else { message(&CreateTokenResponse::default()) };
            async move { answer }
        });
        let running = fake.listen().await;
        let mesh = edge(&[("auth", vec![running.address])], quick());
        let created = create_token(&mesh).await;
        assert_eq!((created.is_ok(), fake.asked()), (answered, asked), "{created:?}");
        assert_eq!(breaker(&mesh, "auth").mode, BreakerMode::Closed, "it is no failure of the service");
    }
}

trait IntoResponse {
    fn into_response(self) -> http::Response<tonic::body::Body>;
}

impl IntoResponse for Error {
    fn into_response(self) -> http::Response<tonic::body::Body> {
        tonic::Status::from(self).into_http()
    }
}

#[tokio::test]
async fn a_pushback_that_is_negative_or_long_forbids_a_retry() {
    for hint in ["-1", "60000"] {
        let fake = Fake::new(move |_| async move {
            let mut status = tonic::Status::unavailable("not now");
            status.metadata_mut().insert("grpc-retry-pushback-ms", hint.parse().expect("a value"));
            status.into_http()
        });
        let running = fake.listen().await;
        let mesh = edge(&[("devices", vec![running.address])], quick());
        get_device(&mesh).await.expect_err("unavailable");
        assert_eq!(fake.asked(), 1, "{hint}");
    }
}

#[tokio::test]
async fn retries_stay_within_their_budget() {
    let fake = Fake::new(|_| async { tonic::Status::unavailable("try again").into_http() });
    let running = fake.listen().await;
    let rules = Resilience { retries_per_second: 1.0, ..plain() };
    let mesh = edge(&[("devices", vec![running.address])], Resilience { retries: 2, ..rules });
    for _ in 0..100 {
        get_device(&mesh).await.expect_err("unavailable");
    }
    let retries = fake.asked() - 100;
    assert!((15..=30).contains(&retries), "{retries} retries of 100 calls");
}

#[tokio::test]
async fn an_answer_that_speaks_of_another_service_is_not_held_against_this_one() {
    let fake = Fake::new(|_| async {
        Error::unavailable("UPSTREAM_UNREACHABLE", "auth unreachable", Duration::from_millis(1))
            .with("upstream", "auth")
            .into_response()
    });
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], quick());
    for _ in 0..10 {
        get_device(&mesh).await.expect_err("unavailable");
    }
    assert_eq!(fake.asked(), 10, "only one layer repeats");
    assert_eq!(breaker(&mesh, "devices").mode, BreakerMode::Closed);
}

#[tokio::test]
async fn f34_the_breaker_opens_tries_again_and_closes() {
    let well = Arc::<std::sync::atomic::AtomicBool>::default();
    let now = Arc::clone(&well);
    let fake = Fake::new(move |_| {
        let well = now.load(std::sync::atomic::Ordering::SeqCst);
        async move {
            if well { message(&GetDeviceResponse::default()) } else { tonic::Status::unavailable("ill").into_http() }
        }
    });
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], Resilience { retries: 0, ..quick() });
    for _ in 0..5 {
        get_device(&mesh).await.expect_err("ill");
    }
    assert_eq!(breaker(&mesh, "devices").mode, BreakerMode::Open);
    assert!(breaker(&mesh, "devices").retry_at.is_some());
    let status = get_device(&mesh).await.expect_err("refused at once");
    let error = Error::from(status);
    assert_eq!((error.code(), error.reason()), (OurCode::Unavailable, "CIRCUIT_OPEN"));
    assert!(error.retry_after().is_some());
    assert_eq!(fake.asked(), 5, "an open breaker makes no call");
    well.store(true, std::sync::atomic::Ordering::SeqCst);
    eventually("a trial closes the breaker", || async { get_device(&mesh).await.is_ok() }).await;
    assert_eq!(breaker(&mesh, "devices").mode, BreakerMode::Closed);
}

#[tokio::test]
async fn a_trial_that_takes_too_long_closes_the_breaker_where_the_upstream_lives() {
    let asked = Arc::<std::sync::atomic::AtomicUsize>::default();
    let fake = Fake::new(move |_| {
        let ill = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 5;
        async move { if ill { tonic::Status::unavailable("ill").into_http() } else { std::future::pending().await } }
    });
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], Resilience { retries: 0, ..quick() });
    for _ in 0..5 {
        get_device(&mesh).await.expect_err("ill");
    }
    assert_eq!(breaker(&mesh, "devices").mode, BreakerMode::Open);
    tokio::time::sleep(quick().breaker_pause * 2).await;
    let context = Context { deadline: Some(Instant::now() + Duration::from_millis(1500)), ..Context::default() };
    let late = Context::scope(context, get_device(&mesh)).await.expect_err("no answer");
    assert_eq!((late.code(), fake.asked()), (Code::DeadlineExceeded, 6));
    eventually("it is closed", || async { breaker(&mesh, "devices").mode == BreakerMode::Closed }).await;
}

#[tokio::test]
async fn a_reset_closes_the_breaker_at_once() {
    let fake = Fake::well();
    let address = refusing().await;
    let rules = Resilience { retries: 0, breaker_pause: Duration::from_secs(60), ..quick() };
    let mesh = edge(&[("devices", vec![address])], rules);
    for _ in 0..5 {
        get_device(&mesh).await.expect_err("refused");
    }
    assert_eq!(breaker(&mesh, "devices").mode, BreakerMode::Open);
    let _running = fake.listen_on(address).await;
    let error = Error::from(get_device(&mesh).await.expect_err("the breaker is open"));
    assert_eq!(error.reason(), "CIRCUIT_OPEN");
    assert_eq!(mesh.reset_breaker("nobody").expect_err("never called").code(), OurCode::NotFound);
    assert_eq!(mesh.reset_breaker("devices").expect("reset")[0].mode, BreakerMode::Closed);
    get_device(&mesh).await.expect("an answer");
}

#[tokio::test]
async fn f34_too_many_calls_at_once_are_refused_with_a_hint() {
    let fake = Fake::new(|_| std::future::pending());
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], Resilience { calls_in_flight: 2, ..quick() });
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let mesh = mesh.clone();
            tokio::spawn(async move { get_device(&mesh).await })
        })
        .collect();
    eventually("two calls wait", || async { fake.asked() == 2 }).await;
    let error = Error::from(get_device(&mesh).await.expect_err("crowded"));
    assert_eq!(error.code(), OurCode::Exhausted);
    assert!(error.retry_after().is_some());
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn nobody_calls_whom_no_contract_names() {
    let config = Config { transport: Transport::Plaintext, dev: true, ..Config::default() };
    let mesh = Mesh::new(config, "auth", Clock::system()).expect("a mesh");
    let refused = mesh.client::<DevicesServiceClient<_>>().expect_err("auth calls nobody");
    assert_eq!((refused.code(), refused.reason()), (OurCode::Precondition, "CALL_NOT_IN_CONTRACT"));
}

#[tokio::test]
async fn in_one_process_and_over_the_network_a_call_behaves_the_same() {
    let fake = Fake::new(|asked| async move {
        match asked.headers.get("x-test").map(http::HeaderValue::as_bytes) {
            Some(b"refuse") => Error::invalid("device_id", "must be better").into_response(),
            Some(b"timeout") => tonic::Status::cancelled("Timeout expired").into_http(),
            Some(b"hang") => std::future::pending().await,
            _ if asked.path.ends_with("CreateToken") => message(&CreateTokenResponse::default()),
            _ => message(&GetDeviceResponse::default()),
        }
    });
    let running = fake.listen().await;
    let registry = LocalRegistry::new();
    registry.register("devices", fake.here());
    let there = edge(&[("devices", vec![running.address])], plain());
    let here = edge_beside(&registry, &[], plain());
    let mut outcomes = Vec::new();
    for mesh in [&there, &here] {
        let mut devices: DevicesServiceClient<_> = mesh.client().expect("a client");
        let mut seen = Vec::new();
        for test in ["", "refuse", "timeout", "hang"] {
            let mut request = tonic::Request::new(GetDeviceRequest { device_id: "d".into() });
            request.metadata_mut().insert("x-test", test.parse().expect("a value"));
            request.set_timeout(Duration::from_millis(300));
            let outcome = devices.get_device(request).await;
            seen.push(outcome.map_or_else(
                |status| {
                    let error = Error::from(status.clone());
                    format!("{:?} {} {:?}", status.code(), error.message(), error.fields())
                },
                |_| "well".to_owned(),
            ));
        }
        outcomes.push(seen);
    }
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(outcomes[0][0], "well");
    assert!(outcomes[0][1].starts_with("InvalidArgument"), "{:?}", outcomes[0]);
    assert!(outcomes[0][2].starts_with("DeadlineExceeded"), "{:?}", outcomes[0]);
    assert!(outcomes[0][3].starts_with("DeadlineExceeded"), "{:?}", outcomes[0]);
    assert_eq!(fake.asked(), 8);
}

#[tokio::test]
async fn many_calls_at_once_share_few_connections() {
    let fake = Fake::well();
    let running = fake.listen().await;
    let mesh = edge(&[("devices", vec![running.address])], quick());
    let calls = join_all((0..200).map(|_| get_device(&mesh))).await;
    assert!(calls.iter().all(Result::is_ok));
    assert!(fake.connections() <= 2, "{} connections", fake.connections());
}
