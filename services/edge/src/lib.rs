//! The edge: every contract as REST, gRPC-Web, gRPC, SSE and WebSocket.

pub mod router;
pub mod template;
pub mod transcode;
