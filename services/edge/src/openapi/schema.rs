//! Messages and enums as JSON Schema.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::comments::Comments;
use super::rules;
use crate::contract::Contract;

/// The schemas that operations refer to, with everything these refer to.
pub struct Schemas<'a> {
    comments: &'a Comments,
    done: BTreeMap<String, Value>,
    open: Vec<MessageDescriptor>,
    known: BTreeSet<String>,
}

impl<'a> Schemas<'a> {
    /// No schema yet but that of errors.
    pub fn new(contract: &Contract, comments: &'a Comments) -> Self {
        let mut schemas = Self { comments, done: BTreeMap::new(), open: Vec::new(), known: BTreeSet::new() };
        match contract.pool.get_message_by_name("google.rpc.Status") {
            Some(status) => drop(schemas.message(&status)),
            None => drop(schemas.done.insert("google.rpc.Status".to_owned(), json!({"type": "object"}))),
        }
        schemas
    }

    /// Every schema by name.
    pub fn finish(mut self) -> BTreeMap<String, Value> {
        while let Some(message) = self.open.pop() {
            let schema = self.object(&message);
            self.done.insert(name(message.full_name()), schema);
        }
        self.done
    }

    /// The schema of a message, by reference where it is one of its own.
    pub fn message(&mut self, message: &MessageDescriptor) -> Value {
        match message.full_name() {
            "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
            "google.protobuf.Duration" => json!({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"}),
            "google.protobuf.FieldMask" => json!({"type": "string"}),
            "google.protobuf.Struct" => json!({"type": "object"}),
            "google.protobuf.Value" => json!({}),
            "google.protobuf.ListValue" => json!({"type": "array"}),
            "google.protobuf.Any" => json!({
                "type": "object",
                "properties": {"@type": {"type": "string"}},
                "required": ["@type"],
            }),
            full if full.starts_with("google.protobuf.") && full.ends_with("Value") => {
                let inner = message.get_field(1);
                inner.map_or_else(|| json!({}), |inner| self.single(&inner.kind()))
            }
            full => {
                if self.known.insert(full.to_owned()) {
                    self.open.push(message.clone());
                }
                reference(full)
            }
        }
    }

    fn object(&mut self, message: &MessageDescriptor) -> Value {
        let fields: Vec<FieldDescriptor> = message.fields().collect();
        let properties: Map<String, Value> =
            fields.iter().map(|field| (field.json_name().to_owned(), self.field(field))).collect();
        let required: Vec<&str> =
            fields.iter().filter(|field| rules::required(field)).map(FieldDescriptor::json_name).collect();
        let mut schema = json!({"type": "object", "properties": properties});
        describe(&mut schema, &self.comments.message(message));
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema
    }

    /// The schema of a field, with its comment and its rules.
    pub fn field(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let value = entry.map_entry_value_field().kind();
                json!({"type": "object", "additionalProperties": self.single(&value)})
            }
            kind if field.is_list() => json!({"type": "array", "items": self.single(&kind)}),
            kind => self.single(&kind),
        };
        describe(&mut schema, &self.comments.field(field));
        if let Value::Object(schema) = &mut schema {
            rules::apply(field, schema);
        }
        schema
    }

    fn single(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Double => json!({"type": "number", "format": "double"}),
            Kind::Float => json!({"type": "number", "format": "float"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "format": "uint32", "minimum": 0}),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": "string", "format": "int64"}),
            Kind::Uint64 | Kind::Fixed64 => json!({"type": "string", "format": "uint64"}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Enum(e) => self.enumeration(e),
            Kind::Message(message) => self.message(message),
        }
    }

    fn enumeration(&mut self, e: &EnumDescriptor) -> Value {
        if e.full_name() == "google.protobuf.NullValue" {
            return json!({"type": "null"});
        }
        if self.known.insert(e.full_name().to_owned()) {
            let names: Vec<String> = e.values().map(|value| value.name().to_owned()).collect();
            let mut schema = json!({"type": "string", "enum": names});
            describe(&mut schema, &self.comments.enumeration(e));
            self.done.insert(name(e.full_name()), schema);
        }
        reference(e.full_name())
    }
}

/// Adds a description, if there is one.
pub fn describe(schema: &mut Value, text: &str) {
    if !text.is_empty() {
        schema["description"] = json!(text);
    }
}

fn reference(full: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{}", name(full))})
}

/// Our own messages without the first word of their packages.
fn name(full: &str) -> String {
    full.strip_prefix("sensormesh.").unwrap_or(full).to_owned()
}
