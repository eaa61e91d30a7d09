//! Services running in this process.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use sensormesh_mesh::{LocalRegistry, Mesh, Serving, Shutdown};
use sensormesh_types::Clock;

use crate::config::Config;
use crate::services::{self, Entry};

/// What runs, until it is stopped.
pub struct Running {
    shutdown: Shutdown,
    services: Vec<Serving>,
}

/// Starts the services in the order given and serves each as soon as it has started.
pub async fn start(config: &Config, entries: &[&'static Entry]) -> Result<Running> {
    let registry = LocalRegistry::new();
    let mesh_config = services::mesh_config(config);
    let mut running = Running { shutdown: Shutdown::new(), services: Vec::new() };
    for entry in entries {
        let mesh = Mesh::beside(&registry, mesh_config.clone(), entry.name, Clock::system())
            .with_context(|| format!("cannot join the mesh as {}", entry.name))?;
        let service = entry.start(config, &mesh).await.with_context(|| format!("cannot start {}", entry.name))?;
        let bind = address(config.bind, entry.port(config));
        let operations = address(config.bind, entry.operations_port(config));
        let serving = sensormesh_mesh::serve(service, &mesh, bind, operations, running.shutdown.child()).await;
        running.services.push(serving.with_context(|| format!("cannot serve {}", entry.name))?);
    }
    Ok(running)
}

fn address(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::from((ip, port))
}

impl Running {
    /// Stops everything, the edge first, so that no caller finds a service gone that it was led to.
    pub async fn stop(self) {
        self.shutdown.request();
        for serving in self.services.into_iter().rev() {
            serving.stopped().await;
        }
    }
}
