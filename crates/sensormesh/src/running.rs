//! Services running in this process.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sensormesh_mesh::{Listeners, LocalRegistry, Mesh, Shutdown};
use sensormesh_store::Store;
use sensormesh_types::Clock;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::config::{self, Config};
use crate::services::{self, Entry};

/// What runs, until it is stopped.
pub struct Running {
    services: Vec<(Shutdown, sensormesh_mesh::Running)>,
    databases: Vec<Store>,
}

/// How long the last service, the edge, may go on alone when everything stops.
const LEAD: Duration = Duration::from_secs(1);

/// How long the databases may take to finish what still goes on in them when the services have stopped.
const CLOSING: Duration = Duration::from_secs(3);

/// Starts the services in the order given and serves each as soon as it has started.
pub async fn start(config: &Config, entries: &[&'static Entry]) -> Result<Running> {
    tracing::info!(settings = config::line(config)?, "in effect");
    let registry = LocalRegistry::new();
    let mesh_config = services::mesh_config(config);
    let mut running = Running { services: Vec::new(), databases: Vec::new() };
    for entry in entries {
        let mesh = Mesh::beside(&registry, mesh_config.clone(), entry.name, Clock::system())
            .with_context(|| format!("cannot join the mesh as {}", entry.name))?;
        let started = entry.start(config, &mesh).await;
        let (service, databases) = started.with_context(|| format!("cannot start {}", entry.name))?;
        running.databases.extend(databases);
        let listeners = Listeners {
            // The edge's own port speaks HTTP; it opens that itself.
            grpc: if entry.name == services::EDGE { None } else { Some(bind(config, entry.port(config)).await?) },
            operations: Some(bind(config, entry.operations_port(config)).await?),
        };
        let shutdown = Shutdown::new();
        let served = sensormesh_mesh::serve(service, &mesh, listeners, shutdown.clone()).await;
        running.services.push((shutdown, served.with_context(|| format!("cannot serve {}", entry.name))?));
    }
    Ok(running)
}

async fn bind(config: &Config, port: u16) -> Result<TcpListener> {
    let taken =
        || format!("cannot listen on {}:{port}; is another program there? --port-base moves every port", config.bind);
    TcpListener::bind((config.bind, port)).await.with_context(taken)
}

impl Running {
    /// Stops everything, the edge first, so that no caller finds a service gone that it was led to. Answers whether every
    /// database is closed, and its file the one that was opened: a call that changes something is not cut and may go on longer
    /// than its service.
    pub async fn stop(mut self) -> bool {
        let Some((shutdown, last)) = self.services.pop() else { return true };
        shutdown.request();
        let mut last = std::pin::pin!(last.stopped());
        let stopped = timeout(LEAD, &mut last).await.is_ok();
        self.services.iter().for_each(|(shutdown, _)| shutdown.request());
        if !stopped {
            last.await;
        }
        for (_, service) in self.services.into_iter().rev() {
            service.stopped().await;
        }
        let closing = futures::future::join_all(self.databases.iter().map(Store::close));
        let intact = !self.databases.iter().any(Store::is_gone);
        timeout(CLOSING, closing).await.is_ok() && intact
    }
}
