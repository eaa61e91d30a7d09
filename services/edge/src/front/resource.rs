//! REST, streams in plain HTTP, WebSockets, pages.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::WebSocketUpgrade;
use http::header::{CONNECTION, UPGRADE, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method as Verb, Response, StatusCode};
use http_body_util::Full;
use sensormesh_types::{Code, Error};

use super::{Inner, Note, text};
use crate::failure::Failure;
use crate::frame::Messages;
use crate::live::{Form, Live};
use crate::origin::Asker;
use crate::rest::{self, Asked};
use crate::router::Found;
use crate::visitor::Visitor;
use crate::{assets, inward, socket};

impl Inner {
    pub(super) async fn rest(
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
        let several = !self.contract.routes[route].others.is_empty();
        let index = self.contract.preferred(route, &parts.headers);
        let route = &self.contract.routes[index];
        note.route = Some(index);
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
        self.memory_allows(&method.policy, method.is_stream())?;
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
        let mut response = if method.server_streaming {
            let message = tonic::body::Body::new(Full::new(message));
            self.stream(index, message, &parts.headers, visitor).await?
        } else {
            let _counted = self.drain().calls.enter();
            let response = self.unary(index, message, visitor).await?;
            // JSON is longer than the message it was made of, and that was no longer than it may be
            self.unread.hand_over(response, &visitor.payer(), u64::MAX).await?
        };
        if several {
            response.headers_mut().append(VARY, HeaderValue::from_static("accept"));
        }
        Ok(response)
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
        let live = Live::new(Arc::clone(&self.contract), index, messages, self.ending(), self.config.heartbeat, held);
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
        rest::head(&self.contract, route, asked, 0, &mut head)?;
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

    /// What is no route of a contract: the dashboard, the documentation, or nothing.
    fn page(&self, found: Found, parts: &Parts, visitor: &Visitor, note: &mut Note) -> Result<Response<Body>, Failure> {
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
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    text(headers, "upgrade").is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
}

fn ticket_of(query: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| name == "ticket").map(|(_, value)| value.into_owned())
}
