//! Sessions and their refresh tokens: opaque, hashed at rest, good for one use.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sensormesh_observability::Secret;
use sensormesh_types::random;
use sha2::{Digest as _, Sha256};

/// What every refresh token begins with, so that one found in a log or a repository is recognised.
const PREFIX: &str = "smr_";
/// What every invitation begins with.
const INVITATION_PREFIX: &str = "smi_";

/// Sessions of one user that live at once; the one unused for longest gives way.
pub const MOST_SESSIONS: i64 = 100;

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
    /// When the user logged in: microseconds since the Unix epoch.
    pub create_time: i64,
    /// When it ends unless it is refreshed before.
    pub expire_time: i64,
}

/// A new refresh token: 256 bits nobody can guess.
pub fn new_refresh_token() -> Secret<String> {
    Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random::bytes::<32>())))
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
