//! Readings in columns: the form they keep from a sender's batch to disk and to a subscriber.
//!
//! A [`Column`] is one sensor's readings, ordered by time. A [`block`] is a column compressed for good. A [`Buckets`]
//! summarises columns in intervals, whose gaps [`gap`] fills; a
//! [`Rollup`] is what stays of readings that are gone; [`Lttb`] picks the points of a chart. [`wire`] turns the contracts' packed steps and deltas into times and values and back.
//!
//! Nothing here touches a network, a disk or a clock.
//!
//! ```
//! use sensormesh_series::{Buckets, Column, Quality, block};
//!
//! let mut column = Column::default();
//! column.upsert(1_000_000_000, 21.5, Quality::USUAL);
//! column.upsert(2_000_000_000, 22.0, Quality::USUAL);
//!
//! let stored = block::encode(&column)?;
//! let read = block::decode(&stored.header, &stored.data)?;
//! assert_eq!(read, column);
//!
//! let mut minutes = Buckets::aligned(60_000_000_000);
//! minutes.add_column(&read)?;
//! assert_eq!(minutes.finish().get(0).map(|minute| minute.rollup.aggregate.mean()), Some(21.75));
//! # Ok::<(), sensormesh_types::Error>(())
//! ```

mod aggregate;
pub mod block;
mod column;
pub mod gap;
mod lttb;
pub mod merge;
mod quality;
mod resolution;
pub mod rollup;
mod varint;
pub mod wire;

pub use aggregate::{Aggregate, Bucket, Buckets, Detail, Grid, Increase, Sum, Summaries, Unit, Wanted, bucket_start};
pub use column::{Column, Reading, Upsert};
pub use lttb::Lttb;
pub use quality::{Flag, Quality, Test};
pub use resolution::Resolution;
pub use rollup::Rollup;

/// The CRC32C of bytes: what guards everything that is stored in columns.
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// The CRC32C of what had the checksum `before`, and `bytes` behind it.
pub fn checksum_on(before: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(before, bytes)
}
