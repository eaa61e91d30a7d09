//! What the stacks of calls cost, for `make bench`: a unary call over mutual TLS that does nothing, with tonic alone on both sides,
//! then with one of ours after the other.
//!
//! `stack SECONDS ROUNDS` prints one line of JSON: for each way, and each round, calls per second with 32 at once, and the median of
//! one at a time in microseconds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hdrhistogram::Histogram;
use sensormesh_mesh::token::{AUDIENCE, Claims, ISSUER, Jwk, TOKEN_TYPE};
use sensormesh_mesh::{Channel, Config, Context, Listeners, Mesh, Pki, Running, Service, Shutdown, serve};
use sensormesh_proto::adapters::v1::adapters_service_client::AdaptersServiceClient;
use sensormesh_proto::adapters::v1::adapters_service_server::{AdaptersService, AdaptersServiceServer};
use sensormesh_proto::adapters::v1::{
    Connection, GetConnectionRequest, GetConnectionResponse, ListConnectionsRequest, ListConnectionsResponse,
    UpdateConnectionRequest, UpdateConnectionResponse,
};
use sensormesh_types::{Clock, Role};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

// what the product has
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Answers at once.
struct Nothing;

#[tonic::async_trait]
impl AdaptersService for Nothing {
    async fn get_connection(
        &self,
        request: Request<GetConnectionRequest>,
    ) -> Result<Response<GetConnectionResponse>, Status> {
        let connection_id = request.into_inner().connection_id;
        let connection = Connection { connection_id, adapter: "host".into(), enabled: true, ..Connection::default() };
        Ok(Response::new(GetConnectionResponse { connection: Some(connection) }))
    }

    async fn list_connections(
        &self,
        _: Request<ListConnectionsRequest>,
    ) -> Result<Response<ListConnectionsResponse>, Status> {
        Ok(Response::new(ListConnectionsResponse::default()))
    }

    async fn update_connection(
        &self,
        _: Request<UpdateConnectionRequest>,
    ) -> Result<Response<UpdateConnectionResponse>, Status> {
        Ok(Response::new(UpdateConnectionResponse::default()))
    }
}

/// How calls go.
#[derive(Clone)]
enum Way {
    Tonic { client: AdaptersServiceClient<tonic::transport::Channel>, authorization: Option<Arc<str>> },
    Ours { client: AdaptersServiceClient<Channel>, authorization: Arc<str> },
}

