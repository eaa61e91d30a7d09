//! W3C trace context, and the spans of calls.
//!
//! A call always has a trace id, whether or not spans are exported: it stands in the logs, in the service log and in the
//! answer to an internal error. Spans are handed to OpenTelemetry only where an exporter is configured.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use sensormesh_types::random;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

static EXPORTED: AtomicBool = AtomicBool::new(false);

/// Says that spans go to an exporter from now on.
pub(crate) fn exported() {
    EXPORTED.store(true, Ordering::Relaxed);
}

/// One position in a trace, as the `traceparent` header carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    flags: u8,
}

impl TraceParent {
    /// A new trace.
    pub fn generate() -> Self {
        Self { trace: u128::from_be_bytes(random::bytes()).max(1), span: new_span(), flags: 1 }
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span: new_span(), ..*self }
    }

    /// The trace's id: 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The span's id: 16 hexadecimal digits.
    pub fn span_id(&self) -> String {
        format!("{:016x}", self.span)
    }

    fn remote(self) -> opentelemetry::Context {
        let context = SpanContext::new(
            TraceId::from_bytes(self.trace.to_be_bytes()),
            SpanId::from_bytes(self.span.to_be_bytes()),
            TraceFlags::new(self.flags),
            true,
            TraceState::default(),
        );
        opentelemetry::Context::new().with_remote_span_context(context)
    }

    fn of(span: &Span) -> Option<Self> {
        let context = span.context();
        let context = context.span().span_context().clone();
        context.is_valid().then(|| Self {
            trace: u128::from_be_bytes(context.trace_id().to_bytes()),
            span: u64::from_be_bytes(context.span_id().to_bytes()),
            flags: context.trace_flags().to_u8(),
        })
    }
}

fn new_span() -> u64 {
    u64::from_be_bytes(random::bytes()).max(1)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// A `traceparent` that is not one.
#[derive(Debug, PartialEq, Eq)]
pub struct NotATraceParent;

impl fmt::Display for NotATraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a W3C traceparent")
    }
}

impl std::error::Error for NotATraceParent {}

impl FromStr for TraceParent {
    type Err = NotATraceParent;

    /// Reads version 00, and later versions as far as they begin like it (W3C Trace Context, 3.2.4).
    fn from_str(text: &str) -> Result<Self, NotATraceParent> {
        let hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mut parts = text.split('-');
        let mut next = |length: usize| parts.next().filter(|p| p.len() == length && hex(p)).ok_or(NotATraceParent);
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        let ends = parts.next().is_none();
        if version == "ff" || (version == "00" && !ends) {
            return Err(NotATraceParent);
        }
        let trace = u128::from_str_radix(trace, 16).map_err(|_| NotATraceParent)?;
        let span = u64::from_str_radix(span, 16).map_err(|_| NotATraceParent)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| NotATraceParent)?;
        if trace == 0 || span == 0 {
            return Err(NotATraceParent);
        }
        Ok(Self { trace, span, flags })
    }
}

/// The span of a call that `service` serves, and the trace position that the call's own calls have as parent.
///
/// `parent` is what the `traceparent` header said; without one a new trace begins. `method` is
/// `package.Service/Method`.
pub fn server_span(service: &'static str, method: &str, parent: Option<TraceParent>) -> (Span, TraceParent) {
    let own = parent.map_or_else(TraceParent::generate, |p| p.child());
    if !EXPORTED.load(Ordering::Relaxed) {
        // for the log alone: every field is written out when the span begins
        return (tracing::info_span!("call", service, rpc.method = method, trace_id = own.trace_id()), own);
    }
    let span = tracing::info_span!(
        "call",
        service,
        otel.name = method,
        otel.kind = "server",
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.status_code = tracing::field::Empty,
        trace_id = tracing::field::Empty,
    );
    let own = link(&span, parent, own);
    span.record("trace_id", own.trace_id());
    (span, own)
}

