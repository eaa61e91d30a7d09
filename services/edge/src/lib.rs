//! The edge: every contract as REST, gRPC-Web, gRPC, SSE and WebSocket.

mod config;
pub mod contract;
mod failure;
mod forwarded;
mod frame;
mod limit;
pub mod options;
mod origin;
pub mod router;
pub mod template;
mod ticket;
pub mod transcode;

pub use config::Config;
pub use limit::Rate;
