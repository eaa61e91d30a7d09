//! JSON to the wire format, in one pass, with the path of whatever does not fit.

use std::cell::RefCell;
use std::fmt;

use sensormesh_types::{Error, FieldViolation, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::transcode::scalar::{self, Scalar};
use crate::transcode::shape::{Field, Kind, MessageId, Plurality, Shape, Shapes, Special};
use crate::transcode::wire::{self, WireType, delimited};

/// Appends the message that a JSON text describes. `path` is the field it goes to; empty = the whole request.
pub fn message(shapes: &Shapes, id: MessageId, json: &[u8], path: &str, out: &mut Vec<u8>) -> Result<()> {
    let context = Context { shapes, path: RefCell::new(path.to_owned()), violation: RefCell::default() };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let payload = Payload { context: &context, id, out };
    let result = payload.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    result.map_err(|error| context.error(&error))
}

/// Appends the value that a JSON text describes to a field, tag included.
pub fn field(shapes: &Shapes, field: &Field, json: &[u8], path: &str, out: &mut Vec<u8>) -> Result<()> {
    let context = Context { shapes, path: RefCell::new(path.to_owned()), violation: RefCell::default() };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let slot = Slot { context: &context, field, out };
    let result = slot.deserialize(&mut deserializer).and_then(|_| deserializer.end());
    result.map_err(|error| context.error(&error))
}

struct Context<'a> {
    shapes: &'a Shapes,
    path: RefCell<String>,
    violation: RefCell<Option<FieldViolation>>,
}

impl Context<'_> {
    fn enter(&self, step: fmt::Arguments<'_>) -> usize {
        let mut path = self.path.borrow_mut();
        let before = path.len();
        // writing to a string does not fail
        let _ = fmt::write(&mut *path, step);
        before
    }

    fn field(&self, name: &str) -> usize {
        let mut path = self.path.borrow_mut();
        let before = path.len();
        if before > 0 {
            path.push('.');
        }
        path.push_str(name);
        before
    }

    fn leave(&self, before: usize) {
        self.path.borrow_mut().truncate(before);
    }

    fn refuse<E: serde::de::Error>(&self, description: impl Into<String>) -> E {
        let violation = FieldViolation { field: self.path.borrow().clone(), description: description.into() };
        self.violation.borrow_mut().get_or_insert(violation);
        E::custom("refused")
    }

    fn error(&self, error: &serde_json::Error) -> Error {
        match self.violation.borrow_mut().take() {
            Some(violation) => Error::invalid_fields(vec![violation]),
            None => Error::invalid(self.path.borrow().clone(), format!("not valid JSON: {error}")),
        }
    }
}

/// The value of a field, tag included. Gives whether anything was set: `null` sets nothing.
struct Slot<'a> {
    context: &'a Context<'a>,
    field: &'a Field,
    out: &'a mut Vec<u8>,
}

impl Slot<'_> {
    fn single<E: serde::de::Error>(self, value: Scalar<'_>) -> std::result::Result<bool, E> {
        match self.field.shape {
            Plurality::List { .. } => return Err(self.context.refuse("must be a list")),
            Plurality::Map => return Err(self.context.refuse("must be an object")),
            Plurality::Implicit | Plurality::Optional => {}
        }
        wire::tag(self.out, self.field.number, wire::wire_type(self.field.kind));
        scalar::write(self.context.shapes, self.field.kind, value, self.out)
            .map(|()| true)
            .map_err(|refusal| self.context.refuse(refusal))
    }

    fn element(&mut self) -> Element<'_> {
        Element { context: self.context, kind: self.field.kind, out: self.out }
    }
}

