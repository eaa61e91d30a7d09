//! A stream whose peer takes nothing of its answer is given up: what it occupies is for those who read.
//!
//! HTTP/2 lets a peer open streams and grant no window, or stop reading in the middle; while it does nobody asks the
//! handler's body for more, so that neither the call's deadline nor the end of its user's session would be noticed. Here
//! the turn is watched: while the handler is asked for more and has nothing, the stream may stay as long as it likes;
//! while the peer has something to take, it must take it within a time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use sensormesh_observability::metrics::Counter;
use tokio::time::{Instant, Sleep, sleep_until};

/// What is handed over at once, bytes. A message that is larger is divided, so that a slow peer is seen to take it.
const PIECE: usize = 64 << 10;

/// Whose turn it is, and how often that was the peer's: `2n` = the handler's, `2n + 1` = the peer's.
#[derive(Default)]
pub(super) struct Turn(AtomicU32);

impl Turn {
    fn give(&self) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(if now.is_multiple_of(2) { 1 } else { 2 }), Ordering::Relaxed);
    }

    fn take(&self) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(now % 2), Ordering::Relaxed);
    }
}

/// The turns of the streams of one connection. A stream is made of a request and then run, one after the other in the
/// connection's task; that is how the two find each other.
#[derive(Clone, Default)]
pub(super) struct Turns(Arc<Mutex<Option<Arc<Turn>>>>);

impl Turns {
    /// That of the request that has just come.
    pub(super) fn next(&self) -> Arc<Turn> {
        let turn = Arc::<Turn>::default();
        *self.0.lock() = Some(Arc::clone(&turn));
        turn
    }

    /// That of the last request, where it is asked for once.
    fn last(&self) -> Option<Arc<Turn>> {
        self.0.lock().take()
    }
}

/// A body whose turns are noted.
pub(super) struct Noted<B> {
    inner: B,
    turn: Arc<Turn>,
    rest: Bytes,
}

impl<B> Noted<B> {
    pub(super) fn new(inner: B, turn: Arc<Turn>) -> Self {
        turn.give();
        Self { inner, turn, rest: Bytes::new() }
    }
}

impl<B> Drop for Noted<B> {
    fn drop(&mut self) {
        self.turn.take();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Noted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        this.turn.take();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(frame) => {
                        this.turn.give();
                        return Poll::Ready(Some(Ok(frame)));
                    }
                },
                other => return Poll::Ready(other),
            }
        }
        let size = this.rest.len().min(PIECE);
        let piece = this.rest.split_to(size);
        this.turn.give();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.size_hint();
        let rest = self.rest.len() as u64;
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(inner.lower().saturating_add(rest));
        hint
    }
}

/// Waits for a peer that takes nothing any more.
pub(super) struct Patience {
    turn: Arc<Turn>,
    patience: Duration,
    /// Since when it has been the peer's turn, and which one.
    since: Option<(u32, Pin<Box<Sleep>>)>,
}

impl Patience {
    pub(super) fn new(turn: Arc<Turn>, patience: Duration) -> Self {
        Self { turn, patience, since: None }
    }

    /// Ready when the same turn has been the peer's for too long. To be asked whenever something happened.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.turn.0.load(Ordering::Relaxed);
        if now.is_multiple_of(2) {
            self.since = None;
            return Poll::Pending;
        }
        if self.since.as_ref().is_none_or(|(which, _)| *which != now) {
            self.since = Some((now, Box::pin(sleep_until(Instant::now() + self.patience))));
        }
        match &mut self.since {
            Some((_, timer)) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// Runs the streams of an HTTP/2 connection, each until its end or until its peer takes nothing any more: dropped, it is
/// reset.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) turns: Turns,
    pub(super) patience: Duration,
    pub(super) stalled: Counter,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let Some(turn) = self.turns.last() else {
            tokio::spawn(stream);
            return;
        };
        let mut patience = Patience::new(turn, self.patience);
        let stalled = self.stalled.clone();
        tokio::spawn(async move {
            let mut stream = std::pin::pin!(stream);
            let gave_up = std::future::poll_fn(|cx| match stream.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending => patience.poll(cx).map(|()| true),
            });
            if gave_up.await {
                stalled.add(1);
                tracing::debug!("a stream was given up: its peer takes nothing");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    #[tokio::test]
    async fn a_large_message_is_divided_and_stays_whole() {
        let whole = Bytes::from((0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<_>>());
        let mut noted = Noted::new(Full::new(whole.clone()), Arc::default());
        assert_eq!(noted.size_hint().exact(), Some(200_000));
        let first = noted.frame().await.expect("a frame").expect("data").into_data().expect("data");
        assert_eq!((first.len(), noted.is_end_stream()), (PIECE, false));
        assert_eq!(noted.size_hint().exact(), Some((200_000 - PIECE) as u64));
        let rest = noted.collect().await.expect("collected").to_bytes();
        assert_eq!([first, rest].concat(), whole);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_peer_that_takes_nothing_is_given_up() {
        let turn = Arc::<Turn>::default();
        let mut patience = Patience::new(Arc::clone(&turn), Duration::from_secs(30));
        let mut wait = async |time| {
            let asked = std::future::poll_fn(|cx| patience.poll(cx));
            tokio::time::timeout(Duration::from_secs(time), asked).await.is_ok()
        };
        assert!(!wait(600).await, "the handler has time");
        turn.give();
        assert!(!wait(20).await);
        turn.give();
        assert!(!wait(20).await, "it took something");
        turn.take();
        assert!(!wait(600).await, "it took everything");
        turn.give();
        assert!(wait(31).await, "it takes nothing");
    }
}
