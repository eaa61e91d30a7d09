//! Between HTTP and protobuf: paths, queries, forms and JSON in, JSON out, by the descriptors alone.
//!
//! Requests become wire bytes and answers become JSON in one pass each. What a path, a query and a body bring is simply
//! appended: that is how protobuf merges.

pub mod from_json;
pub mod path;
pub mod scalar;
pub mod shape;
pub mod text;
pub mod to_json;
pub mod wire;

#[cfg(test)]
mod tests;
