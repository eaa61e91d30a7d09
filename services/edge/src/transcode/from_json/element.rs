//! One value: of a list, of a map, or of a field.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::Context;
use super::payload::Payload;
use crate::transcode::scalar::{self, Scalar};
use crate::transcode::shape::{Kind, MessageId, Shape, Special};
use crate::transcode::wire::{self, WireType, delimited};

/// One value without its tag: of a list, of a map, or of a field.
pub(super) struct Element<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) kind: Kind,
    pub(super) out: &'a mut Vec<u8>,
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
