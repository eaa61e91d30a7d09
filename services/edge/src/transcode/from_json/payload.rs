//! An object: the fields of a message by name.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::element::Element;
use super::slot::Slot;
use super::{Context, unknown};
use crate::transcode::shape::{Kind, MessageId, Shape, Special};
use crate::transcode::wire;

/// The fields of a message, without tag and length.
pub(super) struct Payload<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) id: MessageId,
    pub(super) out: &'a mut Vec<u8>,
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
