//! The stack of one upstream: every call from this service to that one goes through here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
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
use super::breaker::Breaker;
use super::endpoint::{Endpoint, Lease};
use super::retry::{self, Budget, Pushback};
use super::{Resilience, deadline, failure};
use crate::{Context, LocalRegistry, Peer};

/// A request larger than this is sent once and never again.
const REPEATABLE: usize = 4 << 20;

/// The least time that a call must have had for its running out to say something about the upstream.
const FAIR: Duration = Duration::from_secs(1);

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

/// A request as it is sent, once or again.
struct Outgoing {
    path: http::uri::PathAndQuery,
    headers: HeaderMap,
    payload: Payload,
    deadline: Instant,
    streams: bool,
    retryable: bool,
    /// Whether running out of time is the upstream's failure.
    fair: bool,
}

enum Payload {
    /// The one message of the call; can be sent any number of times.
    Whole(Bytes),
    /// Can be sent once.
    Open(Option<Body>),
}

/// How an attempt failed.
struct Fault {
    error: Status,
    /// Nothing was processed, so that any call may be sent again.
    unprocessed: bool,
    /// The upstream's own failure, not the request's.
    blame: bool,
    endpoint: Option<Arc<Endpoint>>,
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
            let mut outgoing = self.prepare(request, method, context.as_ref(), forward).await?;
            if let Ok(position) = HeaderValue::try_from(position.to_string()) {
                outgoing.headers.insert("traceparent", position);
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
            call.end(code);
            return Ok(Response::from_parts(head, body));
        }
        let answer = Answer::new(body, deadline, call, lease, Arc::clone(&self.breaker));
        Ok(Response::from_parts(head, Body::new(answer)))
    }

    async fn prepare(
        &self,
        request: Request<Body>,
        method: Option<&Method>,
        context: Option<&Context>,
        forward: bool,
    ) -> Result<Outgoing, Status> {
        let (head, body) = request.into_parts();
        let mut headers = head.headers;
        let now = Instant::now();
        let contract = method.map(|m| m.policy.deadline);
        let streams = method.is_none_or(Method::is_stream);
        let until = deadline::deadline(now, deadline::parse(&headers), context, contract, streams);
        let deadline = until.ok_or_else(|| failure::late(&self.name))?;
        if let Some(context) = context {
            if forward
                && !headers.contains_key(http::header::AUTHORIZATION)
                && let Some(token) = &context.authorization
                && let Ok(mut token) = HeaderValue::from_str(token)
            {
                token.set_sensitive(true);
                headers.insert(http::header::AUTHORIZATION, token);
            }
            if !context.request_id.is_empty()
                && let Ok(id) = HeaderValue::from_str(&context.request_id)
            {
                headers.insert("x-request-id", id);
            }
        }
        headers.insert(
            http::header::USER_AGENT,
            HeaderValue::from_static(concat!("sensormesh/", env!("CARGO_PKG_VERSION"))),
        );
        headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
        if let Some(claim) = &self.claim {
            headers.insert(crate::PEER_HEADER, claim.clone());
        }
        let payload = if method.is_some_and(|m| !m.client_streaming) {
            let collected = timeout_at(deadline, body.collect()).await.map_err(|_| failure::late(&self.name))?;
            Payload::Whole(collected?.to_bytes())
        } else {
            Payload::Open(Some(body))
        };
        let repeatable = matches!(&payload, Payload::Whole(bytes) if bytes.len() <= REPEATABLE);
        let fair = contract.unwrap_or(FAIR).min(FAIR);
        Ok(Outgoing {
            path: head.uri.into_parts().path_and_query.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")),
            headers,
            payload,
            deadline,
            streams,
            retryable: repeatable && method.is_some_and(|m| m.is_retryable() && !m.is_stream()),
            fair: deadline - now >= fair,
        })
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
            let (failed, unprocessed, pushback) = match self.attempt(outgoing, &tried).await {
                Ok((response, lease)) => {
                    let code =
                        failure::code(response.headers()).unwrap_or_else(|| failure::code_of_http(response.status()));
                    let bad = code == 14 && !failure::is_of_another(response.headers(), &self.name);
                    permit.tell(!bad && !(code == 4 && outgoing.fair), Instant::now());
                    if let (Some(lease), Some(balancer)) = (&lease, &self.balancer) {
                        balancer.report(&lease.endpoint, !bad);
                    }
                    if !bad {
                        return Ok((response, lease));
                    }
                    if let Some(lease) = &lease {
                        tried.push(Arc::clone(&lease.endpoint));
                    }
                    let pushback = retry::pushback(response.headers());
                    (Ok((response, lease)), false, pushback)
                }
                Err(fault) => {
                    if fault.blame {
                        permit.tell(false, Instant::now());
                    } else {
                        drop(permit);
                    }
                    if let (Some(endpoint), Some(balancer)) = (fault.endpoint, &self.balancer) {
                        if fault.blame {
                            balancer.report(&endpoint, false);
                        }
                        tried.push(endpoint);
                    }
                    let unavailable = fault.error.code() == tonic::Code::Unavailable;
                    let pushback = if unavailable { Pushback::Silent } else { Pushback::Never };
                    (Err(fault.error), fault.unprocessed, pushback)
                }
            };
            let pause = match pushback {
                Pushback::Never => return failed,
                Pushback::Wait(wait) => wait,
                Pushback::Silent => retry::pause(&self.rules, attempt),
            };
            let sendable = !matches!(outgoing.payload, Payload::Open(None));
            let allowed = (outgoing.retryable || unprocessed) && sendable && attempt < self.rules.retries;
            if !allowed || Instant::now() + pause >= outgoing.deadline {
                return failed;
            }
            if !self.budget.take(Instant::now()) {
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

    async fn attempt(
        &self,
        outgoing: &mut Outgoing,
        tried: &[Arc<Endpoint>],
    ) -> Result<(Response<Body>, Option<Lease>), Fault> {
        let left = outgoing.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Fault::of_request(failure::late(&self.name)));
        }
        outgoing.headers.insert(deadline::TIMEOUT, deadline::header(left));
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
            Err(_) => Err(Fault::late(&self.name, outgoing.fair, None)),
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
            Err(_) => return Err(Fault::late(&self.name, outgoing.fair, None)),
        };
        let lease = endpoint.lease(outgoing.streams);
        let mut sender = match timeout_at(outgoing.deadline, lease.connection()).await {
            Ok(Ok(sender)) => sender,
            Ok(Err(error)) => {
                balancer.doubt();
                return Err(Fault::unprocessed(failure::unreachable(&self.name, error), Some(endpoint)));
            }
            Err(_) => return Err(Fault::late(&self.name, outgoing.fair, Some(endpoint))),
        };
        let uri = http::Uri::builder()
            .scheme(balancer.connector().scheme())
            .authority(endpoint.address.authority.clone())
            .path_and_query(outgoing.path.clone())
            .build()
            .map_err(|e| Fault::of_request(Error::internal(e)))?;
        let Some(request) = outgoing.request(uri) else {
            return Err(Fault::of_request(failure::lost(&self.name, "the request cannot be sent twice")));
        };
        match timeout_at(outgoing.deadline, sender.try_send_request(request)).await {
            Ok(Ok(response)) => {
                lease.answered();
                let upstream = self.name.clone();
                let of_body = move |e| failure::of_request(&e).unwrap_or_else(|| failure::lost(&upstream, e).into());
                Ok((response.map(|body| Body::new(body.map_err(of_body))), lease))
            }
            Ok(Err(mut unsent)) => {
                lease.broken();
                let back = unsent.take_message();
                let error = unsent.into_error();
                let unprocessed = back.is_some() || failure::not_processed(&error);
                if let (Some(request), Payload::Open(body)) = (back, &mut outgoing.payload) {
                    *body = Some(request.into_body());
                }
                if let Some(status) = failure::of_request(&error) {
                    return Err(Fault { error: status, unprocessed: false, blame: false, endpoint: None });
                }
                let error = failure::lost(&self.name, error).into();
                // a connection that went away politely between two calls is nobody's failure
                Err(Fault { error, unprocessed, blame: !unprocessed, endpoint: Some(endpoint) })
            }
            Err(_) => {
                lease.silent();
                Err(Fault::late(&self.name, outgoing.fair, Some(endpoint)))
            }
        }
    }
}

impl Outgoing {
    /// The request to `uri`; `None` where its body is gone.
    fn request(&mut self, uri: http::Uri) -> Option<Request<Body>> {
        let body = match &mut self.payload {
            Payload::Whole(bytes) => Body::new(Full::new(bytes.clone())),
            Payload::Open(body) => body.take()?,
        };
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        Some(request)
    }
}

impl Fault {
    fn of_request(error: Error) -> Self {
        Self { error: error.into(), unprocessed: false, blame: false, endpoint: None }
    }

    fn unprocessed(error: Error, endpoint: Option<Arc<Endpoint>>) -> Self {
        Self { error: error.into(), unprocessed: true, blame: true, endpoint }
    }

    fn late(upstream: &str, fair: bool, endpoint: Option<Arc<Endpoint>>) -> Self {
        Self { error: failure::late(upstream).into(), unprocessed: false, blame: fair, endpoint }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
