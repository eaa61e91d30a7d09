//! The gRPC trait of credentials, bridges and claim codes: decode, call, encode.

use sensormesh_mesh::Streaming;
use sensormesh_proto::devices::v1 as proto;
use sensormesh_proto::devices::v1::credentials_service_server::CredentialsService;
use tonic::{Request, Response};

use super::{Answer, Api, open};

/// The contract of credentials.
pub(crate) struct Credentials(pub(crate) Api);

#[tonic::async_trait]
impl CredentialsService for Credentials {
    async fn create_credential(
        &self,
        request: Request<proto::CreateCredentialRequest>,
    ) -> Answer<proto::CreateCredentialResponse> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.0.make_credential(&caller, request).await?))
    }

    async fn list_credentials(
        &self,
        request: Request<proto::ListCredentialsRequest>,
    ) -> Answer<proto::ListCredentialsResponse> {
        let (caller, request) = open(request)?;
        let credentials = self.0.credentials_of(&caller, &request).await?;
        Ok(Response::new(proto::ListCredentialsResponse { credentials }))
    }

    async fn rotate_credential(
        &self,
        request: Request<proto::RotateCredentialRequest>,
    ) -> Answer<proto::RotateCredentialResponse> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.0.rotate(&caller, &request).await?))
    }

    async fn delete_credential(
        &self,
        request: Request<proto::DeleteCredentialRequest>,
    ) -> Answer<proto::DeleteCredentialResponse> {
        let (caller, request) = open(request)?;
        self.0.end_credential(&caller, &request.credential_id).await?;
        Ok(Response::new(proto::DeleteCredentialResponse {}))
    }

    async fn create_bridge(&self, request: Request<proto::CreateBridgeRequest>) -> Answer<proto::CreateBridgeResponse> {
        let (caller, request) = open(request)?;
        let bridge = self.0.make_bridge(&caller, request).await?;
        Ok(Response::new(proto::CreateBridgeResponse { bridge: Some(bridge) }))
    }

    async fn get_bridge(&self, request: Request<proto::GetBridgeRequest>) -> Answer<proto::GetBridgeResponse> {
        let (caller, request) = open(request)?;
        let bridge = self.0.find_bridge(&caller, &request.bridge_id).await?;
        Ok(Response::new(proto::GetBridgeResponse { bridge: Some(bridge) }))
    }

    async fn list_bridges(&self, request: Request<proto::ListBridgesRequest>) -> Answer<proto::ListBridgesResponse> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.0.page_of_bridges(&caller, &request).await?))
    }

    async fn update_bridge(&self, request: Request<proto::UpdateBridgeRequest>) -> Answer<proto::UpdateBridgeResponse> {
        let (caller, request) = open(request)?;
        let bridge = self.0.change_bridge(&caller, request).await?;
        Ok(Response::new(proto::UpdateBridgeResponse { bridge: Some(bridge) }))
    }

    async fn delete_bridge(&self, request: Request<proto::DeleteBridgeRequest>) -> Answer<proto::DeleteBridgeResponse> {
        let (caller, request) = open(request)?;
        self.0.remove_bridge(&caller, &request.bridge_id).await?;
        Ok(Response::new(proto::DeleteBridgeResponse {}))
    }

    async fn create_claim_code(
        &self,
        request: Request<proto::CreateClaimCodeRequest>,
    ) -> Answer<proto::CreateClaimCodeResponse> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.0.make_claim_code(&caller, request).await?))
    }

    async fn list_claim_codes(
        &self,
        request: Request<proto::ListClaimCodesRequest>,
    ) -> Answer<proto::ListClaimCodesResponse> {
        let (caller, _) = open(request)?;
        Ok(Response::new(proto::ListClaimCodesResponse { claim_codes: self.0.claim_codes(&caller).await? }))
    }

    async fn delete_claim_code(
        &self,
        request: Request<proto::DeleteClaimCodeRequest>,
    ) -> Answer<proto::DeleteClaimCodeResponse> {
        let (caller, request) = open(request)?;
        self.0.end_claim_code(&caller, &request.claim_code_id).await?;
        Ok(Response::new(proto::DeleteClaimCodeResponse {}))
    }

    async fn claim_device(&self, request: Request<proto::ClaimDeviceRequest>) -> Answer<proto::ClaimDeviceResponse> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.0.claim(&caller, request).await?))
    }

    async fn note_credential_use(
        &self,
        request: Request<proto::NoteCredentialUseRequest>,
    ) -> Answer<proto::NoteCredentialUseResponse> {
        self.0.note_uses(request.into_inner().uses).await?;
        Ok(Response::new(proto::NoteCredentialUseResponse {}))
    }

    type WatchCredentialsStream = Streaming<proto::WatchCredentialsResponse>;

    async fn watch_credentials(
        &self,
        request: Request<proto::WatchCredentialsRequest>,
    ) -> Answer<Self::WatchCredentialsStream> {
        Ok(Response::new(self.0.watch_them(request.into_inner().cursor)))
    }
}
