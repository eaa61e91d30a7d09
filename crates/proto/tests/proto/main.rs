//! The contracts, and the code made of them.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod breaking;
mod codec;
mod contracts;
mod rules;

// what the generated code of the trial contract expects at the root of its crate
use sensormesh_proto::{At, Found, Idempotency, Method, Policy, Route, ServiceClient, Validate, ValidatingCodec};

/// The code made of `tests/contracts`, which uses every supported rule.
#[allow(missing_docs, unused, clippy::all, clippy::pedantic)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/tests/contracts.rs"));

    pub(crate) mod tables {
        include!(concat!(env!("OUT_DIR"), "/tests/tables.rs"));
    }

    mod clients {
        include!(concat!(env!("OUT_DIR"), "/tests/clients.rs"));
    }

    mod rules {
        use crate::Validate as _;

        include!(concat!(env!("OUT_DIR"), "/tests/validate.rs"));
    }
}
