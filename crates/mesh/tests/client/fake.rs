//! A gRPC server without rules of its own, and the means to cut its connections.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use sensormesh_mesh::client::{BreakerState, Resilience};
use sensormesh_mesh::tls::Credentials;
use sensormesh_mesh::{Config, LocalRegistry, LocalService, Mesh, Transport};
use sensormesh_proto::auth::v1::auth_service_client::AuthServiceClient;
use sensormesh_proto::auth::v1::{CreateTokenRequest, CreateTokenResponse};
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::devices::v1::{GetDeviceRequest, GetDeviceResponse, WatchDevicesRequest, WatchDevicesResponse};
use sensormesh_types::Clock;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::{Response as Answer, Status, Streaming};

/// What a fake was asked.
pub struct Asked {
    pub path: String,
    pub headers: HeaderMap,
}

type Answering = Arc<dyn Fn(Asked) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// A server that answers every call the way one function says, and counts.
#[derive(Clone)]
pub struct Fake {
    answering: Answering,
    pub asked: Arc<AtomicUsize>,
    pub connections: Arc<AtomicUsize>,
}

impl Fake {
    pub fn new<F, Fut>(answering: F) -> Self
    where
        F: Fn(Asked) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        Self {
            answering: Arc::new(move |asked| Box::pin(answering(asked))),
            asked: Arc::default(),
            connections: Arc::default(),
        }
    }

    /// One that answers with an empty message.
    pub fn well() -> Self {
        Self::new(|_| async { message(&GetDeviceResponse::default()) })
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        // a server that leaves requests unread resets their streams
        let unread = tokio::spawn(body.collect());
        let response = (self.answering)(Asked { path, headers: head.headers }).await;
        drop(unread);
        Ok(response)
    }

    /// The fake as a service of this process.
    pub fn here(&self) -> LocalService {
        let fake = self.clone();
        LocalService::new(tower::service_fn(move |request| fake.clone().answer(request)))
    }

    /// The fake behind a port of its own.
    pub async fn listen(&self) -> Running {
        self.listen_on("127.0.0.1:0".parse().expect("an address")).await
    }

    pub async fn listen_on(&self, address: SocketAddr) -> Running {
        self.listen_with(address, None).await
    }

    /// The fake behind a port of its own, with the certificate of a service.
    pub async fn listen_as(&self, credentials: Credentials) -> Running {
        self.listen_with("127.0.0.1:0".parse().expect("an address"), Some(credentials)).await
    }

    async fn listen_with(&self, address: SocketAddr, credentials: Option<Credentials>) -> Running {
        let began = tokio::time::Instant::now();
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                // somebody's connection out of this machine may have the port just now
                Err(_) if began.elapsed() < Duration::from_secs(5) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{address}: {error}"),
            }
        };
        let address = listener.local_addr().expect("its address");
        let fake = self.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                fake.connections.fetch_add(1, Ordering::SeqCst);
                let fake = fake.clone();
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    fake.clone().answer(request.map(Body::new))
                });
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.max_concurrent_streams(256).max_pending_accept_reset_streams(100);
                builder.max_local_error_reset_streams(8192);
                let acceptor = credentials.as_ref().map(|own| tokio_rustls::TlsAcceptor::from(own.server()));
                connections.spawn(async move {
                    let Some(acceptor) = acceptor else {
                        return builder.serve_connection(TokioIo::new(stream), service).await.is_ok();
                    };
                    let Ok(stream) = acceptor.accept(stream).await else { return false };
                    builder.serve_connection(TokioIo::new(stream), service).await.is_ok()
                });
            }
        });
        Running { address, task }
    }
}

/// A listening fake; dropped, its port is closed and its connections are cut.
pub struct Running {
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// Cuts everything, and waits until it is.
    pub async fn stop(mut self) {
        self.task.abort();
        // cancelled, as was asked
        let _ = (&mut self.task).await;
    }
}

/// A port that refuses connections.
pub async fn refusing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("its address")
}

pub fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).expect("a small message"));
    message.encode(&mut bytes).expect("room for it");
    bytes.freeze()
}

/// One message and a good end.
pub fn message(message: &impl Message) -> Response<Body> {
    messages(futures::stream::iter([Ok(framed(message))]))
}

