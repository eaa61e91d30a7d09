//! gRPC server reflection, v1 and v1alpha: made when it is first asked for, once for the whole process.

use std::sync::OnceLock;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use sensormesh_types::{Error, Result};
use tonic::Status;
use tonic::service::Routes;
use tower::ServiceExt as _;

/// Adds both versions to a service's routes.
pub(super) fn add(mut routes: Routes) -> Routes {
    let router = std::mem::take(routes.axum_router_mut());
    let router = ["v1", "v1alpha"].into_iter().fold(router, |router, version| {
        let path = format!("/grpc.reflection.{version}.ServerReflection/{{*rest}}");
        router.route_service(
            &path,
            tower::service_fn(|request| async { Ok::<_, std::convert::Infallible>(answer(request).await) }),
        )
    });
    Routes::from(router)
}

async fn answer(request: Request) -> Response {
    // decoding the contracts takes some memory, which a service that nobody inspects does not spend
    static MADE: OnceLock<Result<Router>> = OnceLock::new();
    match MADE.get_or_init(make) {
        Ok(router) => router.clone().oneshot(request).await.into_response(),
        Err(error) => Status::internal(error.to_string()).into_http::<axum::body::Body>(),
    }
}

fn make() -> Result<Router> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(sensormesh_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
    };
    let v1 = builder().build_v1().map_err(Error::internal)?;
    let v1alpha = builder().build_v1alpha().map_err(Error::internal)?;
    Ok(Routes::from(Router::new()).add_service(v1).add_service(v1alpha).into_axum_router())
}
