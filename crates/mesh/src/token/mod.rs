//! Tokens of users, devices and bridges: what they say and how they are verified, without asking anybody.

use std::time::Duration;

mod claims;
mod follow;
mod follow_machines;
pub(crate) mod machine;
mod verifier;

pub use claims::{AUDIENCE, Claims, ISSUER, TOKEN_TYPE};
pub(crate) use follow::follow;
pub(crate) use follow_machines::{follow_machines, tell_uses};
pub use machine::{Machine, MachinePrincipal};
pub use verifier::{Bearer, Jwk, Revocation, Subject, Verifier};

/// How long a call that was accepted may wait before it is made with the token that it came with: keys and revocations are
/// known for so long after a token has expired.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
