//! What a service is served with, seen from its port.

mod calls;
mod doors;
mod identities;
mod tokens;
pub mod world;
