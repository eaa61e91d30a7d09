//! Serves a service: its stack in this process, its ports, its tasks, until it is told to stop.

use std::net::SocketAddr;

use sensormesh_proto::METHODS;
use sensormesh_proto::mesh::v1::mesh_service_server::MeshServiceServer;
use sensormesh_types::{Error, Result};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tonic::body::Body;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use super::drain::Drain;
use super::health::Health;
use super::listen::{Door, listen};
use super::mesh_service::Api;
use super::stack::Stack;
use super::{operations, reflection, tasks};
use crate::service::{Condition, Service, Task};
use crate::{Mesh, Shutdown, Transport, token};

/// A certificate is renewed when half of its life is over; with less than this left, somebody must look.
const LIFE_LEFT: f64 = 0.45;

/// The service that makes the tokens everybody else verifies.
const AUTH: &str = "auth";
/// The door for everybody outside.
const EDGE: &str = "edge";

/// The ports of a service, bound already. Without any it is reachable in its process only.
#[derive(Debug, Default)]
pub struct Listeners {
    /// The port between services.
    pub grpc: Option<TcpListener>,
    /// The operations port.
    pub operations: Option<TcpListener>,
}

/// A service that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens for other services.
    pub grpc: Option<SocketAddr>,
    /// Where it listens for operations.
    pub operations: Option<SocketAddr>,
    whole: JoinHandle<()>,
}

impl Running {
    /// Waits until it has stopped, which is at most 25 s after its `Shutdown` was requested.
    pub async fn stopped(self) {
        if let Err(error) = self.whole.await
            && error.is_panic()
        {
            tracing::error!(%error, "a service ended by a panic");
        }
    }
}

