//! The server side: the accept loop, the layers around every call, health, operations, stopping.

pub(crate) mod admission;
mod answer;
mod authorize;
mod connection;
mod deadline;
mod drain;
mod flood;
mod health;
mod limit;
mod listen;
mod memory;
mod mesh_service;
mod operations;
mod reflection;
mod replay;
mod running;
mod stack;
mod stall;
mod tasks;
mod whence;

pub use authorize::authorize;
pub use drain::{Calls, Drain};
pub use listen::{Door, listen};
pub use memory::Memory;
pub use running::{Listeners, Running, serve};
pub use whence::{ACCEPTED_TIME, bearer};
