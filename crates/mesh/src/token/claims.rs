//! What an access token says.

use sensormesh_types::{Principal, Role, Scope};
use serde::{Deserialize, Serialize};

/// The `iss` of every access token.
pub const ISSUER: &str = "sensormesh";
/// The `aud` of every access token.
pub const AUDIENCE: &str = "sensormesh";
/// The `typ` header of every access token (RFC 9068).
pub const TOKEN_TYPE: &str = "at+jwt";

/// The claims of an access token. Every one is required: a token that lacks one, or has it in another type, is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Always [`ISSUER`].
    pub iss: String,
    /// Always [`AUDIENCE`].
    pub aud: String,
    /// The user's opaque id.
    pub sub: String,
    /// The name the user logs in with.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// The user's tenant.
    pub tenant: String,
    /// The sites the role is narrowed to; empty = the whole tenant.
    pub sites: Vec<String>,
    /// The session the token belongs to.
    pub sid: String,
    /// The token's own id.
    pub jti: String,
    /// When it was issued: seconds since the Unix epoch.
    pub iat: i64,
    /// When it ends: seconds since the Unix epoch, at most ten minutes after `iat`.
    pub exp: i64,
}

impl Claims {
    /// The user.
    pub fn principal(&self) -> Principal {
        Principal::User { id: self.sub.clone(), name: self.name.clone(), role: self.role, session: self.sid.clone() }
    }

    /// What the user may see.
    pub fn scope(&self) -> Scope {
        Scope::sites_of(self.tenant.clone(), self.sites.clone())
    }
}
