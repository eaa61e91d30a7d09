//! What happens to a request, from its arrival to its answer.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::WebSocketUpgrade;
use futures::future::BoxFuture;
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method as Verb, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use sensormesh_mesh::server::Drain;
use sensormesh_mesh::{Mesh, Shutdown};
use sensormesh_observability::metrics;
use sensormesh_types::{Code, Error, Role};
use tokio::time::Instant;
use tonic::Status;

use crate::contract::{Contract, Method};
use crate::failure::Failure;
use crate::frame::Messages;
use crate::grpc::Protocol;
use crate::limit::{Left, Limits};
use crate::live::{Form, Live};
use crate::options::Policy;
use crate::origin::{Asker, Origins};
use crate::rest::{self, Asked};
use crate::router::Found;
use crate::ticket::Tickets;
use crate::visitor::{REQUEST_ID, Standing, Visitor};
use crate::{Config, assets, inward, socket};

/// Says which service a call of `MeshService` is for; the edge itself where it is absent.
const SERVICE: &str = "sensormesh-service";

/// Everything that the edge answers requests with. Cheap to clone.
#[derive(Clone)]
pub struct Front(Arc<Inner>);

struct Inner {
    contract: Arc<Contract>,
    mesh: Mesh,
    config: Config,
    origins: Origins,
    limits: Limits,
    tickets: Tickets,
    drain: Arc<OnceLock<Drain>>,
    refused: Refused,
}

struct Refused {
    rate: metrics::Counter,
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
    /// Prepares the edge. Streams end and calls are counted as `drain` says.
    pub fn new(config: Config, mesh: &Mesh, contract: Arc<Contract>, tickets: Tickets, drain: Arc<OnceLock<Drain>>) -> Result<Self, Error> {
        config.check()?;
        let loopback = config.address().ip().is_loopback() && config.behind_proxy.is_empty();
        let origins = Origins::new(&config.cors_origins, loopback)?;
        let limits = Limits::new(config.user_rate, config.address_rate, config.streams_per_caller);
        let refused = Refused {
            rate: metrics::edge_refused("rate"),
            size: metrics::edge_refused("size"),
            origin: metrics::edge_refused("origin"),
        };
        Ok(Self(Arc::new(Inner { contract, mesh: mesh.clone(), config, origins, limits, tickets, drain, refused })))
    }

    /// Forgets callers that have been quiet.
    pub fn forget(&self) {
        self.0.limits.forget();
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let inner = &*self.0;
        let (parts, body) = request.into_parts();
        let now = inner.mesh.clock().now_micros();
        let mut visitor = Visitor::of(&parts, &inner.config.behind_proxy, &inner.origins, now);
        let mut note = Note { route: None, label: String::new(), left: None };
        let verb = parts.method.clone();
        let mut response = if is_preflight(&parts) {
            let mut response = Response::new(Body::empty());
            let foreign = visitor.asker == Asker::Foreign;
            *response.status_mut() = if foreign { StatusCode::FORBIDDEN } else { StatusCode::NO_CONTENT };
            visitor.asker.preflight(response.headers_mut());
            response
        } else {
            let mut response = inner.dispatch(parts, body, &mut visitor, &mut note).await;
            visitor.asker.allow(response.headers_mut());
            response
        };
        if verb == Verb::HEAD {
            *response.body_mut() = Body::empty();
        }
        inner.dress(&mut response, &visitor, &note);
        inner.write_down(&verb, &response, &visitor, &note, started.elapsed());
        response
    }
}

impl Inner {
    async fn dispatch(&self, parts: Parts, body: Body, visitor: &mut Visitor, note: &mut Note) -> Response<Body> {
        match Protocol::of(&parts.headers) {
            Some(protocol) => {
                self.call(protocol, &parts, body, visitor, note).await.unwrap_or_else(|failure| {
                    self.count(&failure);
                    protocol.refuse(&failure.status)
                })
            }
            None => self.rest(parts, body, visitor, note).await.unwrap_or_else(|failure| {
                self.count(&failure);
                failure.response(&self.contract.shapes)
            }),
        }
    }

