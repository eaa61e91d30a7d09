//! The contract compiler: turns `proto/` into Rust at build time.
//!
//! A contract is the only place that says anything about an RPC. This crate reads all of it: messages, services and
//! their comments; routes (`google.api.http`); policies (`sensormesh.options.v1.policy`); field rules
//! (`buf.validate`). What it cannot turn into code fails the build, so nothing in a contract is silently ignored.
//!
//! It needs no protoc. What it writes into `OUT_DIR` is described at [`generate`].

mod clients;
mod compile;
mod method;
mod names;
mod policy;
mod routes;
mod rules;
mod tables;
mod validate;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use compile::{Contracts, compile};
pub use method::{Idempotency, Method, methods};
pub use policy::{Policy, Role};
pub use routes::{Route, Segment, Template};

/// The package prefix of our own contracts; everything else is a vendored import.
pub const OURS: &str = "sensormesh.";

/// Compiles every contract under `root` into `folder` of `OUT_DIR`. Called by the build script of `crates/proto` only.
///
/// # Errors
///
/// Says which file, method or field is wrong.
pub fn build(root: &Path, includes: &[PathBuf], folder: &str) -> Result<()> {
    let out =
        PathBuf::from(std::env::var_os("OUT_DIR").context("OUT_DIR is not set: not a build script")?).join(folder);
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    // the folder, so that a new file is noticed too, and every import wherever it lies
    println!("cargo:rerun-if-changed={}", root.display());
    let contracts = compile(root, includes)?;
    for file in contracts.pool.files() {
        for path in includes.iter().map(|i| i.join(file.name())).filter(|p| p.exists()) {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    generate(&contracts, &out)
}

/// Writes the code for `contracts` into `out`:
///
/// - `contracts.binpb`: the descriptors with all their options, comments of our own files kept;
/// - `release.binpb`: the same without comments, which is what a release keeps;
/// - `contracts.rs`: the module tree of messages, clients and server traits;
/// - `tables.rs`: the static tables of methods and services;
/// - `clients.rs`: `ServiceClient` for every client;
/// - `validate.rs`: `Validate` for every message.
///
/// # Errors
///
/// Says which method or field is wrong, or which file could not be written.
pub fn generate(contracts: &Contracts, out: &Path) -> Result<()> {
    let methods = methods(contracts)?;
    let write = |name: &str, content: &[u8]| {
        std::fs::write(out.join(name), content).with_context(|| format!("cannot write {name} into {}", out.display()))
    };
    write("contracts.binpb", &contracts.bytes)?;
    write("release.binpb", &contracts.without_comments()?)?;
    write("tables.rs", tables::emit(&methods).as_bytes())?;
    write("clients.rs", clients::emit(&methods).as_bytes())?;
    write("validate.rs", validate::emit(contracts)?.as_bytes())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::ValidatingCodec")
        .bytes(".")
        .include_file("contracts.rs")
        .out_dir(out)
        .compile_fds(contracts.generated_files())
        .context("cannot generate messages and services")
}
