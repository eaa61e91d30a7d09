//! Every metric of the system: its name, its labels, its handle. One file, so that a name is never spelled twice.
//!
//! The OpenTelemetry metrics API feeds a Prometheus registry; [`render`] writes its text. Handles are bound to their
//! labels once and kept by the caller, so that recording is an atomic addition. Labels are words from small closed sets
//! (services, methods of the contracts, outcomes): never an id, an address or a name somebody typed.

mod disk;
mod readings;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{
    BoundCounter, BoundGauge, BoundHistogram, BoundUpDownCounter, Counter as OtelCounter, Gauge as OtelGauge,
    Histogram as OtelHistogram, Meter, MeterProvider as _, UpDownCounter as OtelUpDownCounter,
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Encoder as _, Registry, TextEncoder};

pub use disk::{DISK_FREE, DISK_STATE, DISK_USED, DiskRoom, disk_room};
pub use readings::{Ingest, LongReads, Scrub, ingest, long_reads, refused_readings, scrub};

/// Time from the first byte of a call to its last, in the server. Seconds.
pub const RPC_SERVER_DURATION: &str = "rpc.server.call.duration";
/// Time from the start of a call to its last byte, in the client. Seconds.
pub const RPC_CLIENT_DURATION: &str = "rpc.client.call.duration";
/// Time the edge took to answer an HTTP request. Seconds.
pub const HTTP_SERVER_DURATION: &str = "http.server.request.duration";
/// 0 closed, 1 half open, 2 open, by `service` (who calls) and `upstream`.
pub const BREAKER_STATE: &str = "sensormesh.mesh.breaker.state";
/// Calls sent again, by `service` and `upstream`.
pub const RETRIES: &str = "sensormesh.mesh.retries";
/// Calls not sent again because the retry budget was spent, by `service` and `upstream`.
pub const RETRIES_SUPPRESSED: &str = "sensormesh.mesh.retries.suppressed";
/// Endpoints taken out of the rotation, by `service` and `upstream`.
pub const EJECTIONS: &str = "sensormesh.mesh.ejections";
/// Calls refused to stay alive, by `service` and `reason`.
pub const SHED: &str = "sensormesh.mesh.shed";
/// When a certificate ends, seconds since the Unix epoch, by `service`.
pub const CERTIFICATE_END: &str = "sensormesh.mesh.certificate.end";
/// Calls at once that a service takes now, by `service`: it follows how long they take.
pub const CALLS_LIMIT: &str = "sensormesh.mesh.calls.limit";
/// Streams open now, by `service` and `side`.
pub const OPEN_STREAMS: &str = "sensormesh.mesh.streams.open";
/// Connections open now, by `service`.
pub const OPEN_CONNECTIONS: &str = "sensormesh.mesh.connections.open";
/// Background loops started again after a failure, by `service` and `task`.
pub const TASK_RESTARTS: &str = "sensormesh.task.restarts";
/// Readings by `outcome`.
pub const READINGS: &str = "sensormesh.telemetry.readings";
/// Readings refused, by `reason`.
pub const REFUSED_READINGS: &str = "sensormesh.telemetry.readings.refused";
/// Batches of readings taken in.
pub const BATCHES: &str = "sensormesh.telemetry.batches";
/// Time from the start of a group commit to its fsync. Seconds.
pub const COMMIT_DURATION: &str = "sensormesh.telemetry.commit.duration";
/// Blocks and batches whose checksums were verified.
pub const SCRUBBED: &str = "sensormesh.telemetry.scrubbed";
/// Blocks and batches that are known to be damaged.
pub const DAMAGED: &str = "sensormesh.telemetry.damaged";
/// Long reads, by `state`: `reading` or `waiting`.
pub const LONG_READS: &str = "sensormesh.telemetry.long.reads";
/// Long reads for which no turn came.
pub const LONG_READS_REFUSED: &str = "sensormesh.telemetry.long.reads.refused";
/// Requests the edge refused, by `reason`.
pub const EDGE_REFUSED: &str = "sensormesh.edge.refused";
/// Always 1; its `version` label is what it is about.
pub const BUILD: &str = "sensormesh.build";

/// 0.5 ms to 10 s: the buckets of the RPC conventions and three finer ones, because a call within one machine is fast.
const SECONDS: [f64; 17] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// The gRPC codes as the conventions spell them, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The name of a gRPC status code, `UNKNOWN` for a number that is none.
pub fn code_name(code: i32) -> &'static str {
    usize::try_from(code).ok().and_then(|c| CODES.get(c)).copied().unwrap_or("UNKNOWN")
}

