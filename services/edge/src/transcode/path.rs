//! Fields named by text: of a path template, a query or a form.

use sensormesh_types::{Error, FieldViolation, Result};

use crate::transcode::from_json::unknown;
use crate::transcode::scalar::{self, Scalar};
use crate::transcode::shape::{Field, Kind, MessageId, Plurality, Shapes, Special};
use crate::transcode::wire::{self, Malformed, Record, Records, WireType, delimited};

/// A field of a message, or of a message in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath {
    /// The numbers of the messages that lead to it.
    parents: Vec<u32>,
    /// The message that has it.
    message: MessageId,
    /// Its position there.
    position: usize,
    /// How the contract spells it: `place.place_id`.
    pub name: String,
}

impl FieldPath {
    /// Finds a field by its dotted path, in either spelling.
    pub fn find(shapes: &Shapes, message: MessageId, path: &str) -> Result<Self> {
        let (mut parents, mut at, mut spelled) = (Vec::new(), message, String::new());
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            let shape = shapes.message(at);
            let Some((position, field)) = shape.field(part) else {
                return Err(Error::invalid(path, unknown(shape, part)));
            };
            if !spelled.is_empty() {
                spelled.push('.');
            }
            spelled.push_str(&field.name);
            if parts.peek().is_none() {
                return Ok(Self { parents, message: at, position, name: spelled });
            }
            match field.kind {
                Kind::Message(id) if !field.is_plural() && shapes.message(id).special == Special::None => {
                    parents.push(field.number);
                    at = id;
                }
                _ => return Err(Error::invalid(path, "has no fields of its own that a path could name")),
            }
        }
        Err(Error::invalid(path, "is no field"))
    }

    /// The field itself.
    pub fn field<'a>(&self, shapes: &'a Shapes) -> &'a Field {
        &shapes.message(self.message).fields[self.position]
    }

    /// The message that has the field, and its position there.
    pub fn place(&self) -> (MessageId, usize) {
        (self.message, self.position)
    }

    /// Whether it is a field of the outermost message.
    pub fn is_outermost(&self) -> bool {
        self.parents.is_empty()
    }

    /// The number of the outermost field on the way to it.
    pub fn outermost(&self, shapes: &Shapes) -> u32 {
        self.parents.first().copied().unwrap_or_else(|| self.field(shapes).number)
    }

    /// Appends the field with a value given as text. A list gets one more element; `key` is that of a map's entry.
    pub fn write(&self, shapes: &Shapes, key: Option<&str>, text: &str, out: &mut Vec<u8>) -> Result<()> {
        self.nested(&self.parents, out, &|out| {
            let field = self.field(shapes);
            let refuse = |refusal| Error::invalid(&self.name, refusal);
            let (Plurality::Map, Kind::Message(entry)) = (field.shape, field.kind) else {
                if key.is_some() {
                    return Err(refuse("is no map".to_owned()));
                }
                wire::tag(out, field.number, wire::wire_type(field.kind));
                return scalar::write(shapes, field.kind, Scalar::Plain(text), out).map_err(refuse);
            };
            let Some(key) = key else { return Err(refuse(format!("is a map: write {}[key]=value", self.name))) };
            wire::tag(out, field.number, WireType::Length);
            delimited(out, |out| {
                for (field, text) in shapes.message(entry).fields.iter().zip([key, text]) {
                    wire::tag(out, field.number, wire::wire_type(field.kind));
                    scalar::write(shapes, field.kind, Scalar::Plain(text), out).map_err(refuse)?;
                }
                Ok(())
            })
        })
    }

    /// The value that a message has for the field; `None` where it is absent, empty or 0, which are one in proto3.
    pub fn value<'a>(&self, shapes: &Shapes, message: &'a [u8]) -> Result<Option<Record<'a>>, Malformed> {
        let value = last(&self.parents, self.field(shapes).number, message)?;
        let unset = [Record::Length(&[]), Record::Varint(0), Record::Fixed32(0), Record::Fixed64(0)];
        Ok(value.filter(|value| !unset.contains(value)))
    }

    fn nested(&self, parents: &[u32], out: &mut Vec<u8>, fill: &dyn Fn(&mut Vec<u8>) -> Result<()>) -> Result<()> {
        let Some((first, rest)) = parents.split_first() else { return fill(out) };
        wire::tag(out, *first, WireType::Length);
        delimited(out, |out| self.nested(rest, out, fill))
    }
}

/// The last value of a field of a message, or of one that lies in it: parts of a message that come apart count together.
fn last<'a>(parents: &[u32], number: u32, message: &'a [u8]) -> Result<Option<Record<'a>>, Malformed> {
    let mut found = None;
    for record in Records(message) {
        match (parents.split_first(), record?) {
            (None, (at, record)) if at == number => found = Some(record),
            (Some((parent, rest)), (at, Record::Length(part))) if at == *parent => {
                found = last(rest, number, part)?.or(found);
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Appends what `name=value` pairs say, as of a query or a form. `taken` is the outermost field that the body brings.
///
/// Every wrong parameter is named in the error, not only the first one.
pub fn parameters<'a>(
    shapes: &Shapes,
    message: MessageId,
    pairs: impl Iterator<Item = (impl AsRef<str> + 'a, impl AsRef<str> + 'a)>,
    taken: Option<u32>,
    out: &mut Vec<u8>,
) -> Result<()> {
    let mut violations: Vec<FieldViolation> = Vec::new();
    let mut given: Vec<String> = Vec::new();
    for (name, value) in pairs {
        let (name, value) = (name.as_ref(), value.as_ref());
        let (path, key) = match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
            Some((path, key)) => (path, Some(key)),
            None => (name, None),
        };
        let written = FieldPath::find(shapes, message, path).and_then(|path| {
            if taken == Some(path.outermost(shapes)) {
                return Err(Error::invalid(&path.name, "comes in the body"));
            }
            if !path.field(shapes).is_plural() {
                if given.contains(&path.name) {
                    return Err(Error::invalid(&path.name, "is given twice"));
                }
                given.push(path.name.clone());
            }
            path.write(shapes, key, value, out)
        });
        if let Err(error) = written {
            violations.extend_from_slice(error.fields());
        }
    }
    if violations.is_empty() { Ok(()) } else { Err(Error::invalid_fields(violations)) }
}
