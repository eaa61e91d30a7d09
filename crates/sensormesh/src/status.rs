//! Shows how a running system does.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::cli::StatusArgs;
use crate::server;

#[derive(Deserialize)]
struct Health {
    gateway: String,
    overall_status: String,
    version: String,
    #[serde(default)]
    services: BTreeMap<String, Service>,
    #[serde(default)]
    circuit_breakers: BTreeMap<String, Breaker>,
}

#[derive(Deserialize)]
struct Service {
    status: String,
}

#[derive(Deserialize)]
struct Breaker {
    state: String,
    failures: u64,
}

/// Runs the command; fails where the system is not healthy, so that scripts can ask.
pub async fn run(args: StatusArgs, port_base: u16) -> Result<()> {
    let url = server::url(&args.server, port_base);
    let mut client = reqwest::Client::builder().timeout(std::time::Duration::from_secs(5));
    if let Some(file) = &args.server.ca {
        let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        client = client.add_root_certificate(reqwest::Certificate::from_pem(&pem)?);
    }
    let answer = client.build()?.get(format!("{url}/health")).send().await;
    let answer = answer.with_context(|| format!("{url} does not answer; is the system up?"))?;
    let health: Health = answer.error_for_status()?.json().await.context("the answer is not that of an edge")?;
    println!("{url}  {}  (edge {}, version {})", health.overall_status, health.gateway, health.version);
    for (name, service) in &health.services {
        let breaker = health.circuit_breakers.get(name);
        let breaker = breaker.map_or(String::new(), |b| format!("breaker {}, {} failures", b.state, b.failures));
        println!("  {name:<14} {:<10} {breaker}", service.status);
    }
    if health.overall_status != "healthy" {
        bail!("the system is {}", health.overall_status);
    }
    Ok(())
}
