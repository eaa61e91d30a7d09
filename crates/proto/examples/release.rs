//! Writes `proto/released.binpb`, the contracts that later ones are compared with. Run it when a version is released:
//! `cargo run -p sensormesh-proto --example release`. With `--accept-breaking` it writes even what breaks callers.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/released.binpb");
    let accept = std::env::args().any(|a| a == "--accept-breaking");
    if let Ok(released) = std::fs::read(&path) {
        match sensormesh_proto::breaking_changes(&released, sensormesh_proto::FILE_DESCRIPTOR_SET) {
            Ok(changes) if changes.is_empty() || accept => {}
            Ok(changes) => {
                eprintln!("not written, because callers of the last release would break:\n{}", changes.join("\n"));
                return ExitCode::FAILURE;
            }
            Err(error) if accept => eprintln!("the last release cannot be read: {error}"),
            Err(error) => {
                eprintln!("the last release cannot be read: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    match std::fs::write(&path, sensormesh_proto::RELEASE) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}
