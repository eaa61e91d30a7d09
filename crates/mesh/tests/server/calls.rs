//! One call through the layers: time, panics, errors, cancelling, load.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::devices::v1::{DeleteDeviceRequest, GetDeviceRequest};
use sensormesh_proto::mesh::v1::mesh_service_client::MeshServiceClient;
use sensormesh_proto::mesh::v1::{GetStatusRequest, ListAuditEntriesRequest, ResetBreakerRequest, State};
use sensormesh_proto::rooms::v1::GetPlaceRequest;
use sensormesh_proto::rooms::v1::rooms_service_client::RoomsServiceClient;
use tonic::body::Body;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::world::*;

fn within<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_passed_deadline_is_said_to_be_one() {
    let world = World::start().await;
    // the client's own timer is off: the header alone must do it
    let mut request = Request::new(device("slow"));
    request.metadata_mut().insert("grpc-timeout", "100m".parse().expect("value"));
    let began = tokio::time::Instant::now();
    let late = world.devices_here("adapters").get_device(request).await.expect_err("late");
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_secs(5));
    let mut request = Request::new(watch(""));
    request.metadata_mut().insert("grpc-timeout", "100m".parse().expect("value"));
    let stream = world.devices_here("adapters").watch_devices(request).await.expect("a stream").into_inner();
    let (count, ended) = whole(stream).await;
    assert!(count > 0);
    assert_eq!(ended.expect_err("late").code(), Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_cleanly_at_its_greatest_age() {
    let world = World::start().await;
    let began = tokio::time::Instant::now();
    let stream = world.devices_here("adapters").watch_devices(watch("")).await.expect("a stream").into_inner();
    let (count, ended) = whole(stream).await;
    ended.expect("cleanly");
    assert!(count > 1000);
    assert_eq!(began.elapsed().as_secs(), 3600);
}

#[tokio::test]
async fn f06_a_panic_is_the_end_of_its_own_call_only() {
    /// How often this was counted as INTERNAL, by all tests of this process.
    fn counted(method: &str) -> u64 {
        let text = sensormesh_observability::metrics::render();
        let of = |line: &&str| {
            line.contains(method) && line.contains("\"INTERNAL\"") && line.contains("duration_seconds_count{")
        };
        let counts = text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        counts.sum()
    }
    let before = (counted("DevicesService/GetDevice"), counted("DevicesService/WatchDevices"));
    let world = World::start().await;
    let client = world.devices("adapters");
    let bystander = client.clone().watch_devices(watch("")).await.expect("a stream");
    let calls = (0..8).map(|n| {
        let mut client = client.clone();
        async move { client.get_device(device(if n % 2 == 0 { "panic" } else { "ok" })).await }
    });
    for (n, answer) in join_all(calls).await.into_iter().enumerate() {
        match answer {
            Ok(_) => assert_eq!(n % 2, 1),
            Err(status) => assert_eq!((n % 2, status.code()), (0, Code::Internal), "{status}"),
        }
    }
    let stream = client.clone().watch_devices(watch("panic")).await.expect("a stream").into_inner();
    let (count, ended) = whole(stream).await;
    assert_eq!((count, ended.expect_err("a panic").code()), (1, Code::Internal));
    let mut bystander = bystander.into_inner();
    for _ in 0..5 {
        assert!(bystander.message().await.expect("goes on").is_some());
    }
    assert!(counted("DevicesService/GetDevice") >= before.0 + 4, "each is counted");
    assert!(counted("DevicesService/WatchDevices") > before.1, "a stream as well");
}

#[tokio::test]
async fn an_internal_error_says_its_trace_and_nothing_else() {
    let world = World::start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traced = |request: &mut tonic::metadata::MetadataMap| {
        request.insert("traceparent", format!("00-{trace}-00f067aa0ba902b7-01").parse().expect("value"));
    };
    let mut request = Request::new(device("internal"));
    traced(request.metadata_mut());
    let unary = world.devices("adapters").get_device(request).await.expect_err("internal");
    let mut request = Request::new(watch("internal"));
    traced(request.metadata_mut());
    let stream = world.devices("adapters").watch_devices(request).await.expect("a stream").into_inner();
    let streamed = whole(stream).await.1.expect_err("internal");
    for status in [unary, streamed] {
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(status.message(), format!("internal error (trace {trace})"));
        assert!(!String::from_utf8_lossy(status.details()).contains("secret"));
    }
}

#[tokio::test]
async fn a_method_that_nobody_knows_is_unimplemented() {
    let world = World::start().await;
    let strange = RoomsServiceClient::new(world.channel("operator")).get_place(GetPlaceRequest::default()).await;
    assert_eq!(strange.expect_err("not here").code(), Code::Unimplemented);
    let mut grpc = tonic::client::Grpc::new(world.channel("operator"));
    grpc.ready().await.expect("ready");
    let path = http::uri::PathAndQuery::from_static("/no.such.Service/Method");
    let codec = sensormesh_proto::ValidatingCodec::<GetDeviceRequest, sensormesh_proto::devices::v1::GetDeviceResponse>::default();
    let unknown = grpc.unary(Request::new(device("ok")), path, codec).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::Unimplemented);
}