/// The first `count` messages of an endless stream of devices; then it waits for ever if `then_wait`, else ends well.
pub fn watched(count: usize, then_wait: bool) -> Response<Body> {
    use futures::StreamExt as _;
    let first = (0..count).map(|n| framed(&WatchDevicesResponse { cursor: format!("c{n}"), ..Default::default() }));
    let first = futures::stream::iter(first.map(Ok).collect::<Vec<_>>());
    if then_wait { messages(first.chain(futures::stream::pending())) } else { messages(first) }
}

/// A stream of `count` messages of a kilobyte that ends well.
pub fn flowing(count: usize) -> Response<Body> {
    let large = framed(&WatchDevicesResponse { cursor: "c".repeat(1024), ..Default::default() });
    messages(futures::stream::unfold(count, move |left| {
        let large = large.clone();
        async move {
            tokio::task::yield_now().await;
            (left > 0).then(|| (Ok(large), left - 1))
        }
    }))
}

pub fn messages(stream: impl futures::Stream<Item = Result<Bytes, Status>> + Send + 'static) -> Response<Body> {
    use futures::StreamExt as _;
    let end = async {
        let mut trailers = HeaderMap::new();
        Status::ok("").add_header(&mut trailers).expect("headers");
        Ok(Frame::trailers(trailers))
    };
    let frames = stream.map(|item| item.map(Frame::data)).chain(futures::stream::once(end));
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    response
}

/// The edge, which may call everything, in the plaintext transport.
pub fn edge(endpoints: &[(&str, Vec<SocketAddr>)], resilience: Resilience) -> Mesh {
    edge_beside(&LocalRegistry::new(), endpoints, resilience)
}

pub fn edge_beside(registry: &LocalRegistry, endpoints: &[(&str, Vec<SocketAddr>)], resilience: Resilience) -> Mesh {
    let endpoints = endpoints
        .iter()
        .map(|(service, addresses)| ((*service).to_owned(), addresses.iter().map(ToString::to_string).collect()))
        .collect();
    let config = Config { transport: Transport::Plaintext, dev: true, endpoints, resilience, ..Config::default() };
    Mesh::beside(registry, config, "edge", Clock::system()).expect("a mesh")
}

/// Numbers that do not make a test wait.
pub fn quick() -> Resilience {
    Resilience {
        connect_timeout: Duration::from_millis(500),
        retry_pause: Duration::from_millis(2),
        retry_pause_max: Duration::from_millis(20),
        breaker_pause: Duration::from_millis(100),
        ..Resilience::default()
    }
}

/// Numbers without retries and without a breaker.
pub fn plain() -> Resilience {
    Resilience { retries: 0, breaker_failures: u32::MAX, breaker_calls: u32::MAX, ..quick() }
}

/// A call that may be repeated.
pub async fn get_device(mesh: &Mesh) -> Result<Answer<GetDeviceResponse>, Status> {
    let mut devices: DevicesServiceClient<_> = mesh.client().expect("a client");
    devices.get_device(GetDeviceRequest { device_id: "d".into() }).await
}

/// A call that may not be repeated.
pub async fn create_token(mesh: &Mesh) -> Result<Answer<CreateTokenResponse>, Status> {
    let mut auth: AuthServiceClient<_> = mesh.client().expect("a client");
    auth.create_token(CreateTokenRequest::default()).await
}

/// A long stream.
pub async fn watch_devices(mesh: &Mesh) -> Result<Streaming<WatchDevicesResponse>, Status> {
    let mut devices: DevicesServiceClient<_> = mesh.client().expect("a client");
    devices.watch_devices(WatchDevicesRequest::default()).await.map(Answer::into_inner)
}

pub fn breaker(mesh: &Mesh, upstream: &str) -> BreakerState {
    mesh.breakers().into_iter().find(|b| b.upstream == upstream).expect("a breaker of that upstream")
}

/// Asks again and again until it is so; ten seconds at most.
pub async fn eventually<Fut: Future<Output = bool>>(what: &str, so: impl Fn() -> Fut) {
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    while !so().await {
        assert!(tokio::time::Instant::now() < until, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