struct Instruments {
    registry: Registry,
    _provider: SdkMeterProvider,
    rpc_server: OtelHistogram<f64>,
    rpc_client: OtelHistogram<f64>,
    http_server: OtelHistogram<f64>,
    breaker: OtelGauge<u64>,
    retries: OtelCounter<u64>,
    retries_suppressed: OtelCounter<u64>,
    ejections: OtelCounter<u64>,
    shed: OtelCounter<u64>,
    calls_limit: OtelGauge<u64>,
    certificate_end: OtelGauge<u64>,
    streams: OtelUpDownCounter<i64>,
    connections: OtelUpDownCounter<i64>,
    task_restarts: OtelCounter<u64>,
    readings: OtelCounter<u64>,
    refused_readings: OtelCounter<u64>,
    batches: OtelCounter<u64>,
    commit: OtelHistogram<f64>,
    scrubbed: OtelCounter<u64>,
    damaged: OtelGauge<u64>,
    long_reads: OtelUpDownCounter<i64>,
    long_reads_refused: OtelCounter<u64>,
    edge_refused: OtelCounter<u64>,
    disk: disk::Instruments,
}

impl Instruments {
    fn new() -> Self {
        let registry = Registry::new();
        let mut provider = SdkMeterProvider::builder();
        match opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_target_info()
            .scope_info_enabled(false)
            .build()
        {
            Ok(exporter) => provider = provider.with_reader(exporter),
            Err(error) => tracing::error!(%error, "metrics are not exported"),
        }
        let provider = provider.build();
        let meter = provider.meter("sensormesh");
        let seconds = |name, about| seconds(&meter, name, about);
        let counter = |name, about| meter.u64_counter(name).with_description(about).build();
        let level = |name, about| meter.i64_up_down_counter(name).with_description(about).build();
        let build = meter.u64_gauge(BUILD).with_description("The version that runs; the value is always 1.").build();
        build.record(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))]);
        Self {
            rpc_server: seconds(RPC_SERVER_DURATION, "Duration of calls served."),
            rpc_client: seconds(RPC_CLIENT_DURATION, "Duration of calls made."),
            http_server: seconds(HTTP_SERVER_DURATION, "Duration of HTTP requests served by the edge."),
            breaker: meter
                .u64_gauge(BREAKER_STATE)
                .with_description("Circuit breaker per upstream: 0 closed, 1 half open, 2 open.")
                .build(),
            retries: counter(RETRIES, "Calls sent again after a failure."),
            retries_suppressed: counter(RETRIES_SUPPRESSED, "Calls not sent again because the retry budget was spent."),
            ejections: counter(EJECTIONS, "Endpoints taken out of the rotation after failures."),
            shed: counter(SHED, "Calls refused because a limit was reached."),
            calls_limit: meter.u64_gauge(CALLS_LIMIT).with_description("Calls at once that a service takes.").build(),
            certificate_end: meter
                .u64_gauge(CERTIFICATE_END)
                .with_description("When a service's certificate ends, seconds since the Unix epoch.")
                .build(),
            streams: level(OPEN_STREAMS, "Streams that are open."),
            connections: level(OPEN_CONNECTIONS, "Connections that are open."),
            task_restarts: counter(TASK_RESTARTS, "Background loops started again after they failed."),
            readings: counter(READINGS, "Readings received, by what became of them."),
            refused_readings: counter(REFUSED_READINGS, "Readings refused, by why."),
            batches: counter(BATCHES, "Batches of readings received."),
            commit: seconds(COMMIT_DURATION, "Duration of group commits, fsync included."),
            scrubbed: counter(SCRUBBED, "Blocks and batches of readings whose checksums were verified."),
            damaged: meter
                .u64_gauge(DAMAGED)
                .with_description("Blocks and batches of readings that are damaged and not served.")
                .build(),
            long_reads: level(LONG_READS, "Long reads of readings, by whether they read or wait for their turn."),
            long_reads_refused: counter(LONG_READS_REFUSED, "Long reads of readings that were refused: no turn came."),
            edge_refused: counter(EDGE_REFUSED, "Requests the edge refused."),
            disk: disk::Instruments::new(&meter),
            registry,
            _provider: provider,
        }
    }
}

fn seconds(meter: &Meter, name: &'static str, about: &'static str) -> OtelHistogram<f64> {
    meter.f64_histogram(name).with_unit("s").with_description(about).with_boundaries(SECONDS.to_vec()).build()
}

fn instruments() -> &'static Instruments {
    static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();
    INSTRUMENTS.get_or_init(Instruments::new)
}

/// Everything measured so far in Prometheus' text format, version 0.0.4.
pub fn render() -> String {
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&instruments().registry.gather(), &mut text) {
        tracing::error!(%error, "metrics were not encoded");
    }
    String::from_utf8(text).unwrap_or_default()
}

/// The content type of what [`render`] writes.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// A number that only grows, with its labels bound.
#[derive(Clone, Debug)]
pub struct Counter(Arc<BoundCounter<u64>>);

