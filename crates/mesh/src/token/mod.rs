//! Access tokens: what they say and how they are verified, without asking anybody.

use std::time::Duration;

mod claims;
mod follow;
mod verifier;

pub use claims::{AUDIENCE, Claims, ISSUER, TOKEN_TYPE};
pub(crate) use follow::follow;
pub(crate) use verifier::revoked;
pub use verifier::{Jwk, Revocation, Subject, Verifier};

/// How long a call that was accepted may wait before it is made with the token that it came with: keys and revocations are
/// known for so long after a token has expired.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
