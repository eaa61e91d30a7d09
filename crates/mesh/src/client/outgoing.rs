//! A request on its way out, and how an attempt to send it fails.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Full};
use sensormesh_proto::Method;
use sensormesh_types::Error;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;

use super::endpoint::{Connection, Endpoint};
use super::{deadline, failure};
use crate::Context;

/// A request larger than this is sent again only where nothing of it was done.
const REPEATABLE: usize = 4 << 20;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("sensormesh/", env!("CARGO_PKG_VERSION")));

/// The least time that a call must have had for its running out to say something about the upstream.
const FAIR: Duration = Duration::from_secs(1);

/// A request as it is sent, once or again.
pub(super) struct Outgoing {
    pub(super) path: http::uri::PathAndQuery,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
    pub(super) deadline: Instant,
    pub(super) streams: bool,
    pub(super) retryable: bool,
    /// Whether running out of time is the upstream's failure.
    pub(super) fair: bool,
}

pub(super) enum Payload {
    /// The one message of the call; can be sent any number of times.
    Whole(Bytes),
    /// Can be sent once.
    Open(Option<Body>),
}

/// How an attempt failed.
pub(super) struct Fault {
    pub(super) error: Status,
    /// Nothing was processed, so that any call may be sent again.
    pub(super) unprocessed: bool,
    /// The upstream's own failure, not the request's.
    pub(super) blame: bool,
    /// Where no answer came in time, which may be for the request: it took too long. It is its endpoint's failure, and the
    /// upstream's where this connection shows no sign of life.
    pub(super) silent: Option<Connection>,
    pub(super) endpoint: Option<Arc<Endpoint>>,
}

impl Outgoing {
    /// The request as it will be sent: with the time it has, the caller's token if it is to be forwarded, and its one
    /// message in memory. An error where there is no time left.
    pub(super) async fn of(
        upstream: &str,
        claim: Option<&HeaderValue>,
        request: Request<Body>,
        method: Option<&Method>,
        context: Option<&Context>,
        forward: bool,
    ) -> Result<Outgoing, Status> {
        let (head, body) = request.into_parts();
        let mut headers = head.headers;
        for of_the_connection in [header::CONTENT_LENGTH, header::HOST, header::CONNECTION, header::TRANSFER_ENCODING] {
            headers.remove(of_the_connection);
        }
        let now = Instant::now();
        let contract = method.map(|m| m.policy.deadline);
        let streams = method.is_none_or(Method::is_stream);
        let until = deadline::deadline(now, deadline::parse(&headers), context, contract, streams);
        let deadline = until.ok_or_else(|| failure::late(upstream))?;
        if let Some(context) = context {
            if forward
                && !headers.contains_key(header::AUTHORIZATION)
                && let Some(token) = &context.authorization
                && let Ok(token) = HeaderValue::from_str(token)
            {
                headers.insert(header::AUTHORIZATION, for_once(token));
            }
            if !context.request_id.is_empty()
                && let Ok(id) = HeaderValue::from_str(&context.request_id)
            {
                headers.insert(REQUEST_ID, for_once(id));
            }
        }
        headers.insert(header::USER_AGENT, USER_AGENT);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if let Some(claim) = claim {
            headers.insert(crate::PEER_HEADER, claim.clone());
        }
        let payload = if method.is_some_and(|m| !m.client_streaming) {
            let collected = timeout_at(deadline, body.collect()).await.map_err(|_| failure::late(upstream))?;
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

    /// The request to `uri` without its body.
    pub(super) fn head(&self, uri: http::Uri) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// The request to `uri`; `None` where its body is gone.
    pub(super) fn request(&mut self, uri: http::Uri) -> Option<Request<Body>> {
        let body = match &mut self.payload {
            Payload::Whole(bytes) => Body::new(Full::new(bytes.clone())),
            Payload::Open(body) => body.take()?,
        };
        Some(self.head(uri).map(|()| body))
    }
}

/// A value that is secret, or that no other call has: kept out of the connection's header table, where it would push out
/// what is of use.
pub(super) fn for_once(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

impl Fault {
    pub(super) fn of_request(error: Error) -> Self {
        Self::of_body(error.into())
    }

    pub(super) fn of_body(error: Status) -> Self {
        Self { error, unprocessed: false, blame: false, silent: None, endpoint: None }
    }

    pub(super) fn unprocessed(error: Error, endpoint: Option<Arc<Endpoint>>) -> Self {
        Self { error: error.into(), unprocessed: true, blame: true, silent: None, endpoint }
    }

    /// It could not be sent in time.
    pub(super) fn unsent(upstream: &str, fair: bool, endpoint: Option<Arc<Endpoint>>) -> Self {
        Self { error: failure::late(upstream).into(), unprocessed: false, blame: fair, silent: None, endpoint }
    }

    /// It was not answered in time over this connection.
    pub(super) fn late(upstream: &str, silent: Option<Connection>, endpoint: Arc<Endpoint>) -> Self {
        let error = failure::late(upstream).into();
        Self { error, unprocessed: false, blame: false, silent, endpoint: Some(endpoint) }
    }
}
