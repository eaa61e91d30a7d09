//! The operations port: health, readiness, metrics; plaintext, for the same machine or pod only.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tonic::service::Routes;

use super::health::Health;
use sensormesh_observability::metrics;

/// What the port answers: `/health`, `/ready`, `/live`, `/metrics`, gRPC health, and what the service adds.
pub(super) fn router<H>(health: &Health, grpc: H, more: Option<Router>) -> Router
where
    H: tower::Service<http::Request<tonic::body::Body>, Error = std::convert::Infallible>
        + tonic::server::NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    H::Response: axum::response::IntoResponse,
    H::Future: Send + 'static,
{
    let (whole, ready) = (health.clone(), health.clone());
    let http = Router::new()
        .route("/health", get(move || answer(whole.clone(), true)))
        .route("/ready", get(move || answer(ready.clone(), false)))
        // whoever gets an answer knows that the runtime turns; what the service lacks is no reason to start it anew
        .route("/live", get(async || "live\n"))
        .route("/metrics", get(scrape));
    let grpc = Routes::from(Router::new()).add_service(grpc).into_axum_router();
    http.merge(grpc).merge(more.unwrap_or_default())
}

async fn answer(health: Health, whole: bool) -> Response {
    let (ready, body) = health.json().await;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = if whole { body } else { serde_json::json!({ "ready": ready, "status": body["status"] }) };
    (status, axum::Json(body)).into_response()
}

async fn scrape() -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render()).into_response()
}
