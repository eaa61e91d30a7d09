//! Sessions and their refresh tokens: opaque, hashed at rest, good for one use.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sensormesh_observability::Secret;
use sensormesh_proto::auth::v1 as proto;
use sensormesh_types::{random, time};
use sha2::{Digest as _, Sha256};

/// What every refresh token begins with, so that one found in a log or a repository is recognised.
const PREFIX: &str = "smr_";
/// What every secret of a password reset begins with.
const RESET_PREFIX: &str = "smx_";
/// What every invitation begins with.
const INVITATION_PREFIX: &str = "smi_";

/// Sessions of one user that live at once; the one unused for longest gives way.
pub const MOST_SESSIONS: i64 = 100;

/// Where a call without a token comes from, as the edge tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// The client's address; of other services' calls nothing is known.
    pub address: Option<String>,
    /// What the client calls itself (`User-Agent`).
    pub user_agent: String,
}

/// A log-in that lives on by refreshing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The tenant of the user.
    pub tenant: String,
    /// The id (`sid` in its access tokens).
    pub session_id: String,
    /// Whose it is.
    pub user_id: String,
    /// What the client called itself.
    pub client: String,
    /// From where, and with which program it was last used.
    pub asker: Asker,
    /// When the user logged in: microseconds since the Unix epoch.
    pub create_time: i64,
    /// When it last got an access token.
    pub use_time: i64,
    /// When it ends unless it is refreshed before.
    pub expire_time: i64,
}

impl Session {
    /// As the contract shows it; `current` is the session of the call.
    pub fn to_proto(&self, current: &str) -> proto::Session {
        proto::Session {
            session_id: self.session_id.clone(),
            user_agent: self.asker.user_agent.clone(),
            client_id: self.client.clone(),
            address: self.asker.address.clone().unwrap_or_default(),
            create_time: Some(time::from_micros(self.create_time)),
            last_use_time: Some(time::from_micros(self.use_time)),
            expire_time: Some(time::from_micros(self.expire_time)),
            current: self.session_id == current,
        }
    }
}

/// A new refresh token: 256 bits nobody can guess.
pub fn new_refresh_token() -> Secret<String> {
    Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random::bytes::<32>())))
}

/// A new secret of a password reset: 256 bits nobody can guess.
pub fn new_reset_secret() -> Secret<String> {
    Secret::new(format!("{RESET_PREFIX}{}", URL_SAFE_NO_PAD.encode(random::bytes::<32>())))
}

/// A new invitation, which people can read out.
pub fn new_invitation() -> Secret<String> {
    Secret::new(format!("{INVITATION_PREFIX}{}", random::secret()))
}

/// What is stored of a token or an invitation. They have 128 bits and more, so a plain hash is enough.
pub fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_do_not_print() {
        let (one, other) = (new_refresh_token(), new_refresh_token());
        assert_ne!(digest(one.reveal()), digest(other.reveal()));
        assert!(one.reveal().starts_with("smr_") && one.reveal().len() == 47);
        assert_eq!(format!("{one:?}"), "***");
    }
}