    fn count(&self, failure: &Failure) {
        if failure.status() == StatusCode::PAYLOAD_TOO_LARGE {
            self.refused.size.add(1);
        }
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
        let standing = ticket.map(|ticket| self.tickets.take(ticket)).transpose().and_then(|authorization| {
            Standing::of(self.mesh.verifier(), headers, authorization.as_deref(), policy.public)
        });
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

    async fn rest(
        &self,
        mut parts: Parts,
        body: Body,
        visitor: &mut Visitor,
        note: &mut Note,
    ) -> Result<Response<Body>, Failure> {
        let path = parts.uri.path();
        let (route, captured) = match self.contract.find(parts.method.as_str(), path) {
            Found::Route(route, captured) => (route, captured),
            found => return self.page(found, &parts, visitor, note),
        };
        note.route = Some(route);
        let (index, route) = (route, &self.contract.routes[route]);
        let method = &self.contract.methods[route.method];
        let upgrades = is_upgrade(&parts.headers);
        let reads = matches!(parts.method, Verb::GET | Verb::HEAD);
        if visitor.asker == Asker::Foreign && (!reads || method.is_stream()) {
            self.refused.origin.add(1);
            let error = Error::new(Code::Forbidden, "ORIGIN", "pages of this origin may not use the edge");
            return Err(error.with("origin", text(&parts.headers, "origin").unwrap_or_default()).into());
        }
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let ticket = if method.is_stream() { ticket_of(&query) } else { None };
        self.admit(&method.policy, &parts.headers, ticket.as_deref(), visitor, note)?;
        let resume = text(&parts.headers, "last-event-id").map(str::to_owned);
        let asked = Asked { captured: &captured, query: &query, resume: resume.as_deref() };

        if method.is_stream() && upgrades {
            let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
            let upgrade = upgrade.map_err(|error| {
                Failure::http(StatusCode::BAD_REQUEST, Error::new(Code::Invalid, "WEBSOCKET", error.body_text()))
            })?;
            return self.socket(upgrade, index, &asked, visitor);
        }
        if method.client_streaming {
            let message = "this method takes a stream: open a WebSocket at the same path, or call it by gRPC";
            let failure = Failure::http(
                StatusCode::UPGRADE_REQUIRED,
                Error::new(Code::Precondition, "UPGRADE_REQUIRED", message),
            );
            return Err(failure.with(UPGRADE, "websocket").with(CONNECTION, "upgrade"));
        }
        let bytes = rest::collect(&parts.headers, body, self.config.body).await?;
        let message = rest::request(&self.contract, route, &asked, &parts.headers, &bytes)?;
        if method.server_streaming {
            return self.stream(index, message, &parts.headers, visitor).await;
        }
        let _counted = self.drain().calls.enter();
        let response = self.inward(&method.service, method, visitor.headers(), message, visitor).await?;
        rest::answer(&self.contract, route, response, self.config.answer).await
    }

    /// A server stream in plain HTTP.
    async fn stream(
        &self,
        index: usize,
        message: tonic::body::Body,
        headers: &HeaderMap,
        visitor: &Visitor,
    ) -> Result<Response<Body>, Failure> {
        let route = &self.contract.routes[index];
        let method = &self.contract.methods[route.method];
        let held = (self.limits.stream(&visitor.payer())?, self.drain().streams.enter());
        let response = self.inward(&method.service, method, visitor.headers(), message, visitor).await?;
        let messages = Messages::of(response, usize::try_from(self.config.answer).unwrap_or(usize::MAX))?;
        let live =
            Live::new(Arc::clone(&self.contract), index, messages, self.ending(), self.config.heartbeat, held);
        if route.raw { live.raw().await } else { Ok(live.response(Form::of(headers))) }
    }

    fn socket(
        &self,
        upgrade: WebSocketUpgrade,
        index: usize,
        asked: &Asked<'_>,
        visitor: &Visitor,
    ) -> Result<Response<Body>, Failure> {
        let route = &self.contract.routes[index];
        let method = &self.contract.methods[route.method];
        let mut head = Vec::new();
        rest::head(&self.contract, route, asked, &mut head)?;
        let held = (self.limits.stream(&visitor.payer())?, self.drain().streams.enter());
        let (mesh, service, path) = (self.mesh.clone(), method.service.clone(), method.path.clone());
        let (headers, context) = (visitor.headers(), visitor.context());
        let call = socket::Call {
            contract: Arc::clone(&self.contract),
            route: index,
            head,
            answer: usize::try_from(self.config.answer).unwrap_or(usize::MAX),
            heartbeat: self.config.heartbeat,
            make: Box::new(move |body| {
                Box::pin(async move { inward::call(&mesh, &service, path, headers, body, context).await })
            }),
            ending: self.ending(),
            held: Box::new(held),
        };
        Ok(call.accept(upgrade, usize::try_from(self.config.socket_message).unwrap_or(usize::MAX)))
    }

    /// gRPC and gRPC-Web.
    async fn call(
        &self,
        protocol: Protocol,
        parts: &Parts,
        body: Body,
        visitor: &mut Visitor,
        note: &mut Note,
    ) -> Result<Response<Body>, Failure> {
        let path = parts.uri.path();
        let Some(target) = self.target(path, &parts.headers)? else {
            note.label = "_OTHER".to_owned();
            let message = format!("{path} is no method of any contract");
            return Err(Error::new(Code::Unimplemented, "UNKNOWN_METHOD", message).into());
        };
        note.label = path.to_owned();
        if visitor.asker == Asker::Foreign {
            self.refused.origin.add(1);
            return Err(Error::new(Code::Forbidden, "ORIGIN", "pages of this origin may not use the edge").into());
        }
        self.admit(&target.policy, &parts.headers, None, visitor, note)?;
        let mut headers = visitor.headers();
        for name in ["grpc-timeout", "grpc-encoding", "grpc-accept-encoding"] {
            if let Some(value) = parts.headers.get(name) {
                headers.insert(name, value.clone());
            }
        }
        let limit = usize::try_from(self.config.body).unwrap_or(usize::MAX);
        let message = if protocol == Protocol::Native {
            let inward = move |error: Box<dyn std::error::Error + Send + Sync>| {
                let message = format!("the request broke off or is longer than {limit} bytes");
                Status::from(Error::new(Code::Exhausted, "BODY_TOO_LARGE", message).caused_by(error))
            };
            if target.client_streaming {
                tonic::body::Body::new(body.map_err(move |error| inward(error.into())))
            } else {
                tonic::body::Body::new(Limited::new(body, limit).map_err(inward))
            }
        } else {
            let bytes = rest::collect(&parts.headers, body, self.config.body).await?;
            tonic::body::Body::new(http_body_util::Full::new(protocol.decode(bytes)?))
        };
        let response = if target.stream {
            let held = (self.limits.stream(&visitor.payer())?, self.drain().streams.enter());
            let response = self.to(&target.service, parts, headers, message, visitor).await?;
            protocol.relay(response, self.ending(), held)
        } else {
            let counted = self.drain().calls.enter();
            let response = self.to(&target.service, parts, headers, message, visitor).await?;
            protocol.relay(response, Box::pin(std::future::pending()), counted)
        };
        Ok(response)
    }

    async fn to(
        &self,
        service: &str,
        parts: &Parts,
        headers: HeaderMap,
        body: tonic::body::Body,
        visitor: &Visitor,
    ) -> Result<Response<tonic::body::Body>, Status> {
        let path = http::uri::PathAndQuery::try_from(parts.uri.path()).map_err(Error::internal)?;
        inward::call(&self.mesh, service, path, headers, body, visitor.context()).await
    }

    async fn inward(
        &self,
        service: &str,
        method: &Method,
        headers: HeaderMap,
        body: tonic::body::Body,
        visitor: &Visitor,
    ) -> Result<Response<tonic::body::Body>, Status> {
        inward::call(&self.mesh, service, method.path.clone(), headers, body, visitor.context()).await
    }

    /// Where a gRPC path leads. Health and reflection are the edge's own; `MeshService` is that of the service named.
    fn target(&self, path: &str, headers: &HeaderMap) -> Result<Option<Target>, Failure> {
        let own = |role, stream| Target {
            service: inward::EDGE.to_owned(),
            policy: Policy { public: false, min_role: Some(role), deadline: Duration::ZERO, cost: 1 },
            client_streaming: stream,
            stream,
        };
        if path.starts_with("/grpc.reflection.v1") {
            return Ok(Some(own(Role::PlatformAdmin, true)));
        }
        if path.starts_with("/grpc.health.v1.Health/") {
            return Ok(Some(own(Role::Viewer, path.ends_with("/Watch"))));
        }
        let Some(method) = self.contract.method(path) else { return Ok(None) };
        let mut service = method.service.clone();
        if service == "mesh" {
            service = text(headers, SERVICE).unwrap_or(inward::EDGE).to_owned();
            if service != inward::EDGE && !self.contract.services().contains(&service) {
                return Err(Error::not_found("service", &service).into());
            }
        }
        let (policy, stream) = (method.policy.clone(), method.is_stream());
        Ok(Some(Target { service, policy, client_streaming: method.client_streaming, stream }))
    }

    /// What is no route of a contract: the dashboard, the documentation, or nothing.
    fn page(
        &self,
        found: Found,
        parts: &Parts,
        visitor: &Visitor,
        note: &mut Note,
    ) -> Result<Response<Body>, Failure> {
        let path = parts.uri.path();
        if matches!(parts.method, Verb::GET | Verb::HEAD)
            && let Some(response) = assets::find(path, &parts.headers)
        {
            note.label = "static".to_owned();
            return Ok(response);
        }
        note.label = "_OTHER".to_owned();
        if let Err(error) = self.limits.take(&visitor.address(), 1) {
            self.refused.rate.add(1);
            return Err(error.into());
        }
        let allowed = match found {
            Found::OtherMethods(mut methods) => {
                if methods.contains("GET") {
                    methods.insert("HEAD".to_owned());
                }
                Some(methods.into_iter().collect::<Vec<_>>().join(", "))
            }
            _ => None,
        };
        Err(Failure::not_found(parts.method.as_str(), path, allowed))
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
        if let Ok(id) = HeaderValue::from_str(&visitor.request_id) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(left) = &note.left {
            left.show(headers);
        }
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
        if !headers.contains_key(http::header::CONTENT_SECURITY_POLICY) {
            let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
            headers.insert(http::header::CONTENT_SECURITY_POLICY, nothing);
        }
        if secure {
            headers.insert("strict-transport-security", HeaderValue::from_static("max-age=31536000"));
        }
    }

    fn write_down(&self, verb: &Verb, response: &Response<Body>, visitor: &Visitor, note: &Note, elapsed: Duration) {
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
    }
}

struct Target {
    service: String,
    policy: Policy,
    client_streaming: bool,
    stream: bool,
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty())
}

fn is_preflight(parts: &Parts) -> bool {
    parts.method == Verb::OPTIONS
        && parts.headers.contains_key("origin")
        && parts.headers.contains_key("access-control-request-method")
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    text(headers, "upgrade").is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
}

fn ticket_of(query: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| name == "ticket").map(|(_, value)| value.into_owned())
}
