//! What rooms show, live.
//!
//! One stream of every reading comes from telemetry into the [`Hub`], which keeps the latest reading of each sensor and a
//! ring of the last events. A [`Viewer`] is one open watch: it reads the ring at its own pace, so nothing is buffered for
//! it, and one that falls out of the ring is told to resume.
//!
//! A [`Cursor`] names a place in telemetry's log, so it outlives this process. A viewer that resumes from a place older
//! than the ring reads telemetry itself from there, until that stream is live; then it goes on in the ring. The two
//! overlap, and what a viewer has sent of each sensor tells it what to leave out: per sensor, what is sent grows in time.

mod batch;
mod cursor;
mod hub;
mod members;
mod viewer;

pub use batch::{Batch, Decoder, Incoming, Sample};
pub use cursor::Cursor;
pub use hub::{Event, Hub, Next, Slot, View};
pub use viewer::{Opening, Upstream, Viewer};
