//! The layers around every call, the same in process and over the network.
//!
//! In this order: trace, metrics, load shedding, deadline, peer, user, policy; then, in a task of its own, the routes, where
//! the codec decodes and validates and the handler runs. Every refusal is a `types::Error` and becomes a status in one
//! place, [`Meter::refuse`].

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use sensormesh_observability::metrics::{self, Counter, Level, Rpc, Side};
use sensormesh_observability::trace::{self, TraceParent};
use sensormesh_proto::{Idempotency, METHODS, Policy};
use sensormesh_types::{Caller, Code, Error, Result, Role};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt as _;
use tracing::Instrument as _;

use super::admission::{Admission, Method, Places};
use super::answer::{self, Early, Ends, Held, Meter};
use super::deadline::Deadline;
use super::drain::Drain;
use super::{authorize, whence};
use crate::{Bearer, Context, Mesh, ServerLimits};

/// How long a handler that changes something may go on after its caller gave up, so that its transaction ends by itself.
const OVERRUN: Duration = Duration::from_secs(10);
/// A longer `x-request-id` is not taken over, bytes.
const LONGEST_ID: usize = 128;
/// Revocations older than this are too old for what only an admin may do, seconds.
const REVOCATIONS_STALE: i64 = 15 * 60;

/// A service behind all its layers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Stack(Arc<Inner>);

struct Inner {
    mesh: Mesh,
    routes: Routes,
    targets: HashMap<&'static str, Target>,
    unknown: Arc<Rpc>,
    admission: Admission,
    memory_shed: Counter,
    open: Level,
    drain: Drain,
}

/// A method as the layers see it.
struct Target {
    policy: &'static Policy,
    /// Either side sends many messages.
    stream: bool,
    /// The caller gets many messages.
    server_stream: bool,
    /// Cutting the handler loses nothing.
    cuttable: bool,
    /// Answered under overload and while stopping, too.
    vital: bool,
    places: Arc<Method>,
    rpc: Arc<Rpc>,
}

const fn built_in(min_role: Role, services: &'static [&'static str], deadline: Duration) -> Policy {
    Policy {
        public: false,
        min_role: Some(min_role),
        services,
        devices: false,
        deadline,
        spool: false,
        cost: 1,
        produces: "",
    }
}

static HEALTH: Policy = built_in(Role::Viewer, &["*"], Duration::from_secs(3600));
static REFLECTION: Policy = built_in(Role::PlatformAdmin, &[], Duration::from_secs(600));

/// The methods of other packages that every service has: path, policy, whether they stream.
static BUILT_IN: [(&str, &Policy, bool); 5] = [
    ("/grpc.health.v1.Health/Check", &HEALTH, false),
    ("/grpc.health.v1.Health/List", &HEALTH, false),
    ("/grpc.health.v1.Health/Watch", &HEALTH, true),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &REFLECTION, true),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &REFLECTION, true),
];

