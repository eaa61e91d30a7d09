//! One served service, `devices`, whose handlers do what the request's id says, and ways to call it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sensormesh_mesh::tls::provider;
use sensormesh_mesh::{
    Condition, Config, Listeners, LocalRegistry, Mesh, Peer, Pki, Running, ServerLimits, Service, Shutdown, Streaming,
    caller, serve, stream,
};
use sensormesh_proto::ValidatingCodec;
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::devices::v1::{
    DeleteDeviceRequest, DeleteDeviceResponse, Device, GetDeviceRequest, GetDeviceResponse, WatchDevicesRequest,
    WatchDevicesResponse,
};
use sensormesh_types::{Clock, Error};
use tokio::net::{TcpListener, TcpStream};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// The services that have certificates. `energy` may call nothing of `devices`.
pub const SERVICES: [&str; 5] = ["devices", "adapters", "energy", "edge", "auth"];

#[derive(Default)]
pub struct Seen {
    pub calls: AtomicU32,
    pub writes: AtomicU32,
    /// Calls of `crowded` that run.
    pub crowd: AtomicU32,
}

#[derive(Clone)]
pub struct Devices(pub Arc<Seen>);

impl NamedService for Devices {
    const NAME: &'static str = "sensormesh.devices.v1.DevicesService";
}

impl Devices {
    async fn get(self, request: Request<GetDeviceRequest>) -> Result<Response<GetDeviceResponse>, Status> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        let caller = caller(&request)?.clone();
        match request.into_inner().device_id.as_str() {
            "panic" => panic!("as asked"),
            "internal" => Err(Error::internal("SELECT secret FROM table").into()),
            "missing" => Err(Error::not_found("device", "missing").into()),
            "slow" => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Err(Error::internal("too late").into())
            }
            // as if all of them wanted the same processor
            "crowded" => {
                let beside = self.0.crowd.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(10) * beside).await;
                self.0.crowd.fetch_sub(1, Ordering::SeqCst);
                let device = Some(Device { model: beside.to_string(), ..Device::default() });
                Ok(Response::new(GetDeviceResponse { device }))
            }
            id => {
                let device = Device {
                    device_id: id.to_owned(),
                    name: caller.actor(),
                    manufacturer: caller.tenant().to_owned(),
                    model: caller.peer.unwrap_or_default(),
                    ..Device::default()
                };
                Ok(Response::new(GetDeviceResponse { device: Some(device) }))
            }
        }
    }

    async fn delete(self, _request: Request<DeleteDeviceRequest>) -> Result<Response<DeleteDeviceResponse>, Status> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.0.writes.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(DeleteDeviceResponse {}))
    }

    fn watch(self, request: Request<WatchDevicesRequest>) -> Response<Streaming<WatchDevicesResponse>> {
        let what = request.into_inner().cursor;
        let ticks = futures::stream::unfold(0, move |n| {
            let what = what.clone();
            async move {
                if n > 0 && what != "flood" {
                    tokio::time::sleep(Duration::from_millis(if what == "calm" { 60_000 } else { 20 })).await;
                }
                match (what.as_str(), n) {
                    ("panic", 1) => panic!("as asked"),
                    ("internal", 1) => return Some((Err(Error::internal("SELECT secret")), n + 1)),
                    ("internal", 2) | ("two", 2) => return None,
                    _ => {}
                }
                let cursor = if what == "flood" { "x".repeat(16 << 10) } else { n.to_string() };
                Some((Ok(WatchDevicesResponse { cursor, ..Default::default() }), n + 1))
            }
        });
        Response::new(stream(ticks))
    }
}

impl tower::Service<http::Request<Body>> for Devices {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Poller<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let own = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path().rsplit('/').next() {
                Some("GetDevice") => {
                    let handler = tower::service_fn(move |r| own.clone().get(r));
                    Grpc::new(ValidatingCodec::default()).unary(handler, request).await
                }
                Some("DeleteDevice") => {
                    let handler = tower::service_fn(move |r| own.clone().delete(r));
                    Grpc::new(ValidatingCodec::default()).unary(handler, request).await
                }
                Some("WatchDevices") => {
                    let handler = tower::service_fn(move |r| {
                        let answer = own.clone().watch(r);
                        async move { Ok(answer) }
                    });
                    Grpc::new(ValidatingCodec::default()).server_streaming(handler, request).await
                }
                _ => Status::unimplemented("not here").into_http(),
            })
        })
    }
}