impl Counter {
    fn of(instrument: &OtelCounter<u64>, labels: &[KeyValue]) -> Self {
        Self(Arc::new(instrument.bind(labels)))
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.add(n);
    }
}

/// A number that is what it was last said to be, with its labels bound.
#[derive(Clone, Debug)]
pub struct Gauge(Arc<BoundGauge<u64>>);

impl Gauge {
    /// Shows `value` from now on.
    pub fn show(&self, value: u64) {
        self.0.record(value);
    }
}

/// A number that goes up and down, with its labels bound.
#[derive(Clone, Debug)]
pub struct Level(Arc<BoundUpDownCounter<i64>>);

impl Level {
    fn of(instrument: &OtelUpDownCounter<i64>, labels: &[KeyValue]) -> Self {
        Self(Arc::new(instrument.bind(labels)))
    }

    /// Adds one now and takes it away when the guard is dropped.
    pub fn hold(&self) -> LevelGuard {
        self.0.add(1);
        LevelGuard(self.clone())
    }
}

/// One held unit of a [`Level`].
#[derive(Debug)]
pub struct LevelGuard(Level);

impl Drop for LevelGuard {
    fn drop(&mut self) {
        self.0.0.add(-1);
    }
}

/// A distribution of durations, with its labels bound.
#[derive(Clone, Debug)]
pub struct Durations(Arc<BoundHistogram<f64>>);

impl Durations {
    fn of(instrument: &OtelHistogram<f64>, labels: &[KeyValue]) -> Self {
        Self(Arc::new(instrument.bind(labels)))
    }

    /// Records one duration.
    pub fn record(&self, elapsed: Duration) {
        self.0.record(elapsed.as_secs_f64());
    }
}

/// Which side of a call is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one that answers.
    Server,
    /// The one that asks.
    Client,
}

impl Side {
    fn as_str(self) -> &'static str {
        match self {
            Side::Server => "server",
            Side::Client => "client",
        }
    }
}

/// The durations of one method of one service on one side, by status code.
#[derive(Debug)]
pub struct Rpc {
    side: Side,
    service: &'static str,
    method: String,
    codes: [OnceLock<Durations>; 17],
}

impl Rpc {
    /// Records a call that ended with this gRPC code.
    pub fn record(&self, code: i32, elapsed: Duration) {
        let index = usize::try_from(code).ok().filter(|c| *c < CODES.len()).unwrap_or(2);
        self.codes[index].get_or_init(|| self.bind(CODES[index])).record(elapsed);
    }

    fn bind(&self, code: &'static str) -> Durations {
        let mut labels = vec![
            KeyValue::new("service", self.service),
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", self.method.clone()),
            KeyValue::new("rpc.status_code", code),
        ];
        if code != "OK" {
            labels.push(KeyValue::new("error.type", code));
        }
        let instrument = match self.side {
            Side::Server => &instruments().rpc_server,
            Side::Client => &instruments().rpc_client,
        };
        Durations::of(instrument, &labels)
    }
}

/// The handle of one method. `path` is `/package.Service/Method` of a contract, or `_OTHER` for what no contract knows.
pub fn rpc(side: Side, service: &'static str, path: &'static str) -> Arc<Rpc> {
    type Key = (Side, &'static str, &'static str);
    static KNOWN: OnceLock<RwLock<HashMap<Key, Arc<Rpc>>>> = OnceLock::new();
    let known = KNOWN.get_or_init(RwLock::default);
    let key = (side, service, path);
    if let Some(rpc) = known.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return rpc.clone();
    }
    let method = path.trim_start_matches('/').to_owned();
    let made = || Arc::new(Rpc { side, service, method, codes: [const { OnceLock::new() }; 17] });
    known.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert_with(made).clone()
}

/// What a client of `upstream` counts. Kept per upstream.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Calls sent again.
    pub retries: Counter,
    /// Calls not sent again for want of budget.
    pub retries_suppressed: Counter,
    /// Endpoints taken out of the rotation.
    pub ejections: Counter,
    /// Calls refused by the open breaker.
    pub shed_by_breaker: Counter,
    /// Calls refused by the bulkhead.
    pub shed_by_bulkhead: Counter,
    /// Streams open to it.
    pub streams: Level,
    breaker: Arc<BoundGauge<u64>>,
}

impl Upstream {
    /// Shows the breaker's state: 0 closed, 1 half open, 2 open.
    pub fn breaker(&self, state: u64) {
        self.breaker.record(state);
    }
}

