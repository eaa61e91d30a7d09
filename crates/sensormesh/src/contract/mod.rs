//! Prints what is derived from the contracts.

mod docs;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use sensormesh_proto::{METHODS, Method, RELEASE, breaking_changes, graph};

use crate::cli::Contract;

/// Runs the command.
pub fn run(command: &Contract) -> Result<()> {
    let text = match command {
        Contract::Routes => routes(),
        Contract::Policy => policy(),
        Contract::Openapi => serde_json::to_string_pretty(&sensormesh_edge::openapi())? + "\n",
        Contract::Graph => call_graph(),
        Contract::Docs => docs::markdown(),
        Contract::Release { file, accept_breaking } => return release(file, *accept_breaking),
    };
    print!("{text}");
    Ok(())
}

/// One line for each REST route: verb, path, method.
pub fn routes() -> String {
    let mut lines: Vec<String> = METHODS
        .iter()
        .flat_map(|method| method.routes.iter().map(move |route| (method, route)))
        .map(|(method, route)| {
            let stream = if method.server_streaming { "  (stream)" } else { "" };
            format!("{:<7} {:<48} {}.{}{stream}\n", route.verb, route.template, method.service_name, method.name)
        })
        .collect();
    lines.sort_by(|a, b| a[8..].cmp(&b[8..]).then_with(|| a.cmp(b)));
    lines.concat()
}

/// One line for each method: who may call it, its deadline, how it may be retried, its cost.
pub fn policy() -> String {
    METHODS.iter().map(policy_line).collect()
}

fn policy_line(method: &Method) -> String {
    let policy = &method.policy;
    let mut who = Vec::new();
    if policy.public {
        who.push("public".to_owned());
    }
    if let Some(role) = policy.min_role {
        who.push(role.to_string());
    }
    if policy.devices {
        who.push("devices".to_owned());
    }
    if !policy.services.is_empty() {
        who.push(format!("services {}", policy.services.join(",")));
    }
    format!(
        "{:<58} {:<44} {:>6}  {:?}  cost {}{}\n",
        format!("{}/{}", method.service_name, method.name),
        who.join(" | "),
        sensormesh_types::text::format_duration(policy.deadline),
        method.idempotency,
        policy.cost,
        if policy.spool { "  spool" } else { "" },
    )
}

/// One line for each service: whom it calls.
pub fn call_graph() -> String {
    let mut text = String::new();
    for (caller, callees) in graph() {
        let callees: Vec<&str> = callees.iter().copied().collect();
        let _ =
            writeln!(text, "{caller} → {}", if callees.is_empty() { "nobody".to_owned() } else { callees.join(", ") });
    }
    text
}

/// Writes the descriptors that later contracts are compared with, unless callers of the last release would break.
fn release(file: &Path, accept_breaking: bool) -> Result<()> {
    if let (Ok(released), false) = (std::fs::read(file), accept_breaking) {
        let changes = breaking_changes(&released, RELEASE)?;
        if !changes.is_empty() {
            bail!("not written, because callers of the last release would break:\n{}", changes.join("\n"));
        }
    }
    std::fs::write(file, RELEASE).with_context(|| format!("cannot write {}", file.display()))
}
