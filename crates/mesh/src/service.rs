//! A service as the program sees it: routes, background tasks, checks.

use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use sensormesh_proto::mesh::v1 as proto;
use sensormesh_types::{AuditQuery, AuditRecord, Result, Scope};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};

use crate::Shutdown;
use crate::server::Drain;

/// How one part of a service does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It works.
    Well,
    /// It works less well than it should; in words.
    Degraded(String),
    /// It does not work; in words. The service is not ready.
    Failing(String),
}

/// The future a check makes.
pub(crate) type CheckFn = Arc<dyn Fn() -> BoxFuture<'static, Condition> + Send + Sync>;
pub(crate) type PortFn = Box<dyn FnOnce(Drain) -> BoxFuture<'static, ()> + Send>;
pub(crate) type TaskFn = Arc<dyn Fn(Shutdown) -> BoxFuture<'static, Result<()>> + Send + Sync>;
pub(crate) type AuditFn = Arc<dyn Fn(Scope, AuditQuery) -> BoxFuture<'static, Result<Vec<AuditRecord>>> + Send + Sync>;

/// A circuit breaker that the service keeps itself, such as its database's.
pub(crate) struct OwnBreaker {
    pub(crate) state: Box<dyn Fn() -> proto::Breaker + Send + Sync>,
    pub(crate) reset: Box<dyn Fn() + Send + Sync>,
}

/// A loop that runs as long as the service: it is started again when it fails, and shown among the checks.
#[derive(Clone)]
pub struct Task {
    /// What it does, in words: `follow devices`.
    pub name: &'static str,
    pub(crate) run: TaskFn,
}

/// Routes, tasks and checks of one service: what its `start` returns and [`crate::serve`] runs.
#[must_use = "a service does nothing until it is served"]
pub struct Service {
    /// The service's name: `rooms`.
    pub name: &'static str,
    pub(crate) routes: RoutesBuilder,
    pub(crate) names: Vec<&'static str>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) checks: Vec<(&'static str, CheckFn)>,
    pub(crate) breakers: Vec<OwnBreaker>,
    pub(crate) audit: Option<AuditFn>,
    pub(crate) operations: Option<axum::Router>,
    pub(crate) ports: Vec<PortFn>,
}

impl Service {
    /// A service that does nothing yet.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            routes: RoutesBuilder::default(),
            names: Vec::new(),
            tasks: Vec::new(),
            checks: Vec::new(),
            breakers: Vec::new(),
            audit: None,
            operations: None,
            ports: Vec::new(),
        }
    }

    /// Adds a gRPC service: `.grpc(RoomsServiceServer::new(api))`.
    pub fn grpc<S>(mut self, server: S) -> Self
    where
        S: tower::Service<http::Request<Body>, Error = std::convert::Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.routes.add_service(server);
        self.names.push(S::NAME);
        self
    }

    /// Puts something around all gRPC services added so far, behind the checks of the stack: a call gets there once it may be
    /// made. Tests break calls there.
    pub fn around(mut self, wrap: impl FnOnce(axum::Router) -> axum::Router) -> Self {
        let routes = self.take_routes().into_axum_router();
        self.routes = wrap(routes).into();
        self
    }

    /// Adds a loop. It is started when the service is served, told to stop by the `Shutdown`, and started again after a
    /// growing pause when it returns an error or panics. A loop that returns `Ok` is done.
    pub fn task<F, Fut>(mut self, name: &'static str, run: F) -> Self
    where
        F: Fn(Shutdown) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.tasks.push(Task { name, run: Arc::new(move |shutdown| Box::pin(run(shutdown))) });
        self
    }

    /// Adds a check: `.check("database", move || { let store = store.clone(); async move { … } })`. It is asked for
    /// `/health`, `/ready` and the service's status, and has one second.
    pub fn check<F, Fut>(mut self, name: &'static str, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Condition> + Send + 'static,
    {
        self.checks.push((name, Arc::new(move || Box::pin(check()))));
        self
    }

    /// Shows a breaker of the service's own, such as its database's, beside those of its upstreams.
    pub fn breaker(
        mut self,
        state: impl Fn() -> proto::Breaker + Send + Sync + 'static,
        reset: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        self.breakers.push(OwnBreaker { state: Box::new(state), reset: Box::new(reset) });
        self
    }

    /// Answers `MeshService.ListAuditEntries` from the service's log: what changed within a scope, the newest first.
    pub fn audit<F, Fut>(mut self, list: F) -> Self
    where
        F: Fn(Scope, AuditQuery) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<AuditRecord>>> + Send + 'static,
    {
        self.audit = Some(Arc::new(move |scope, query| Box::pin(list(scope, query))));
        self
    }

    /// Adds routes to the operations port beside `/health`, `/ready` and `/metrics`.
    pub fn operations(mut self, routes: axum::Router) -> Self {
        self.operations = Some(self.operations.take().unwrap_or_default().merge(routes));
        self
    }

    /// Adds a port of the service's own, such as the edge's: `run` is called once the service takes calls, listens (see
    /// [`crate::server::listen`]) and ends as the steps of stopping say.
    pub fn port<F, Fut>(mut self, run: F) -> Self
    where
        F: FnOnce(Drain) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.ports.push(Box::new(move |drain| Box::pin(run(drain))));
        self
    }

    pub(crate) fn take_routes(&mut self) -> Routes {
        std::mem::take(&mut self.routes).routes()
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("name", &self.name).field("grpc", &self.names).finish_non_exhaustive()
    }
}
