//! Compiles the contracts of `proto/` into this crate.

use std::path::Path;

fn main() {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    if let Err(error) = sensormesh_build_support::build(&proto) {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}
