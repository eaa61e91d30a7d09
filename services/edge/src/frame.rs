//! The messages in a gRPC body: a length before each, a status after the last.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use sensormesh_types::Error;
use tonic::{Code, Status};

/// Bytes before each message: whether it is compressed, and how long it is.
pub const PREFIX: usize = 5;

/// A buffer for one message, with room for its prefix.
pub fn begin(capacity: usize) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(PREFIX + capacity);
    buffer.resize(PREFIX, 0);
    buffer
}

/// Completes a message that was appended after [`begin`].
pub fn finish(mut buffer: Vec<u8>) -> Bytes {
    let length = u32::try_from(buffer.len().saturating_sub(PREFIX)).unwrap_or(u32::MAX);
    buffer[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    buffer.into()
}

/// Reads the messages of an answer.
#[derive(Debug)]
pub struct Messages {
    body: tonic::body::Body,
    buffer: BytesMut,
    limit: usize,
    over: bool,
}

impl Messages {
    /// The messages of an answer, none longer than `limit` bytes. A status in the headers is an error already.
    pub fn of(response: http::Response<tonic::body::Body>, limit: usize) -> Result<Self, Status> {
        let (head, body) = response.into_parts();
        match Status::from_header_map(&head.headers) {
            Some(status) if status.code() != Code::Ok => return Err(status),
            _ if head.status != http::StatusCode::OK => {
                return Err(Status::unavailable(format!("the service answered with HTTP {}", head.status.as_u16())));
            }
            Some(_) => {
                return Ok(Self { body: tonic::body::Body::empty(), buffer: BytesMut::new(), limit, over: true });
            }
            None => {}
        }
        Ok(Self { body, buffer: BytesMut::new(), limit, over: false })
    }

    /// The next message; `None` after the last one of an answer that ended well.
    pub async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            match self.take() {
                Ok(Some(message)) => return Some(Ok(message)),
                Ok(None) => {}
                Err(status) => return self.end(status),
            }
            if self.over {
                return None;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        let status = frame.into_trailers().ok().and_then(|trailers| status(&trailers));
                        match status {
                            Some(status) if status.code() != Code::Ok => return self.end(status),
                            _ => self.over = true,
                        }
                    }
                },
                Some(Err(status)) => return self.end(status),
                None => return self.end(Status::unavailable("the answer ended without a status")),
            }
        }
    }

    /// The only message of a unary answer.
    pub async fn only(mut self) -> Result<Bytes, Status> {
        let message = match self.next().await {
            Some(message) => message?,
            None => return Err(Status::internal("the answer holds no message")),
        };
        match self.next().await {
            None => Ok(message),
            Some(Err(status)) => Err(status),
            Some(Ok(_)) => Err(Status::internal("the answer holds more than one message")),
        }
    }

    fn end(&mut self, status: Status) -> Option<Result<Bytes, Status>> {
        self.over = true;
        self.buffer.clear();
        self.body = tonic::body::Body::empty();
        Some(Err(status))
    }

    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((prefix, _)) = self.buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            return Err(Status::internal("the answer is compressed, which was not asked for"));
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > self.limit {
            let message = format!("the answer is longer than {} bytes; ask for a smaller page", self.limit);
            return Err(Error::new(sensormesh_types::Code::Exhausted, "ANSWER_TOO_LARGE", message).into());
        }
        if self.buffer.len() < PREFIX + length {
            self.buffer.reserve(PREFIX + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// The status that trailers carry.
fn status(trailers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Frame;
    use http_body_util::StreamBody;

    fn answer(frames: Vec<Result<Frame<Bytes>, Status>>) -> Messages {
        let body = tonic::body::Body::new(StreamBody::new(futures::stream::iter(frames)));
        Messages::of(http::Response::new(body), 100).expect("no status in the headers")
    }

    fn trailers(code: &'static str) -> Result<Frame<Bytes>, Status> {
        let value = http::HeaderValue::from_static(code);
        Ok(Frame::trailers(HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), value)])))
    }

    #[tokio::test]
    async fn messages_are_found_however_the_bytes_are_cut() {
        let mut bytes = Vec::new();
        for text in ["", "a", "longer"] {
            let mut buffer = begin(0);
            buffer.extend_from_slice(text.as_bytes());
            bytes.extend_from_slice(&finish(buffer));
        }
        let mut frames: Vec<_> = bytes.iter().map(|b| Ok(Frame::data(Bytes::copy_from_slice(&[*b])))).collect();
        frames.push(trailers("0"));
        let mut messages = answer(frames);
        for text in ["", "a", "longer"] {
            assert_eq!(messages.next().await.expect("a message").expect("well"), text.as_bytes());
        }
        assert!(messages.next().await.is_none());
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_an_error() {
        let whole = finish(begin(0));
        let mut messages = answer(vec![Ok(Frame::data(whole.clone()))]);
        assert!(messages.next().await.expect("a message").is_ok());
        assert_eq!(messages.next().await.expect("an error").expect_err("no status").code(), Code::Unavailable);
        assert!(messages.next().await.is_none());
        let two = answer(vec![Ok(Frame::data(whole.clone())), Ok(Frame::data(whole)), trailers("0")]);
        assert_eq!(two.only().await.expect_err("two messages").code(), Code::Internal);
        let refused = answer(vec![trailers("7")]);
        assert_eq!(refused.only().await.expect_err("refused").code(), Code::PermissionDenied);
        let long = answer(vec![Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 1, 0])))]);
        assert_eq!(long.only().await.expect_err("too long").code(), Code::ResourceExhausted);
    }
}
