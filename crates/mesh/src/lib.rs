//! The network between services: what a service is served with, and what it calls others through.
//!
//! # Layout
//!
//! - [`Mesh`]: a service's part in the mesh. One for each service of a process.
//! - [`Service`] and [`serve`]: routes, tasks and checks, and everything around them: [`server`] has the accept loop and the
//!   layers of a call; the same layers run whether a call comes over the network or from the same process.
//! - [`client`]: calls to other services, with deadlines, retries, breakers.
//! - [`Identity`], [`Pki`], [`tls`]: who a service is, and how it proves it. [`Verifier`]: who a user is.
//! - [`Context`]: what travels with a call from service to service.
//!
//! A handler asks [`caller`] who calls, and returns a stream through [`stream`].

pub mod client;
mod config;
mod context;
mod identity;
mod limits;
mod mesh;
mod network;
pub mod pki;
mod registry;
pub mod server;
mod service;
mod shutdown;
mod streaming;
pub mod tls;
pub mod token;
mod turn;

pub use client::Channel;
pub use config::{Config, Transport};
pub use context::Context;
pub use identity::{Identity, OPERATOR, PEER_HEADER, Peer, PeerAddr};
pub use limits::{ANSWER, ServerLimits};
pub use mesh::Mesh;
pub use network::Network;
pub use pki::Pki;
pub use registry::{LocalRegistry, LocalService};
pub use server::{Listeners, Running, serve};
pub use service::{Condition, Service, Task};
pub use shutdown::Shutdown;
pub use streaming::{Sender, Streaming, produce, stream};
pub use token::{Bearer, Claims, Verifier};

use sensormesh_types::{Caller, Error, Result};

/// Makes aws-lc the provider of cryptography for whatever in this process asks for a default. First thing in `main`; a
/// second call changes nothing.
pub fn install_crypto_provider() {
    // fails only where one is installed already, and there is no other one in the program
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Who calls, what the call may see, and the trace it belongs to. The server stack puts it into every request.
pub fn caller<T>(request: &tonic::Request<T>) -> Result<&Caller> {
    request
        .extensions()
        .get::<Caller>()
        .ok_or_else(|| Error::internal("the call did not come through the server stack"))
}