impl Stack {
    /// The layers around `routes`, which serve the gRPC services in `names`.
    pub(crate) fn new(
        mesh: &Mesh,
        routes: Routes,
        names: &[&'static str],
        limits: &ServerLimits,
        drain: &Drain,
    ) -> Self {
        let service = mesh.service();
        let limit = |stream: bool| Method::new(if stream { limits.streams } else { limits.calls_per_method });
        let own = METHODS.iter().filter(|method| names.contains(&method.service_name)).map(|method| {
            let target = Target {
                policy: &method.policy,
                stream: method.is_stream(),
                server_stream: method.server_streaming,
                cuttable: method.idempotency == Idempotency::NoSideEffects,
                vital: method.service == "mesh",
                places: limit(method.is_stream()),
                rpc: metrics::rpc(Side::Server, service, method.path),
            };
            (method.path, target)
        });
        let others = BUILT_IN.iter().map(|(path, policy, stream)| {
            let rpc = metrics::rpc(Side::Server, service, path);
            let (stream, places) = (*stream, limit(*stream));
            let vital = std::ptr::eq(*policy, &raw const HEALTH);
            (*path, Target { policy, stream, server_stream: stream, cuttable: true, vital, places, rpc })
        });
        Self(Arc::new(Inner {
            mesh: mesh.clone(),
            routes: routes.prepare(),
            targets: own.chain(others).collect(),
            unknown: metrics::rpc(Side::Server, service, "_OTHER"),
            admission: Admission::new(service, limits),
            memory_shed: metrics::shed(service, "memory"),
            open: metrics::open_streams(service, Side::Server),
            drain: drain.clone(),
        }))
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let began = Instant::now();
        let inner = &*self.0;
        let path = request.uri().path();
        let target = inner.targets.get(path);
        let parent = request.headers().get("traceparent").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let name = if target.is_some() { path.trim_start_matches('/') } else { "_OTHER" };
        let (span, position) = trace::server_span(inner.mesh.service(), name, parent);
        let rpc = target.map_or(&inner.unknown, |target| &target.rpc);
        let meter = Meter::new(Arc::clone(rpc), began, span.clone(), position);
        let Some(target) = target else {
            let message = format!("{path} is no method of {}", inner.mesh.service());
            discard(request.into_body());
            return meter.refuse(Error::new(Code::Unimplemented, "UNKNOWN_METHOD", message));
        };
        let (parts, body) = request.into_parts();
        let admitted = inner.admit(target, &parts, began, position).instrument(span.clone()).await;
        match admitted {
            Ok(call) => inner.run(target, call, Request::from_parts(parts, body), meter).instrument(span).await,
            Err(error) => {
                discard(body);
                meter.refuse(error)
            }
        }
    }
}

/// A call that may be made.
struct Admitted {
    places: Option<Places>,
    deadline: Deadline,
    caller: Caller,
    user: Option<Bearer>,
    context: Context,
}

impl Inner {
    async fn admit(&self, target: &Target, request: &Parts, began: Instant, position: TraceParent) -> Result<Admitted> {
        if self.drain.closing.is_requested() && !target.vital {
            return Err(answer::draining());
        }
        let deadline = Deadline::new(began, &request.headers, target.policy.deadline, target.server_stream);
        let places = match target.vital {
            true => None,
            false => {
                self.memory_allows(target, &request.headers)?;
                let places = self.admission.enter(&target.places, target.stream, began, deadline.end).await?;
                // it may have waited
                if self.drain.closing.is_requested() {
                    return Err(answer::draining());
                }
                Some(places)
            }
        };
        let headers = &request.headers;
        let peer = whence::peer(self.mesh.config(), headers, &request.extensions)?;
        let now = self.mesh.clock().now_micros();
        let accepted = if target.policy.spool { whence::accepted(headers, peer.as_ref(), now)? } else { None };
        let user = whence::user(self.mesh.verifier(), headers, target.policy, accepted)?;
        let (principal, scope) = authorize(target.policy, peer.as_ref(), user.as_ref())?;
        if user.is_some() && target.policy.min_role >= Some(Role::Admin) {
            self.revocations_are_fresh()?;
        }
        let traceparent = position.to_string();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let context = Context {
            deadline: Some(deadline.seen),
            traceparent: traceparent.clone(),
            authorization: user.as_ref().and_then(|_| text("authorization")),
            request_id: text("x-request-id").filter(|id| id.len() <= LONGEST_ID).unwrap_or_default(),
        };
        let peer = peer.map(|peer| peer.service);
        let (address, request_id) =
            (whence::address(headers, peer.as_deref(), &request.extensions), context.request_id.clone());
        let caller = Caller { principal, scope, peer, traceparent, address, request_id, accepted_time: accepted };
        Ok(Admitted { places, deadline, caller, user, context })
    }

    /// What services need of each other goes on to the last: keys and revocations, and the streams that they follow.
    fn memory_allows(&self, target: &Target, headers: &HeaderMap) -> Result<()> {
        let policy = target.policy;
        if policy.min_role.is_none() && !policy.services.is_empty() {
            return Ok(());
        }
        let of_user = headers.contains_key("authorization");
        let (stream, costly) = (target.stream && of_user, policy.cost > 1 && target.cuttable);
        self.mesh.0.memory.admit(stream, costly).inspect_err(|_| self.memory_shed.add(1))
    }