impl<'de> DeserializeSeed<'de> for Slot<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Slot<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> std::result::Result<bool, E> {
        self.single(Scalar::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<bool, E> {
        self.single(Scalar::Int(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> std::result::Result<bool, E> {
        self.single(Scalar::Uint(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<bool, E> {
        self.single(Scalar::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> std::result::Result<bool, E> {
        self.single(Scalar::Text(value))
    }

    fn visit_unit<E: serde::de::Error>(mut self) -> std::result::Result<bool, E> {
        let takes_null = match self.field.kind {
            Kind::Message(id) => self.context.shapes.message(id).special == Special::Value,
            Kind::Enum(id) => self.context.shapes.enumeration(id).null,
            _ => false,
        };
        if !takes_null || self.field.is_plural() {
            return Ok(false);
        }
        wire::tag(self.out, self.field.number, wire::wire_type(self.field.kind));
        self.element().visit_unit().map(|()| true)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> std::result::Result<bool, A::Error> {
        let Plurality::List { packed } = self.field.shape else {
            if self.field.shape == Plurality::Map {
                return Err(self.context.refuse("must be an object"));
            }
            wire::tag(self.out, self.field.number, wire::wire_type(self.field.kind));
            return self.element().visit_seq(list).map(|()| true);
        };
        let (context, field) = (self.context, self.field);
        let mut elements = |out: &mut Vec<u8>| -> std::result::Result<(), A::Error> {
            for index in 0_usize.. {
                let before = context.enter(format_args!("[{index}]"));
                let mark = out.len();
                if !packed {
                    wire::tag(out, field.number, wire::wire_type(field.kind));
                }
                if list.next_element_seed(Element { context, kind: field.kind, out })?.is_none() {
                    out.truncate(mark);
                    context.leave(before);
                    break;
                }
                context.leave(before);
            }
            Ok(())
        };
        if packed {
            wire::tag(self.out, field.number, WireType::Length);
            delimited(self.out, elements)?;
        } else {
            elements(self.out)?;
        }
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> std::result::Result<bool, A::Error> {
        let (Plurality::Map, Kind::Message(entry)) = (self.field.shape, self.field.kind) else {
            if self.field.is_plural() {
                return Err(self.context.refuse("must be a list"));
            }
            wire::tag(self.out, self.field.number, wire::wire_type(self.field.kind));
            return self.element().visit_map(map).map(|()| true);
        };
        let (context, entry) = (self.context, self.context.shapes.message(entry));
        let (key_kind, value_kind) = (entry.fields[0].kind, entry.fields[1].kind);
        while let Some(key) = map.next_key::<String>()? {
            let before = context.enter(format_args!("[{key:?}]"));
            wire::tag(self.out, self.field.number, WireType::Length);
            delimited(self.out, |out| {
                wire::tag(out, 1, wire::wire_type(key_kind));
                scalar::write(context.shapes, key_kind, Scalar::Plain(&key), out).map_err(|r| context.refuse(r))?;
                wire::tag(out, 2, wire::wire_type(value_kind));
                map.next_value_seed(Element { context, kind: value_kind, out })
            })?;
            context.leave(before);
        }
        Ok(true)
    }
}

/// One value without its tag: of a list, of a map, or of a field.
struct Element<'a> {
    context: &'a Context<'a>,
    kind: Kind,
    out: &'a mut Vec<u8>,
}

impl Element<'_> {
    fn scalar<E: serde::de::Error>(self, value: Scalar<'_>) -> std::result::Result<(), E> {
        scalar::write(self.context.shapes, self.kind, value, self.out).map_err(|refusal| self.context.refuse(refusal))
    }

    fn shape(&self) -> Option<(MessageId, &Shape)> {
        match self.kind {
            Kind::Message(id) => Some((id, self.context.shapes.message(id))),
            _ => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> std::result::Result<(), E> {
        self.scalar(Scalar::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<(), E> {
        self.scalar(Scalar::Int(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> std::result::Result<(), E> {
        self.scalar(Scalar::Uint(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<(), E> {
        self.scalar(Scalar::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> std::result::Result<(), E> {
        self.scalar(Scalar::Text(value))
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<(), E> {
        match self.kind {
            Kind::Message(id) if self.context.shapes.message(id).special == Special::Value => {
                self.out.extend_from_slice(&[2, 1 << 3, 0]);
                Ok(())
            }
            Kind::Enum(id) if self.context.shapes.enumeration(id).null => {
                self.out.push(0);
                Ok(())
            }
            _ => Err(self.context.refuse("must not be null")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        let context = self.context;
        let mut values = |out: &mut Vec<u8>, value: MessageId| -> std::result::Result<(), A::Error> {
            for index in 0_usize.. {
                let before = context.enter(format_args!("[{index}]"));
                let mark = out.len();
                wire::tag(out, 1, WireType::Length);
                if list.next_element_seed(Element { context, kind: Kind::Message(value), out })?.is_none() {
                    out.truncate(mark);
                    context.leave(before);
                    break;
                }
                context.leave(before);
            }
            Ok(())
        };
        match self.shape() {
            Some((_, shape)) if shape.special == Special::List => {
                let Kind::Message(value) = shape.fields[0].kind else { return Err(A::Error::custom("no Value")) };
                delimited(self.out, |out| values(out, value))
            }
            Some((value, shape)) if shape.special == Special::Value => delimited(self.out, |out| {
                wire::tag(out, 6, WireType::Length);
                delimited(out, |out| values(out, value))
            }),
            _ => Err(context.refuse("must not be a list")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<(), A::Error> {
        let context = self.context;
        let Some((id, shape)) = self.shape() else { return Err(context.refuse("must not be an object")) };
        match shape.special {
            Special::None | Special::HttpBody | Special::Struct | Special::Any => {
                delimited(self.out, |out| Payload { context, id, out }.visit_map(map))
            }
            Special::Value => {
                let structure = shape.fields.iter().find(|field| field.number == 5).map(|field| field.kind);
                let Some(Kind::Message(id)) = structure else { return Err(A::Error::custom("no Struct")) };
                delimited(self.out, |out| {
                    wire::tag(out, 5, WireType::Length);
                    delimited(out, |out| Payload { context, id, out }.visit_map(map))
                })
            }
            Special::Timestamp => Err(context.refuse("must be a time like \"2026-01-31T09:30:00Z\" (RFC 3339)")),
            Special::Duration => Err(context.refuse("must be a duration like \"3600s\"")),
            Special::FieldMask => Err(context.refuse("must be text: paths with commas between them")),
            Special::List => Err(context.refuse("must be a list")),
            Special::Wrapper => Err(context.refuse("must not be an object")),
        }
    }
}

/// The fields of a message, without tag and length.
struct Payload<'a> {
    context: &'a Context<'a>,
    id: MessageId,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Payload<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        let special = self.context.shapes.message(self.id).special;
        if matches!(special, Special::None | Special::HttpBody | Special::Struct | Special::Any) {
            return deserializer.deserialize_any(self);
        }
        // A special message as a whole body: written as a record of its own, then without its length.
        let mut record = Vec::new();
        let (context, kind) = (self.context, Kind::Message(self.id));
        Element { context, kind, out: &mut record }.deserialize(deserializer)?;
        let payload = wire::Records(&record).length().map_err(D::Error::custom)?;
        self.out.extend_from_slice(payload);
        Ok(())
    }
}

impl<'de> Visitor<'de> for Payload<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let context = self.context;
        let shape = context.shapes.message(self.id);
        match shape.special {
            Special::Struct => {
                let slot = Slot { context, field: &shape.fields[0], out: self.out };
                return slot.visit_map(map).map(|_| ());
            }
            Special::Any => return any(context, map, self.out),
            _ => {}
        }
        let (mut seen, mut alternatives) = (0_u128, 0_u128);
        while let Some(index) = map.next_key_seed(Key { context, shape })? {
            let field = &shape.fields[index];
            let before = context.field(&field.name);
            if mark(&mut seen, index) {
                return Err(context.refuse("is given twice"));
            }
            let set = map.next_value_seed(Slot { context, field, out: self.out })?;
            if set && field.oneof.is_some_and(|oneof| mark(&mut alternatives, oneof)) {
                return Err(context.refuse("stands for another field that is set as well; only one of them may be"));
            }
            context.leave(before);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> std::result::Result<(), A::Error> {
        Err(self.context.refuse("must be an object"))
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> std::result::Result<(), E> {
        Err(self.context.refuse("must be an object"))
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> std::result::Result<(), E> {
        Err(self.context.refuse("must be an object"))
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> std::result::Result<(), E> {
        Err(self.context.refuse("must be an object"))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> std::result::Result<(), E> {
        Err(self.context.refuse("must be an object"))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> std::result::Result<(), E> {
        Err(self.context.refuse("must be an object"))
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<(), E> {
        Err(self.context.refuse("must be an object"))
    }
}

/// Notes an index; gives whether it was noted before. Beyond 128 nothing is noted.
fn mark(seen: &mut u128, index: usize) -> bool {
    let bit = u32::try_from(index).ok().and_then(|index| 1_u128.checked_shl(index)).unwrap_or(0);
    let before = *seen & bit != 0;
    *seen |= bit;
    before
}

/// The name of a field, as the field's position.
struct Key<'a> {
    context: &'a Context<'a>,
    shape: &'a Shape,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<usize, E> {
        if let Some((index, _)) = self.shape.field(name) {
            return Ok(index);
        }
        self.context.field(name);
        Err(self.context.refuse(unknown(self.shape, name)))
    }
}

/// What to say about a field that does not exist.
pub fn unknown(shape: &Shape, name: &str) -> String {
    match shape.mistaken_for(name) {
        Some(field) => format!("unknown field; use {:?}", field.json_name),
        None => "unknown field".to_owned(),
    }
}

/// `{"@type": "type.googleapis.com/x.Y", …}`. The type may stand anywhere, so the object is read as a whole first.
fn any<'de, A: MapAccess<'de>>(
    context: &Context<'_>,
    mut map: A,
    out: &mut Vec<u8>,
) -> std::result::Result<(), A::Error> {
    let mut object = serde_json::Map::new();
    while let Some((key, value)) = map.next_entry::<String, serde_json::Value>()? {
        object.insert(key, value);
    }
    let Some(serde_json::Value::String(url)) = object.remove("@type") else {
        return Err(context.refuse("needs a field \"@type\""));
    };
    let id = url.rsplit_once('/').and_then(|(_, name)| context.shapes.by_name(name));
    let Some(id) = id else { return Err(context.refuse("is of an unknown type")) };
    let special = context.shapes.message(id).special;
    let mut payload = Vec::new();
    let inner = Payload { context, id, out: &mut payload };
    let result = if matches!(special, Special::None | Special::HttpBody) {
        inner.deserialize(serde_json::Value::Object(object))
    } else {
        inner.deserialize(object.remove("value").unwrap_or_default())
    };
    result.map_err(|_| context.refuse::<A::Error>("is not what its @type says"))?;
    wire::bytes(out, 1, url.as_bytes());
    wire::bytes(out, 2, &payload);
    Ok(())
}
