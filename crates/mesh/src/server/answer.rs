//! The body of an answer: measured to its last byte, ended in time, and never the end of its connection.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Response};
use http_body::Frame;
use sensormesh_observability::metrics::{LevelGuard, Rpc};
use sensormesh_observability::trace::{self, TraceParent};
use sensormesh_types::{Code, Error, random};
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tracing::Span;

use super::admission::Places;
use super::deadline::Deadline;
use super::drain::{Call, Drain};
use crate::{Bearer, Context, Verifier};

/// Measures one call and words its internal errors.
pub(super) struct Meter {
    rpc: Arc<Rpc>,
    began: Instant,
    span: Span,
    position: TraceParent,
    ended: bool,
}

impl Meter {
    pub(super) fn new(rpc: Arc<Rpc>, began: Instant, span: Span, position: TraceParent) -> Self {
        Self { rpc, began, span, position, ended: false }
    }

    fn end(&mut self, code: i32) {
        if !self.ended {
            self.ended = true;
            self.rpc.record(code, self.began.elapsed());
            trace::record_status(&self.span, code);
        }
    }

    /// The answer to a call that was refused or failed.
    pub(super) fn refuse(mut self, error: Error) -> Response<Body> {
        let error = self.word(error);
        let status = Status::from(error);
        self.end(status.code() as i32);
        status.into_http()
    }

    /// The answer to a stream that reached its age before it said anything.
    pub(super) fn nothing(mut self) -> Response<Body> {
        self.end(0);
        Status::ok("").into_http()
    }

    /// The handler's answer: an error is recorded here, anything else when its body ends.
    pub(super) fn pass(mut self, response: Response<Body>, ends: Ends) -> Response<Body> {
        match code_of(response.headers()) {
            Some(code) if is_ours(code) => {
                let status = response.extensions().get::<Status>().cloned();
                self.refuse(ours(code, status))
            }
            Some(code) => {
                self.end(code);
                response
            }
            None => {
                let (parts, body) = response.into_parts();
                let body = Answer { body: Some(body), meter: self, ends };
                Response::from_parts(parts, Body::new(body))
            }
        }
    }

    /// Logs what went wrong on our side, once, and leaves the caller the trace to ask about.
    fn word(&self, error: Error) -> Error {
        if !matches!(error.code(), Code::Internal | Code::Corrupt) {
            return error;
        }
        let message = format!("internal error (trace {})", self.position.trace_id());
        if error.message() == message {
            return error; // worded, and logged, by `stream`
        }
        let _entered = self.span.enter();
        tracing::error!(trace_id = self.position.trace_id(), ?error, "a call failed");
        if error.code() == Code::Corrupt { error } else { Error::new(Code::Internal, "INTERNAL", message) }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.end(tonic::Code::Cancelled as i32);
    }
}

/// What ends an answer from outside, and what it occupies until then.
pub(super) struct Ends {
    pub(super) context: Arc<Context>,
    /// `None` for a single message, which is there at once.
    pub(super) early: Option<BoxFuture<'static, Early>>,
    pub(super) _held: Held,
}

/// What a call occupies.
pub(super) type Held = (Option<Places>, Call, Option<LevelGuard>);

/// Why a stream ends although its handler would go on.
#[derive(Debug)]
pub(super) enum Early {
    /// Its greatest age: the caller resumes from its cursor.
    Age,
    /// The caller's own deadline.
    Deadline,
    /// The server stops.
    Drain,
    /// The caller's session, or its credential, was ended.
    Revoked(Error),
}

impl Early {
    /// `user` is whose stream it is, and who knows of revocations.
    pub(super) fn wait(
        deadline: Deadline,
        drain: &Drain,
        user: Option<(Verifier, Bearer)>,
    ) -> BoxFuture<'static, Early> {
        let ending = drain.ending.clone();
        let revoked = async move {
            match user {
                Some((verifier, bearer)) => verifier.until_revoked(&bearer).await,
                None => std::future::pending().await,
            }
        };
        Box::pin(async move {
            tokio::select! {
                why = revoked => Early::Revoked(why),
                () = ending.requested() => Early::Drain,
                () = sleep_until(deadline.end) => if deadline.clean { Early::Age } else { Early::Deadline },
            }
        })
    }

    /// `None` = it is a clean end.
    pub(super) fn error(self) -> Option<Error> {
        match self {
            Early::Age => None,
            Early::Deadline => Some(late()),
            Early::Drain => Some(draining()),
            Early::Revoked(why) => Some(why),
        }
    }
}

/// The deadline of the call passed.
pub(super) fn late() -> Error {
    Error::new(Code::Timeout, "DEADLINE_EXCEEDED", "the deadline of the call passed")
}

/// The service stops; another replica, or the same one in a moment, goes on.
pub(super) fn draining() -> Error {
    // those who were told together do not come back together
    let after = Duration::from_millis(200).mul_f64(0.5 + random::fraction());
    Error::unavailable("DRAINING", "the service is stopping; resume elsewhere or in a moment", after)
}

struct Answer {
    body: Option<Body>,
    meter: Meter,
    ends: Ends,
}

impl Answer {
    fn last(&mut self, error: Option<Error>) -> Frame<Bytes> {
        self.body = None;
        let status = error.map_or_else(|| Status::ok(""), |error| Status::from(self.meter.word(error)));
        self.meter.end(status.code() as i32);
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("13"));
        }
        Frame::trailers(trailers)
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if let Some(early) = &mut this.ends.early
            && let Poll::Ready(why) = early.as_mut().poll(poller)
        {
            return Poll::Ready(Some(Ok(this.last(why.error()))));
        }
        let span = this.meter.span.clone();
        // a panic in a handler's stream must not take the connection and everybody else on it along
        let polled = catch_unwind(AssertUnwindSafe(|| {
            span.in_scope(|| Context::within(&this.ends.context, || Pin::new(body).poll_frame(poller)))
        }));
        let frame = match polled {
            Ok(polled) => ready!(polled),
            Err(_) => return Poll::Ready(Some(Ok(this.last(Some(panicked()))))),
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let Some(trailers) = frame.trailers_ref() else { return Poll::Ready(Some(Ok(frame))) };
                match code_of(trailers) {
                    Some(code) if is_ours(code) => {
                        let status = Status::from_header_map(trailers);
                        Some(Ok(this.last(Some(ours(code, status)))))
                    }
                    code => {
                        this.body = None;
                        this.meter.end(code.unwrap_or(2));
                        Some(Ok(frame))
                    }
                }
            }
            Some(Err(status)) => Some(Ok(this.last(Some(Error::from(status))))),
            None => {
                this.body = None;
                this.meter.end(2);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }
}

/// What a panic in a handler is to the caller.
pub(super) fn panicked() -> Error {
    Error::internal("the handler panicked")
}

fn code_of(headers: &HeaderMap) -> Option<i32> {
    headers.get(Status::GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

fn is_ours(code: i32) -> bool {
    code == tonic::Code::Internal as i32 || code == tonic::Code::DataLoss as i32
}

/// The error behind an INTERNAL or DATA_LOSS answer, with its cause where the status still has it.
fn ours(code: i32, status: Option<Status>) -> Error {
    let Some(status) = status else {
        return Error::internal(format!("a status {code} without more"));
    };
    let message = status.message().to_owned();
    let cause = std::error::Error::source(&status).map(|source| format!("{source:?}"));
    let cause = cause.unwrap_or_else(|| message.clone());
    let error = if code == tonic::Code::DataLoss as i32 {
        Error::from(status)
    } else {
        Error::new(Code::Internal, "INTERNAL", message)
    };
    error.caused_by(cause)
}
