//! The gRPC trait: decode, call, encode.

mod personal;
mod reset;
mod second_factor;
mod token;
mod user;
mod watch;

use std::sync::Arc;

use sensormesh_mesh::{Streaming, caller};
use sensormesh_proto::auth::v1 as proto;
use sensormesh_proto::auth::v1::auth_service_server::AuthService;
use sensormesh_store::Tx;
use sensormesh_types::{Caller, Error, Principal, Result};
use tonic::{Request, Response, Status};

use crate::session::Asker;
use crate::user::User;
use crate::verification::Revocation;
use crate::{Auth, db};

pub(crate) use watch::verification_events;

/// The service's contract.
pub(crate) struct Api(pub(crate) Arc<Auth>);

type Answer<T> = std::result::Result<Response<T>, Status>;

#[tonic::async_trait]
impl AuthService for Api {
    async fn register(&self, request: Request<proto::RegisterRequest>) -> Answer<proto::RegisterResponse> {
        let caller = caller(&request)?.clone();
        let user = user::register(&self.0, &caller, request.into_inner()).await?;
        Ok(Response::new(proto::RegisterResponse { user: Some(user) }))
    }

    async fn create_token(&self, request: Request<proto::CreateTokenRequest>) -> Answer<proto::CreateTokenResponse> {
        let caller = caller(&request)?.clone();
        let asker = asker(&request, &caller);
        Ok(Response::new(token::create(&self.0, &caller, asker, request.into_inner()).await?))
    }

    async fn verify_token(&self, request: Request<proto::VerifyTokenRequest>) -> Answer<proto::VerifyTokenResponse> {
        let caller = caller(&request)?;
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        Ok(Response::new(token::describe(&self.0, caller, header)?))
    }

    async fn logout(&self, request: Request<proto::LogoutRequest>) -> Answer<proto::LogoutResponse> {
        let caller = caller(&request)?.clone();
        token::log_out(&self.0, &caller, request.into_inner().all_sessions).await?;
        Ok(Response::new(proto::LogoutResponse {}))
    }

    async fn list_sessions(&self, request: Request<proto::ListSessionsRequest>) -> Answer<proto::ListSessionsResponse> {
        let caller = caller(&request)?;
        Ok(Response::new(proto::ListSessionsResponse { sessions: token::sessions(&self.0, caller).await? }))
    }

    async fn delete_session(
        &self,
        request: Request<proto::DeleteSessionRequest>,
    ) -> Answer<proto::DeleteSessionResponse> {
        let caller = caller(&request)?.clone();
        token::delete_session(&self.0, &caller, &request.into_inner().session_id).await?;
        Ok(Response::new(proto::DeleteSessionResponse {}))
    }

    async fn change_password(
        &self,
        request: Request<proto::ChangePasswordRequest>,
    ) -> Answer<proto::ChangePasswordResponse> {
        let caller = caller(&request)?.clone();
        let asker = asker(&request, &caller);
        token::change_password(&self.0, &caller, &asker, request.into_inner()).await?;
        Ok(Response::new(proto::ChangePasswordResponse {}))
    }

    async fn create_personal_token(
        &self,
        request: Request<proto::CreatePersonalTokenRequest>,
    ) -> Answer<proto::CreatePersonalTokenResponse> {
        let caller = caller(&request)?.clone();
        let asker = asker(&request, &caller);
        Ok(Response::new(personal::create(&self.0, &caller, &asker, request.into_inner()).await?))
    }

    async fn list_personal_tokens(
        &self,
        request: Request<proto::ListPersonalTokensRequest>,
    ) -> Answer<proto::ListPersonalTokensResponse> {
        let caller = caller(&request)?;
        Ok(Response::new(proto::ListPersonalTokensResponse { tokens: personal::list(&self.0, caller).await? }))
    }

