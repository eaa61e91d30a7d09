//! JSON to the wire format, in one pass, with the path of whatever does not fit.

use std::cell::RefCell;
use std::fmt;

use sensormesh_types::{Error, FieldViolation, Result};
use serde::de::DeserializeSeed as _;

use crate::transcode::shape::{Field, MessageId, Shape, Shapes};

mod element;
mod payload;
mod slot;

use payload::Payload;
use slot::Slot;

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

pub(super) struct Context<'a> {
    pub(super) shapes: &'a Shapes,
    path: RefCell<String>,
    violation: RefCell<Option<FieldViolation>>,
}

impl Context<'_> {
    pub(super) fn enter(&self, step: fmt::Arguments<'_>) -> usize {
        let mut path = self.path.borrow_mut();
        let before = path.len();
        // writing to a string does not fail
        let _ = fmt::write(&mut *path, step);
        before
    }

    pub(super) fn field(&self, name: &str) -> usize {
        let mut path = self.path.borrow_mut();
        let before = path.len();
        if before > 0 {
            path.push('.');
        }
        path.push_str(name);
        before
    }

    pub(super) fn leave(&self, before: usize) {
        self.path.borrow_mut().truncate(before);
    }

    pub(super) fn refuse<E: serde::de::Error>(&self, description: impl Into<String>) -> E {
        let violation = FieldViolation { field: self.path.borrow().clone(), description: description.into() };
        self.violation.borrow_mut().get_or_insert(violation);
        E::custom("refused")
    }

    fn error(&self, error: &serde_json::Error) -> Error {
        let mut violation = self.violation.borrow_mut().take().unwrap_or_else(|| FieldViolation {
            field: self.path.borrow().clone(),
            description: format!("not valid JSON: {error}"),
        });
        if violation.field.is_empty() {
            violation.field.push_str("body");
        }
        Error::invalid_fields(vec![violation])
    }
}

/// What to say about a field that does not exist.
pub fn unknown(shape: &Shape, name: &str) -> String {
    match shape.mistaken_for(name) {
        Some(field) => format!("unknown field; use {:?}", field.json_name),
        None => "unknown field".to_owned(),
    }
}