/// Every kind of outcome, once over the network and once within the process.
#[tokio::test]
async fn a_call_ends_alike_in_process_and_over_the_network() {
    async fn outcomes<C>(of: impl Fn(&str) -> C) -> Vec<(String, String)>
    where
        C: tonic::client::GrpcService<Body> + Clone,
        C::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        <C::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let said = |status: &Status| {
            let details = status.get_error_details();
            let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
            let fields = details.bad_request().map_or(0, |bad| bad.field_violations.len());
            (format!("{:?}", status.code()), format!("{reason} {fields}"))
        };
        let mut all = Vec::new();
        for peer in ["adapters", "energy", "edge", "operator"] {
            for id in ["ok", "missing", "internal", "panic", ""] {
                let answer = DevicesServiceClient::new(of(peer)).get_device(device(id)).await;
                all.push(answer.map_or_else(|status| said(&status), |_| ("Ok".into(), String::new())));
            }
            let mut forged = Request::new(device("ok"));
            forged.metadata_mut().insert("authorization", "Bearer a.b.c".parse().expect("value"));
            let answer = DevicesServiceClient::new(of(peer)).get_device(forged).await;
            all.push(answer.map_or_else(|status| said(&status), |_| ("Ok".into(), String::new())));
            let late = DevicesServiceClient::new(of(peer)).get_device(within(device("slow"), SHORT)).await;
            // tonic's own client timer may be the first to notice, and words it its own way
            let code = late.expect_err("late").code();
            all.push((
                if code == Code::Cancelled { "DeadlineExceeded".into() } else { format!("{code:?}") },
                String::new(),
            ));
            for what in ["two", "internal", "panic"] {
                all.push(match DevicesServiceClient::new(of(peer)).watch_devices(watch(what)).await {
                    Err(status) => said(&status),
                    Ok(stream) => {
                        let (count, ended) = whole(stream.into_inner()).await;
                        let code = ended.map_or_else(|status| said(&status), |()| ("Ok".into(), String::new()));
                        (code.0, format!("{} after {count}", code.1))
                    }
                });
            }
        }
        all
    }
    let world = World::start().await;
    let near = outcomes(|peer| world.here(peer)).await;
    let far = outcomes(|peer| world.channel(peer)).await;
    assert_eq!(near, far);
    for code in ["Ok", "NotFound", "Internal", "InvalidArgument", "PermissionDenied", "Unauthenticated"] {
        assert!(near.iter().any(|(c, _)| c == code), "{code} occurs: {near:?}");
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_cut_a_write_in_half() {
    let world = World::start().await;
    for mut client in [world.devices("operator"), world.devices("operator")] {
        let before = world.seen.writes.load(Ordering::SeqCst);
        let calls = world.seen.calls.load(Ordering::SeqCst);
        let call = tokio::spawn(async move {
            client.delete_device(DeleteDeviceRequest { device_id: "d".into(), force: false }).await
        });
        until("the call", || async { world.seen.calls.load(Ordering::SeqCst) > calls }).await;
        call.abort();
        until("the write", || async { world.seen.writes.load(Ordering::SeqCst) > before }).await;
    }
}

#[tokio::test]
async fn what_is_too_much_is_refused_with_a_hint_and_health_still_answers() {
    let world = World::with(|config| config.limits.calls_per_method = 2).await;
    let client = world.devices("adapters");
    let held: Vec<_> = (0..2)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.get_device(within(device("slow"), Duration::from_secs(5))).await })
        })
        .collect();
    until("both places taken", || async { world.seen.calls.load(Ordering::SeqCst) == 2 }).await;
    let refused = client.clone().get_device(device("ok")).await.expect_err("too much");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.get_error_details().retry_info().is_some(), "with our own hint: it had no effect");
    assert!(refused.metadata().contains_key("grpc-retry-pushback-ms"));
    let status = MeshServiceClient::new(world.channel("operator")).get_status(GetStatusRequest {}).await;
    assert_eq!(status.expect("status").into_inner().service, "devices");
    for call in held {
        call.abort();
    }
    until("a place became free", || {
        let mut client = client.clone();
        async move { client.get_device(device("ok")).await.is_ok() }
    })
    .await;
}

#[tokio::test]
async fn every_service_answers_about_itself() {
    let world = World::start().await;
    let mut client = MeshServiceClient::new(world.channel("operator"));
    let status = client.get_status(GetStatusRequest {}).await.expect("status").into_inner();
    assert_eq!((status.service.as_str(), status.state()), ("devices", State::Degraded));
    let database = status.checks.iter().find(|check| check.name == "database").expect("the check");
    assert_eq!((database.healthy, database.detail.as_str()), (false, "slow today"));
    assert!(status.checks.iter().any(|check| check.name == "follow keys and revocations"));
    assert!(status.resident_bytes > 0 && status.start_time.is_some());
    client.list_audit_entries(ListAuditEntriesRequest::default()).await.expect("an empty list");
    let unknown = client.reset_breaker(ResetBreakerRequest { upstream: "nobody".into() }).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
    let denied = MeshServiceClient::new(world.channel("energy")).get_status(GetStatusRequest {}).await;
    assert_eq!(denied.expect_err("not for services").code(), Code::PermissionDenied);
}

#[tokio::test]
async fn who_asks_for_much_is_refused_before_memory_runs_out() {
    // whatever it has is more than this
    let world = World::with(|config| config.memory = 1 << 20).await;
    let status = world.devices_here("adapters").get_device(device("ok")).await.expect_err("refused");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = status.get_error_details();
    assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("MEMORY_SHORT"));
    assert!(details.retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
    // the mesh's own calls are answered to the last, and say why
    let mut client = MeshServiceClient::new(world.here("operator"));
    let status = client.get_status(GetStatusRequest {}).await.expect("answered").into_inner();
    let memory = status.checks.iter().find(|check| check.name == "memory").expect("a check");
    assert!(memory.detail.contains("calls are refused"), "{memory:?}");
    // there is plenty
    let world = World::with(|config| config.memory = 1 << 40).await;
    world.devices_here("adapters").get_device(device("ok")).await.expect("answered");
}
