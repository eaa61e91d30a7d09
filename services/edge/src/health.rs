//! How the services behind the edge do: asked every two seconds, shown at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use sensormesh_mesh::client::{BreakerMode, BreakerState};
use sensormesh_mesh::{Channel, Mesh, Shutdown};
use sensormesh_proto::edge::v1 as proto;
use sensormesh_proto::mesh::v1::mesh_service_client::MeshServiceClient;
use sensormesh_proto::mesh::v1::{self as mesh_proto, GetStatusRequest, GetStatusResponse};
use sensormesh_store::spool::Spool;
use sensormesh_types::{Result, time};
use tokio::sync::watch;
use tonic::Request;

use crate::spool;

/// How long a service may take to say how it does.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a service said last: how it does, or why it could not be asked.
type Answer = std::result::Result<GetStatusResponse, String>;

/// The services as they were seen last. Clones share it.
#[derive(Clone)]
pub struct Health {
    mesh: Mesh,
    services: Arc<Vec<String>>,
    spool: Option<Spool>,
    seen: watch::Sender<Option<Arc<BTreeMap<String, Answer>>>>,
}

impl Health {
    /// Nothing is known yet of these services.
    pub fn new(mesh: &Mesh, services: Vec<String>, spool: Option<Spool>) -> Self {
        Self { mesh: mesh.clone(), services: Arc::new(services), spool, seen: watch::Sender::new(None) }
    }