impl Way {
    async fn call(&mut self) -> Result<()> {
        let body = GetConnectionRequest { connection_id: "host".to_owned() };
        match self {
            Self::Tonic { client, authorization } => {
                let mut request = Request::new(body);
                if let Some(authorization) = authorization {
                    request.metadata_mut().insert("authorization", authorization.parse()?);
                }
                client.get_connection(request).await?;
            }
            Self::Ours { client, authorization } => {
                let context = Context { authorization: Some(authorization.to_string()), ..Context::default() };
                Context::scope(context, client.get_connection(body)).await?;
            }
        }
        Ok(())
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "stack SECONDS ROUNDS";
    let length = Duration::from_secs_f64(args.next().context(usage)?.parse().context(usage)?);
    let rounds: usize = args.next().context(usage)?.parse().context(usage)?;
    let folder = tempfile::tempdir()?;
    let clock = Clock::system();
    let config = Config { pki_dir: folder.path().join("pki"), ..Config::default() };
    Pki::ensure(&config, &["edge", "adapters"], &[], &clock)?;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let token: Arc<str> = format!("Bearer {}", token(&key, &clock)?).into();

    let raw = raw_server(&config.pki_dir).await?;
    let (ours, _running) = our_server(&config, &key, &clock).await?;
    let tonic = async |address: SocketAddr, who: &str, authorization: Option<&Arc<str>>| {
        let client = AdaptersServiceClient::new(raw_client(&config.pki_dir, who, address).await?);
        anyhow::Ok(Way::Tonic { client, authorization: authorization.cloned() })
    };
    let through = |address: SocketAddr| {
        let endpoints = BTreeMap::from([("adapters".to_owned(), vec![address.to_string()])]);
        let mesh = Mesh::new(Config { endpoints, ..config.clone() }, "edge", clock.clone())?;
        anyhow::Ok((Way::Ours { client: mesh.client()?, authorization: Arc::clone(&token) }, mesh))
    };
    let (our_client, _mesh) = through(raw)?;
    let (whole, _other_mesh) = through(ours)?;
    let mut ways = [
        ("tonic alone", tonic(raw, "operator", None).await?),
        ("our server, called by a service", tonic(ours, "operator", None).await?),
        ("our server, with a user's token", tonic(ours, "edge", Some(&token)).await?),
        ("our client", our_client),
        ("both", whole),
    ];
    let mut found: BTreeMap<&str, BTreeMap<&str, Vec<f64>>> = BTreeMap::new();
    for round in 0..=rounds {
        for (name, way) in &mut ways {
            let one = calls(way, 1, length).await?;
            let many = calls(way, 32, length).await?;
            // the first warms up
            if round > 0 {
                let found = found.entry(name).or_default();
                found.entry("p50_us").or_default().push(one.value_at_quantile(0.5) as f64 / 1000.0);
                found.entry("per_second").or_default().push(many.len() as f64 / length.as_secs_f64());
            }
        }
    }
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

/// Calls for so long, so many at once; how long each took, in nanoseconds.
async fn calls(way: &Way, at_once: usize, length: Duration) -> Result<Histogram<u64>> {
    let end = Instant::now() + length;
    let callers: Vec<_> = (0..at_once)
        .map(|_| {
            let mut way = way.clone();
            tokio::spawn(async move {
                let mut took = Histogram::<u64>::new(3)?;
                while Instant::now() < end {
                    let began = Instant::now();
                    way.call().await?;
                    took.record(u64::try_from(began.elapsed().as_nanos())?)?;
                }
                anyhow::Ok(took)
            })
        })
        .collect();
    let mut all = Histogram::<u64>::new(3)?;
    for caller in callers {
        all.add(caller.await??)?;
    }
    Ok(all)
}

fn pem(pki: &Path, name: &str) -> Result<Vec<u8>> {
    std::fs::read(pki.join(name)).with_context(|| format!("cannot read {name}"))
}

fn identity(pki: &Path, who: &str) -> Result<Identity> {
    Ok(Identity::from_pem(pem(pki, &format!("{who}.pem"))?, pem(pki, &format!("{who}-key.pem"))?))
}

async fn raw_server(pki: &Path) -> Result<SocketAddr> {
    let tls = ServerTlsConfig::new()
        .identity(identity(pki, "adapters")?)
        .client_ca_root(Certificate::from_pem(pem(pki, "ca.pem")?));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = Server::builder().tls_config(tls)?.add_service(AdaptersServiceServer::new(Nothing));
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(server.serve_with_incoming(incoming));
    Ok(address)
}

async fn raw_client(pki: &Path, who: &str, address: SocketAddr) -> Result<tonic::transport::Channel> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(pem(pki, "ca.pem")?))
        .identity(identity(pki, who)?)
        .domain_name("localhost");
    Ok(Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?.connect().await?)
}

async fn our_server(config: &Config, key: &rcgen::KeyPair, clock: &Clock) -> Result<(SocketAddr, Running)> {
    let mesh = Mesh::new(config.clone(), "adapters", clock.clone())?;
    let point = key.public_key_raw();
    mesh.verifier().update_keys([Jwk {
        kty: "EC".into(),
        crv: "P-256".into(),
        x: URL_SAFE_NO_PAD.encode(&point[1..33]),
        y: Some(URL_SAFE_NO_PAD.encode(&point[33..65])),
        kid: "bench".into(),
        alg: "ES256".into(),
    }]);
    mesh.verifier().feeds_itself();
    let service = Service::new("adapters").grpc(AdaptersServiceServer::new(Nothing));
    let listeners = Listeners { grpc: Some(TcpListener::bind("127.0.0.1:0").await?), operations: None };
    let running = serve(service, &mesh, listeners, Shutdown::new()).await?;
    Ok((running.grpc.context("no port")?, running))
}

fn token(key: &rcgen::KeyPair, clock: &Clock) -> Result<String> {
    let now = clock.now_seconds();
    let claims = Claims {
        iss: ISSUER.into(),
        aud: AUDIENCE.into(),
        sub: "u".into(),
        name: "ada".into(),
        role: Role::Viewer,
        tenant: "default".into(),
        sites: Vec::new(),
        sid: "s".into(),
        jti: "j".into(),
        iat: now,
        exp: now + 600,
    };
    let header = jsonwebtoken::Header {
        typ: Some(TOKEN_TYPE.into()),
        kid: Some("bench".into()),
        ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
    };
    let key = jsonwebtoken::EncodingKey::from_ec_pem(key.serialize_pem().as_bytes())?;
    Ok(jsonwebtoken::encode(&header, &claims, &key)?)
}
