//! How much a listener takes, in one struct and three profiles.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use sensormesh_types::{Bounds, Result, text};
use serde::{Deserialize, Serialize};

/// The most that one message of an answer has, bytes; for a service's own server:
/// `RoomsServiceServer::new(api).max_encoding_message_size(ANSWER)`. What is longer has pages, or is a stream.
pub const ANSWER: usize = 16 << 20;

/// What a frame may be, bytes: RFC 9113, section 4.2.
const FRAMES: RangeInclusive<u64> = 1 << 14..=(1 << 24) - 1;
/// What a window may be, bytes; at least a frame, at most what RFC 9113, section 6.9.1 allows.
pub(crate) const WINDOWS: RangeInclusive<u64> = 1 << 14..=(1 << 31) - 1;

/// The limits of one listener. Every field has a value; nothing is unlimited by being left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerLimits {
    /// TCP connections at once.
    pub connections: u32,
    /// TCP connections at once from one address.
    pub connections_per_address: u32,
    /// How long a TLS handshake may take.
    #[serde(with = "text::duration")]
    pub handshake_timeout: Duration,
    /// TLS handshakes at once; more wait.
    pub handshakes: u32,
    /// How long a new connection may stay silent before it says which protocol it speaks.
    #[serde(with = "text::duration")]
    pub first_byte_timeout: Duration,
    /// Streams at once on one HTTP/2 connection.
    pub concurrent_streams: u32,
    /// Streams the peer reset before they were accepted (rapid reset), before the connection is closed.
    pub pending_accept_reset_streams: u32,
    /// Streams this side reset, before the connection is closed.
    pub local_error_reset_streams: u32,
    /// Frames a second on one HTTP/2 connection that carry nothing (PING, SETTINGS, WINDOW_UPDATE, PRIORITY, RST_STREAM,
    /// DATA of less than 5 bytes) beyond what its requests and answers need, and ten times as many at once, before the
    /// connection is closed.
    pub empty_frames: u32,
    /// Bytes of all headers of a request.
    #[serde(with = "text::size")]
    pub header_list: u64,
    /// Bytes of the header compression table.
    #[serde(with = "text::size")]
    pub header_table: u64,
    /// Bytes of one HTTP/2 frame.
    #[serde(with = "text::size")]
    pub frame: u64,
    /// Flow-control window of one stream, bytes.
    #[serde(with = "text::size")]
    pub stream_window: u64,
    /// Flow-control window of a connection, bytes.
    #[serde(with = "text::size")]
    pub connection_window: u64,
    /// Bytes held for one stream whose reader is slow.
    #[serde(with = "text::size")]
    pub send_buffer: u64,
    /// How long a peer may take nothing of an answer before its stream is given up.
    #[serde(with = "text::duration")]
    pub stalled_after: Duration,
    /// How often an HTTP/2 connection is asked whether it lives; how long an HTTP/1 connection may wait for a request.
    #[serde(with = "text::duration")]
    pub keepalive_interval: Duration,
    /// How long the answer may take.
    #[serde(with = "text::duration")]
    pub keepalive_timeout: Duration,
    /// After this age, ±10 %, a connection is told to go away.
    #[serde(with = "text::duration")]
    pub connection_age: Duration,
    /// How long its calls may then go on.
    #[serde(with = "text::duration")]
    pub connection_age_grace: Duration,
    /// Calls at once in the process; more are refused with a hint when to come back.
    pub calls: u32,
    /// Calls at once that are never too many: between these and `calls` the limit follows how long calls take.
    pub calls_floor: u32,
    /// Calls at once of one method.
    pub calls_per_method: u32,
    /// Streams at once in the process, counted apart from calls because they stay.
    pub streams: u32,
    /// When stopping: from "not ready" to the end of accepting.
    #[serde(with = "text::duration")]
    pub drain_notice: Duration,
    /// When stopping: for running calls.
    #[serde(with = "text::duration")]
    pub drain_calls: Duration,
    /// When stopping: for streams that were told to end, before they are cut.
    #[serde(with = "text::duration")]
    pub drain_streams: Duration,
}

