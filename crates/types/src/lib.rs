//! The shared vocabulary: errors, callers, scopes, clocks, quantities.
//!
//! Everything here is a word that more than one crate says. Nothing here does anything: no network, no disk, no tasks.
//! The one transport type it knows is tonic's `Status`, because every error ends as one.

mod audit;
mod bounds;
mod clock;
pub mod csv;
mod error;
pub mod mask;
pub mod page;
mod principal;
pub mod quantity;
pub mod random;
mod scope;
pub mod text;
pub mod time;

pub use audit::{AuditQuery, AuditRecord, Changes};
pub use bounds::Bounds;
pub use clock::Clock;
pub use error::{Code, Error, FieldViolation, Result};
pub use principal::{Author, Caller, Principal, Role};
pub use scope::{DEFAULT_TENANT, Scope};
