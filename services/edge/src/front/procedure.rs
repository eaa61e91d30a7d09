//! gRPC and gRPC-Web, and the call that every kind of request ends in.

use std::time::Duration;

use axum::body::Body;
use http::request::Parts;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, Limited};
use sensormesh_types::{Code, Error, Role};
use tonic::Status;

use super::{Inner, Note, text};
use crate::contract::Method;
use crate::failure::Failure;
use crate::grpc::Protocol;
use crate::inward;
use crate::options::Policy;
use crate::origin::Asker;
use crate::rest;
use crate::visitor::Visitor;

/// Says which service a call of `MeshService` is for; the edge itself where it is absent.
const SERVICE: &str = "sensormesh-service";
/// Bytes of an answer besides its message: the prefix, and the trailers of gRPC-Web.
const ENDS: u64 = 64 << 10;

struct Target {
    service: String,
    policy: Policy,
    client_streaming: bool,
    stream: bool,
}

impl Inner {
    /// gRPC and gRPC-Web.
    pub(super) async fn call(
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
        self.memory_allows(&target.policy, target.stream)?;
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
            let response = protocol.relay(response, Box::pin(std::future::pending()), counted);
            let limit = self.config.answer.saturating_add(ENDS);
            self.unread.hand_over(response, &visitor.payer(), limit).await?
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

    pub(super) async fn inward(
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
            policy: Policy {
                public: false,
                min_role: Some(role),
                devices: false,
                deadline: Duration::ZERO,
                cost: 1,
                spool: false,
            },
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
}
