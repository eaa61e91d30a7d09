//! The contract, served: decode, call, encode.

mod history;
mod metrics;
mod place;
mod placement;

use sensormesh_mesh::Mesh;
use sensormesh_proto::rooms::v1 as proto;
use sensormesh_proto::rooms::v1::rooms_service_server::RoomsService;
use sensormesh_store::Store;
use sensormesh_types::{Caller, Result};
use tonic::{Request, Response, Status};

use crate::telemetry::Telemetry;
use crate::watch::Hub;

/// Answers the contract's calls.
#[derive(Clone)]
pub struct Api {
    pub(crate) mesh: Mesh,
    pub(crate) store: Store,
    pub(crate) hub: Hub,
    pub(crate) telemetry: Telemetry,
}

fn answer<T>(result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(Status::from)
}

/// Who calls, and what they ask for.
fn open<T>(request: Request<T>) -> Result<(Caller, T)> {
    let caller = sensormesh_mesh::caller(&request)?.clone();
    Ok((caller, request.into_inner()))
}

/// Every unary method is served alike.
macro_rules! serve {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl RoomsService for Api {
            type ExportRoomHistoryStream = sensormesh_mesh::Streaming<proto::ExportRoomHistoryResponse>;
            type WatchRoomMetricsStream = sensormesh_mesh::Streaming<proto::WatchRoomMetricsResponse>;

            $(async fn $name(
                &self,
                request: Request<proto::$request>,
            ) -> Result<Response<proto::$response>, Status> {
                let (caller, request) = open(request)?;
                answer(Api::$name(self, &caller, request).await)
            })*

            async fn export_room_history(
                &self,
                request: Request<proto::ExportRoomHistoryRequest>,
            ) -> Result<Response<Self::ExportRoomHistoryStream>, Status> {
                let (caller, request) = open(request)?;
                answer(Api::export_room_history(self, &caller, request).await)
            }

            async fn watch_room_metrics(
                &self,
                request: Request<proto::WatchRoomMetricsRequest>,
            ) -> Result<Response<Self::WatchRoomMetricsStream>, Status> {
                let (caller, request) = open(request)?;
                answer(Api::watch_room_metrics(self, &caller, request).await)
            }
        }
    };
}

serve! {
    get_place(GetPlaceRequest) -> GetPlaceResponse;
    list_places(ListPlacesRequest) -> ListPlacesResponse;
    create_place(CreatePlaceRequest) -> CreatePlaceResponse;
    update_place(UpdatePlaceRequest) -> UpdatePlaceResponse;
    delete_place(DeletePlaceRequest) -> DeletePlaceResponse;
    list_rooms(ListRoomsRequest) -> ListRoomsResponse;
    list_placements(ListPlacementsRequest) -> ListPlacementsResponse;
    create_placement(CreatePlacementRequest) -> CreatePlacementResponse;
    delete_placement(DeletePlacementRequest) -> DeletePlacementResponse;
    list_unplaced_sensors(ListUnplacedSensorsRequest) -> ListUnplacedSensorsResponse;
    get_room_metrics(GetRoomMetricsRequest) -> GetRoomMetricsResponse;
    get_room_history(GetRoomHistoryRequest) -> GetRoomHistoryResponse;
}
