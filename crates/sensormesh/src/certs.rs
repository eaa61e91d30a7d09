//! Certificates of this machine's services and of its operator.

use anyhow::Result;
use sensormesh_mesh::Pki;
use sensormesh_types::Clock;

use crate::cli::CertsArgs;
use crate::config::Config;
use crate::{data_dir, services};

/// Makes what is missing and renews what has less than half of its life left.
pub fn ensure(config: &Config, names: &[String]) -> Result<Pki> {
    let services: Vec<&str> = services::ALL.iter().map(|service| service.name).collect();
    Ok(Pki::ensure(&services::mesh_config(config), &services, names, &Clock::system())?)
}

/// Runs the command.
pub fn run(args: &CertsArgs) -> Result<()> {
    let config = Config::load(&args.common)?;
    data_dir::create(&config.data_dir)?;
    let dir = services::mesh_config(&config).pki_dir;
    if args.renew && dir.exists() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
            // The authority stays: everything that trusts it would have to learn of a new one.
            if !matches!(name, "ca.pem" | "ca-key.pem") {
                std::fs::remove_file(path)?;
            }
        }
    }
    ensure(&config, &args.names)?;
    println!("certificates of {} are in {}", list(), dir.display());
    println!("the operator's: {0}/operator.pem and {0}/operator-key.pem, to be trusted: {0}/ca.pem", dir.display());
    Ok(())
}

fn list() -> String {
    services::ALL.iter().map(|service| service.name).collect::<Vec<_>>().join(", ")
}
