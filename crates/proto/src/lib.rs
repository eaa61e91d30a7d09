//! The contracts as Rust: messages, clients, server traits, and what the contracts say about every method.
//!
//! Everything is made from `proto/` when this crate is built; nothing is written twice. A package `sensormesh.rooms.v1`
//! is the module [`rooms::v1`]. What the options of a contract say stands in [`METHODS`]: routes, policy, deadline,
//! idempotency. The field rules are [`Validate`], which [`ValidatingCodec`] applies to every message that reaches a
//! server, so a handler never sees an invalid one.

mod breaking;
mod codec;
mod graph;
mod hints;
mod method;
mod validate;

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

pub use breaking::breaking_changes;
pub use codec::ValidatingCodec;
pub use generated::google;
pub use generated::sensormesh::*;
pub use generated::tables::{METHODS, SERVICES};
pub use graph::{graph, start_order};
pub use hints::mistaken_for;
pub use method::{Idempotency, Method, Policy, Route, ServiceClient, method};
pub use sensormesh_types::FieldViolation;
pub use validate::{At, Found, Validate};

/// The compiled contracts as an encoded `google.protobuf.FileDescriptorSet`: with imports, with every custom option, and
/// with the comments of our own files.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contracts.binpb"));

/// The same without comments: what [`pool`] is of, and what a release writes to `proto/released.binpb`, after [`breaking_changes`] found nothing.
pub const RELEASE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/release.binpb"));

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(RELEASE).expect("the same bytes were decoded when they were built"));

/// The contracts for reflection: dynamic messages and options. Decoded once, and without comments, which would take more memory
/// than all else in it.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The same with comments, for who writes about the contracts. Decoded each time, in about ten milliseconds.
pub fn commented_pool() -> DescriptorPool {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the same bytes were decoded when they were built")
}

/// What the compiler of the contracts wrote. Its comments are the contracts' own.
#[allow(missing_docs, rustdoc::all, unused, clippy::all, clippy::pedantic, clippy::unwrap_used)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/contracts.rs"));

    pub(crate) mod tables {
        include!(concat!(env!("OUT_DIR"), "/tables.rs"));
    }

    mod clients {
        include!(concat!(env!("OUT_DIR"), "/clients.rs"));
    }

    mod rules {
        use crate::Validate as _;

        include!(concat!(env!("OUT_DIR"), "/validate.rs"));
    }
}
