//! The wire format to canonical JSON, without a message in between.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::transcode::shape::{Field, Kind, MessageId, Plurality, Shape, Shapes, Special};
use crate::transcode::text;
use crate::transcode::wire::{self, Malformed, Record, Records, WireType};

type Written = Result<(), Malformed>;

/// How much is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defaults {
    /// Fields that are not set are written with their default, lists and maps as empty: for answers, so that a reader
    /// never has to ask whether a field exists. Absent messages and `optional` fields stay absent.
    Written,
    /// Only what is set: for the details of errors.
    Omitted,
}

/// Appends the JSON of a message.
pub fn message(shapes: &Shapes, id: MessageId, wire: &[u8], defaults: Defaults, out: &mut Vec<u8>) -> Written {
    Writer { shapes, defaults, out }.message(id, wire)
}

/// Appends the JSON of one field of a message: its default where it is not set, `{}` for an absent message.
pub fn field(
    shapes: &Shapes,
    id: MessageId,
    position: usize,
    wire: &[u8],
    defaults: Defaults,
    out: &mut Vec<u8>,
) -> Written {
    let mut writer = Writer { shapes, defaults, out };
    let field = &shapes.message(id).fields[position];
    let records = Records(wire)
        .filter(|record| !matches!(record, Ok((number, _)) if *number != field.number))
        .map(|record| record.map(|(_, record)| record))
        .collect::<Result<Vec<_>, _>>()?;
    if records.is_empty() && !field.is_plural() {
        return match field.kind {
            Kind::Message(id) => writer.message(id, &[]),
            kind => writer.default(kind),
        };
    }
    writer.merged(field, &records)
}

