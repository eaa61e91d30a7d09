//! Which changes of a contract would break somebody who speaks an earlier one.
//!
//! The rules are those of buf's WIRE_JSON: what is on the wire and what is in JSON keeps its meaning. REST routes are
//! held too, because the contract is where they stand.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};
use sensormesh_types::{Error, Result};

/// Compares two encoded `FileDescriptorSet`s and says, one sentence each, what of `released` is broken in `present`.
/// Only packages of our own count.
///
/// # Errors
///
/// One of the two is not a `FileDescriptorSet`.
pub fn breaking_changes(released: &[u8], present: &[u8]) -> Result<Vec<String>> {
    let removed_routes = {
        let present = routes(present)?;
        routes(released)?.into_iter().filter(move |route| !present.contains(route))
    };
    let (released, present) = (Index::of(released)?, Index::of(present)?);
    let mut found = Vec::new();
    for (name, old) in &released.messages {
        match present.messages.get(name) {
            Some(new) => message(name, old, new, &mut found),
            None => found.push(format!("message {name} was removed")),
        }
    }
    for (name, old) in &released.enums {
        match present.enums.get(name) {
            Some(new) => enumeration(name, old, new, &mut found),
            None => found.push(format!("enum {name} was removed")),
        }
    }
    for (name, old) in &released.services {
        match present.services.get(name) {
            Some(new) => service(name, old, new, &mut found),
            None => found.push(format!("service {name} was removed")),
        }
    }
    found.extend(removed_routes.map(|(method, route)| format!("route {route} of method {method} was removed")));
    Ok(found)
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::invalid("descriptors", format!("not a FileDescriptorSet: {error}"))
}

/// Every REST route of ours: the full name of its method, and `GET /v1/rooms`.
fn routes(bytes: &[u8]) -> Result<BTreeSet<(String, String)>> {
    let pool = DescriptorPool::decode(bytes).map_err(unreadable)?;
    let mut found = BTreeSet::new();
    let Some(http) = pool.get_extension_by_name("google.api.http") else { return Ok(found) };
    for method in pool.services().filter(|s| s.package_name().starts_with("sensormesh.")).flat_map(|s| {
        // a service's methods borrow it
        s.methods().collect::<Vec<_>>()
    }) {
        let options = method.options();
        let value = options.get_extension(&http);
        let Some(rule) = value.as_message() else { continue };
        let mut add = |rule: &DynamicMessage| {
            for verb in ["get", "put", "post", "delete", "patch"] {
                if let Some(path) = rule.get_field_by_name(verb).filter(|_| rule.has_field_by_name(verb)) {
                    let route = format!("{} {}", verb.to_uppercase(), path.as_str().unwrap_or_default());
                    found.insert((method.full_name().to_owned(), route));
                }
            }
        };
        add(rule);
        let more = rule.get_field_by_name("additional_bindings");
        let more = more.as_deref().and_then(Value::as_list).unwrap_or_default();
        more.iter().filter_map(Value::as_message).for_each(&mut add);
    }
    Ok(found)
}

/// Everything of our packages by full name.
#[derive(Default)]
struct Index {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
    services: BTreeMap<String, ServiceDescriptorProto>,
}

impl Index {
    fn of(bytes: &[u8]) -> Result<Self> {
        let set = FileDescriptorSet::decode(bytes).map_err(unreadable)?;
        let mut index = Self::default();
        for file in set.file.into_iter().filter(|f| f.package().starts_with("sensormesh.")) {
            let package = file.package().to_owned();
            for kind in file.enum_type {
                index.enums.insert(format!("{package}.{}", kind.name()), kind);
            }
            for message in file.message_type {
                index.message(&package, message);
            }
            for service in file.service {
                index.services.insert(format!("{package}.{}", service.name()), service);
            }
        }
        Ok(index)
    }

    fn message(&mut self, parent: &str, message: DescriptorProto) {
        let name = format!("{parent}.{}", message.name());
        for kind in &message.enum_type {
            self.enums.insert(format!("{name}.{}", kind.name()), kind.clone());
        }
        for nested in &message.nested_type {
            self.message(&name, nested.clone());
        }
        self.messages.insert(name, message);
    }
}

