//! What happens to a request, from its arrival to its answer.

mod procedure;
mod resource;
mod unary;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, Response, StatusCode, header};
use sensormesh_mesh::server::Drain;
use sensormesh_mesh::{Mesh, Shutdown};
use sensormesh_observability::{metrics, trace};
use sensormesh_store::spool::Spool;
use sensormesh_types::Error;
use tokio::time::Instant;
use tonic::Status;
use tracing::Instrument as _;

use crate::Config;
use crate::contract::Contract;
use crate::failure::Failure;
use crate::grpc::Protocol;
use crate::inward::EDGE;
use crate::limit::{Left, Limits};
use crate::options::Policy;
use crate::origin::{Asker, Origins};
use crate::personal::{self, Personal};
use crate::ticket::Tickets;
use crate::unread::Unread;
use crate::visitor::{REQUEST_ID, Standing, Visitor};

/// How often callers that have been quiet are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(10);
/// What it costs an address to have a personal access token exchanged.
const EXCHANGE: u32 = 5;

/// Everything that the edge answers requests with. Cheap to clone.
#[derive(Clone)]
pub struct Front(Arc<Inner>);

struct Inner {
    contract: Arc<Contract>,
    mesh: Mesh,
    config: Config,
    origins: Origins,
    limits: Limits,
    personal: Personal,
    tickets: Tickets,
    unread: Unread,
    drain: Arc<OnceLock<Drain>>,
    refused: Refused,
    spool: Option<Spool>,
}

struct Refused {
    rate: metrics::Counter,
    memory: metrics::Counter,
    size: metrics::Counter,
    origin: metrics::Counter,
}

/// What the log says about a request.
struct Note {
    route: Option<usize>,
    label: String,
    left: Option<Left>,
}

impl Front {
    /// Prepares the edge. Streams end and calls are counted as `drain` says. Without a spool no call is kept.
    pub fn new(
        config: Config,
        mesh: &Mesh,
        contract: Arc<Contract>,
        tickets: Tickets,
        drain: Arc<OnceLock<Drain>>,
        spool: Option<Spool>,
    ) -> Result<Self, Error> {
        config.check()?;
        let loopback = config.address().ip().is_loopback() && config.behind_proxy.is_empty();
        let origins = Origins::new(&config.cors_origins, loopback)?;
        let limits = Limits::new(config.user_rate, config.address_rate, config.streams_per_caller);
        let refused = Refused {
            rate: metrics::edge_refused("rate"),
            memory: metrics::edge_refused("memory"),
            size: metrics::edge_refused("size"),
            origin: metrics::edge_refused("origin"),
        };
        let (mesh, unread) = (mesh.clone(), Unread::default());
        let personal = Personal::new(mesh.clone());
        let inner = Inner { contract, mesh, config, origins, limits, personal, tickets, unread, drain, refused, spool };
        Ok(Self(Arc::new(inner)))
    }