struct Writer<'a> {
    shapes: &'a Shapes,
    defaults: Defaults,
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn message(&mut self, id: MessageId, wire: &[u8]) -> Written {
        let shape = self.shapes.message(id);
        match shape.special {
            Special::None | Special::HttpBody => {
                self.out.push(b'{');
                self.fields(shape, wire)?;
                self.out.push(b'}');
            }
            Special::Timestamp => {
                let (seconds, nanos) = pair(wire)?;
                text::timestamp(seconds, nanos, self.out);
            }
            Special::Duration => {
                let (seconds, nanos) = pair(wire)?;
                text::duration(seconds, nanos, self.out);
            }
            Special::FieldMask => self.mask(wire)?,
            Special::Wrapper => {
                let inner = &shape.fields[0];
                match last(wire, 1)? {
                    Some(record) => self.value(inner.kind, record)?,
                    None => self.default(inner.kind)?,
                }
            }
            Special::Struct => {
                let fields = records(wire, 1)?;
                self.map(&shape.fields[0], &fields)?;
            }
            Special::List => {
                let values = records(wire, 1)?;
                self.list(&shape.fields[0], &values)?;
            }
            Special::Value => self.any_value(shape, wire)?,
            Special::Any => self.any(wire)?,
        }
        Ok(())
    }

    /// The fields of an object without its braces. As long as they come in order nothing is kept.
    fn fields(&mut self, shape: &Shape, wire: &[u8]) -> Written {
        let start = self.out.len();
        let mut next = 0;
        let mut open: Option<usize> = None;
        for record in Records(wire) {
            let (number, record) = record?;
            let Some(position) = shape.position(number) else { continue };
            let field = &shape.fields[position];
            if open == Some(position) {
                self.elements(field, record)?;
                continue;
            }
            if position < next {
                self.out.truncate(start);
                return self.fields_in_any_order(shape, wire);
            }
            self.close(shape, open.take());
            self.absent(&shape.fields[next..position])?;
            separate(self.out);
            self.out.extend_from_slice(field.key.as_bytes());
            if field.is_plural() {
                self.out.push(if field.shape == Plurality::Map { b'{' } else { b'[' });
                self.elements(field, record)?;
                open = Some(position);
            } else {
                self.value(field.kind, record)?;
            }
            next = position + 1;
        }
        self.close(shape, open);
        self.absent(&shape.fields[next..])
    }

    fn close(&mut self, shape: &Shape, open: Option<usize>) {
        if let Some(position) = open {
            let map = shape.fields[position].shape == Plurality::Map;
            self.out.push(if map { b'}' } else { b']' });
        }
    }

    /// Fields repeated, or not by number: as other writers may send them. The last one of a single value counts, parts
    /// of one message are put together.
    fn fields_in_any_order(&mut self, shape: &Shape, wire: &[u8]) -> Written {
        let mut found: Vec<Vec<Record<'_>>> = vec![Vec::new(); shape.fields.len()];
        for record in Records(wire) {
            let (number, record) = record?;
            if let Some(position) = shape.position(number) {
                found[position].push(record);
            }
        }
        for (field, records) in shape.fields.iter().zip(&found) {
            if records.is_empty() {
                self.absent(std::slice::from_ref(field))?;
            } else {
                separate(self.out);
                self.out.extend_from_slice(field.key.as_bytes());
                self.merged(field, records)?;
            }
        }
        Ok(())
    }

    fn merged(&mut self, field: &Field, records: &[Record<'_>]) -> Written {
        match (field.shape, field.kind) {
            (Plurality::Map, _) => self.map(field, records),
            (Plurality::List { .. }, _) => self.list(field, records),
            (_, Kind::Message(id)) if records.len() > 1 => {
                let parts = records.iter().map(|record| match record {
                    Record::Length(part) => Ok(*part),
                    _ => Err(Malformed),
                });
                let whole = parts.collect::<Result<Vec<_>, _>>()?.concat();
                self.message(id, &whole)
            }
            (_, kind) => records.last().map_or(Ok(()), |record| self.value(kind, *record)),
        }
    }

    fn list(&mut self, field: &Field, records: &[Record<'_>]) -> Written {
        self.out.push(b'[');
        for record in records {
            self.elements(field, *record)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, field: &Field, records: &[Record<'_>]) -> Written {
        self.out.push(b'{');
        for record in records {
            self.elements(field, *record)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    /// What one record adds to a list or a map.
    fn elements(&mut self, field: &Field, record: Record<'_>) -> Written {
        if field.shape == Plurality::Map {
            separate(self.out);
            return self.entry(field.kind, record);
        }
        let wire = wire::wire_type(field.kind);
        match record {
            Record::Length(packed) if wire != WireType::Length => {
                let mut records = Records(packed);
                while !records.0.is_empty() {
                    let value = records.record(wire)?;
                    separate(self.out);
                    self.value(field.kind, value)?;
                }
                Ok(())
            }
            record => {
                separate(self.out);
                self.value(field.kind, record)
            }
        }
    }

    fn entry(&mut self, kind: Kind, record: Record<'_>) -> Written {
        let (Kind::Message(id), Record::Length(wire)) = (kind, record) else { return Err(Malformed) };
        let entry = self.shapes.message(id);
        let (key, value) = (entry.fields[0].kind, entry.fields[1].kind);
        let key_record = last(wire, 1)?;
        if key == Kind::String {
            match key_record {
                Some(record) => self.value(key, record)?,
                None => self.default(key)?,
            }
        } else {
            // numbers and booleans as keys stand in quotes; 64-bit ones have them already
            let start = self.out.len();
            match key_record {
                Some(record) => self.value(key, record)?,
                None => self.default(key)?,
            }
            if self.out[start] != b'"' {
                self.out.insert(start, b'"');
                self.out.push(b'"');
            }
        }
        self.out.push(b':');
        match (last(wire, 2)?, value) {
            (Some(record), _) => self.value(value, record),
            (None, Kind::Message(id)) => self.message(id, &[]),
            (None, _) => self.default(value),
        }
    }

    fn absent(&mut self, fields: &[Field]) -> Written {
        if self.defaults == Defaults::Omitted {
            return Ok(());
        }
        for field in fields {
            let empty: &[u8] = match field.shape {
                Plurality::Optional => continue,
                Plurality::List { .. } => b"[]",
                Plurality::Map => b"{}",
                Plurality::Implicit => b"",
            };
            separate(self.out);
            self.out.extend_from_slice(field.key.as_bytes());
            if empty.is_empty() {
                self.default(field.kind)?;
            } else {
                self.out.extend_from_slice(empty);
            }
        }
        Ok(())
    }

    fn default(&mut self, kind: Kind) -> Written {
        match wire::wire_type(kind) {
            WireType::Varint => self.value(kind, Record::Varint(0)),
            WireType::Fixed64 => self.value(kind, Record::Fixed64(0)),
            WireType::Fixed32 => self.value(kind, Record::Fixed32(0)),
            WireType::Length => self.value(kind, Record::Length(&[])),
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the low half is what 32-bit kinds keep
    fn value(&mut self, kind: Kind, record: Record<'_>) -> Written {
        let out = &mut *self.out;
        match (kind, record) {
            (Kind::Double, Record::Fixed64(bits)) => text::double(f64::from_bits(bits), out),
            (Kind::Float, Record::Fixed32(bits)) => text::float(f32::from_bits(bits), out),
            (Kind::Int32, Record::Varint(value)) => text::display(value as i32, out),
            (Kind::Uint32, Record::Varint(value)) => text::display(value as u32, out),
            (Kind::Sint32, Record::Varint(value)) => text::display(wire::unzigzag(value) as i32, out),
            (Kind::Fixed32, Record::Fixed32(value)) => text::display(value, out),
            (Kind::Sfixed32, Record::Fixed32(value)) => text::display(value.cast_signed(), out),
            (Kind::Int64, Record::Varint(value)) => text::quoted(value.cast_signed(), out),
            (Kind::Uint64, Record::Varint(value)) => text::quoted(value, out),
            (Kind::Sint64, Record::Varint(value)) => text::quoted(wire::unzigzag(value), out),
            (Kind::Fixed64, Record::Fixed64(value)) => text::quoted(value, out),
            (Kind::Sfixed64, Record::Fixed64(value)) => text::quoted(value.cast_signed(), out),
            (Kind::Bool, Record::Varint(value)) => {
                out.extend_from_slice(if value == 0 { b"false" } else { b"true" });
            }
            (Kind::String, Record::Length(bytes)) => text::string(&String::from_utf8_lossy(bytes), out),
            (Kind::Bytes, Record::Length(bytes)) => text::quoted(BASE64_STANDARD.encode(bytes), out),
            (Kind::Enum(id), Record::Varint(value)) => {
                let shape = self.shapes.enumeration(id);
                match shape.name(value as i32) {
                    Some(_) if shape.null => out.extend_from_slice(b"null"),
                    Some(name) => text::quoted(name, out),
                    None => text::display(value as i32, out),
                }
            }
            (Kind::Message(id), Record::Length(wire)) => return self.message(id, wire),
            _ => return Err(Malformed),
        }
        Ok(())
    }

    fn mask(&mut self, wire: &[u8]) -> Written {
        let mut paths = Vec::new();
        for record in records(wire, 1)? {
            let Record::Length(path) = record else { return Err(Malformed) };
            paths.push(text::camel_case(&String::from_utf8_lossy(path)));
        }
        text::string(&paths.join(","), self.out);
        Ok(())
    }

    fn any_value(&mut self, shape: &Shape, wire: &[u8]) -> Written {
        let Some(record) = Records(wire).last() else {
            self.out.extend_from_slice(b"null");
            return Ok(());
        };
        let (number, record) = record?;
        let field = shape.position(number).map(|position| &shape.fields[position]).ok_or(Malformed)?;
        self.value(field.kind, record)
    }

    fn any(&mut self, wire: &[u8]) -> Written {
        let text_of = |number| match last(wire, number)? {
            Some(Record::Length(bytes)) => Ok(bytes),
            None => Ok(&[][..]),
            _ => Err(Malformed),
        };
        let (url, payload) = (String::from_utf8_lossy(text_of(1)?), text_of(2)?);
        self.out.extend_from_slice(b"{\"@type\":");
        text::string(&url, self.out);
        let id = url.rsplit_once('/').and_then(|(_, name)| self.shapes.by_name(name));
        match id.map(|id| (id, self.shapes.message(id))) {
            Some((_, shape)) if matches!(shape.special, Special::None | Special::HttpBody) => {
                self.fields(shape, payload)?;
            }
            Some((id, _)) => {
                self.out.extend_from_slice(b",\"value\":");
                self.message(id, payload)?;
            }
            None => {
                self.out.extend_from_slice(b",\"value\":");
                text::quoted(BASE64_STANDARD.encode(payload), self.out);
            }
        }
        self.out.push(b'}');
        Ok(())
    }
}

/// Puts a comma before what is not the first in its list or object.
fn separate(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'[' | b'{')) {
        out.push(b',');
    }
}

fn records(wire: &[u8], wanted: u32) -> Result<Vec<Record<'_>>, Malformed> {
    Records(wire)
        .filter_map(|record| match record {
            Ok((number, record)) => (number == wanted).then_some(Ok(record)),
            Err(malformed) => Some(Err(malformed)),
        })
        .collect()
}

fn last(wire: &[u8], wanted: u32) -> Result<Option<Record<'_>>, Malformed> {
    let mut found = None;
    for record in Records(wire) {
        let (number, record) = record?;
        if number == wanted {
            found = Some(record);
        }
    }
    Ok(found)
}

#[allow(clippy::cast_possible_truncation)] // nanos are an int32
fn pair(wire: &[u8]) -> Result<(i64, i32), Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    for record in Records(wire) {
        match record? {
            (1, Record::Varint(value)) => seconds = value.cast_signed(),
            (2, Record::Varint(value)) => nanos = value as i32,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}
