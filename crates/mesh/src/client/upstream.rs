//! The stack of one upstream: every call from this service to that one goes through here.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use sensormesh_observability::metrics::{self, Side};
use sensormesh_observability::trace;
use sensormesh_proto::Method;
use sensormesh_types::Error;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tower::{Service as _, ServiceExt as _};
use tracing::Instrument as _;

use super::answer::{Answer, Call};
use super::balance::Balancer;
use super::breaker::{Breaker, Permit};
use super::endpoint::{Connection, Endpoint, Lease};
use super::outgoing::{Fault, Outgoing, Payload, for_once};
use super::retry::{self, Budget, Pushback};
use super::wire::Broken;
use super::{Resilience, deadline, failure};
use crate::{Context, LocalRegistry, Peer};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Everything between this service and one upstream. One for each pair; channels share it.
pub(crate) struct Upstream {
    pub(crate) name: String,
    pub(crate) service: &'static str,
    pub(crate) rules: Resilience,
    pub(crate) peer: Peer,
    pub(crate) local: LocalRegistry,
    pub(crate) balancer: Option<Arc<Balancer>>,
    pub(crate) breaker: Arc<Breaker>,
    pub(crate) budget: Budget,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) shown: metrics::Upstream,
    /// Who calls, in the transport that cannot prove it.
    pub(crate) claim: Option<HeaderValue>,
}

impl Upstream {
    /// Makes the call. `forward` passes on the token of the call it is made for.
    pub(crate) async fn call(
        self: Arc<Self>,
        request: Request<Body>,
        context: Option<Context>,
        forward: bool,
    ) -> Result<Response<Body>, Status> {
        let started = Instant::now();
        let method = sensormesh_proto::method(request.uri().path());
        let rpc = metrics::rpc(Side::Client, self.service, method.map_or("_OTHER", |m| m.path));
        let parent = context.as_ref().and_then(|c| c.traceparent.parse().ok());
        let parent = parent.or_else(|| header(request.headers(), "traceparent").and_then(|t| t.parse().ok()));
        let name = method.map_or("_OTHER", |m| m.path.trim_start_matches('/'));
        let (span, position) = trace::client_span(self.service, name, parent);
        let streams = method.is_none_or(Method::is_stream);
        let mut call = Call {
            upstream: self.name.clone(),
            rpc,
            span: span.clone(),
            started,
            room: None,
            stream: streams.then(|| self.shown.streams.hold()),
            over: false,
        };
        let work = async {
            let mut outgoing =
                Outgoing::of(&self.name, self.claim.as_ref(), request, method, context.as_ref(), forward).await?;
            if let Ok(position) = HeaderValue::try_from(position.to_string()) {
                outgoing.headers.insert(TRACEPARENT, for_once(position));
            }
            if !streams {
                let room = Arc::clone(&self.room).try_acquire_owned();
                call.room = Some(room.map_err(|_| {
                    self.shown.shed_by_bulkhead.add(1);
                    failure::crowded(&self.name)
                })?);
            }
            self.attempts(&mut outgoing).await.map(|(response, lease)| (response, lease, outgoing.deadline))
        };
        let (response, lease, deadline) = match work.instrument(span).await {
            Ok(answered) => answered,
            Err(status) => {
                call.end(status.code() as i32);
                return Err(status);
            }
        };
        let (mut head, body) = response.into_parts();
        failure::correct(&mut head.headers);
        let code = failure::code(&head.headers).or(Some(failure::code_of_http(head.status)).filter(|c| *c != 0));
        if let Some(code) = code {
            if code == tonic::Code::Unavailable as i32 || code == tonic::Code::Aborted as i32 {
                failure::name(&mut head.headers, &self.name);
            }
            call.end(code);
            return Ok(Response::from_parts(head, body));
        }
        let answer = Answer::new(body, deadline, call, lease);
        Ok(Response::from_parts(head, Body::new(answer)))
    }

