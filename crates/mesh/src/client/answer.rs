//! The body of an answer: it ends at the deadline, says in gRPC's words how it broke, and is counted when it is over.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use sensormesh_observability::metrics::{LevelGuard, Rpc};
use sensormesh_observability::trace;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;
use tracing::Span;

use super::endpoint::Lease;
use super::failure;

/// A call under way: what it holds, and how its end is shown. Dropped before its end it counts as cancelled.
pub(crate) struct Call {
    pub(crate) upstream: String,
    pub(crate) rpc: Arc<Rpc>,
    pub(crate) span: Span,
    pub(crate) started: Instant,
    /// Places that are given back when the call is over.
    pub(crate) room: Option<OwnedSemaphorePermit>,
    pub(crate) stream: Option<LevelGuard>,
    pub(crate) over: bool,
}

impl Call {
    /// Records the end, once.
    pub(crate) fn end(&mut self, code: i32) {
        if !std::mem::replace(&mut self.over, true) {
            self.rpc.record(code, self.started.elapsed());
            trace::record_status(&self.span, code);
            self.room = None;
            self.stream = None;
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(1);
    }
}

pub(crate) struct Answer {
    inner: Body,
    deadline: Instant,
    /// Made when something is waited for: most answers are there at once.
    timer: Option<Pin<Box<Sleep>>>,
    call: Call,
    lease: Option<Lease>,
    framing: Framing,
    done: bool,
}

impl Answer {
    pub(crate) fn new(inner: Body, deadline: Instant, call: Call, lease: Option<Lease>) -> Self {
        Self { inner, deadline, timer: None, call, lease, framing: Framing::default(), done: false }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(None);
        }
        let status = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    failure::correct(&mut trailers);
                    this.done = true;
                    this.lease = None;
                    this.call.end(failure::code(&trailers).unwrap_or(2));
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Err(frame) => {
                    if let Some(data) = frame.data_ref() {
                        this.framing.pass(data);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
            },
            Poll::Ready(Some(Err(status))) => status,
            Poll::Ready(None) => failure::lost(&this.call.upstream, "the answer ended without a status").into(),
            Poll::Pending => {
                let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(this.deadline)));
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                failure::late(&this.call.upstream).into()
            }
        };
        this.done = true;
        this.lease = None;
        // closes the stream at once, whoever keeps this body
        this.inner = Body::empty();
        this.call.end(status.code() as i32);
        let mut trailers = HeaderMap::new();
        // between two messages the status can be told as the protocol does; within one only by breaking off
        if this.framing.between_messages() && status.add_header(&mut trailers).is_ok() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(Some(Err(status)))
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Where in the sequence of length-prefixed messages the bytes are.
#[derive(Default)]
struct Framing {
    /// Bytes of the next prefix seen so far.
    prefix: [u8; 5],
    seen: usize,
    /// Bytes of the message still to come.
    left: usize,
}

impl Framing {
    fn pass(&mut self, data: &Bytes) {
        let mut data = data.as_ref();
        while data.has_remaining() {
            if self.left > 0 {
                let step = self.left.min(data.len());
                data.advance(step);
                self.left -= step;
                continue;
            }
            let step = (5 - self.seen).min(data.len());
            data.copy_to_slice(&mut self.prefix[self.seen..self.seen + step]);
            self.seen += step;
            if self.seen == 5 {
                self.seen = 0;
                let [_, length @ ..] = self.prefix;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            }
        }
    }

    fn between_messages(&self) -> bool {
        self.seen == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_message_is_known_however_it_is_cut() {
        let bytes = [0, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9];
        let ends = [0, 8, 13, 19];
        let mut framing = Framing::default();
        for (index, byte) in bytes.iter().enumerate() {
            assert_eq!(framing.between_messages(), ends.contains(&index), "before byte {index}");
            framing.pass(&Bytes::copy_from_slice(&[*byte]));
        }
        assert!(framing.between_messages());
        let mut whole = Framing::default();
        whole.pass(&Bytes::copy_from_slice(&bytes));
        assert!(whole.between_messages());
        whole.pass(&Bytes::copy_from_slice(&bytes[..7]));
        assert!(!whole.between_messages());
    }
}