/// The served service.
pub struct World {
    _dir: tempfile::TempDir,
    pub config: Config,
    pub mesh: Mesh,
    pub registry: LocalRegistry,
    pub seen: Arc<Seen>,
    pub shutdown: Shutdown,
    pub running: Running,
}

impl World {
    pub async fn start() -> World {
        World::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> World {
        let world = World::beside(&LocalRegistry::new(), change).await;
        world.mesh.verifier().feeds_itself();
        world
    }

    /// Follows the keys of the `auth` in the registry, as services do.
    pub async fn beside(registry: &LocalRegistry, change: impl FnOnce(&mut Config)) -> World {
        World::at(registry, Clock::system(), change).await
    }

    pub async fn at(registry: &LocalRegistry, clock: Clock, change: impl FnOnce(&mut Config)) -> World {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = Config { pki_dir: dir.path().join("pki"), ..Config::default() };
        config.limits = ServerLimits::mesh().prompt();
        config.operations_limits = ServerLimits::operations().prompt();
        change(&mut config);
        Pki::ensure(&config, &SERVICES, &[], &clock).expect("certificates");
        let mesh = Mesh::beside(registry, config.clone(), "devices", clock).expect("a mesh");
        let seen = Arc::<Seen>::default();
        let service = Service::new("devices")
            .grpc(Devices(Arc::clone(&seen)))
            .check("database", || async { Condition::Degraded("slow today".into()) });
        let port = || async { Some(TcpListener::bind("127.0.0.1:0").await.expect("a port")) };
        let listeners = Listeners { grpc: port().await, operations: port().await };
        let shutdown = Shutdown::new();
        let running = serve(service, &mesh, listeners, shutdown.clone()).await.expect("served");
        World { _dir: dir, config, mesh, registry: registry.clone(), seen, shutdown, running }
    }

    pub fn address(&self) -> SocketAddr {
        self.running.grpc.expect("a port")
    }

    /// A client with the certificate of `service`; without any where it is empty.
    pub fn devices(&self, service: &str) -> DevicesServiceClient<Channel> {
        DevicesServiceClient::new(self.channel(service))
    }

    pub fn channel(&self, service: &str) -> Channel {
        connect(self.address(), client_config(&self.config.pki_dir, service))
    }

    /// A client in the same process.
    pub fn devices_here(&self, service: &str) -> DevicesServiceClient<Here> {
        DevicesServiceClient::new(self.here(service))
    }

    pub fn here(&self, service: &str) -> Here {
        Here { registry: self.registry.clone(), peer: Peer(self.config.identity(service)) }
    }
}

/// What an in-process channel does: attach the caller's identity, call the stack.
#[derive(Clone)]
pub struct Here {
    registry: LocalRegistry,
    peer: Peer,
}

impl tower::Service<http::Request<Body>> for Here {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Poller<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        match self.registry.get("devices") {
            Some(mut stack) => tower::Service::call(&mut stack, request),
            None => Box::pin(async { Ok(Status::unavailable("gone").into_http()) }),
        }
    }
}

pub fn client_config(pki: &std::path::Path, service: &str) -> Arc<rustls::ClientConfig> {
    let read = |file: String| std::fs::read(pki.join(file)).expect("a file");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("ca.pem".into())).expect("a root")).expect("a root");
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut config = if service.is_empty() {
        builder.with_no_client_auth()
    } else {
        let chain = vec![CertificateDer::from_pem_slice(&read(format!("{service}.pem"))).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(&read(format!("{service}-key.pem"))).expect("a key");
        builder.with_client_auth_cert(chain, key).expect("a pair")
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

pub fn connect(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> Channel {
    let connector = tower::service_fn(move |_: http::Uri| {
        let config = Arc::clone(&config);
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    tonic::transport::Endpoint::from_static("http://devices").connect_with_connector_lazy(connector)
}

pub fn device(id: &str) -> GetDeviceRequest {
    GetDeviceRequest { device_id: id.into() }
}

pub fn watch(what: &str) -> WatchDevicesRequest {
    WatchDevicesRequest { cursor: what.into() }
}

/// The messages of a stream up to its end, and how it ended.
pub async fn whole(mut stream: tonic::Streaming<WatchDevicesResponse>) -> (usize, Result<(), Status>) {
    let mut count = 0;
    while let Some(item) = stream.next().await {
        match item {
            Ok(_) => count += 1,
            Err(status) => return (count, Err(status)),
        }
    }
    (count, Ok(()))
}

/// Waits until something is so; fails the test when it is not within five seconds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while !so().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
