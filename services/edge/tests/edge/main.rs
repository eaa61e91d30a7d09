//! The edge from outside: real HTTP against services that do what a test tells them.

mod access;
mod browser;
mod contract;
mod grpc;
mod oversized;
mod rest;
mod streams;
mod world;
