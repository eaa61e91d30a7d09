//! The contract, served: decode, call, encode.

mod read;
mod start;

use sensormesh_mesh::Mesh;
use sensormesh_proto::commissioning::v1 as proto;
use sensormesh_proto::commissioning::v1::commissioning_service_server::CommissioningService;
use sensormesh_store::Store;
use sensormesh_types::{Caller, Result};
use tonic::{Request, Response, Status};

use crate::Config;

/// Answers the contract's calls.
#[derive(Clone)]
pub struct Api {
    pub(crate) mesh: Mesh,
    pub(crate) store: Store,
    pub(crate) config: Config,
}

fn answer<T>(result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(Status::from)
}

/// Who calls, and what they ask for.
fn open<T>(request: Request<T>) -> Result<(Caller, T)> {
    let caller = sensormesh_mesh::caller(&request)?.clone();
    Ok((caller, request.into_inner()))
}

/// Every method is served alike.
macro_rules! serve {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl CommissioningService for Api {
            $(async fn $name(
                &self,
                request: Request<proto::$request>,
            ) -> Result<Response<proto::$response>, Status> {
                let (caller, request) = open(request)?;
                answer(Api::$name(self, &caller, request).await)
            })*
        }
    };
}

serve! {
    start_test(StartTestRequest) -> StartTestResponse;
    get_test(GetTestRequest) -> GetTestResponse;
    list_tests(ListTestsRequest) -> ListTestsResponse;
    cancel_test(CancelTestRequest) -> CancelTestResponse;
}