    async fn delete_personal_token(
        &self,
        request: Request<proto::DeletePersonalTokenRequest>,
    ) -> Answer<proto::DeletePersonalTokenResponse> {
        let caller = caller(&request)?.clone();
        personal::delete(&self.0, &caller, &request.into_inner().token_id).await?;
        Ok(Response::new(proto::DeletePersonalTokenResponse {}))
    }

    async fn get_account(&self, request: Request<proto::GetAccountRequest>) -> Answer<proto::GetAccountResponse> {
        let caller = caller(&request)?;
        let (user, _) = second_factor::own(&self.0, caller).await?;
        Ok(Response::new(proto::GetAccountResponse { user: Some(user.to_proto()) }))
    }

    async fn request_password_reset(
        &self,
        request: Request<proto::RequestPasswordResetRequest>,
    ) -> Answer<proto::RequestPasswordResetResponse> {
        let caller = caller(&request)?.clone();
        let asker = asker(&request, &caller);
        reset::request(&self.0, &caller, &asker, request.into_inner()).await?;
        Ok(Response::new(proto::RequestPasswordResetResponse {}))
    }

    async fn reset_password(
        &self,
        request: Request<proto::ResetPasswordRequest>,
    ) -> Answer<proto::ResetPasswordResponse> {
        let caller = caller(&request)?.clone();
        reset::reset(&self.0, &caller, request.into_inner()).await?;
        Ok(Response::new(proto::ResetPasswordResponse {}))
    }

    async fn begin_totp(&self, request: Request<proto::BeginTotpRequest>) -> Answer<proto::BeginTotpResponse> {
        let caller = caller(&request)?.clone();
        let asker = asker(&request, &caller);
        Ok(Response::new(second_factor::begin(&self.0, &caller, &asker, request.into_inner()).await?))
    }

    async fn enable_totp(&self, request: Request<proto::EnableTotpRequest>) -> Answer<proto::EnableTotpResponse> {
        let caller = caller(&request)?.clone();
        let asker = asker(&request, &caller);
        Ok(Response::new(second_factor::enable(&self.0, &caller, &asker, request.into_inner()).await?))
    }

    async fn disable_totp(&self, request: Request<proto::DisableTotpRequest>) -> Answer<proto::DisableTotpResponse> {
        let caller = caller(&request)?.clone();
        let asker = asker(&request, &caller);
        second_factor::disable(&self.0, &caller, &asker, request.into_inner()).await?;
        Ok(Response::new(proto::DisableTotpResponse {}))
    }

    async fn get_user(&self, request: Request<proto::GetUserRequest>) -> Answer<proto::GetUserResponse> {
        let caller = caller(&request)?.clone();
        let user = user::get(&self.0, &caller, &request.into_inner().user_id).await?;
        Ok(Response::new(proto::GetUserResponse { user: Some(user) }))
    }

    async fn list_users(&self, request: Request<proto::ListUsersRequest>) -> Answer<proto::ListUsersResponse> {
        let caller = caller(&request)?.clone();
        Ok(Response::new(user::list(&self.0, &caller, request.into_inner()).await?))
    }

    async fn update_user(&self, request: Request<proto::UpdateUserRequest>) -> Answer<proto::UpdateUserResponse> {
        let caller = caller(&request)?.clone();
        let user = user::update(&self.0, &caller, request.into_inner()).await?;
        Ok(Response::new(proto::UpdateUserResponse { user: Some(user) }))
    }

    async fn delete_user(&self, request: Request<proto::DeleteUserRequest>) -> Answer<proto::DeleteUserResponse> {
        let caller = caller(&request)?.clone();
        user::delete(&self.0, &caller, &request.into_inner().user_id).await?;
        Ok(Response::new(proto::DeleteUserResponse {}))
    }

    async fn create_invitation(
        &self,
        request: Request<proto::CreateInvitationRequest>,
    ) -> Answer<proto::CreateInvitationResponse> {
        let caller = caller(&request)?.clone();
        Ok(Response::new(user::invite(&self.0, &caller, request.into_inner()).await?))
    }

