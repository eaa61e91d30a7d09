//! The reference of every service, method and message, as Markdown, from the contracts' own comments.

use std::fmt::Write as _;

use prost_reflect::{Cardinality, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use sensormesh_proto::{commented_pool, method};
use sensormesh_types::text::format_duration;

/// The whole reference.
pub fn markdown() -> String {
    let mut text =
        "# The contracts\n\nMade by `sensormesh contract docs` from the `.proto` files. Do not edit.\n".to_owned();
    let pool = commented_pool();
    let ours = pool.files().filter(|file| file.package_name().starts_with("sensormesh."));
    for file in ours {
        page(&file, &mut text);
    }
    text
}

fn page(file: &FileDescriptor, text: &mut String) {
    let _ = writeln!(text, "\n## {} (`{}`)\n", file.package_name(), file.name());
    for service in file.services() {
        let _ = writeln!(text, "### {}\n\n{}\n", service.name(), comment(file, service.path()));
        for rpc in service.methods() {
            let path = format!("/{}/{}", service.full_name(), rpc.name());
            let _ = writeln!(text, "#### {}\n\n{}\n", rpc.name(), comment(file, rpc.path()));
            let (input, output) = (rpc.input(), rpc.output());
            let stream = |streaming: bool| if streaming { "stream " } else { "" };
            let _ = writeln!(
                text,
                "- `{}{}` → `{}{}`",
                stream(rpc.is_client_streaming()),
                input.name(),
                stream(rpc.is_server_streaming()),
                output.name()
            );
            if let Some(known) = method(&path) {
                for route in known.routes {
                    let _ = writeln!(text, "- `{} {}`", route.verb, route.template);
                }
                let _ =
                    writeln!(text, "- deadline {}, cost {}", format_duration(known.policy.deadline), known.policy.cost);
            }
            text.push('\n');
        }
    }
    for message in file.messages() {
        table(file, &message, text);
    }
    for values in file.enums() {
        enum_table(file, &values, text);
    }
}

fn table(file: &FileDescriptor, message: &MessageDescriptor, text: &mut String) {
    let _ = writeln!(text, "### {}\n\n{}\n", message.name(), comment(file, message.path()));
    if message.fields().len() > 0 {
        text.push_str("| field | type | meaning |\n|---|---|---|\n");
    }
    for field in message.fields() {
        let meaning = comment(file, field.path()).replace('\n', " ").replace('|', "\\|");
        let _ = writeln!(text, "| `{}` | `{}` | {meaning} |", field.json_name(), kind(&field));
    }
    text.push('\n');
}

fn enum_table(file: &FileDescriptor, values: &EnumDescriptor, text: &mut String) {
    let _ = writeln!(
        text,
        "### {}\n\n{}\n\n| value | number | meaning |\n|---|---|---|",
        values.name(),
        comment(file, values.path())
    );
    for value in values.values() {
        let meaning = comment(file, value.path()).replace('\n', " ");
        let _ = writeln!(text, "| `{}` | {} | {meaning} |", value.name(), value.number());
    }
    text.push('\n');
}

fn kind(field: &FieldDescriptor) -> String {
    let name = match field.kind() {
        Kind::Message(message) if message.is_map_entry() => {
            return format!(
                "map<{}, {}>",
                kind(&message.map_entry_key_field()),
                kind(&message.map_entry_value_field())
            );
        }
        Kind::Message(message) => message.name().to_owned(),
        Kind::Enum(values) => values.name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    if field.cardinality() == Cardinality::Repeated { format!("{name}[]") } else { name }
}

/// The comment above the element at this path (descriptor.proto, `SourceCodeInfo.Location`).
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let location = info.and_then(|info| info.location.iter().find(|location| location.path == path));
    let text = location.and_then(|location| location.leading_comments.as_deref()).unwrap_or("");
    text.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned()
}
