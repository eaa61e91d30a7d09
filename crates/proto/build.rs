//! Compiles the contracts of `proto/` into this crate, and a contract of its own for its tests.

use std::path::Path;

use sensormesh_build_support::build;

fn main() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = here.join("../../proto");
    let tests = here.join("tests/contracts");
    let includes = [proto.clone(), proto.join("third_party")];
    let with_tests = [tests.clone(), proto.clone(), proto.join("third_party")];
    let built = build(&proto.join("sensormesh"), &includes, "").and_then(|()| build(&tests, &with_tests, "tests"));
    if let Err(error) = built {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}
