//! The Rust names that prost gives to what a contract names.

use heck::{ToSnakeCase, ToUpperCamelCase};
use prost_reflect::{EnumDescriptor, FieldDescriptor, MessageDescriptor, OneofDescriptor};

/// The path of a message's type from the root of `crates/proto`.
pub(crate) fn message(message: &MessageDescriptor) -> String {
    path(message.package_name(), message.full_name())
}

/// The path of an enum's type.
pub(crate) fn enumeration(kind: &EnumDescriptor) -> String {
    path(kind.package_name(), kind.full_name())
}

/// A field's name.
pub(crate) fn field(field: &FieldDescriptor) -> String {
    snake(field.name())
}

/// A oneof's field name.
pub(crate) fn oneof(oneof: &OneofDescriptor) -> String {
    snake(oneof.name())
}

/// The path of the variant that stands for a field of a oneof.
pub(crate) fn variant(oneof: &OneofDescriptor, field: &FieldDescriptor) -> String {
    let parent = oneof.parent_message();
    let mut name = camel(oneof.name());
    let taken = parent.child_messages().any(|m| camel(m.name()) == name)
        || parent.child_enums().any(|e| camel(e.name()) == name);
    if taken {
        name.push_str("OneOf");
    }
    let full = message(parent);
    let (module, _) = full.rsplit_once("::").unwrap_or(("crate", ""));
    format!("{module}::{}::{name}::{}", snake(parent.name()), camel(field.name()))
}

/// The path of a service's client, generic over its channel.
pub(crate) fn client(package: &str, service: &str) -> String {
    format!("{}::{}_client::{}Client", path_of_package(package), snake(service), camel(service))
}

fn path(package: &str, full: &str) -> String {
    let rest = full.strip_prefix(package).unwrap_or(full).trim_start_matches('.');
    let mut parts: Vec<&str> = rest.split('.').collect();
    let name = parts.pop().unwrap_or_default();
    let mut path = path_of_package(package);
    for outer in parts {
        path = format!("{path}::{}", snake(outer));
    }
    format!("{path}::{}", camel(name))
}

fn path_of_package(package: &str) -> String {
    package.split('.').fold("crate::generated".to_owned(), |path, part| format!("{path}::{}", snake(part)))
}

fn snake(name: &str) -> String {
    escape(&name.to_snake_case())
}

fn camel(name: &str) -> String {
    escape(&name.to_upper_camel_case())
}

/// Keeps a name from being a Rust keyword, in prost's way.
fn escape(name: &str) -> String {
    const RAW: [&str; 47] = [
        "as", "break", "const", "continue", "else", "enum", "false", "fn", "for", "if", "impl", "in", "let", "loop",
        "match", "mod", "move", "mut", "pub", "ref", "return", "static", "struct", "trait", "true", "type", "unsafe",
        "use", "where", "while", "dyn", "abstract", "become", "box", "do", "final", "macro", "override", "priv",
        "typeof", "unsized", "virtual", "yield", "async", "await", "try", "gen",
    ];
    match name {
        "_" | "super" | "self" | "Self" | "extern" | "crate" => format!("{name}_"),
        _ if RAW.contains(&name) => format!("r#{name}"),
        _ if name.starts_with(char::is_numeric) => format!("_{name}"),
        _ => name.to_owned(),
    }
}
