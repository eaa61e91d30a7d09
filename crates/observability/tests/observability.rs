//! Spans on their way to a collector.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use sensormesh_observability::{Config, Secret, trace};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Keeps what it is sent.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    keys: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if let Some(key) = request.metadata().get("x-key").and_then(|key| key.to_str().ok()) {
            self.keys.lock().expect("keys").push(key.to_owned());
        }
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans);
        self.spans.lock().expect("spans").extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spans_of_a_call_and_of_the_call_it_makes_reach_the_collector_in_one_trace() {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let config = Config {
        otlp_endpoint: endpoint,
        otlp_headers: [("x-key".to_owned(), Secret::new("k1".to_owned()))].into(),
        ..Config::default()
    };
    let guard = sensormesh_observability::init(&config).expect("set up");
    let browser: trace::TraceParent =
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().expect("parent");
    {
        let (served, position) = trace::server_span("rooms", "x.Rooms/GetRoom", Some(browser));
        let _served = served.enter();
        let (made, sent) = trace::client_span("rooms", "x.Devices/GetDevice", Some(position));
        trace::record_status(&made, 0);
        assert_eq!(sent.trace_id(), browser.trace_id());
        assert_ne!(sent.span_id(), position.span_id());
    }
    tokio::task::spawn_blocking(move || guard.shutdown()).await.expect("the last spans are sent");
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    while collector.spans.lock().expect("spans").len() < 2 && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let spans = collector.spans.lock().expect("spans").clone();
    let named =
        |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}: {spans:?}"));
    let (served, made) = (named("x.Rooms/GetRoom"), named("x.Devices/GetDevice"));
    assert_eq!(served.trace_id, made.trace_id);
    assert_eq!(served.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    assert_eq!(made.parent_span_id, served.span_id);
    assert_eq!(collector.keys.lock().expect("keys").first().map(String::as_str), Some("k1"));
}