    /// Sends the request until it is answered, may not be sent again, or time or budget is up.
    async fn attempts(&self, outgoing: &mut Outgoing) -> Result<(Response<Body>, Option<Lease>), Status> {
        self.budget.call(Instant::now());
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        let mut attempt = 0;
        loop {
            let permit = self.breaker.admit(Instant::now()).map_err(|wait| {
                self.shown.shed_by_breaker.add(1);
                failure::circuit_open(&self.name, wait)
            });
            let permit = match permit {
                Ok(permit) => permit,
                Err(error) => return Err(error.into()),
            };
            let (failed, unprocessed, blame, pushback) = match self.attempt(outgoing, &tried).await {
                Ok((response, lease)) => {
                    let code =
                        failure::code(response.headers()).unwrap_or_else(|| failure::code_of_http(response.status()));
                    let of_it = matches!(code, 10 | 14) && !failure::is_of_another(response.headers(), &self.name);
                    let bad = of_it && code == 14;
                    permit.tell(!bad, Instant::now());
                    if let (Some(lease), Some(balancer)) = (&lease, &self.balancer) {
                        balancer.report(&lease.endpoint, !bad);
                    }
                    let pushback = retry::pushback(response.headers());
                    // another changed the same at once, and all that this call did was undone: harmless whatever it is
                    let undone = of_it && code == 10 && matches!(pushback, Pushback::Wait(_));
                    if !bad && !undone {
                        return Ok((response, lease));
                    }
                    if let Some(lease) = lease.as_ref().filter(|_| bad) {
                        tried.push(Arc::clone(&lease.endpoint));
                    }
                    (Ok((response, lease)), false, bad, pushback)
                }
                Err(fault) => {
                    if let (Some(endpoint), Some(balancer)) = (fault.endpoint, &self.balancer) {
                        if fault.blame || fault.silent.is_some() {
                            balancer.report(&endpoint, false);
                        }
                        tried.push(endpoint);
                    }
                    match fault.silent {
                        Some(connection) => self.judge(permit, connection),
                        None if fault.blame => permit.tell(false, Instant::now()),
                        None => drop(permit),
                    }
                    let unavailable = fault.error.code() == tonic::Code::Unavailable;
                    let pushback = if unavailable { Pushback::Silent } else { Pushback::Never };
                    (Err(fault.error), fault.unprocessed, fault.blame, pushback)
                }
            };
            let pause = match pushback {
                Pushback::Never => return failed,
                Pushback::Wait(wait) => wait,
                // nothing to spare an upstream that saw nothing of the call, where another endpoint may take it
                Pushback::Silent if unprocessed && (!blame || self.has_another(&tried)) => Duration::ZERO,
                Pushback::Silent => retry::pause(&self.rules, attempt),
            };
            let sendable = !matches!(outgoing.payload, Payload::Open(None));
            let harmless = outgoing.retryable || unprocessed || (failed.is_ok() && !blame); // the last: undone
            let allowed = harmless && sendable && attempt < self.rules.retries;
            if !allowed || Instant::now() + pause >= outgoing.deadline {
                return failed;
            }
            if !unprocessed && !self.budget.take(Instant::now()) {
                self.shown.retries_suppressed.add(1);
                return failed;
            }
            drop(failed);
            attempt += 1;
            self.shown.retries.add(1);
            outgoing.headers.insert("grpc-previous-rpc-attempts", HeaderValue::from(attempt));
            tokio::time::sleep(pause).await;
        }
    }

    fn has_another(&self, tried: &[Arc<Endpoint>]) -> bool {
        self.balancer.as_ref().is_some_and(|balancer| balancer.has_another(tried))
    }