fn message(name: &str, old: &DescriptorProto, new: &DescriptorProto, found: &mut Vec<String>) {
    for field in &old.field {
        let at = format!("{name}.{}", field.name());
        match new.field.iter().find(|f| f.number() == field.number()) {
            Some(now) => same_field(&at, (old, field), (new, now), found),
            None if reserved(new, field) => {}
            None => found.push(format!(
                "field {at} (number {}) was removed or renumbered without reserving its number and name",
                field.number()
            )),
        }
    }
}

/// buf lets a field go whose number and name can never come back with another meaning.
fn reserved(message: &DescriptorProto, field: &FieldDescriptorProto) -> bool {
    message.reserved_range.iter().any(|r| (r.start()..r.end()).contains(&field.number()))
        && message.reserved_name.iter().any(|n| n == field.name())
}

fn same_field(
    at: &str,
    (old_message, old): (&DescriptorProto, &FieldDescriptorProto),
    (new_message, new): (&DescriptorProto, &FieldDescriptorProto),
    found: &mut Vec<String>,
) {
    if old.json_name() != new.json_name() {
        found.push(format!(
            "field {at} was called {:?} in JSON and is called {:?} now",
            old.json_name(),
            new.json_name()
        ));
    }
    if old.name() != new.name() {
        // the edge takes both spellings
        found.push(format!("field {at} was renamed to {:?}", new.name()));
    }
    if group(old.r#type()) != group(new.r#type()) || old.type_name() != new.type_name() {
        found.push(format!("field {at} changed its type from {} to {}", kind(old), kind(new)));
    }
    if (old.label() == Label::Repeated) != (new.label() == Label::Repeated) {
        found.push(format!("field {at} became single or repeated"));
    }
    let oneof = |message: &DescriptorProto, field: &FieldDescriptorProto| {
        let index = field.oneof_index.filter(|_| !field.proto3_optional())?;
        message.oneof_decl.get(usize::try_from(index).ok()?).map(|o| o.name().to_owned())
    };
    if oneof(old_message, old) != oneof(new_message, new) {
        found.push(format!("field {at} moved into or out of a oneof"));
    }
}

/// Types that are the same on the wire and in JSON.
fn group(kind: Type) -> i32 {
    let same = match kind {
        Type::Uint32 | Type::Int32 => Type::Int32,
        Type::Uint64 | Type::Int64 => Type::Int64,
        Type::Fixed32 | Type::Sfixed32 => Type::Fixed32,
        Type::Fixed64 | Type::Sfixed64 => Type::Fixed64,
        other => other,
    };
    same as i32
}

fn kind(field: &FieldDescriptorProto) -> String {
    if field.type_name().is_empty() {
        field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase()
    } else {
        field.type_name().trim_start_matches('.').to_owned()
    }
}

fn enumeration(name: &str, old: &EnumDescriptorProto, new: &EnumDescriptorProto, found: &mut Vec<String>) {
    for value in &old.value {
        // by number and by name: JSON has the name
        if !new.value.iter().any(|v| v.number() == value.number() && v.name() == value.name()) {
            found.push(format!("value {} = {} of enum {name} was removed or changed", value.name(), value.number()));
        }
    }
}

fn service(name: &str, old: &ServiceDescriptorProto, new: &ServiceDescriptorProto, found: &mut Vec<String>) {
    for method in &old.method {
        let at = format!("{name}.{}", method.name());
        let Some(now) = new.method.iter().find(|m| m.name() == method.name()) else {
            found.push(format!("method {at} was removed"));
            continue;
        };
        if method.input_type() != now.input_type() {
            found.push(format!("method {at} takes {} now", now.input_type().trim_start_matches('.')));
        }
        if method.output_type() != now.output_type() {
            found.push(format!("method {at} returns {} now", now.output_type().trim_start_matches('.')));
        }
        if (method.client_streaming(), method.server_streaming()) != (now.client_streaming(), now.server_streaming()) {
            found.push(format!("method {at} streams differently now"));
        }
        let level =
            |m: &prost_types::MethodDescriptorProto| m.options.as_ref().map_or(0, |o| o.idempotency_level() as i32);
        if level(method) != 0 && level(now) == 0 {
            found.push(format!("method {at} is not idempotent any more"));
        }
    }
}
