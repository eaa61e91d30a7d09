//! Calls over one HTTP/2 connection, on h2 itself.
//!
//! A request whose message is in memory leaves in one write, head and message together, in the task of its caller; hyper
//! would write them apart, through three tasks.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::outgoing::Payload;

/// What calls are sent through. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub(crate) struct Sender {
    requests: SendRequest<Bytes>,
    pulse: Arc<Pulse>,
}

/// Whether the peer of a connection shows signs of life: any byte that is read from it is one.
pub(super) struct Pulse {
    since: Instant,
    /// When it was last heard, microseconds after `since`.
    heard: AtomicU64,
    asked: Notify,
}

impl Pulse {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { since: Instant::now(), heard: AtomicU64::new(0), asked: Notify::new() })
    }

    /// Something was read.
    pub(super) fn beat(&self) {
        self.heard.store(self.age(), Ordering::Relaxed);
    }

    fn age(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// How a call that was sent broke off.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The request's own body failed, which is its sender's failure.
    Request(Status),
    /// The stream or the connection ended.
    Wire(h2::Error),
}

/// A request on its way. Dropped, the call is given up.
pub(crate) struct Sent {
    response: ResponseFuture,
    pump: Option<Pump>,
}

impl Sender {
    pub(super) fn new(requests: SendRequest<Bytes>, pulse: Arc<Pulse>) -> Self {
        Self { requests, pulse }
    }

    /// Asks the peer for a sign of life and answers, after so long, whether there was one.
    pub(super) async fn shows_life(&self, within: Duration) -> bool {
        let asked = self.pulse.age();
        self.pulse.asked.notify_one();
        tokio::time::sleep(within).await;
        self.pulse.heard.load(Ordering::Relaxed) > asked
    }

    /// Whether the connection takes no more calls.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.requests.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
    }

    /// Sends a request. An error means that nothing was sent, and leaves an open payload where it is.
    pub(crate) fn send(&mut self, head: Request<()>, payload: &mut Payload) -> Result<Sent, h2::Error> {
        match payload {
            Payload::Whole(message) => {
                let (response, mut stream) = self.requests.send_request(head, message.is_empty())?;
                if !message.is_empty() {
                    stream.send_data(message.clone(), true)?;
                }
                Ok(Sent { response, pump: None })
            }
            Payload::Open(body) => {
                let (response, stream) = self.requests.send_request(head, body.is_none())?;
                let pump = body.take().map(|body| Pump::start(body, stream));
                Ok(Sent { response, pump })
            }
        }
    }
}

impl Sent {
    /// The answer.
    pub(crate) async fn answer(self) -> Result<Response<Received>, Broken> {
        let Sent { response, pump } = self;
        match response.await {
            Ok(response) => Ok(response.map(|stream| Received { stream, pump, data_over: false })),
            Err(error) => Err(Broken::of(error, pump.as_ref())),
        }
    }
}

impl Broken {
    fn of(error: h2::Error, pump: Option<&Pump>) -> Self {
        match pump.and_then(|pump| pump.failure.get()) {
            Some(status) => Broken::Request(status.clone()),
            None => Broken::Wire(error),
        }
    }
}

/// The body of an answer. Dropped before its end, the call is given up.
pub(crate) struct Received {
    stream: RecvStream,
    pump: Option<Pump>,
    data_over: bool,
}

impl Received {
    /// A stream that the peer ended without complaint has ended, whether or not it read the whole request.
    fn ended(&self, error: h2::Error) -> Option<Result<Frame<Bytes>, Broken>> {
        match Broken::of(error, self.pump.as_ref()) {
            Broken::Wire(error) if matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL)) => None,
            broken => Some(Err(broken)),
        }
    }
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        if !this.data_over {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // fails only where the stream has ended, and then nobody waits for room
                    let _ = this.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(this.ended(error)),
                None => this.data_over = true,
            }
        }
        Poll::Ready(match ready!(this.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => this.ended(error),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

/// Sends the messages of a request that is a stream, until that or the call ends.
struct Pump {
    task: AbortHandle,
    failure: Arc<OnceLock<Status>>,
}

impl Pump {
    fn start(body: Body, stream: SendStream<Bytes>) -> Self {
        let failure = Arc::<OnceLock<Status>>::default();
        let task = tokio::spawn(pump(body, stream, Arc::clone(&failure))).abort_handle();
        Self { task, failure }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pump(mut body: Body, mut stream: SendStream<Bytes>, failure: Arc<OnceLock<Status>>) {
    loop {
        let frame = tokio::select! {
            biased;
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return,
            frame = body.frame() => frame,
        };
        let (data, last) = match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => (data, body.is_end_stream()),
                // a request ends with its last message; there is nothing that its trailers could say
                Err(_) => (Bytes::new(), true),
            },
            Some(Err(status)) => {
                // set once, here
                let _ = failure.set(status);
                return stream.send_reset(Reason::CANCEL);
            }
            None => (Bytes::new(), true),
        };
        if data.is_empty() && !last {
            continue;
        }
        if !data.is_empty() {
            // asked for when there is something to send: room that is only reserved is missed by other streams
            stream.reserve_capacity(1);
            while stream.capacity() == 0 {
                let Some(Ok(_)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
            }
        }
        if stream.send_data(data, last).is_err() || last {
            return;
        }
    }
}

/// Asks the peer again and again whether it lives, at once where somebody wants to know; ends when it does not answer in time.
pub(super) async fn watch_over(mut pings: PingPong, interval: Duration, patience: Duration, pulse: Arc<Pulse>) {
    loop {
        let _ = tokio::time::timeout(interval, pulse.asked.notified()).await;
        match tokio::time::timeout(patience, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // the connection is ending by itself
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}
