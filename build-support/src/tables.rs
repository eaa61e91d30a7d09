//! The static tables of methods and services.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::{Idempotency, Method, Role};

/// Writes `METHODS` and `SERVICES`.
pub(crate) fn emit(methods: &[Method]) -> String {
    let mut out = String::from(
        "/// Every method of every service of ours, by service and then as the contract has them.\n\
         pub static METHODS: &[crate::Method] = &[\n",
    );
    for method in methods {
        emit_method(method, &mut out);
    }
    out.push_str(
        "];\n/// Every service: its one name, `rooms`, and its full name, `sensormesh.rooms.v1.RoomsService`.\n\
         pub static SERVICES: &[(&str, &str)] = &[\n",
    );
    let services: BTreeSet<_> = methods.iter().map(|m| (&m.service, &m.package, &m.service_ident)).collect();
    for (short, package, ident) in services {
        let _ = writeln!(out, "({short:?}, \"{package}.{ident}\"),");
    }
    out.push_str("];\n");
    out
}

fn emit_method(method: &Method, out: &mut String) {
    let Method { path, service, package, service_ident, name, input, output, policy, .. } = method;
    let idempotency = match method.idempotency {
        Idempotency::Unknown => "Unknown",
        Idempotency::NoSideEffects => "NoSideEffects",
        Idempotency::Idempotent => "Idempotent",
    };
    let role = match policy.min_role {
        None => "None".to_owned(),
        Some(role) => format!(
            "Some(sensormesh_types::Role::{})",
            match role {
                Role::Viewer => "Viewer",
                Role::Operator => "Operator",
                Role::Admin => "Admin",
                Role::PlatformAdmin => "PlatformAdmin",
            }
        ),
    };
    let _ = write!(
        out,
        "crate::Method {{ path: {path:?}, service: {service:?}, service_name: \"{package}.{service_ident}\", \
         name: {name:?}, input: {input:?}, output: {output:?}, client_streaming: {}, server_streaming: {}, \
         idempotency: crate::Idempotency::{idempotency}, policy: crate::Policy {{ public: {}, min_role: {role}, \
         services: &{:?}, devices: {}, deadline: std::time::Duration::new({}, {}), spool: {}, cost: {}, produces: {:?} }}, routes: &[",
        method.client_streaming,
        method.server_streaming,
        policy.public,
        policy.services,
        policy.devices,
        policy.deadline.as_secs(),
        policy.deadline.subsec_nanos(),
        policy.spool,
        policy.cost,
        policy.produces,
    );
    for route in &method.routes {
        let _ = write!(
            out,
            "crate::Route {{ verb: {:?}, template: {:?}, body: {:?}, response_body: {:?} }}, ",
            route.verb, route.template, route.body, route.response_body
        );
    }
    out.push_str("] },\n");
}
