//! The field rules of the contracts, applied to messages.

use std::collections::HashSet;
use std::fmt::{self, Display};
use std::hash::Hash;

use crate::FieldViolation;

/// So many violations are reported; a batch may hold thousands, and the answer travels in a header.
const REPORTED: usize = 16;

/// A message whose fields have rules. Implemented for every generated message.
pub trait Validate {
    /// The message is only ever an answer. Answers are not checked: whoever sends them is ours.
    const ANSWER: bool = false;

    /// Adds what is wrong with this message, which stands at `at`, to `found`.
    fn check(&self, at: &At<'_>, found: &mut Found) {
        let _ = (at, found);
    }

    /// Checks the message against the rules of its contract.
    ///
    /// # Errors
    ///
    /// The fields that break a rule, the first 16 of them.
    fn validate(&self) -> Result<(), Vec<FieldViolation>> {
        let mut found = Found::default();
        self.check(&At::Root, &mut found);
        if found.violations.is_empty() { Ok(()) } else { Err(found.violations) }
    }
}

/// `google.protobuf.Empty`.
impl Validate for () {}

/// A place within a message; written out only when something is wrong there.
pub enum At<'a> {
    /// The message itself.
    Root,
    /// A field of a message.
    Field(&'a At<'a>, &'static str),
    /// An item of a repeated field.
    Item(&'a At<'a>, usize),
    /// An entry of a map.
    Key(&'a At<'a>, &'a dyn Display),
}

impl At<'_> {
    /// A field of the message that stands here.
    pub fn field(&self, name: &'static str) -> At<'_> {
        At::Field(self, name)
    }

    /// An item of the list that stands here.
    pub fn item(&self, index: usize) -> At<'_> {
        At::Item(self, index)
    }

    /// An entry of the map that stands here.
    pub fn key<'b>(&'b self, key: &'b dyn Display) -> At<'b> {
        At::Key(self, key)
    }
}

/// `readings[3].sensor_id`, `labels["floor"]`.
impl Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Root => Ok(()),
            At::Field(At::Root, name) => f.write_str(name),
            At::Field(parent, name) => write!(f, "{parent}.{name}"),
            At::Item(parent, index) => write!(f, "{parent}[{index}]"),
            At::Key(parent, key) => {
                // a key is the caller's text: kept short
                let key: String = key.to_string().chars().take(64).collect();
                write!(f, "{parent}[{key:?}]")
            }
        }
    }
}

/// The violations found so far.
#[derive(Default)]
pub struct Found {
    violations: Vec<FieldViolation>,
}

impl Found {
    /// Notes that the value at `at` breaks a rule.
    pub fn add(&mut self, at: &At<'_>, description: &str) {
        if self.violations.len() < REPORTED {
            self.violations.push(FieldViolation { field: at.to_string(), description: description.to_owned() });
        }
    }

    /// Notes that the list at `at` holds an item twice, if it does.
    pub fn add_repeated<T: Eq + Hash>(&mut self, at: &At<'_>, items: &[T]) {
        let mut seen = HashSet::with_capacity(items.len());
        if !items.iter().all(|item| seen.insert(item)) {
            self.add(at, "must not repeat an item");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_the_contract_spells_it() {
        let root = At::Root;
        let readings = root.field("readings");
        let third = readings.item(3);
        assert_eq!(third.field("sensor_id").to_string(), "readings[3].sensor_id");
        let labels = third.field("labels");
        assert_eq!(labels.key(&"floor").to_string(), "readings[3].labels[\"floor\"]");
    }
}
