//! Answers on their way to callers who may never read them.
//!
//! A client decides how fast it takes an answer, and over HTTP/2 it can ask a hundred times on each connection and take
//! nothing. What waits for one caller is therefore counted, and has an end.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use parking_lot::Mutex;
use sensormesh_types::{Code, Error, Result};

use crate::limit::Payer;

/// Bytes that may wait for one caller, besides an answer that is longer by itself.
const MOST: usize = 32 << 20;
/// An answer is handed to the connection in pieces of this many bytes, so that what the client does not take stays here.
/// One that is no longer is not counted: so many of them have no room on the connections of one address.
const PIECE: usize = 16 << 10;

type Waiting = Arc<Mutex<HashMap<Payer, usize>>>;

/// The bytes that wait for each caller.
#[derive(Debug, Default)]
pub struct Unread(Waiting);

impl Unread {
    /// Takes an answer of at most `limit` bytes whole and hands it out as fast as the caller reads it.
    /// RESOURCE_EXHAUSTED where too much waits for the caller already.
    pub async fn hand_over(&self, response: Response<Body>, payer: &Payer, limit: u64) -> Result<Response<Body>> {
        let (head, body) = response.into_parts();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let broken =
            |error| Error::new(Code::Internal, "ANSWER_BROKEN", "the answer broke off or is too long").caused_by(error);
        let collected = Limited::new(body, limit).collect().await.map_err(broken)?;
        let trailers = collected.trailers().cloned();
        let data = collected.to_bytes();
        let held = if data.len() > PIECE { Some(self.hold(payer, data.len())?) } else { None };
        Ok(Response::from_parts(head, Body::new(Pieces { data, trailers, _held: held })))
    }

    fn hold(&self, payer: &Payer, bytes: usize) -> Result<Held> {
        let mut waiting = self.0.lock();
        let before = waiting.get(payer).copied().unwrap_or_default();
        if before > 0 && before.saturating_add(bytes) > MOST {
            let message = "too many answers wait to be read; read them before asking for more";
            return Err(Error::exhausted("TOO_MUCH_UNREAD", message, Duration::from_secs(1)));
        }
        waiting.insert(payer.clone(), before.saturating_add(bytes));
        Ok(Held { payer: payer.clone(), bytes, waiting: Arc::clone(&self.0) })
    }
}

/// The room of one answer.
#[derive(Debug)]
struct Held {
    payer: Payer,
    bytes: usize,
    waiting: Waiting,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock();
        if let Some(bytes) = waiting.get_mut(&self.payer) {
            *bytes = bytes.saturating_sub(self.bytes);
            if *bytes == 0 {
                waiting.remove(&self.payer);
            }
        }
    }
}

/// An answer in pieces.
struct Pieces {
    data: Bytes,
    trailers: Option<HeaderMap>,
    _held: Option<Held>,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Poller<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        if self.data.is_empty() {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let length = self.data.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.data.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // a length before trailers would be news to gRPC clients
        if self.trailers.is_some() { SizeHint::default() } else { SizeHint::with_exact(self.data.len() as u64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: fn() -> Payer = || Payer::User("ada".into());

    async fn answer(unread: &Unread, payer: Payer, bytes: usize) -> Result<Response<Body>> {
        unread.hand_over(Response::new(Body::from(vec![7; bytes])), &payer, 64 << 20).await
    }

    #[tokio::test]
    async fn what_is_not_read_counts_until_it_is_read_or_dropped() {
        let unread = Unread::default();
        let one = answer(&unread, ADA(), MOST - PIECE).await.expect("room");
        let refused = answer(&unread, ADA(), 2 * PIECE).await.expect_err("no room");
        assert_eq!((refused.code(), refused.reason()), (Code::Exhausted, "TOO_MUCH_UNREAD"));
        answer(&unread, ADA(), PIECE).await.expect("short answers are not counted");
        let _other = answer(&unread, Payer::User("bob".into()), 2 * PIECE).await.expect("somebody else");
        assert_eq!(one.into_body().collect().await.expect("read").to_bytes().len(), MOST - PIECE);
        drop(answer(&unread, ADA(), 2 * PIECE).await.expect("read"));
        answer(&unread, ADA(), MOST + 1).await.expect("a long answer by itself");
        assert_eq!(unread.0.lock().len(), 1, "only bob's");
    }

    #[tokio::test]
    async fn an_answer_keeps_its_bytes_and_its_trailers() {
        let trailers =
            HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "0".parse().expect("value"))]);
        let body = Body::from(vec![7; 3 * PIECE + 1]).with_trailers(std::future::ready(Some(Ok(trailers.clone()))));
        let unread = Unread::default();
        let answer = unread.hand_over(Response::new(Body::new(body)), &ADA(), 64 << 20).await.expect("room");
        assert!(!answer.body().is_end_stream());
        let collected = answer.into_body().collect().await.expect("read");
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), vec![7; 3 * PIECE + 1]);
        let empty = unread.hand_over(Response::new(Body::empty()), &ADA(), 1).await.expect("room");
        assert!(empty.body().is_end_stream());
        assert!(unread.hand_over(Response::new(Body::from("long")), &ADA(), 3).await.is_err());
    }
}
