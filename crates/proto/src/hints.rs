//! Help for callers who write a field wrongly.

use prost_reflect::{MessageDescriptor, Value};

/// The field of `message` that callers are known to mean when they write `json_name`, by the contract's own hints.
pub fn mistaken_for(message: &MessageDescriptor, json_name: &str) -> Option<String> {
    let hint = message.parent_pool().get_extension_by_name("sensormesh.options.v1.hint")?;
    let meant = message.fields().find(|field| {
        let options = field.options();
        let hint = options.get_extension(&hint);
        let names = hint.as_message().and_then(|h| h.get_field_by_name("mistaken_for"));
        names.as_deref().and_then(Value::as_list).is_some_and(|list| {
            list.iter().any(|name| name.as_str().is_some_and(|n| n.eq_ignore_ascii_case(json_name)))
        })
    })?;
    Some(meant.name().to_owned())
}
