//! The field rules of `buf.validate` as JSON Schema.

use prost_reflect::{DynamicMessage, FieldDescriptor, Value as Reflected};
use serde_json::{Map, Value};

use crate::options::{field, message};

/// Rules by kind, and what JSON Schema calls them.
const NAMES: [(&str, &str); 13] = [
    ("min_len", "minLength"),
    ("max_len", "maxLength"),
    ("len", "minLength"),
    ("pattern", "pattern"),
    ("gte", "minimum"),
    ("lte", "maximum"),
    ("gt", "exclusiveMinimum"),
    ("lt", "exclusiveMaximum"),
    ("min_items", "minItems"),
    ("max_items", "maxItems"),
    ("unique", "uniqueItems"),
    ("min_pairs", "minProperties"),
    ("max_pairs", "maxProperties"),
];

/// Whether a field has to be there.
pub fn required(descriptor: &FieldDescriptor) -> bool {
    rules(descriptor).and_then(|rules| field(&rules, "required")).and_then(|v| v.as_bool()).unwrap_or_default()
}

/// Adds what the rules of a field say to its schema.
pub fn apply(descriptor: &FieldDescriptor, schema: &mut Map<String, Value>) {
    let Some(rules) = rules(descriptor) else { return };
    // the rules of a field stand under the name of its kind: string, int32, repeated, …
    for (kind, _) in rules.fields() {
        let Some(kind_rules) = message(&rules, kind.name()) else { continue };
        for (rule, name) in NAMES {
            if let Some(value) = field(&kind_rules, rule).as_ref().and_then(plain) {
                schema.insert(name.to_owned(), value);
            }
        }
        if kind.name() == "string"
            && let Some(Reflected::List(allowed)) = field(&kind_rules, "in")
        {
            schema.insert("enum".to_owned(), allowed.iter().filter_map(plain).collect());
        }
    }
}

fn rules(descriptor: &FieldDescriptor) -> Option<DynamicMessage> {
    let extension = descriptor.parent_file().parent_pool().get_extension_by_name("buf.validate.field")?;
    let options = descriptor.options();
    options.has_extension(&extension).then(|| options.get_extension(&extension).as_message().cloned())?
}

fn plain(value: &Reflected) -> Option<Value> {
    Some(match value {
        Reflected::Bool(value) => Value::from(*value),
        Reflected::I32(value) => Value::from(*value),
        Reflected::I64(value) => Value::from(*value),
        Reflected::U32(value) => Value::from(*value),
        Reflected::U64(value) => Value::from(*value),
        Reflected::F32(value) => Value::from(*value),
        Reflected::F64(value) => Value::from(*value),
        Reflected::String(value) => Value::from(value.as_str()),
        _ => return None,
    })
}
