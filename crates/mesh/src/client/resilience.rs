//! The numbers of the client stack.

use std::time::Duration;

use sensormesh_types::{Bounds, Result, text};
use serde::{Deserialize, Serialize};

use crate::limits::WINDOWS;

/// How calls to other services are bounded, repeated and given up. The same for every upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resilience {
    /// How long opening a connection may take, TLS handshake included.
    #[serde(with = "text::duration")]
    pub connect_timeout: Duration,
    /// How often an HTTP/2 connection is asked whether it lives, also when nothing is called.
    #[serde(with = "text::duration")]
    pub keepalive_interval: Duration,
    /// How long the answer may take before the connection counts as dead.
    #[serde(with = "text::duration")]
    pub keepalive_timeout: Duration,
    /// Flow-control window of one call, bytes. One of the long streams that share a connection has its share of the connection's,
    /// so that streams nobody reads leave the others theirs.
    #[serde(with = "text::size")]
    pub stream_window: u64,
    /// Flow-control window of a connection, bytes.
    #[serde(with = "text::size")]
    pub connection_window: u64,
    /// Long streams on one connection; more open another. Unary calls never share a connection with them.
    pub streams_per_connection: u32,
    /// Unary calls to one upstream at once; more are refused with RESOURCE_EXHAUSTED.
    pub calls_in_flight: u32,
    /// How often a call is sent again at most, if its contract says that this is harmless.
    pub retries: u32,
    /// Retries allowed for each call made, as a share: 0.2 = one retry for five calls.
    pub retry_share: f64,
    /// Retries allowed each second whatever the number of calls.
    pub retries_per_second: f64,
    /// The first pause before a retry is random up to this long; it doubles each time.
    #[serde(with = "text::duration")]
    pub retry_pause: Duration,
    /// The longest pause before a retry.
    #[serde(with = "text::duration")]
    pub retry_pause_max: Duration,
    /// Failures in a row that open an upstream's breaker.
    pub breaker_failures: u32,
    /// The share of failed calls within the window that opens it.
    pub breaker_share: f64,
    /// The fewest calls within the window that the share is looked at for.
    pub breaker_calls: u32,
    /// The window.
    #[serde(with = "text::duration")]
    pub breaker_window: Duration,
    /// How long an opened breaker refuses calls before the first trial; doubles with every failed one.
    #[serde(with = "text::duration")]
    pub breaker_pause: Duration,
    /// The longest it refuses calls before a trial.
    #[serde(with = "text::duration")]
    pub breaker_pause_max: Duration,
    /// Failures in a row that take one endpoint out of several out of the rotation. Never more than half of them.
    pub eject_failures: u32,
    /// How often names are resolved again at the latest; up to a third sooner, so that not all do at once.
    #[serde(with = "text::duration")]
    pub resolve_interval: Duration,
}

impl Resilience {
    /// Refuses what no call could be made with, naming it.
    pub(crate) fn check(&self) -> Result<()> {
        let times = Duration::from_millis(1)..=Duration::from_secs(86_400);
        Bounds::of("mesh.resilience")
            .time("connect_timeout", self.connect_timeout, times.clone())
            .time("keepalive_interval", self.keepalive_interval, times.clone())
            .time("keepalive_timeout", self.keepalive_timeout, times.clone())
            .size("stream_window", self.stream_window, WINDOWS)
            .size("connection_window", self.connection_window, WINDOWS)
            .number("streams_per_connection", self.streams_per_connection, 1..=u32::MAX)
            .number("calls_in_flight", self.calls_in_flight, 1..=u32::MAX)
            .number("retries", self.retries, 0..=10)
            .number("retry_share", self.retry_share, 0.0..=1.0)
            .number("retries_per_second", self.retries_per_second, 0.0..=1e6)
            .number("breaker_failures", self.breaker_failures, 1..=u32::MAX)
            .number("breaker_share", self.breaker_share, 0.0..=1.0)
            .time("breaker_window", self.breaker_window, times.clone())
            .time("breaker_pause", self.breaker_pause, times.clone())
            .time("breaker_pause_max", self.breaker_pause_max, times.clone())
            .number("eject_failures", self.eject_failures, 1..=u32::MAX)
            .time("resolve_interval", self.resolve_interval, times)
            .met()
    }

    /// The window of a call, or of one of the long streams that share a connection.
    pub(super) fn window_of_stream(&self, streams: bool) -> u64 {
        let share = self.connection_window / u64::from(self.streams_per_connection.max(1));
        if streams { self.stream_window.min(share.max(*WINDOWS.start())) } else { self.stream_window }
    }
}

impl Default for Resilience {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            keepalive_interval: Duration::from_secs(15),
            keepalive_timeout: Duration::from_secs(10),
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            streams_per_connection: 64,
            calls_in_flight: 256,
            retries: 2,
            retry_share: 0.2,
            retries_per_second: 10.0,
            retry_pause: Duration::from_millis(50),
            retry_pause_max: Duration::from_secs(1),
            breaker_failures: 5,
            breaker_share: 0.5,
            breaker_calls: 20,
            breaker_window: Duration::from_secs(10),
            breaker_pause: Duration::from_secs(1),
            breaker_pause_max: Duration::from_secs(60),
            eject_failures: 5,
            resolve_interval: Duration::from_secs(5),
        }
    }
}
