//! Messages as the translator needs them: prepared once from the descriptors, so that a request looks nothing up by text
//! that it does not itself carry.

use std::collections::HashMap;

use prost_reflect::{Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, MessageDescriptor};
use prost_reflect::{DynamicMessage, ExtensionDescriptor, Kind as Reflected, Value};

/// The index of a message in its [`Shapes`].
pub type MessageId = usize;

/// The index of an enum in its [`Shapes`].
pub type EnumId = usize;

/// Every message and enum of a descriptor pool.
#[derive(Debug, Default)]
pub struct Shapes {
    messages: Vec<Shape>,
    enums: Vec<EnumShape>,
    by_name: HashMap<String, MessageId>,
}

/// A message that proto JSON writes in a way of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// An object with its fields.
    None,
    /// RFC 3339 text.
    Timestamp,
    /// Seconds with an `s`.
    Duration,
    /// Paths with commas.
    FieldMask,
    /// The value of the wrapper's only field.
    Wrapper,
    /// An object of any shape.
    Struct,
    /// Any JSON value.
    Value,
    /// A list of any JSON values.
    List,
    /// An object with an `@type`.
    Any,
    /// Raw bytes with a content type, where the whole body is one; an object elsewhere.
    HttpBody,
}

/// One message.
#[derive(Debug)]
pub struct Shape {
    /// The full name: `sensormesh.rooms.v1.Place`.
    pub name: String,
    /// Whether JSON treats it specially.
    pub special: Special,
    /// The fields by number: the order in which they are usually sent.
    pub fields: Vec<Field>,
    names: HashMap<String, usize>,
    mistaken: HashMap<String, usize>,
}

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    /// The number on the wire.
    pub number: u32,
    /// The name in the contract: `sensor_id`.
    pub name: String,
    /// The name in JSON: `sensorId`.
    pub json_name: String,
    /// The JSON name with quotes and colon, ready to be written.
    pub key: String,
    /// What one value is.
    pub kind: Kind,
    /// How many values there are.
    pub shape: Plurality,
    /// The alternative it belongs to, numbered within the message.
    pub oneof: Option<usize>,
}

/// How many values a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plurality {
    /// One, and absent is the same as the default.
    Implicit,
    /// One or none.
    Optional,
    /// A list.
    List {
        /// The numbers stand together in one record.
        packed: bool,
    },
    /// A map; the kind of the field is the entry's message.
    Map,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    Enum(EnumId),
    Message(MessageId),
}

/// One enum.
#[derive(Debug)]
pub struct EnumShape {
    /// It is `google.protobuf.NullValue`, written as `null`.
    pub null: bool,
    /// Its values, names and numbers, in the order of the contract.
    pub values: Vec<(String, i32)>,
    numbers: HashMap<String, i32>,
}

impl Shapes {
    /// Prepares every message of a pool.
    pub fn of(pool: &DescriptorPool) -> Self {
        let mut shapes = Shapes::default();
        let messages: Vec<MessageDescriptor> = pool.all_messages().collect();
        let enums: Vec<EnumDescriptor> = pool.all_enums().collect();
        let enum_ids = enums.iter().enumerate().map(|(id, e)| (e.full_name().to_owned(), id)).collect();
        shapes.by_name = messages.iter().enumerate().map(|(id, m)| (m.full_name().to_owned(), id)).collect();
        let hint = pool.get_extension_by_name("sensormesh.options.v1.hint");
        shapes.enums = enums.iter().map(EnumShape::of).collect();
        shapes.messages = messages.iter().map(|m| Shape::of(m, &shapes.by_name, &enum_ids, hint.as_ref())).collect();
        shapes
    }

    /// A message by its index.
    pub fn message(&self, id: MessageId) -> &Shape {
        &self.messages[id]
    }

    /// An enum by its index.
    pub fn enumeration(&self, id: EnumId) -> &EnumShape {
        &self.enums[id]
    }

    /// A message by its full name.
    pub fn by_name(&self, name: &str) -> Option<MessageId> {
        self.by_name.get(name).copied()
    }
}

impl Shape {
    fn of(
        message: &MessageDescriptor,
        messages: &HashMap<String, MessageId>,
        enums: &HashMap<String, EnumId>,
        hint: Option<&ExtensionDescriptor>,
    ) -> Self {
        let mut fields: Vec<FieldDescriptor> = message.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        let oneofs: Vec<String> = message.oneofs().filter(|o| !o.is_synthetic()).map(|o| o.name().to_owned()).collect();
        let mut shape = Shape {
            name: message.full_name().to_owned(),
            special: special(message.full_name()),
            fields: Vec::with_capacity(fields.len()),
            names: HashMap::new(),
            mistaken: HashMap::new(),
        };
        for (index, field) in fields.iter().enumerate() {
            shape.names.insert(field.name().to_owned(), index);
            shape.names.insert(field.json_name().to_owned(), index);
            for word in mistaken(field, hint) {
                shape.mistaken.insert(word.to_lowercase(), index);
            }
            let oneof = field.containing_oneof().filter(|o| !o.is_synthetic());
            shape.fields.push(Field {
                number: field.number(),
                name: field.name().to_owned(),
                json_name: field.json_name().to_owned(),
                key: format!("{}:", serde_json::Value::from(field.json_name())),
                kind: kind(&field.kind(), messages, enums),
                shape: plurality(field),
                oneof: oneof.and_then(|o| oneofs.iter().position(|name| name == o.name())),
            });
        }
        shape
    }

