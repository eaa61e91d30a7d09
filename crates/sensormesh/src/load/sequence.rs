//! Whether a place in the log was ever given to two batches. Cursors are opaque; equal places have equal cursors.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

/// The batch that each cursor stands behind.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    hasher: RandomState,
    places: HashMap<u64, (u32, u64)>,
    reused: Vec<(u32, u64)>,
}

impl Sequence {
    /// A cursor stands behind this batch: its acknowledgement said so, or the stream.
    pub fn note(&mut self, cursor: &str, lane: u32, batch: u64) {
        let place = self.hasher.hash_one(cursor);
        if *self.places.entry(place).or_insert((lane, batch)) != (lane, batch) {
            self.reused.push((lane, batch));
        }
    }

    /// The batches that were given a place that another had.
    pub fn reused(&self) -> &[(u32, u64)] {
        &self.reused
    }
}
