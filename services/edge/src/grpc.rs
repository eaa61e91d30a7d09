//! gRPC and gRPC-Web: messages pass through as bytes; only the end is written differently.

use std::pin::Pin;
use std::task::{Context as Poller, Poll};

use axum::body::Body;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body as HttpBody, Frame};
use tonic::Status;

use crate::transcode::scalar;

/// How messages and status are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2: the status is in the trailers.
    Native,
    /// gRPC-Web: the trailers are a last frame of the body.
    Web,
    /// gRPC-Web in base 64.
    WebText,
}

impl Protocol {
    /// The protocol of a request, if it is one of these.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let content_type = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        match essence {
            "application/grpc" | "application/grpc+proto" => Some(Protocol::Native),
            "application/grpc-web" | "application/grpc-web+proto" => Some(Protocol::Web),
            "application/grpc-web-text" | "application/grpc-web-text+proto" => Some(Protocol::WebText),
            _ => None,
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Protocol::Native => "application/grpc",
            Protocol::Web => "application/grpc-web+proto",
            Protocol::WebText => "application/grpc-web-text+proto",
        })
    }

    /// A request's body as gRPC.
    pub fn decode(self, body: Bytes) -> Result<Bytes, Status> {
        if self != Protocol::WebText {
            return Ok(body);
        }
        // a sender may pad each part of the text by itself
        let text = std::str::from_utf8(&body).map_err(|_| Status::invalid_argument("the body is not base 64"))?;
        let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
        for part in text.split('=').filter(|part| !part.is_empty()) {
            bytes.extend(scalar::bytes(part).map_err(Status::invalid_argument)?);
        }
        Ok(bytes.into())
    }

    /// An error as an answer.
    pub fn refuse(self, status: &Status) -> Response<Body> {
        let mut response = status.clone().into_http();
        response.headers_mut().insert(CONTENT_TYPE, self.content_type());
        response
    }

    /// A service's answer as the client gets it. `ending` cuts it, with a status that invites to come back; `held` is kept
    /// as long as it lasts.
    pub fn relay(
        self,
        response: Response<tonic::body::Body>,
        ending: BoxFuture<'static, Status>,
        held: impl Send + 'static,
    ) -> Response<Body> {
        let (mut head, inner) = response.into_parts();
        head.headers.insert(CONTENT_TYPE, self.content_type());
        if self != Protocol::Native {
            head.headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        }
        let relay = Relay { protocol: self, inner, ending, over: false, _held: Box::new(held) };
        Response::from_parts(head, Body::new(relay))
    }

    fn data(self, data: Bytes) -> Bytes {
        if self == Protocol::WebText { BASE64_STANDARD.encode(data).into() } else { data }
    }

    /// The end of an answer.
    fn end(self, trailers: HeaderMap) -> Frame<Bytes> {
        if self == Protocol::Native {
            return Frame::trailers(trailers);
        }
        let mut text = BytesMut::new();
        for (name, value) in &trailers {
            text.put_slice(name.as_str().as_bytes());
            text.put_slice(b": ");
            text.put_slice(value.as_bytes());
            text.put_slice(b"\r\n");
        }
        let mut frame = BytesMut::with_capacity(text.len() + 5);
        frame.put_u8(0x80);
        frame.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        frame.put_slice(&text);
        Frame::data(self.data(frame.freeze()))
    }
}

/// The body of an answer on its way to the client.
struct Relay {
    protocol: Protocol,
    inner: tonic::body::Body,
    ending: BoxFuture<'static, Status>,
    over: bool,
    _held: Box<dyn Send>,
}

impl HttpBody for Relay {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            return Poll::Ready(match frame {
                Some(Ok(frame)) => Some(Ok(match frame.into_trailers() {
                    Ok(trailers) => {
                        this.over = true;
                        this.protocol.end(trailers)
                    }
                    Err(frame) => frame.map_data(|data| this.protocol.data(data)),
                })),
                Some(Err(status)) => this.cut(&status),
                None => {
                    this.over = true;
                    None
                }
            });
        }
        match this.ending.as_mut().poll(cx) {
            Poll::Ready(status) => Poll::Ready(this.cut(&status)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Relay {
    fn cut(&mut self, status: &Status) -> Option<Result<Frame<Bytes>, Status>> {
        self.over = true;
        self.inner = tonic::body::Body::empty();
        let mut trailers = HeaderMap::new();
        match status.add_header(&mut trailers) {
            Ok(()) => Some(Ok(self.protocol.end(trailers))),
            Err(status) => Some(Err(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, StreamBody};

    async fn relayed(protocol: Protocol, trailers: Option<&'static str>) -> (Vec<u8>, Option<HeaderMap>) {
        let mut frames = vec![Ok::<_, Status>(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 1, 7])))];
        frames.extend(trailers.map(|code| {
            let value = HeaderValue::from_static(code);
            Ok(Frame::trailers(HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), value)])))
        }));
        let never = trailers.is_some();
        let inner = tonic::body::Body::new(StreamBody::new(futures::StreamExt::chain(
            futures::stream::iter(frames),
            futures::stream::pending(),
        )));
        let ending: BoxFuture<'static, Status> =
            if never { Box::pin(std::future::pending()) } else { Box::pin(async { Status::unavailable("stops") }) };
        let response = protocol.relay(Response::new(inner), ending, ());
        let collected = response.into_body().collect().await.expect("an end");
        let trailers = collected.trailers().cloned();
        (collected.to_bytes().to_vec(), trailers)
    }

    #[tokio::test]
    async fn the_status_is_where_the_protocol_wants_it() {
        let (bytes, trailers) = relayed(Protocol::Native, Some("0")).await;
        assert_eq!(bytes, [0, 0, 0, 0, 1, 7]);
        assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
        let (bytes, trailers) = relayed(Protocol::Web, Some("5")).await;
        assert_eq!(bytes[..6], [0, 0, 0, 0, 1, 7]);
        assert_eq!(bytes[6..11], [0x80, 0, 0, 0, 16]);
        assert_eq!(&bytes[11..], b"grpc-status: 5\r\n");
        assert!(trailers.is_none());
        let (text, _) = relayed(Protocol::WebText, Some("0")).await;
        assert_eq!(&text[..8], BASE64_STANDARD.encode([0, 0, 0, 0, 1, 7]).as_bytes());
    }

    #[tokio::test]
    async fn a_stream_that_is_cut_says_so() {
        let (bytes, _) = relayed(Protocol::Web, None).await;
        assert!(String::from_utf8_lossy(&bytes).contains("grpc-status: 14"));
        let (_, trailers) = relayed(Protocol::Native, None).await;
        assert_eq!(trailers.expect("trailers")["grpc-status"], "14");
    }

    #[test]
    fn text_is_read_in_one_piece_or_in_padded_parts() {
        let whole = BASE64_STANDARD.encode([0, 0, 0, 0, 1, 7]);
        assert_eq!(Protocol::WebText.decode(whole.into()).expect("bytes"), [0, 0, 0, 0, 1, 7][..]);
        let parts = format!("{}{}", BASE64_STANDARD.encode([0, 0, 0, 0]), BASE64_STANDARD.encode([1, 7]));
        assert_eq!(Protocol::WebText.decode(parts.into()).expect("bytes"), [0, 0, 0, 0, 1, 7][..]);
        assert!(Protocol::WebText.decode(Bytes::from_static(b"*")).is_err());
    }
}