    /// Asks every service again and again.
    pub async fn follow(self, interval: Duration, shutdown: Shutdown) -> Result<()> {
        loop {
            let asked = join_all(self.services.iter().map(|service| self.ask(service))).await;
            self.seen.send_replace(Some(Arc::new(self.services.iter().cloned().zip(asked).collect())));
            if shutdown.cut(tokio::time::sleep(interval)).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn ask(&self, service: &str) -> Answer {
        let mut client: MeshServiceClient<Channel> =
            self.mesh.client_of(service).map_err(|error| error.message().to_owned())?;
        let mut request = Request::new(GetStatusRequest {});
        request.set_timeout(PATIENCE);
        client.get_status(request).await.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    }

    /// What is known; shortly after the start it waits for the first answers.
    async fn known(&self) -> Arc<BTreeMap<String, Answer>> {
        let mut seen = self.seen.subscribe();
        let first = tokio::time::timeout(PATIENCE * 3 / 2, seen.wait_for(Option::is_some)).await;
        match first {
            Ok(Ok(seen)) => seen.clone().unwrap_or_default(),
            _ => Arc::default(),
        }
    }

    /// The answer of `/health`; with details for an operator.
    pub async fn overview(&self, detailed: bool) -> proto::GetHealthResponse {
        let known = self.known().await;
        let services: std::collections::HashMap<String, proto::ServiceHealth> = self
            .services
            .iter()
            .map(|service| {
                let answer = known.get(service);
                let detail = detailed.then(|| detail(answer)).flatten();
                (service.clone(), proto::ServiceHealth { status: word(answer).to_owned(), detail })
            })
            .collect();
        let breakers = self.breakers();
        let well = services.values().all(|service| service.status == "healthy")
            && breakers.values().all(|breaker| breaker.mode == BreakerMode::Closed);
        proto::GetHealthResponse {
            gateway: "healthy".to_owned(),
            overall_status: if well { "healthy" } else { "degraded" }.to_owned(),
            services,
            circuit_breakers: breakers.into_iter().map(|(name, state)| (name, shown(&state))).collect(),
            timestamp: Some(time::from_micros(self.mesh.clock().now_micros())),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            spool: self.spool.as_ref().map(spool::health).unwrap_or_default(),
        }
    }

    /// The answer of `/v1/services`.
    pub async fn list(&self) -> proto::ListServicesResponse {
        let known = self.known().await;
        let breakers = self.breakers();
        let services = self.services.iter().map(|service| {
            let answer = known.get(service);
            proto::ServiceStatus {
                service: service.clone(),
                status: word(answer).to_owned(),
                report: answer.and_then(|answer| answer.as_ref().ok()).cloned(),
                breaker: breakers.get(service).map(listed),
            }
        });
        proto::ListServicesResponse { services: services.collect() }
    }

    /// Closes the edge's breaker for a service. NOT_FOUND where there is no such service.
    pub fn reset(&self, service: &str) -> Result<proto::BreakerHealth> {
        let reset = match self.mesh.reset_breaker(service) {
            Ok(reset) => reset,
            // a service that was never called has no breaker to close
            Err(_) if self.services.iter().any(|known| known == service) => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(shown(&reset.into_iter().next().unwrap_or_else(|| closed(service))))
    }

    fn breakers(&self) -> BTreeMap<String, BreakerState> {
        let mut breakers: BTreeMap<String, BreakerState> =
            self.services.iter().map(|service| (service.clone(), closed(service))).collect();
        breakers.extend(self.mesh.breakers().into_iter().map(|state| (state.upstream.clone(), state)));
        breakers
    }
}

fn closed(service: &str) -> BreakerState {
    BreakerState { upstream: service.to_owned(), mode: BreakerMode::Closed, failures: 0, retry_at: None }
}

fn word(answer: Option<&Answer>) -> &'static str {
    match answer.and_then(|answer| answer.as_ref().ok()).map(GetStatusResponse::state) {
        Some(mesh_proto::State::Ready) => "healthy",
        Some(mesh_proto::State::Degraded) => "degraded",
        _ => "unhealthy",
    }
}

fn detail(answer: Option<&Answer>) -> Option<String> {
    match answer {
        None => Some("was not asked yet".to_owned()),
        Some(Err(why)) => Some(why.clone()),
        Some(Ok(report)) => {
            let unwell = report.checks.iter().filter(|check| !check.healthy);
            let unwell: Vec<String> = unwell.map(|check| format!("{}: {}", check.name, check.detail)).collect();
            (!unwell.is_empty()).then(|| unwell.join("; "))
        }
    }
}

fn shown(state: &BreakerState) -> proto::BreakerHealth {
    proto::BreakerHealth {
        open: state.mode == BreakerMode::Open,
        failures: state.failures,
        state: match state.mode {
            BreakerMode::Closed => "closed",
            BreakerMode::Open => "open",
            BreakerMode::HalfOpen => "half_open",
        }
        .to_owned(),
        retry_at: state.retry_at.map(time::from_micros),
    }
}

fn listed(state: &BreakerState) -> mesh_proto::Breaker {
    let mode = match state.mode {
        BreakerMode::Closed => mesh_proto::BreakerState::Closed,
        BreakerMode::Open => mesh_proto::BreakerState::Open,
        BreakerMode::HalfOpen => mesh_proto::BreakerState::HalfOpen,
    };
    mesh_proto::Breaker {
        upstream: state.upstream.clone(),
        state: mode.into(),
        failures: state.failures,
        retry_at: state.retry_at.map(time::from_micros),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensormesh_mesh::{Config, Transport};
    use sensormesh_types::Clock;

    #[tokio::test]
    async fn an_open_breaker_is_named_and_the_whole_is_degraded() {
        let config = Config { transport: Transport::Plaintext, dev: true, ..Config::default() };
        let mesh = Mesh::new(config, "edge", Clock::system()).expect("a mesh");
        let health = Health::new(&mesh, vec!["rooms".to_owned()], None);
        let well = GetStatusResponse { state: mesh_proto::State::Ready.into(), ..GetStatusResponse::default() };
        health.seen.send_replace(Some(Arc::new([("rooms".to_owned(), Ok(well))].into())));
        assert_eq!(health.overview(false).await.overall_status, "healthy");
        for _ in 0..5 {
            health.ask("rooms").await.expect_err("it has no address");
        }
        let told = health.overview(false).await;
        assert_eq!(told.services["rooms"].status, "healthy", "as it said itself");
        assert!(told.circuit_breakers["rooms"].open);
        assert_eq!(told.overall_status, "degraded");
        health.reset("rooms").expect("closed");
        assert_eq!(health.overview(false).await.overall_status, "healthy");
    }
}
