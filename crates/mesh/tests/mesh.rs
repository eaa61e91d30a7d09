//! The mesh from outside: calls made, calls served.

mod client;
mod faults;
mod server;