/// Serves `service` as the part of the mesh that `mesh` is, until `shutdown` is requested and its drain is over.
///
/// When this returns, the service takes calls: in its process through the mesh's registry, and on the listeners.
pub async fn serve(mut service: Service, mesh: &Mesh, listeners: Listeners, shutdown: Shutdown) -> Result<Running> {
    if service.name != mesh.service() {
        let message = format!("the service {:?} cannot be served as {:?}", service.name, mesh.service());
        return Err(Error::precondition("WRONG_SERVICE", message));
    }
    let config = mesh.config();
    let address = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::local_addr).transpose();
    let (grpc, operations) = (address(&listeners.grpc), address(&listeners.operations));
    let (grpc, operations) = (grpc.map_err(Error::internal)?, operations.map_err(Error::internal)?);
    if let Some(address) = grpc
        && config.transport == Transport::Plaintext
        && !address.ip().is_loopback()
    {
        let message =
            format!("the plaintext transport proves nobody's identity and cannot listen at {address}; use mtls");
        return Err(Error::precondition("PLAINTEXT_REFUSED", message));
    }
    let drain = Drain::new(&config.limits, &shutdown);
    if service.name != AUTH {
        let verifier = mesh.verifier().clone();
        service = service.check("keys", move || {
            std::future::ready(match verifier.age() {
                Some(_) => Condition::Well,
                None => Condition::Degraded("the keys to verify tokens with are not known yet".to_owned()),
            })
        });
    }
    if let Some(credentials) = mesh.0.credentials.clone() {
        let clock = mesh.clock().clone();
        service = service.check("certificate", move || {
            let left = credentials.life_left(clock.now_seconds());
            std::future::ready(if left >= LIFE_LEFT {
                Condition::Well
            } else {
                Condition::Degraded(format!("{:.0} % of its life are left; it was not renewed in time", left * 100.0))
            })
        });
    }
    let machines = service.name == EDGE || takes_machines(&service.names);
    if machines {
        let verifier = mesh.verifier().clone();
        service = service.check("credentials", move || {
            std::future::ready(match verifier.knows_machines() {
                true => Condition::Well,
                false => Condition::Degraded("the credentials of devices are not known yet".to_owned()),
            })
        });
    }
    let memory = mesh.memory();
    if memory.is_limited() {
        service = service.check("memory", move || {
            std::future::ready(memory.complaint().map_or(Condition::Well, Condition::Degraded))
        });
    }
    let health = Health::new(service.name, mesh.clock(), std::mem::take(&mut service.checks), &drain);
    let (reporter, grpc_health) = tonic_health::server::health_reporter();

    let api = Api {
        mesh: mesh.clone(),
        health: health.clone(),
        breakers: std::mem::take(&mut service.breakers),
        audit: service.audit.take(),
    };
    let mut service = service.grpc(MeshServiceServer::new(api));
    let names: Vec<&'static str> = service.names.clone();
    let routes = reflection::add(service.take_routes().add_service(grpc_health.clone()));
    let stack = Stack::new(mesh, routes, &names, &config.limits, &drain);
    mesh.registry().register(service.name, BoxCloneSyncService::new(stack.clone()));

    let mut parts = JoinSet::new();
    if let Some(listener) = listeners.grpc {
        let limits = config.limits.clone();
        let memory = mesh.memory();
        tracing::info!(service = service.name, address = ?grpc, transport = ?config.transport, %memory, "listens for services");
        let mut door = Door::new(service.name, listener, limits);
        if let Some(credentials) = &mesh.0.credentials {
            door = door.with_credentials(credentials.clone());
        }
        let app = stack.map_request(|request: http::Request<hyper::body::Incoming>| request.map(Body::new));
        let drain = drain.clone();
        parts.spawn(async move { listen(door, app, &drain).await });
    }
    if let Some(listener) = listeners.operations {
        let limits = config.operations_limits.clone();
        tracing::info!(service = service.name, address = ?operations, "listens for operations");
        let router = operations::router(&health, grpc_health, service.operations.take());
        let door = Door::new(service.name, listener, limits);
        let app = router.into_service::<axum::body::Body>();
        let app = app.map_request(|r: http::Request<hyper::body::Incoming>| r.map(axum::body::Body::new));
        // it answers to the last, so that everybody can see what the service is doing
        let last = drain.to_the_last();
        parts.spawn(async move { listen(door, app, &last).await });
    }
    for port in std::mem::take(&mut service.ports) {
        parts.spawn(port(drain.clone()));
    }
    let mut all = service.tasks.clone();
    if service.name == AUTH {
        mesh.verifier().feeds_itself();
    } else {
        let mesh = mesh.clone();
        let run = move |shutdown| Box::pin(token::follow(mesh.clone(), shutdown)) as _;
        all.push(Task { name: "follow keys and revocations", run: std::sync::Arc::new(run) });
    }
    if machines {
        let (of, to) = (mesh.clone(), mesh.clone());
        let run = move |shutdown| Box::pin(token::follow_machines(of.clone(), shutdown)) as _;
        all.push(Task { name: "follow credentials", run: std::sync::Arc::new(run) });
        let run = move |shutdown| Box::pin(token::tell_uses(to.clone(), shutdown)) as _;
        all.push(Task { name: "tell the use of credentials", run: std::sync::Arc::new(run) });
    }
    for task in all {
        parts.spawn(tasks::run(service.name, task, health.clone(), drain.closing.clone()));
    }
    if let Some(credentials) = mesh.0.credentials.clone() {
        parts.spawn(credentials.watch(drain.closing.clone()));
    }
    let published = std::iter::once("").chain(names).collect();
    parts.spawn(health.publish(reporter, published));
    let whole = tokio::spawn(until_stopped(drain, mesh.clone(), parts));
    Ok(Running { grpc, operations, whole })
}

/// Whether devices and bridges may call a method of these.
fn takes_machines(services: &[&'static str]) -> bool {
    let of =
        |path: &str| services.iter().any(|service| path[1..].split_once('/').is_some_and(|(of, _)| of == *service));
    METHODS.iter().any(|method| method.policy.devices && of(method.path))
}

async fn until_stopped(drain: Drain, mesh: Mesh, mut parts: JoinSet<()>) {
    let leave = async {
        drain.closing.requested().await;
        mesh.registry().remove(mesh.service());
        Instant::now() + drain.rest()
    };
    let ((), until) = tokio::join!(drain.run(), leave);
    // everything was told to end; tasks have what time is left, and what does not end by itself is aborted
    let ended = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout_at(until, ended).await.is_err() {
        tracing::warn!(service = mesh.service(), "some part of the service had to be cut");
        parts.shutdown().await;
    }
    tracing::debug!(service = mesh.service(), "has stopped");
}
