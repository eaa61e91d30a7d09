//! The client stack against servers that do exactly what a test tells them to.

mod calls;
mod endpoints;
pub mod fake;
mod identity;
mod requests;
mod streams;
