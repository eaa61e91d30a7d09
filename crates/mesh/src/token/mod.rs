//! Access tokens: what they say and how they are verified, without asking anybody.

mod claims;
mod follow;
mod verifier;

pub use claims::{AUDIENCE, Claims, ISSUER, TOKEN_TYPE};
pub(crate) use follow::follow;
pub(crate) use verifier::revoked;
pub use verifier::{Jwk, Revocation, Subject, Verifier};
