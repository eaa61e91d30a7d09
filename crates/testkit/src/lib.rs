//! What tests stand on: a whole system of the real program, a PostgreSQL server of their own, recorded data, and faults: a
//! network that is bad on purpose, processes that are killed and paused, clocks that are wrong, streams that are judged.

pub mod chance;
pub mod clockshift;
pub mod given_up;
pub mod http2;
pub mod mail;
pub mod postgres;
pub mod proxy;
pub mod stream;
pub mod system;

/// Says what a test leaves out, also where what passing tests say is kept back.
pub fn skip(what: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "skipped: {what}");
}
