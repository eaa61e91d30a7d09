//! Personal access tokens, in whose place access tokens go inward: these are what services verify by themselves.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use sensormesh_mesh::server::bearer;
use sensormesh_mesh::{Channel, Context, Mesh};
use sensormesh_proto::auth::v1::CreateTokenRequest;
use sensormesh_proto::auth::v1::auth_service_client::AuthServiceClient;
use sensormesh_types::{Code, Error, Result};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// What each of them begins with.
const PREFIX: &str = "smp_";
/// Those whose access token is kept.
const KEPT: u64 = 10_000;
/// An access token is exchanged anew when so much of its life is left.
const EARLY: Duration = Duration::from_secs(60);

/// The access tokens that personal ones were exchanged for.
pub struct Personal {
    mesh: Mesh,
    /// By the token's SHA-256.
    exchanged: moka::sync::Cache<[u8; 32], Exchanged>,
}

#[derive(Clone)]
struct Exchanged {
    access_token: String,
    until: Instant,
}

/// The personal access token that a request comes with.
pub fn of(headers: &HeaderMap) -> Option<&str> {
    bearer(headers).ok().flatten().filter(|token| token.starts_with(PREFIX))
}

impl Personal {
    /// Asks `auth` by this mesh.
    pub fn new(mesh: Mesh) -> Self {
        Self { mesh, exchanged: moka::sync::Cache::new(KEPT) }
    }

    /// What a token was exchanged for, while that is good.
    pub fn known(&self, token: &str) -> Option<HeaderValue> {
        let exchanged = self.exchanged.get(&digest(token)).filter(|exchanged| exchanged.until > Instant::now())?;
        self.mesh.verifier().verify(&exchanged.access_token).ok()?;
        authorization(&exchanged.access_token).ok()
    }

    /// Exchanges a token. `None` where `auth` knows no such token; UNAVAILABLE where `auth` cannot be asked.
    pub async fn exchange(&self, token: &str, context: Context) -> Result<Option<HeaderValue>> {
        let mut auth: AuthServiceClient<Channel> = self.mesh.client()?;
        let request = CreateTokenRequest {
            grant_type: "personal_token".to_owned(),
            personal_token: token.to_owned(),
            ..Default::default()
        };
        let answer = Context::scope(context, auth.create_token(request)).await.map_err(Error::from);
        let answer = match answer {
            Ok(answer) => answer.into_inner(),
            Err(error) if matches!(error.code(), Code::Unauthenticated | Code::Invalid) => return Ok(None),
            Err(error) => return Err(error),
        };
        let life = Duration::from_secs(u64::try_from(answer.expires_in).unwrap_or(0));
        let until = Instant::now() + life.saturating_sub(EARLY).max(life / 2);
        let header = authorization(&answer.access_token)?;
        self.exchanged.insert(digest(token), Exchanged { access_token: answer.access_token, until });
        Ok(Some(header))
    }
}

fn authorization(access_token: &str) -> Result<HeaderValue> {
    format!("Bearer {access_token}").parse().map_err(Error::internal)
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Puts an access token into a request's headers.
pub fn put(headers: &mut HeaderMap, authorization: HeaderValue) {
    headers.insert(header::AUTHORIZATION, authorization);
}
