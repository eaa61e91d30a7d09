//! Everything a contract says about its methods, in one list.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use prost_reflect::{MethodDescriptor, ServiceDescriptor};
use prost_types::method_options::IdempotencyLevel;

use crate::{Contracts, OURS, Policy, Route, Template, policy, routes};

/// What a repeated call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// Nothing is promised.
    Unknown,
    /// The call changes nothing.
    NoSideEffects,
    /// Twice has the effect of once.
    Idempotent,
}

/// A method of one of our services.
#[derive(Clone, Debug)]
pub struct Method {
    /// `/sensormesh.rooms.v1.RoomsService/GetRoom`.
    pub path: String,
    /// `rooms`.
    pub service: String,
    /// `sensormesh.rooms.v1`.
    pub package: String,
    /// `RoomsService`.
    pub service_ident: String,
    /// `GetRoom`.
    pub name: String,
    /// The full name of the request message.
    pub input: String,
    /// The full name of the response message.
    pub output: String,
    /// The caller streams.
    pub client_streaming: bool,
    /// The service streams.
    pub server_streaming: bool,
    /// What a repeated call does.
    pub idempotency: Idempotency,
    /// Who may call, and for how long.
    pub policy: Policy,
    /// The REST routes, the canonical one first.
    pub routes: Vec<Route>,
}

/// Reads every method of every service of ours.
///
/// # Errors
///
/// Names the method that has no policy, a wrong policy or a wrong route.
pub fn methods(contracts: &Contracts) -> Result<Vec<Method>> {
    let mut services: Vec<_> = contracts.pool.services().filter(|s| s.package_name().starts_with(OURS)).collect();
    services.sort_by(|a, b| a.full_name().cmp(b.full_name()));
    let mut methods = Vec::new();
    for service in &services {
        let short = short_name(service)?;
        for method in service.methods() {
            let read = read(contracts, &short, &method).with_context(|| method.full_name().to_owned())?;
            methods.push(read);
        }
    }
    refuse_shared_routes(&methods)?;
    Ok(methods)
}

fn read(contracts: &Contracts, service: &str, method: &MethodDescriptor) -> Result<Method> {
    let parent = method.parent_service();
    // read from the typed options: a standard option survives prost
    let level = method.method_descriptor_proto().options.as_ref().map(prost_types::MethodOptions::idempotency_level);
    Ok(Method {
        path: format!("/{}/{}", parent.full_name(), method.name()),
        service: service.to_owned(),
        package: parent.package_name().to_owned(),
        service_ident: parent.name().to_owned(),
        name: method.name().to_owned(),
        input: method.input().full_name().to_owned(),
        output: method.output().full_name().to_owned(),
        client_streaming: method.is_client_streaming(),
        server_streaming: method.is_server_streaming(),
        idempotency: match level {
            Some(IdempotencyLevel::NoSideEffects) => Idempotency::NoSideEffects,
            Some(IdempotencyLevel::Idempotent) => Idempotency::Idempotent,
            _ => Idempotency::Unknown,
        },
        policy: policy::read(contracts, method)?,
        routes: routes::read(contracts, method)?,
    })
}

/// `sensormesh.rooms.v1` is the package of `rooms`.
fn short_name(service: &ServiceDescriptor) -> Result<String> {
    let package = service.package_name();
    match package.split('.').collect::<Vec<_>>()[..] {
        ["sensormesh", short, version] if version.starts_with('v') => Ok(short.to_owned()),
        _ => bail!("{}: the package must be sensormesh.<service>.v<n>, not {package}", service.full_name()),
    }
}

fn refuse_shared_routes(methods: &[Method]) -> Result<()> {
    let mut seen = BTreeMap::new();
    for method in methods {
        for route in &method.routes {
            let template = Template::shape(&route.template)?;
            // a client's Accept tells apart what answers in different types
            let key = (route.verb.clone(), template, method.policy.produces.clone());
            if let Some(other) = seen.insert(key, &method.path) {
                bail!("{} {} leads to both {other} and {}", route.verb, route.template, method.path);
            }
        }
    }
    Ok(())
}