/// The span of an HTTP request that `service` answers, and the trace position that the calls made for it have as parent.
///
/// The route and the status are noted by [`record_http`] once they are known.
pub fn http_span(service: &'static str, verb: &str, parent: Option<TraceParent>) -> (Span, TraceParent) {
    let own = parent.map_or_else(TraceParent::generate, |p| p.child());
    if !EXPORTED.load(Ordering::Relaxed) {
        return (tracing::info_span!("request", service, trace_id = own.trace_id()), own);
    }
    let span = tracing::info_span!(
        "request",
        service,
        otel.name = tracing::field::Empty,
        otel.kind = "server",
        http.request.method = verb,
        http.route = tracing::field::Empty,
        http.response.status_code = tracing::field::Empty,
        trace_id = tracing::field::Empty,
    );
    let own = link(&span, parent, own);
    span.record("trace_id", own.trace_id());
    (span, own)
}

/// Notes on the span of an HTTP request where it led and how it ended.
pub fn record_http(span: &Span, verb: &str, route: &str, status: u16) {
    if EXPORTED.load(Ordering::Relaxed) && !span.is_disabled() {
        span.record("otel.name", format!("{verb} {route}"));
        span.record("http.route", route);
        span.record("http.response.status_code", status);
    }
}

/// The span of a call that `service` makes, a child of `parent`, and the trace position to send.
///
/// Where nothing is exported there is no span and the parent's own position is sent.
pub fn client_span(service: &'static str, method: &str, parent: Option<TraceParent>) -> (Span, TraceParent) {
    if !EXPORTED.load(Ordering::Relaxed) {
        return (Span::none(), parent.unwrap_or_else(TraceParent::generate));
    }
    let span = tracing::info_span!(
        "client call",
        service,
        otel.name = method,
        otel.kind = "client",
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.status_code = tracing::field::Empty,
    );
    let own = parent.map_or_else(TraceParent::generate, |p| p.child());
    let own = link(&span, parent, own);
    (span, own)
}

/// Ties the span into the trace; the position it then has, else `own`.
fn link(span: &Span, parent: Option<TraceParent>, own: TraceParent) -> TraceParent {
    if let Some(parent) = parent {
        // fails only where the subscriber has no OpenTelemetry layer, and then there is no trace to join
        let _ = span.set_parent(parent.remote());
    }
    TraceParent::of(span).unwrap_or(own)
}

/// Notes on a span how its call ended.
pub fn record_status(span: &Span, code: i32) {
    if EXPORTED.load(Ordering::Relaxed) && !span.is_disabled() {
        span.record("rpc.status_code", crate::metrics::code_name(code));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_and_written() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent: TraceParent = text.parse().expect("a traceparent");
        assert_eq!(parent.to_string(), text);
        assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let child = parent.child();
        assert_eq!(child.trace_id(), parent.trace_id());
        assert_ne!(child.span_id(), parent.span_id());
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for text in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(NotATraceParent), "{text}");
        }
    }

    #[test]
    fn a_later_version_may_have_more_fields() {
        let text = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(text.parse::<TraceParent>().is_ok());
    }

    #[test]
    fn a_request_stays_in_the_trace_of_its_sender() {
        let parent = TraceParent::generate();
        let (span, own) = http_span("edge", "GET", Some(parent));
        assert_eq!(own.trace_id(), parent.trace_id());
        assert_ne!(own.span_id(), parent.span_id());
        record_http(&span, "GET", "/v1/rooms", 200);
    }

    #[test]
    fn a_served_call_stays_in_the_trace_of_its_caller() {
        let parent = TraceParent::generate();
        let (_, own) = server_span("rooms", "sensormesh.rooms.v1.RoomsService/GetRoom", Some(parent));
        assert_eq!(own.trace_id(), parent.trace_id());
        assert_ne!(own.span_id(), parent.span_id());
    }
}
