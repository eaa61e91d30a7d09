//! The network between services: what a service is served with and what it calls others through.

pub mod client;
mod context;

pub use context::Context;
