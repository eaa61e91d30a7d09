//! Unary calls in REST, and what is done with those whose service cannot be reached.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use prost::Message as _;
use sensormesh_mesh::Claims;
use sensormesh_store::spool::{Call, Spool};
use sensormesh_types::{Error, random};

use super::Inner;
use crate::contract::Method;
use crate::failure::Failure;
use crate::rest;
use crate::spool::{self, Held};
use crate::transcode::to_json::{self, Defaults};
use crate::transcode::wire::{self, Record, Records};
use crate::visitor::{Standing, Visitor};

impl Inner {
    /// Makes a unary call, or keeps it where its contract says so and its service cannot be reached.
    pub(super) async fn unary(&self, index: usize, body: Bytes, visitor: &Visitor) -> Result<Response<Body>, Failure> {
        let method = &self.contract.methods[self.contract.routes[index].method];
        let Some(spool) = self.spool.as_ref().filter(|_| method.policy.spool) else {
            return self.direct(index, body, visitor).await;
        };
        // the token of a machine is good for long and is not written to the disk: such a call is not kept
        if let Standing::Machine(..) = &visitor.standing {
            return self.direct(index, body, visitor).await;
        }
        let Standing::User(authorization, claims) = &visitor.standing else {
            // whose it is cannot be told shortly after a start; it may not overtake what waits, either
            if spool.holds(&method.service) {
                let message = format!("calls for {} wait, and who asks cannot be verified yet", method.service);
                return Err(Error::unavailable("KEYS_UNKNOWN", message, Duration::from_secs(1)).into());
            }
            return self.direct(index, body, visitor).await;
        };
        let message = spool::unframed(&body);
        let identified = method.identity.is_some_and(|number| has(&message, number));
        // what comes now would overtake those that wait
        if !spool.holds(&method.service) {
            match self.direct(index, body, visitor).await {
                Err(failure) if spool::may_keep(&failure.status, &method.service, identified) => {}
                answered => return answered,
            }
        }
        self.keep(spool, method, message, identified, (authorization, claims), visitor).await
    }

    async fn direct(&self, index: usize, body: Bytes, visitor: &Visitor) -> Result<Response<Body>, Failure> {
        let route = &self.contract.routes[index];
        let method = &self.contract.methods[route.method];
        let body = tonic::body::Body::new(Full::new(body));
        let response = self.inward(&method.service, method, visitor.headers(), body, visitor).await?;
        rest::answer(&self.contract, route, response, self.config.answer).await
    }

    async fn keep(
        &self,
        spool: &Spool,
        method: &Method,
        message: Bytes,
        identified: bool,
        (authorization, claims): (&str, &Claims),
        visitor: &Visitor,
    ) -> Result<Response<Body>, Failure> {
        let mut message = Vec::from(message);
        if let (Some(number), false) = (method.identity, identified) {
            // delivered twice, it is one call
            wire::bytes(&mut message, number, random::id(self.mesh.clock().now_micros()).as_bytes());
        }
        let held = Held {
            path: method.path.to_string(),
            authorization: authorization.to_owned(),
            message,
            traceparent: visitor.trace.to_string(),
            request_id: visitor.request_id.clone(),
            address: visitor.whence.address.to_string(),
        };
        let receipt_id = random::secret();
        let call = Call {
            receipt_id: receipt_id.clone(),
            owner: claims.principal().actor(),
            target: method.service.clone(),
            method: method.path.path().trim_start_matches('/').to_owned(),
            call: held.encode_to_vec(),
        };
        let receipt = spool.keep(&claims.scope(), call).await?;
        let receipt = spool::receipt(&receipt_id, receipt, "").encode_to_vec();
        let shapes = &self.contract.shapes;
        let shape = shapes.by_name("sensormesh.edge.v1.Receipt").ok_or_else(|| Error::internal("no receipt"))?;
        let mut json = Vec::with_capacity(256);
        to_json::message(shapes, shape, &receipt, Defaults::Written, &mut json).map_err(Error::internal)?;
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = StatusCode::ACCEPTED;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(place) = HeaderValue::from_str(&format!("/v1/receipts/{receipt_id}")) {
            headers.insert(LOCATION, place);
        }
        Ok(response)
    }
}

/// Whether a text field of a message is there and not empty.
fn has(message: &[u8], wanted: u32) -> bool {
    let filled = |record| matches!(record, Ok((number, Record::Length(text))) if number == wanted && !text.is_empty());
    Records(message).any(filled)
}