/// The handles of a client of `upstream` inside `service`.
pub fn upstream(service: &'static str, upstream: &str) -> Upstream {
    let all = instruments();
    let labels = [KeyValue::new("service", service), KeyValue::new("upstream", upstream.to_owned())];
    Upstream {
        retries: Counter::of(&all.retries, &labels),
        retries_suppressed: Counter::of(&all.retries_suppressed, &labels),
        ejections: Counter::of(&all.ejections, &labels),
        shed_by_breaker: shed(service, "breaker"),
        shed_by_bulkhead: shed(service, "bulkhead"),
        streams: open_streams(service, Side::Client),
        breaker: Arc::new(all.breaker.bind(&labels)),
    }
}

/// Calls that `service` refused to stay alive; `reason` is a fixed word: `concurrency`, `latency`, `memory`,
/// `connections`, `flood`.
pub fn shed(service: &'static str, reason: &'static str) -> Counter {
    Counter::of(&instruments().shed, &[KeyValue::new("service", service), KeyValue::new("reason", reason)])
}

/// Calls at once that `service` takes.
pub fn calls_limit(service: &'static str) -> Gauge {
    Gauge(Arc::new(instruments().calls_limit.bind(&[KeyValue::new("service", service)])))
}

/// When the certificate of `service` ends.
pub fn certificate_end(service: &str) -> Gauge {
    Gauge(Arc::new(instruments().certificate_end.bind(&[KeyValue::new("service", service.to_owned())])))
}

/// Streams open in `service`.
pub fn open_streams(service: &'static str, side: Side) -> Level {
    let labels = [KeyValue::new("service", service), KeyValue::new("side", side.as_str())];
    Level::of(&instruments().streams, &labels)
}

/// Connections open to `service`.
pub fn open_connections(service: &'static str) -> Level {
    Level::of(&instruments().connections, &[KeyValue::new("service", service)])
}

/// Restarts of one background loop; `task` is the fixed name it was given.
pub fn task_restarts(service: &'static str, task: &'static str) -> Counter {
    Counter::of(&instruments().task_restarts, &[KeyValue::new("service", service), KeyValue::new("task", task)])
}

/// HTTP requests of one route (its template, never the path) with one answer. Keep the handle.
pub fn edge_requests(verb: &'static str, route: &'static str, status: u16) -> Durations {
    let labels = [
        KeyValue::new("http.request.method", verb),
        KeyValue::new("http.route", route),
        KeyValue::new("http.response.status_code", i64::from(status)),
    ];
    Durations::of(&instruments().http_server, &labels)
}

/// Requests the edge refused; `reason` is a fixed word: `rate`, `memory`, `quota`, `size`, `origin`,
/// `connections`.
pub fn edge_refused(reason: &'static str) -> Counter {
    Counter::of(&instruments().edge_refused, &[KeyValue::new("reason", reason)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_call_appears_in_the_text_with_its_labels() {
        let rpc = rpc(Side::Server, "rooms", "/sensormesh.rooms.v1.RoomsService/GetRoom");
        rpc.record(0, Duration::from_millis(3));
        rpc.record(14, Duration::from_millis(1));
        let text = render();
        assert!(text.contains("# TYPE rpc_server_call_duration_seconds histogram"), "{text}");
        let ok = text
            .lines()
            .find(|l| l.starts_with("rpc_server_call_duration_seconds_count{") && l.contains("rpc_status_code=\"OK\""));
        let ok = ok.expect("a line for the call that went well");
        assert!(ok.contains("rpc_method=\"sensormesh.rooms.v1.RoomsService/GetRoom\""), "{ok}");
        assert!(ok.contains("service=\"rooms\"") && ok.ends_with(" 1"), "{ok}");
        assert!(text.contains("error_type=\"UNAVAILABLE\""), "{text}");
    }

    #[test]
    fn a_level_falls_when_its_guard_is_dropped() {
        let level = open_connections("telemetry");
        let count = || {
            let text = render();
            let line = text.lines().find(|l| l.starts_with("sensormesh_mesh_connections_open{"));
            line.and_then(|l| l.rsplit(' ').next()).and_then(|n| n.parse::<i64>().ok())
        };
        let guard = level.hold();
        assert_eq!(count(), Some(1));
        drop(guard);
        assert_eq!(count(), Some(0));
    }

    #[test]
    fn every_metric_has_a_help_line_and_a_clean_name() {
        ingest().accepted.add(3);
        upstream("rooms", "devices").breaker(2);
        shed("rooms", "concurrency").add(1);
        let text = render();
        for line in text.lines().filter(|l| l.starts_with("# TYPE")) {
            let name = line.split(' ').nth(2).expect("a name");
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
            assert!(!line.ends_with(" counter") || name.ends_with("_total"), "{line}");
            assert!(!name.ends_with("_total") || line.ends_with(" counter"), "{line}");
        }
        assert!(text.contains("sensormesh_telemetry_readings_total{outcome=\"accepted\"} 3"), "{text}");
        assert!(text.contains("sensormesh_mesh_breaker_state{service=\"rooms\",upstream=\"devices\"} 2"), "{text}");
    }
}
