//! A connection whose first bytes were read already, and what it holds as long as it is open.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// The start of every HTTP/2 connection.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A connection that gives back what was read from it. `held` is dropped with it, also after an upgrade.
pub(super) struct Replay<T, H> {
    read: Bytes,
    inner: T,
    _held: H,
}

impl<T: AsyncRead + AsyncWrite + Unpin, H> Replay<T, H> {
    /// Reads until it is clear what the client speaks. `None` where it says nothing, or too little, in time.
    pub(super) async fn recognise(mut inner: T, held: H, patience: Duration) -> Option<(Self, Protocol)> {
        let mut start = [0; PREFACE.len()];
        let mut length = 0;
        let read = async {
            loop {
                let read = inner.read(&mut start[length..]).await.ok().filter(|n| *n > 0)?;
                length += read;
                if start[..length] != PREFACE[..length] {
                    return Some(Protocol::Http1);
                }
                if length == PREFACE.len() {
                    return Some(Protocol::Http2);
                }
            }
        };
        let protocol = tokio::time::timeout(patience, read).await.ok().flatten()?;
        Some((Self { read: Bytes::copy_from_slice(&start[..length]), inner, _held: held }, protocol))
    }
}

impl<T: AsyncRead + Unpin, H: Unpin> AsyncRead for Replay<T, H> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..length]);
        self.read.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin, H: Unpin> AsyncWrite for Replay<T, H> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