    fn revocations_are_fresh(&self) -> Result<()> {
        match self.mesh.verifier().age() {
            Some(age) if age <= REVOCATIONS_STALE => Ok(()),
            _ => {
                let message = "revocations are unknown or too old for this; the auth service cannot be reached";
                Err(Error::unavailable("REVOCATIONS_STALE", message, Duration::from_secs(5)))
            }
        }
    }

    async fn run(&self, target: &Target, call: Admitted, mut request: Request<Body>, meter: Meter) -> Response<Body> {
        let Admitted { places, deadline, caller, user, context } = call;
        let user = user.map(|user| (self.mesh.verifier().clone(), user));
        request.extensions_mut().insert(caller);
        let counted = if target.stream { self.drain.streams.enter() } else { self.drain.calls.enter() };
        let open = target.stream.then(|| self.open.hold());
        let context = Arc::new(context);
        let early = target.stream.then(|| Early::wait(deadline, &self.drain, user.clone()));
        let mut handler = self.spawn(target, request, deadline, &context, (places, counted, open));
        let done = async { (&mut handler.task).await };
        let outside = async {
            match early {
                Some(early) => early.await,
                None => {
                    sleep_until(deadline.end).await;
                    Early::Deadline
                }
            }
        };
        let ended = tokio::select! {
            biased;
            done = done => Ok(done),
            why = outside => Err(why),
        };
        match ended {
            Ok(Ok(Some((response, held)))) => {
                let early = target.server_stream.then(|| Early::wait(deadline, &self.drain, user));
                meter.pass(response, Ends { context, early, _held: held })
            }
            Ok(Ok(None)) => meter.refuse(answer::late()),
            Ok(Err(error)) if error.is_panic() => meter.refuse(answer::panicked()),
            Ok(Err(_)) => meter.refuse(answer::draining()),
            Err(why) => match why.error() {
                Some(error) => meter.refuse(error),
                None => meter.nothing(),
            },
        }
    }

    /// Runs the handler in a task of its own. When the caller gives up, a handler that changes nothing is cut; another one
    /// goes on, so that a transaction is never torn by a closed browser tab, and keeps its places until it ends.
    fn spawn(
        &self,
        target: &Target,
        request: Request<Body>,
        deadline: Deadline,
        context: &Arc<Context>,
        mut held: Held,
    ) -> Handler {
        let routes = self.routes.clone();
        let work = async move {
            match timeout_at(deadline.end + OVERRUN, routes.oneshot(request)).await {
                Ok(Ok(response)) => {
                    // an error has its status in the headers, and may come sooner or later than an answer would
                    if !response.headers().contains_key(Status::GRPC_STATUS)
                        && let Some(places) = &mut held.0
                    {
                        places.answered();
                    }
                    Some((response, held))
                }
                Ok(Err(never)) => match never {},
                Err(_) => None,
            }
        };
        let task = tokio::spawn(Context::scope_shared(Arc::clone(context), work).in_current_span());
        let cut = target.cuttable.then(|| task.abort_handle());
        Handler { task, cut }
    }
}

struct Handler {
    task: JoinHandle<Option<(Response<Body>, Held)>>,
    cut: Option<AbortHandle>,
}

impl Drop for Handler {
    fn drop(&mut self) {
        if let Some(cut) = &self.cut {
            cut.abort();
        }
    }
}

/// Reads what is left of a refused request, within reason: dropping it would reset the stream, and a connection stands
/// only so many resets.
fn discard(mut body: Body) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(timeout(Duration::from_secs(5), async move {
        let mut left = 1_usize << 20;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, bytes::Bytes::len));
            if left == 0 {
                break;
            }
        }
    }));
}

impl tower::Service<Request<Body>> for Stack {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _poller: &mut Poller<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let stack = self.clone();
        Box::pin(async move { Ok(stack.answer(request).await) })
    }
}
