//! The handle through which a service takes part in the mesh.

use std::sync::Arc;

use sensormesh_types::{Clock, Error, Result};

use crate::client::Clients;
use crate::server::Memory;
use crate::tls::Credentials;
use crate::{Config, Identity, LocalRegistry, Transport, Verifier};

/// One service's part in the mesh: its identity, what it calls others through, how it verifies tokens. Cheap to clone.
#[derive(Clone)]
pub struct Mesh(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) service: &'static str,
    pub(crate) identity: Identity,
    pub(crate) clock: Clock,
    pub(crate) registry: LocalRegistry,
    /// `None` in the plaintext transports.
    pub(crate) credentials: Option<Credentials>,
    pub(crate) verifier: Verifier,
    pub(crate) clients: Clients,
    pub(crate) memory: Memory,
}

impl Mesh {
    /// The part of `service` in the mesh, alone in its process. Reads its certificate in the `mtls` transport.
    pub fn new(config: Config, service: &'static str, clock: Clock) -> Result<Mesh> {
        Self::beside(&LocalRegistry::new(), config, service, clock)
    }

    /// The part of `service` in the mesh, in one process with the services of `registry`: calls between them take no
    /// network and run through the same layers.
    pub fn beside(registry: &LocalRegistry, config: Config, service: &'static str, clock: Clock) -> Result<Mesh> {
        if config.transport == Transport::Plaintext && !config.dev {
            let message = "the plaintext transport proves nobody's identity and is allowed with `dev` only; use mtls";
            return Err(Error::precondition("PLAINTEXT_REFUSED", message));
        }
        let identity = config.identity(service);
        let credentials = match config.transport {
            Transport::Mtls => Some(Credentials::load(&config.pki_dir, &identity)?),
            Transport::Mesh | Transport::Plaintext => None,
        };
        let verifier = Verifier::new(clock.clone());
        let clients = Clients::default();
        let registry = registry.clone();
        let memory = Memory::new(config.memory);
        Ok(Mesh(Arc::new(Inner { config, service, identity, clock, registry, credentials, verifier, clients, memory })))
    }

    /// The service whose part this is.
    pub fn service(&self) -> &'static str {
        self.0.service
    }

    /// What the service proves to be.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The time of day.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The services of this process.
    pub fn registry(&self) -> &LocalRegistry {
        &self.0.registry
    }

    /// The memory of the process, for a port of the service's own ([`crate::server::Door::with_memory`]).
    pub fn memory(&self) -> Memory {
        self.0.memory.clone()
    }

    /// The keys and revocations that tokens are verified with. `auth` feeds its own; every other service follows it.
    pub fn verifier(&self) -> &Verifier {
        &self.0.verifier
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mesh({})", self.0.identity)
    }
}
