//! How a service takes part in the mesh.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sensormesh_types::{Result, text};
use serde::{Deserialize, Serialize};

use crate::client::Resilience;
use crate::{Identity, Network, ServerLimits};

/// How services prove to each other who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TLS 1.3 with certificates on both sides.
    #[default]
    Mtls,
    /// Plaintext behind a sidecar that does mutual TLS; identity from its `x-forwarded-client-cert` header.
    Mesh,
    /// Plaintext without proof, on loopback and with `dev` only.
    Plaintext,
}

/// The `[mesh]` table of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The trust domain of every identity.
    pub trust_domain: String,
    /// The namespace of every identity.
    pub namespace: String,
    /// How services prove who they are.
    pub transport: Transport,
    /// Allows the `plaintext` transport.
    pub dev: bool,
    /// Where `ca.pem`, `<service>.pem` and `<service>-key.pem` lie.
    pub pki_dir: PathBuf,
    /// Where the last known keys and revocations are kept for a start without `auth`. Empty = nowhere.
    pub state_dir: PathBuf,
    /// Where a sidecar's `x-forwarded-client-cert` is believed from, in the `mesh` transport.
    pub trusted_proxies: Vec<Network>,
    /// What the process may use before it refuses costly reads (from 85 % of it), new streams (90 %), and calls (95 %). The limit
    /// of its control group, in a container the container's, holds in any case, for all processes in it together. 0 = no other.
    #[serde(with = "text::size")]
    pub memory: u64,
    /// The limits of the port between services.
    pub limits: ServerLimits,
    /// The limits of the operations port.
    pub operations_limits: ServerLimits,
    /// How calls to other services are bounded, repeated and given up.
    pub resilience: Resilience,
    /// Where services are: `rooms = ["127.0.0.1:8006"]` or `rooms = ["dns:rooms:8006"]`.
    pub endpoints: BTreeMap<String, Vec<String>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trust_domain: "sensormesh.local".to_owned(),
            namespace: "sensormesh".to_owned(),
            transport: Transport::Mtls,
            dev: false,
            pki_dir: PathBuf::from("pki"),
            state_dir: PathBuf::new(),
            trusted_proxies: ["127.0.0.0/8", "::1"].iter().filter_map(|range| range.parse().ok()).collect(),
            memory: 0,
            limits: ServerLimits::mesh(),
            operations_limits: ServerLimits::operations(),
            resilience: Resilience::default(),
            endpoints: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Refuses numbers that nothing could work with, naming them.
    pub fn check(&self) -> Result<()> {
        self.limits.check("mesh.limits")?;
        self.operations_limits.check("mesh.operations_limits")?;
        self.resilience.check()
    }

    /// The identity of a service under this configuration.
    pub fn identity(&self, service: &str) -> Identity {
        Identity::new(&self.trust_domain, &self.namespace, service)
    }
}
