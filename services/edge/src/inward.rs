//! Calls from the edge to the services, as encoded messages.

use http::{HeaderMap, Method, Request, Response, Version};
use sensormesh_mesh::{Context, Mesh, Peer};
use sensormesh_types::Error;
use tonic::Status;
use tonic::body::Body;
use tower::{Service as _, ServiceExt as _};

/// The edge's own name.
pub const EDGE: &str = "edge";

/// Makes one call. `service` is where to; `path` is the method.
pub async fn call(
    mesh: &Mesh,
    service: &str,
    path: http::uri::PathAndQuery,
    headers: HeaderMap,
    body: Body,
    context: Context,
) -> Result<Response<Body>, Status> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = http::Uri::from(path);
    *request.headers_mut() = headers;
    if service == EDGE {
        return here(mesh, request, context).await;
    }
    let mut channel = mesh.channel(service)?;
    // the channel reads the context when it is called, not when its future runs
    Context::scope(context, async move { channel.call(request).await }).await
}

/// The edge's own methods go through the edge's own server stack, like everybody else's.
async fn here(mesh: &Mesh, mut request: Request<Body>, context: Context) -> Result<Response<Body>, Status> {
    let wait = std::time::Duration::from_secs(1);
    let stack = mesh.registry().get(EDGE);
    let stack = stack.ok_or_else(|| Error::unavailable("NOT_READY", "the edge starts or stops", wait))?;
    request.extensions_mut().insert(Peer(mesh.identity().clone()));
    let headers = request.headers_mut();
    let mut insert = |name: &'static str, value: &str| {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    };
    insert("te", "trailers");
    insert("traceparent", &context.traceparent);
    insert(crate::visitor::REQUEST_ID, &context.request_id);
    if let Some(authorization) = &context.authorization {
        insert("authorization", authorization);
    }
    match stack.oneshot(request).await {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}