    /// The field with this name, in either spelling.
    pub fn field(&self, name: &str) -> Option<(usize, &Field)> {
        self.names.get(name).map(|index| (*index, &self.fields[*index]))
    }

    /// The field that callers are known to write this name for, in any case.
    pub fn mistaken_for(&self, name: &str) -> Option<&Field> {
        self.mistaken.get(&name.to_lowercase()).map(|index| &self.fields[*index])
    }

    /// The position of the field with this number.
    pub fn position(&self, number: u32) -> Option<usize> {
        // Fields are almost always numbered 1, 2, 3 in order.
        let guess = usize::try_from(number).ok()?.wrapping_sub(1);
        if self.fields.get(guess).is_some_and(|field| field.number == number) {
            return Some(guess);
        }
        self.fields.iter().position(|field| field.number == number)
    }
}

impl Field {
    /// Whether it holds a list or a map.
    pub fn is_plural(&self) -> bool {
        matches!(self.shape, Plurality::List { .. } | Plurality::Map)
    }
}

impl EnumShape {
    fn of(descriptor: &EnumDescriptor) -> Self {
        let values: Vec<(String, i32)> = descriptor
            .enum_descriptor_proto()
            .value
            .iter()
            .map(|value| (value.name().to_owned(), value.number()))
            .collect();
        Self {
            null: descriptor.full_name() == "google.protobuf.NullValue",
            numbers: values.iter().cloned().collect(),
            values,
        }
    }

    /// The number of a name.
    pub fn number(&self, name: &str) -> Option<i32> {
        self.numbers.get(name).copied()
    }

    /// The name of a number; the first one where there are several.
    pub fn name(&self, number: i32) -> Option<&str> {
        self.values.iter().find(|(_, n)| *n == number).map(|(name, _)| name.as_str())
    }
}

fn special(name: &str) -> Special {
    match name {
        "google.protobuf.Timestamp" => Special::Timestamp,
        "google.protobuf.Duration" => Special::Duration,
        "google.protobuf.FieldMask" => Special::FieldMask,
        "google.protobuf.Struct" => Special::Struct,
        "google.protobuf.Value" => Special::Value,
        "google.protobuf.ListValue" => Special::List,
        "google.protobuf.Any" => Special::Any,
        "google.api.HttpBody" => Special::HttpBody,
        "google.protobuf.DoubleValue"
        | "google.protobuf.FloatValue"
        | "google.protobuf.Int64Value"
        | "google.protobuf.UInt64Value"
        | "google.protobuf.Int32Value"
        | "google.protobuf.UInt32Value"
        | "google.protobuf.BoolValue"
        | "google.protobuf.StringValue"
        | "google.protobuf.BytesValue" => Special::Wrapper,
        _ => Special::None,
    }
}

fn plurality(field: &FieldDescriptor) -> Plurality {
    if field.is_map() {
        Plurality::Map
    } else if field.cardinality() == Cardinality::Repeated {
        Plurality::List { packed: field.is_packed() }
    } else if field.supports_presence() {
        Plurality::Optional
    } else {
        Plurality::Implicit
    }
}

fn kind(kind: &Reflected, messages: &HashMap<String, MessageId>, enums: &HashMap<String, EnumId>) -> Kind {
    match kind {
        Reflected::Double => Kind::Double,
        Reflected::Float => Kind::Float,
        Reflected::Int32 => Kind::Int32,
        Reflected::Int64 => Kind::Int64,
        Reflected::Uint32 => Kind::Uint32,
        Reflected::Uint64 => Kind::Uint64,
        Reflected::Sint32 => Kind::Sint32,
        Reflected::Sint64 => Kind::Sint64,
        Reflected::Fixed32 => Kind::Fixed32,
        Reflected::Fixed64 => Kind::Fixed64,
        Reflected::Sfixed32 => Kind::Sfixed32,
        Reflected::Sfixed64 => Kind::Sfixed64,
        Reflected::Bool => Kind::Bool,
        Reflected::String => Kind::String,
        Reflected::Bytes => Kind::Bytes,
        // A pool holds every type that its fields name.
        Reflected::Enum(e) => Kind::Enum(enums.get(e.full_name()).copied().unwrap_or_default()),
        Reflected::Message(m) => Kind::Message(messages.get(m.full_name()).copied().unwrap_or_default()),
    }
}

fn mistaken(field: &FieldDescriptor, hint: Option<&ExtensionDescriptor>) -> Vec<String> {
    let Some(hint) = hint else { return Vec::new() };
    let options: DynamicMessage = field.options();
    let value = options.get_extension(hint);
    let words =
        value.as_message().and_then(|hint| hint.get_field_by_name("mistaken_for").map(std::borrow::Cow::into_owned));
    let Some(Value::List(words)) = words else { return Vec::new() };
    words.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}