    async fn attempt(
        &self,
        outgoing: &mut Outgoing,
        tried: &[Arc<Endpoint>],
    ) -> Result<(Response<Body>, Option<Lease>), Fault> {
        let left = outgoing.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Fault::of_request(failure::late(&self.name)));
        }
        outgoing.headers.insert(deadline::TIMEOUT, for_once(deadline::header(left)));
        match self.local.get(&self.name) {
            Some(stack) => self.attempt_here(outgoing, stack).await.map(|response| (response, None)),
            None => self.attempt_there(outgoing, tried).await.map(|(response, lease)| (response, Some(lease))),
        }
    }

    /// The upstream lives in this process: its whole server stack, without a network.
    async fn attempt_here(
        &self,
        outgoing: &mut Outgoing,
        mut stack: crate::LocalService,
    ) -> Result<Response<Body>, Fault> {
        let uri = http::Uri::from(outgoing.path.clone());
        let Some(mut request) = outgoing.request(uri) else {
            return Err(Fault::of_request(failure::lost(&self.name, "the request cannot be sent twice")));
        };
        request.extensions_mut().insert(self.peer.clone());
        let work = async {
            match stack.ready().await {
                Ok(stack) => stack.call(request).await,
                Err(never) => match never {},
            }
        };
        match timeout_at(outgoing.deadline, work).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(never)) => match never {},
            // it lives as long as we do
            Err(_) => Err(Fault::of_request(failure::late(&self.name))),
        }
    }

    async fn attempt_there(
        &self,
        outgoing: &mut Outgoing,
        tried: &[Arc<Endpoint>],
    ) -> Result<(Response<Body>, Lease), Fault> {
        let Some(balancer) = &self.balancer else {
            return Err(Fault::unprocessed(failure::unreachable(&self.name, "no address is configured"), None));
        };
        let endpoint = match timeout_at(outgoing.deadline, balancer.pick(tried)).await {
            Ok(picked) => picked.map_err(|error| Fault::unprocessed(error, None))?,
            Err(_) => return Err(Fault::unsent(&self.name, outgoing.fair, None)),
        };
        let lease = endpoint.lease(outgoing.streams);
        let mut connection = match timeout_at(outgoing.deadline, lease.connection()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                balancer.doubt();
                return Err(Fault::unprocessed(failure::unreachable(&self.name, error), Some(endpoint)));
            }
            Err(_) => return Err(Fault::unsent(&self.name, outgoing.fair, Some(endpoint))),
        };
        let uri = http::Uri::builder()
            .scheme(balancer.connector().scheme())
            .authority(endpoint.address.authority.clone())
            .path_and_query(outgoing.path.clone())
            .build()
            .map_err(|e| Fault::of_request(Error::internal(e)))?;
        if matches!(outgoing.payload, Payload::Open(None)) {
            return Err(Fault::of_request(failure::lost(&self.name, "the request cannot be sent twice")));
        }
        let sent = match connection.sender.send(outgoing.head(uri), &mut outgoing.payload) {
            Ok(sent) => sent,
            // a connection that went away politely between two calls is nobody's failure
            Err(error) => {
                connection.broken();
                let error = failure::lost(&self.name, error).into();
                return Err(Fault { error, unprocessed: true, blame: false, silent: None, endpoint: Some(endpoint) });
            }
        };
        match timeout_at(outgoing.deadline, sent.answer()).await {
            Ok(Ok(response)) => {
                connection.answered();
                let (upstream, breaker) = (self.name.clone(), Arc::clone(&self.breaker));
                let of_body = move |broken: Broken| {
                    let error = match broken {
                        Broken::Request(status) => return status,
                        Broken::Wire(error) => error,
                    };
                    if error.is_reset() {
                        breaker.broke(Instant::now());
                    } else if connection.broken() {
                        breaker.broke(Instant::now());
                        endpoint.doubt();
                    }
                    failure::lost(&upstream, error).into()
                };
                Ok((response.map(|body| Body::new(body.map_err(of_body))), lease))
            }
            Ok(Err(Broken::Request(error))) => Err(Fault::of_body(error)),
            Ok(Err(Broken::Wire(error))) => {
                let of_stream = error.is_reset();
                let first = of_stream || connection.broken();
                let unprocessed = failure::not_processed(&error);
                if first && !of_stream && !unprocessed {
                    endpoint.doubt();
                }
                let error = failure::lost(&self.name, error).into();
                Err(Fault { error, unprocessed, blame: first && !unprocessed, silent: None, endpoint: Some(endpoint) })
            }
            Err(_) => {
                connection.silent();
                Err(Fault::late(&self.name, outgoing.fair.then_some(connection), endpoint))
            }
        }
    }
}

impl Upstream {
    /// Counts a call that was not answered in time: as a failure where its connection is dead. A peer that lives was asked for
    /// too much, perhaps by one caller, and others must not be refused for it; so it has passed a trial.
    fn judge(&self, permit: Permit, connection: Connection) {
        let patience = self.rules.connect_timeout;
        tokio::spawn(async move {
            let lives = connection.sender.shows_life(patience).await;
            if !lives || permit.is_trial() {
                permit.tell(lives, Instant::now());
            }
        });
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
