//! Calls to other services.
//!
//! ```text
//! deadline → trace, request id, token → bulkhead → [ breaker → endpoint → connection ] retried within a budget
//! ```
//!
//! A service gets a generated client from [`Mesh::client`]; every call through it takes the least of the caller's, the
//! contract's and the outer call's time, carries the trace, the request's id and the user's own token, and is counted. A
//! dead upstream is noticed, left alone and tried again without anybody's help. Whether the upstream lives in the same
//! process or elsewhere is not visible: the same layers run, only the last step differs.

mod answer;
mod balance;
mod breaker;
mod connect;
pub(crate) mod deadline;
mod endpoint;
mod failure;
mod outgoing;
mod resilience;
mod resolve;
mod retry;
#[cfg(test)]
mod simulation;
mod upstream;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use parking_lot::RwLock;
use sensormesh_observability::metrics;
use sensormesh_proto::ServiceClient;
use sensormesh_types::{Code, Error, Result};
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;

use crate::{Context, Mesh, Peer, Transport};
use balance::Balancer;
use breaker::Breaker;
use connect::Connector;
use retry::Budget;
use upstream::Upstream;

pub use breaker::{BreakerMode, BreakerState};
pub use resilience::Resilience;
pub use resolve::{Address, Configured, Discovery};

/// The upstreams that a service has called so far.
#[derive(Clone, Default)]
pub(crate) struct Clients(Arc<RwLock<BTreeMap<String, Arc<Upstream>>>>);

/// A way to one upstream, for a generated client or for whole HTTP requests. Cheap to clone; always ready.
#[derive(Clone)]
pub struct Channel {
    upstream: Arc<Upstream>,
    forward: bool,
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // read here, where the caller's task surely runs
        let context = Context::current();
        Box::pin(Arc::clone(&self.upstream).call(request, context, self.forward))
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channel({} → {})", self.upstream.service, self.upstream.name)
    }
}

impl Mesh {
    /// A client that passes on the token of the user whose call is being served. Outside a call, in a task of the
    /// service, there is no such token and the service calls for itself.
    ///
    /// FAILED_PRECONDITION where no contract lets this service call that one.
    pub fn client<C: ServiceClient<Channel>>(&self) -> Result<C> {
        Ok(C::over(self.channel(C::SERVICE)?))
    }

    /// A client that calls for the service itself, also while a user's call is being served.
    pub fn client_as_service<C: ServiceClient<Channel>>(&self) -> Result<C> {
        Ok(C::over(Channel { forward: false, ..self.channel(C::SERVICE)? }))
    }

    /// A client of a contract that every service serves, such as `MeshService`, at the service named.
    ///
    /// FAILED_PRECONDITION where no contract lets this service call that one or that contract; INVALID_ARGUMENT where the
    /// contract has a service of its own.
    pub fn client_of<C: ServiceClient<Channel>>(&self, service: &str) -> Result<C> {
        if C::SERVICE != service && C::SERVICE != "mesh" {
            return Err(Error::invalid(
                "service",
                format!("the contract of {} is not served by {service}", C::SERVICE),
            ));
        }
        self.permit(C::SERVICE)?;
        Ok(C::over(self.channel(service)?))
    }

    /// A channel to a service for requests that are encoded already. Passes on tokens as [`Mesh::client`] does.
    pub fn channel(&self, service: &str) -> Result<Channel> {
        self.permit(service)?;
        Ok(Channel { upstream: self.upstream(service)?, forward: true })
    }

    /// The breakers of all upstreams called so far, by name.
    pub fn breakers(&self) -> Vec<BreakerState> {
        self.0.clients.0.read().values().map(|upstream| self.breaker_of(upstream)).collect()
    }

    /// Closes the breaker of one upstream, or of all where `upstream` is empty, and says how they are now. NOT_FOUND
    /// where that upstream was never called.
    pub fn reset_breaker(&self, upstream: &str) -> Result<Vec<BreakerState>> {
        let all = self.0.clients.0.read();
        let meant: Vec<_> = all.values().filter(|u| upstream.is_empty() || u.name == upstream).collect();
        if meant.is_empty() && !upstream.is_empty() {
            return Err(Error::not_found("breaker", upstream));
        }
        for upstream in &meant {
            upstream.breaker.reset();
        }
        Ok(meant.into_iter().map(|upstream| self.breaker_of(upstream)).collect())
    }

    fn breaker_of(&self, upstream: &Upstream) -> BreakerState {
        let (mode, failures, wait) = upstream.breaker.state(tokio::time::Instant::now());
        let at = |wait: std::time::Duration| {
            self.clock().now_micros().saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX))
        };
        BreakerState { upstream: upstream.name.clone(), mode, failures, retry_at: wait.map(at) }
    }

    fn permit(&self, upstream: &str) -> Result<()> {
        let allowed = sensormesh_proto::graph().get(self.service()).is_some_and(|calls| calls.contains(upstream));
        if allowed {
            return Ok(());
        }
        let message = format!("no contract lets {} call {upstream}", self.service());
        Err(Error::new(Code::Precondition, "CALL_NOT_IN_CONTRACT", message))
    }

    fn upstream(&self, name: &str) -> Result<Arc<Upstream>> {
        if let Some(known) = self.0.clients.0.read().get(name) {
            return Ok(Arc::clone(known));
        }
        let made = self.new_upstream(name)?;
        Ok(Arc::clone(self.0.clients.0.write().entry(name.to_owned()).or_insert(made)))
    }

    fn new_upstream(&self, name: &str) -> Result<Arc<Upstream>> {
        let config = self.config();
        let rules = &config.resilience;
        let shown = metrics::upstream(self.service(), name);
        let balancer = match config.endpoints.get(name).filter(|entries| !entries.is_empty()) {
            Some(entries) => {
                let discovery = Configured::new(entries, rules.resolve_interval)?;
                let tls = self.0.credentials.clone().map(|own| (own, config.identity(name)));
                let connector = Arc::new(Connector::new(rules.clone(), tls));
                Some(Balancer::new(name, Box::new(discovery), connector, shown.clone()))
            }
            None => None,
        };
        let claim = match config.transport {
            Transport::Plaintext => HeaderValue::from_str(&self.identity().to_string()).ok(),
            Transport::Mtls | Transport::Mesh => None,
        };
        Ok(Arc::new(Upstream {
            name: name.to_owned(),
            service: self.service(),
            rules: rules.clone(),
            peer: Peer(self.identity().clone()),
            local: self.registry().clone(),
            balancer,
            breaker: Breaker::new(rules, shown.clone()),
            budget: Budget::new(rules),
            room: Arc::new(Semaphore::new(usize::try_from(rules.calls_in_flight).unwrap_or(1))),
            shown,
            claim,
        }))
    }
}