impl ServerLimits {
    /// For listeners that strangers reach.
    pub fn public() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 100,
            concurrent_streams: 100,
            pending_accept_reset_streams: 20,
            local_error_reset_streams: 1024,
            empty_frames: 100,
            stream_window: 64 << 10,
            connection_window: 1 << 20,
            send_buffer: 64 << 10,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            connection_age: Duration::from_secs(30 * 60),
            calls: 256,
            calls_floor: 16,
            calls_per_method: 64,
            streams: 4096,
            ..Self::mesh()
        }
    }

    /// For the ports between services.
    pub fn mesh() -> Self {
        Self {
            connections: 2_000,
            connections_per_address: 2_000,
            handshake_timeout: Duration::from_secs(5),
            handshakes: 64,
            first_byte_timeout: Duration::from_secs(5),
            concurrent_streams: 256,
            pending_accept_reset_streams: 100,
            local_error_reset_streams: 8192,
            empty_frames: 1000,
            header_list: 16 << 10,
            header_table: 4 << 10,
            frame: 16 << 10,
            stream_window: 64 << 10,
            connection_window: 16 << 20,
            send_buffer: 256 << 10,
            stalled_after: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(15),
            keepalive_timeout: Duration::from_secs(10),
            connection_age: Duration::from_secs(60 * 60),
            connection_age_grace: Duration::from_secs(60),
            calls: 1024,
            calls_floor: 64,
            calls_per_method: 256,
            streams: 4096,
            drain_notice: Duration::from_secs(3),
            drain_calls: Duration::from_secs(15),
            drain_streams: Duration::from_secs(5),
        }
    }

    /// For the operations ports: few connections, small answers.
    pub fn operations() -> Self {
        Self {
            connections: 64,
            connections_per_address: 64,
            concurrent_streams: 16,
            pending_accept_reset_streams: 20,
            local_error_reset_streams: 1024,
            empty_frames: 100,
            stream_window: 64 << 10,
            connection_window: 256 << 10,
            send_buffer: 64 << 10,
            calls: 64,
            calls_floor: 64,
            calls_per_method: 64,
            streams: 16,
            ..Self::mesh()
        }
    }

    /// The same limits with a drain that is over at once: for one machine, where nothing has to notice first.
    #[must_use]
    pub fn prompt(mut self) -> Self {
        self.drain_notice = Duration::ZERO;
        self.drain_calls = Duration::from_secs(3);
        self.drain_streams = Duration::from_secs(1);
        self
    }

    /// Refuses what nothing could be served with, naming it. `table` is where the limits stand: `mesh.limits`.
    pub fn check(&self, table: &'static str) -> Result<()> {
        const ALL: u32 = u32::MAX;
        let times = Duration::from_millis(1)..=Duration::from_secs(86_400);
        Bounds::of(table)
            .number("connections", self.connections, 1..=ALL)
            .number("connections_per_address", self.connections_per_address, 1..=ALL)
            .time("handshake_timeout", self.handshake_timeout, times.clone())
            .number("handshakes", self.handshakes, 1..=ALL)
            .time("first_byte_timeout", self.first_byte_timeout, times.clone())
            .number("concurrent_streams", self.concurrent_streams, 1..=ALL)
            .number("empty_frames", self.empty_frames, 1..=ALL)
            .size("header_list", self.header_list, 1 << 10..=1 << 24)
            .size("header_table", self.header_table, 0..=1 << 24)
            .size("frame", self.frame, FRAMES)
            .size("stream_window", self.stream_window, WINDOWS)
            .size("connection_window", self.connection_window, WINDOWS)
            .size("send_buffer", self.send_buffer, 1 << 10..=1 << 30)
            .time("stalled_after", self.stalled_after, times.clone())
            .time("keepalive_interval", self.keepalive_interval, times.clone())
            .time("keepalive_timeout", self.keepalive_timeout, times)
            .time("connection_age", self.connection_age, Duration::from_millis(1)..=Duration::from_secs(30 * 86_400))
            .number("calls", self.calls, 1..=ALL)
            .number("calls_floor", self.calls_floor, 1..=ALL)
            .number("calls_per_method", self.calls_per_method, 1..=ALL)
            .number("streams", self.streams, 1..=ALL)
            .met()
    }

    /// The longest a stop can take. Never more than 25 s, whatever the configuration says.
    pub fn drain(&self) -> Duration {
        (self.drain_notice + self.drain_calls + self.drain_streams).min(Duration::from_secs(24))
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self::mesh()
    }
}

/// One line for the log at start: every limit by name.
impl fmt::Display for ServerLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let serde_json::Value::Object(fields) = serde_json::to_value(self).unwrap_or_default() else { return Ok(()) };
        for (index, (name, value)) in fields.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            match value {
                serde_json::Value::String(text) => write!(f, "{space}{name}={}", text.replace(' ', ""))?,
                other => write!(f, "{space}{name}={other}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_never_takes_longer_than_25_seconds() {
        let limits = ServerLimits { drain_calls: Duration::from_secs(600), ..ServerLimits::mesh() };
        assert!(limits.drain() < Duration::from_secs(25));
    }

    #[test]
    fn what_nothing_could_be_served_with_is_refused_by_name() {
        for limits in [ServerLimits::public(), ServerLimits::mesh(), ServerLimits::operations()] {
            limits.check("mesh.limits").expect("right");
        }
        let limits =
            ServerLimits { handshakes: 0, frame: 1, handshake_timeout: Duration::ZERO, ..ServerLimits::mesh() };
        let error = limits.check("mesh.limits").expect_err("wrong").to_string();
        for key in ["handshakes", "frame", "handshake_timeout"] {
            assert!(error.contains(&format!("mesh.limits.{key}: must be from ")), "{error}");
        }
    }

    #[test]
    fn every_limit_is_printed() {
        let line = ServerLimits::public().to_string();
        assert!(line.contains("connections_per_address=100") && line.contains("send_buffer=64KiB"), "{line}");
    }
}
