//! The edge: every contract as REST, gRPC-Web, gRPC, server-sent events and WebSocket, on one port.
//!
//! It is one translator over the descriptors of the contracts. A method that stands in a contract is a route here, with
//! its documentation, without a line of code: [`contract`] prepares methods and routes, [`router`] and [`template`] find
//! the route of a path, [`transcode`] turns text into protobuf and back, `front` does what is common to every request.
//! The edge's own methods are a contract like any other and go the same way. `spool` keeps calls for services that are away.

mod accept;
mod api;
mod assets;
mod audit;
mod certificate;
mod config;
pub mod contract;
mod failure;
mod forwarded;
mod frame;
mod front;
mod grpc;
mod health;
mod inward;
mod limit;
mod live;
pub mod openapi;
pub mod options;
mod origin;
mod personal;
mod rest;
pub mod router;
mod socket;
mod spool;
pub mod template;
mod ticket;
pub mod transcode;
mod unread;
mod visitor;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use http::Request;
use sensormesh_mesh::server::{Door, Drain, listen};
use sensormesh_mesh::{Mesh, Service};
use sensormesh_proto::edge::v1::edge_service_server::EdgeServiceServer;
use sensormesh_store::{Migration, Store};
use sensormesh_types::{Error, Result};
use tokio::net::TcpListener;

pub use config::Config;
pub use limit::Rate;

use api::Api;
use certificate::Certificate;
use contract::Contract;
use front::Front;
use health::Health;
use ticket::Tickets;

/// What the service's own tables are made by: the spool is the store's.
pub const MIGRATIONS: &[Migration] = &[];

/// Starts the edge for the contracts that the program was built with. It listens once it is served.
pub async fn start(config: Config, mesh: &Mesh, store: Store) -> Result<Service> {
    Ok(prepare(config, mesh, Contract::built_in()?, Some(store)).await?.service)
}

/// An edge that is ready to be served.
#[derive(Debug)]
pub struct Prepared {
    /// The service.
    pub service: Service,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Prepares the edge for any set of contracts. Without a store no call is kept for later.
pub async fn prepare(mut config: Config, mesh: &Mesh, contract: Contract, store: Option<Store>) -> Result<Prepared> {
    config.check()?;
    let spool = spool::open(store.as_ref(), &config).await?;
    let certificate =
        if config.is_tls() { Some(Certificate::load(config.tls_cert.clone(), config.tls_key.clone())?) } else { None };
    let wanted = config.address();
    let refuse = |error: std::io::Error| {
        Error::precondition("ADDRESS", format!("cannot listen at {wanted}: {error}")).caused_by(error)
    };
    let listener = TcpListener::bind(wanted).await.map_err(refuse)?;
    let address = listener.local_addr().map_err(refuse)?;
    config.listen = Some(address);

    let contract = Arc::new(contract);
    let tickets = Tickets::default();
    let health = Health::new(mesh, contract.services(), spool.clone());
    let drain: Arc<OnceLock<Drain>> = Arc::default();
    let api = Api {
        mesh: mesh.clone(),
        contract: Arc::clone(&contract),
        health: health.clone(),
        tickets: tickets.clone(),
        drain: Arc::clone(&drain),
        openapi: OnceLock::new(),
        spool: spool.clone(),
    };
    let interval = config.health_interval;
    let mut service = Service::new(inward::EDGE)
        .grpc(EdgeServiceServer::new(api).max_encoding_message_size(sensormesh_mesh::ANSWER))
        .task("ask services", move |shutdown| health.clone().follow(interval, shutdown));
    if let Some(certificate) = certificate.clone() {
        service = service.task("follow the certificate", move |shutdown| certificate.clone().follow(shutdown));
    }
    if let Some(spool) = spool.clone() {
        let mesh = mesh.clone();
        service = service.task("deliver what was kept", move |shutdown| spool::task(&spool, &mesh, shutdown));
    }
    let front = Front::new(config.clone(), mesh, contract, tickets, Arc::clone(&drain), spool)?;
    let memory = mesh.memory();
    let service = service.port(move |steps| async move {
        // nobody else sets it
        let _ = drain.set(steps.clone());
        tracing::info!(%address, tls = certificate.is_some(), "listens for HTTP");
        let mut door = Door::new(inward::EDGE, listener, config.limits).with_memory(memory);
        if let Some(certificate) = certificate {
            door = door.with_tls(move || certificate.current());
        }
        let forget = front.clone();
        let app = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
            let front = front.clone();
            async move { Ok::<_, Infallible>(front.respond(request.map(Body::new)).await) }
        });
        tokio::select! {
            () = listen(door, app, &steps) => {}
            () = forget.keep_forgetting() => {}
        }
    });
    Ok(Prepared { service, address })
}

/// The OpenAPI 3.1 description of the contracts that the program was built with.
pub fn openapi() -> serde_json::Value {
    Contract::built_in().map_or(serde_json::Value::Null, |contract| openapi::document(&contract))
}