    async fn get_jwks(&self, _request: Request<proto::GetJwksRequest>) -> Answer<proto::GetJwksResponse> {
        Ok(Response::new(self.0.ring.read().to_proto()))
    }

    type WatchVerificationStream = Streaming<proto::WatchVerificationResponse>;

    async fn watch_verification(
        &self,
        request: Request<proto::WatchVerificationRequest>,
    ) -> Answer<Self::WatchVerificationStream> {
        Ok(Response::new(watch::messages(&self.0, request.into_inner().cursor)))
    }
}

/// The client's address and program, which only the edge can know.
fn asker<T>(request: &Request<T>, caller: &Caller) -> Asker {
    if caller.peer.as_deref() != Some("edge") {
        return Asker::default();
    }
    let header = |name| request.metadata().get(name).and_then(|value| value.to_str().ok());
    Asker {
        address: Some(caller.address.clone()).filter(|address| !address.is_empty()),
        user_agent: header("x-forwarded-user-agent").map(|name| name.chars().take(256).collect()).unwrap_or_default(),
    }
}

/// The id and session of a caller who is a user with an account here and has logged in: a program with a personal access token
/// does not change the account.
fn user_and_session(caller: &Caller) -> Result<(&str, &str)> {
    match &caller.principal {
        Principal::User { id, session, .. } if !session.is_empty() => {
            logged_in(caller)?;
            Ok((id, session))
        }
        _ => Err(Error::precondition("NO_SESSION", "the call was not made with an access token")),
    }
}

/// Refuses a program with a personal access token: what it did to accounts would outlive the token.
fn logged_in(caller: &Caller) -> Result<()> {
    match &caller.principal {
        Principal::User { session, .. } if crate::personal::is_id(session) => {
            Err(Error::precondition("LOG_IN", "a personal access token may not do this; log in"))
        }
        _ => Ok(()),
    }
}

/// Ends a session and revokes its tokens in the transaction.
async fn end_session(auth: &Auth, tx: &mut Tx, caller: &Caller, tenant: &str, session_id: &str) -> Result<Revocation> {
    db::session::delete(tx, tenant, session_id).await?;
    let now = auth.clock.now_micros();
    let revocation = Revocation::of_session(session_id.to_owned(), now, auth.config.access_token_life);
    keep(tx, caller, tenant, revocation).await
}

/// Revokes all tokens of a user in the transaction. The time is read here, when the caller has ended the sessions or
/// locked the account: a refresh that was still served is then not dated later than the revocation.
async fn revoke_user(auth: &Auth, tx: &mut Tx, caller: &Caller, user: &User) -> Result<Revocation> {
    let revocation = Revocation::of_user(user, auth.clock.now_micros(), auth.config.access_token_life);
    keep(tx, caller, &user.tenant, revocation).await
}

async fn keep(tx: &mut Tx, caller: &Caller, tenant: &str, revocation: Revocation) -> Result<Revocation> {
    db::revocation::insert(tx, tenant, &revocation).await?;
    tx.append_for(tenant, revocation.entry(caller));
    Ok(revocation)
}

/// Makes the changes durable, then stops accepting what was revoked.
async fn commit(auth: &Auth, tx: Tx, revocations: &[Revocation]) -> Result<()> {
    commit_and(auth, tx, revocations, || ()).await
}

/// The same, and then something more.
async fn commit_and(
    auth: &Auth,
    tx: Tx,
    revocations: &[Revocation],
    then: impl FnOnce() + Send + 'static,
) -> Result<()> {
    let verifier = auth.verifier.clone();
    let revoked: Vec<_> = revocations.iter().map(Revocation::to_mesh).collect();
    let after = move || {
        revoked.into_iter().for_each(|revocation| verifier.revoke(revocation));
        then();
    };
    tx.commit_and(after).await.map(drop)
}
