//! The value of a field: one, a list or a map.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Context;
use super::element::Element;
use crate::transcode::scalar::{self, Scalar};
use crate::transcode::shape::{Field, Kind, Plurality, Special};
use crate::transcode::wire::{self, WireType, delimited};

/// The value of a field, tag included. Gives whether anything was set: `null` sets nothing.
pub(super) struct Slot<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) field: &'a Field,
    pub(super) out: &'a mut Vec<u8>,
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
