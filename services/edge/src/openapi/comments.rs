//! The comments of the contracts, by what they stand above.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{
    EnumDescriptor, EnumValueDescriptor, FieldDescriptor, FileDescriptor, MessageDescriptor, MethodDescriptor,
    ServiceDescriptor,
};
use prost_types::{FileDescriptorProto, FileDescriptorSet};

/// Every comment by file and path.
pub struct Comments(HashMap<String, HashMap<Vec<i32>, String>>);

impl Comments {
    /// Reads the comments of serialized descriptors, which the pool that is served has forgotten. Files without source information
    /// have none.
    pub fn of(descriptors: Bytes) -> Self {
        let of_file = |file: FileDescriptorProto| {
            let info = file.source_code_info.as_ref();
            let comments = info.into_iter().flat_map(|info| &info.location).filter_map(|location| {
                let text = tidy(location.leading_comments.as_deref()?);
                (!text.is_empty()).then(|| (location.path.clone(), text))
            });
            (file.name().to_owned(), comments.collect())
        };
        let set = FileDescriptorSet::decode(descriptors).unwrap_or_default();
        Self(set.file.into_iter().map(of_file).collect())
    }

    fn at(&self, file: &FileDescriptor, path: &[i32]) -> String {
        self.0.get(file.name()).and_then(|comments| comments.get(path)).cloned().unwrap_or_default()
    }

    /// The comment of a service.
    pub fn service(&self, service: &ServiceDescriptor) -> String {
        self.at(&service.parent_file(), service.path())
    }

    /// The comment of a method.
    pub fn method(&self, method: &MethodDescriptor) -> String {
        self.at(&method.parent_file(), method.path())
    }

    /// The comment of a message.
    pub fn message(&self, message: &MessageDescriptor) -> String {
        self.at(&message.parent_file(), message.path())
    }

    /// The comment of a field.
    pub fn field(&self, field: &FieldDescriptor) -> String {
        self.at(&field.parent_file(), field.path())
    }

    /// The comment of an enum, with those of its values.
    pub fn enumeration(&self, enumeration: &EnumDescriptor) -> String {
        let mut text = self.at(&enumeration.parent_file(), enumeration.path());
        for value in enumeration.values() {
            let about = self.value(&value);
            if !about.is_empty() {
                text.push_str(&format!("\n- `{}`: {about}", value.name()));
            }
        }
        text
    }

    fn value(&self, value: &EnumValueDescriptor) -> String {
        self.at(&value.parent_file(), value.path())
    }
}

/// Lines of one paragraph become one line; paragraphs stay apart.
fn tidy(comment: &str) -> String {
    let lines: Vec<&str> = comment.lines().map(str::trim).collect();
    let paragraphs = lines.split(|line| line.is_empty()).map(|lines| lines.join(" "));
    paragraphs.filter(|paragraph| !paragraph.is_empty()).collect::<Vec<_>>().join("\n\n")
}