    /// Forgets callers that have been quiet, again and again.
    pub async fn keep_forgetting(&self) {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            self.0.limits.forget();
        }
    }

    /// Answers one request, also where answering it panics.
    pub async fn respond(&self, request: Request<Body>) -> Response<Body> {
        AssertUnwindSafe(self.answer(request)).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!("answering a request panicked");
            let mut response = Response::new(Body::from(r#"{"code":13,"message":"internal error","details":[]}"#));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let inner = &*self.0;
        let (parts, body) = request.into_parts();
        let now = inner.mesh.clock().now_micros();
        let parent = text(&parts.headers, "traceparent").and_then(|parent| parent.parse().ok());
        let (span, trace) = trace::http_span(EDGE, parts.method.as_str(), parent);
        let mut visitor = Visitor::of(&parts, &inner.config.behind_proxy, &inner.origins, trace, now);
        let mut note = Note { route: None, label: String::new(), left: None };
        let verb = parts.method.clone();
        let mut response = if is_preflight(&parts) {
            let mut response = Response::new(Body::empty());
            let foreign = visitor.asker == Asker::Foreign;
            *response.status_mut() = if foreign { StatusCode::FORBIDDEN } else { StatusCode::NO_CONTENT };
            visitor.asker.preflight(response.headers_mut());
            response
        } else {
            let mut response = inner.dispatch(parts, body, &mut visitor, &mut note).instrument(span.clone()).await;
            visitor.asker.allow(response.headers_mut());
            response
        };
        if verb == Verb::HEAD {
            *response.body_mut() = Body::empty();
        }
        inner.dress(&mut response, &visitor, &note);
        let route = inner.write_down(&verb, &response, &visitor, &note, started.elapsed());
        trace::record_http(&span, verb.as_str(), route, response.status().as_u16());
        response
    }
}

impl Inner {
    async fn dispatch(&self, mut parts: Parts, body: Body, visitor: &mut Visitor, note: &mut Note) -> Response<Body> {
        if is_ambiguous(&parts) {
            let error = Error::invalid("host", "must be there once in HTTP/1.1 (RFC 9112, section 3.2)");
            return Failure::from(error).response(&self.contract.shapes);
        }
        let exchanged = self.exchange(&mut parts.headers, visitor).await;
        match Protocol::of(&parts.headers) {
            Some(protocol) => {
                let called = match exchanged {
                    Ok(()) => self.call(protocol, &parts, body, visitor, note).await,
                    Err(failure) => Err(failure),
                };
                called.unwrap_or_else(|failure| {
                    self.count(&failure);
                    protocol.refuse(&failure.status)
                })
            }
            None => {
                let answered = match exchanged {
                    Ok(()) => self.rest(parts, body, visitor, note).await,
                    Err(failure) => Err(failure),
                };
                answered.unwrap_or_else(|failure| {
                    self.count(&failure);
                    failure.response(&self.contract.shapes)
                })
            }
        }
    }

    /// Puts an access token in the place of a personal one. One that is no good stays, and is refused as others are.
    async fn exchange(&self, headers: &mut HeaderMap, visitor: &Visitor) -> Result<(), Failure> {
        let Some(token) = personal::of(headers) else { return Ok(()) };
        let authorization = match self.personal.known(token) {
            Some(authorization) => Some(authorization),
            None => {
                // nobody knows yet whose it is
                self.limits.take(&visitor.address(), EXCHANGE).inspect_err(|_| self.refused.rate.add(1))?;
                self.personal.exchange(token, visitor.context()).await?
            }
        };
        if let Some(authorization) = authorization {
            personal::put(headers, authorization);
        }
        Ok(())
    }

    fn count(&self, failure: &Failure) {
        if failure.status() == StatusCode::PAYLOAD_TOO_LARGE {
            self.refused.size.add(1);
        }
    }

    /// What a call costs beyond what the edge holds of it is for its service to say. What needs no user is answered to the last.
    fn memory_allows(&self, policy: &Policy, stream: bool) -> Result<(), Failure> {
        if policy.public {
            return Ok(());
        }
        let admitted = self.mesh.memory().admit(stream, false).inspect_err(|_| self.refused.memory.add(1));
        Ok(admitted?)
    }

    /// Who sends it, whether there is room, whether it may: in this order, and before anything of the body is read.
    fn admit(
        &self,
        policy: &Policy,
        headers: &HeaderMap,
        ticket: Option<&str>,
        visitor: &mut Visitor,
        note: &mut Note,
    ) -> Result<(), Failure> {
        let standing = ticket
            .map(|ticket| self.tickets.take(ticket))
            .transpose()
            .and_then(|authorization| Standing::of(self.mesh.verifier(), headers, authorization.as_deref(), policy));
        let (standing, refusal) = match standing {
            Ok(standing) => (standing, None),
            Err(error) => (Standing::Anonymous, Some(error)),
        };
        visitor.standing = standing;
        match self.limits.take(&visitor.payer(), policy.cost) {
            Ok(left) => note.left = left,
            Err(error) => {
                self.refused.rate.add(1);
                return Err(error.into());
            }
        }
        refusal.map_or_else(|| visitor.standing.admit(policy), Err)?;
        Ok(())
    }

    fn drain(&self) -> &Drain {
        // set before the port opens; a front that nobody serves never stops
        self.drain.get_or_init(|| Drain::new(&self.config.limits, &Shutdown::new()))
    }

    /// Waits for the moment at which streams end, and says why.
    fn ending(&self) -> BoxFuture<'static, Status> {
        let ending = self.drain().ending.clone();
        Box::pin(async move {
            ending.requested().await;
            let message = "the edge stops; come back with the last cursor";
            Error::unavailable("DRAINING", message, Duration::from_secs(1)).into()
        })
    }

    /// The headers that every answer has.
    fn dress(&self, response: &mut Response<Body>, visitor: &Visitor, note: &Note) {
        let secure = self.config.is_tls();
        let headers = response.headers_mut();
        headers.reserve(8);
        if let Ok(id) = HeaderValue::from_str(&visitor.request_id) {
            headers.insert(const { HeaderName::from_static(REQUEST_ID) }, id);
        }
        if let Some(left) = &note.left {
            left.show(headers);
        }
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
            let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
            headers.insert(header::CONTENT_SECURITY_POLICY, nothing);
        }
        if secure {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
        }
    }

    /// Counts the request and writes it to the log. Gives the route by its template.
    fn write_down<'a>(
        &'a self,
        verb: &Verb,
        response: &Response<Body>,
        visitor: &Visitor,
        note: &'a Note,
        elapsed: Duration,
    ) -> &'a str {
        let status = response.status().as_u16();
        let route = match note.route.map(|index| &self.contract.routes[index]) {
            Some(route) => {
                route.record(status, elapsed);
                route.template
            }
            None => &note.label,
        };
        tracing::info!(
            target: "edge::access",
            method = verb.as_str(),
            route,
            status,
            ms = elapsed.as_secs_f64() * 1000.0,
            principal = visitor.principal(),
            address = %visitor.whence.address,
            request_id = visitor.request_id,
            trace_id = visitor.trace.trace_id(),
        );
        route
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty())
}

/// Whether HTTP/1.1 does not say, or says twice, which host is meant: RFC 9112, section 3.2.
fn is_ambiguous(parts: &Parts) -> bool {
    parts.version == http::Version::HTTP_11 && parts.headers.get_all(header::HOST).iter().count() != 1
}

fn is_preflight(parts: &Parts) -> bool {
    parts.method == Verb::OPTIONS
        && parts.headers.contains_key("origin")
        && parts.headers.contains_key("access-control-request-method")
}
