//! One HTTP/2 connection: TCP, TLS with the upstream's identity verified, and the peer's first byte.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;

use super::Resilience;
use super::resolve::Address;
use super::wire::{Pulse, Sender, watch_over};
use crate::Identity;
use crate::tls::Credentials;
use crate::turn::last;

/// Bytes of all headers of an answer.
const HEADER_LIST: u32 = 16 << 10;
/// Streams at once until the peer has said how many it takes.
const FIRST_STREAMS: usize = 100;
/// Bytes of one stream that wait to be sent.
const SEND_BUFFER: usize = 1 << 20;

/// Why a connection did not come about. Nothing was sent over it.
#[derive(Clone, Debug)]
pub(crate) struct NotConnected(Arc<str>);

impl NotConnected {
    pub(crate) fn because(reason: impl fmt::Display) -> Self {
        Self(reason.to_string().into())
    }
}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotConnected {}

/// Opens connections to one upstream.
pub(crate) struct Connector {
    rules: Resilience,
    /// Our certificate and the identity the upstream must prove; `None` in the plaintext transports.
    tls: Option<(Credentials, Identity)>,
}

impl Connector {
    pub(crate) fn new(rules: Resilience, tls: Option<(Credentials, Identity)>) -> Self {
        Self { rules, tls }
    }

    pub(crate) fn rules(&self) -> &Resilience {
        &self.rules
    }

    /// The scheme that requests say they use.
    pub(crate) fn scheme(&self) -> http::uri::Scheme {
        if self.tls.is_some() { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP }
    }

    /// A connection on which the peer has spoken HTTP/2: one that listens and stays silent, or refuses our certificate,
    /// is not connected. For calls, or for long streams.
    pub(crate) async fn connect(&self, address: &Address, streams: bool) -> Result<Sender, NotConnected> {
        let limit = self.rules.connect_timeout;
        match tokio::time::timeout(limit, self.open(address, streams)).await {
            Ok(result) => result.map_err(|e| NotConnected::because(format_args!("{}: {}", address.socket, e.0))),
            Err(_) => Err(NotConnected::because(format_args!("{}: no answer within {limit:?}", address.socket))),
        }
    }

    async fn open(&self, address: &Address, streams: bool) -> Result<Sender, NotConnected> {
        let stream = TcpStream::connect(address.socket).await.map_err(NotConnected::because)?;
        stream.set_nodelay(true).map_err(NotConnected::because)?;
        let Some((credentials, upstream)) = &self.tls else { return self.speak(stream, streams).await };
        // asked for each connection, so that a new certificate or authority is used at once
        let config = credentials.client(upstream).map_err(NotConnected::because)?;
        // the name is not what is verified: the certificate's SPIFFE id is
        let name = ServerName::try_from(upstream.service.clone()).map_err(NotConnected::because)?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(NotConnected::because)?;
        self.speak(stream, streams).await
    }

    async fn speak<S>(&self, stream: S, streams: bool) -> Result<Sender, NotConnected>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (spoken, first_byte) = oneshot::channel();
        let pulse = Pulse::new();
        let stream = Listening { stream, spoken: Some(spoken), pulse: Arc::clone(&pulse) };
        let window = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX).min((1 << 31) - 1);
        let (sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(window(self.rules.window_of_stream(streams)))
            .initial_connection_window_size(window(self.rules.connection_window))
            .initial_max_send_streams(FIRST_STREAMS)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(HEADER_LIST)
            .enable_push(false)
            // dropped streams reset themselves; a limit here would kill the connection and every other stream on it
            .max_local_error_reset_streams(None)
            // small messages that wait for their reader; the window bounds them, and a limit here would end the connection for
            // everybody because one does not read
            .data_frame_budget(usize::MAX)
            .handshake(stream)
            .await
            .map_err(NotConnected::because)?;
        let (interval, patience) = (self.rules.keepalive_interval, self.rules.keepalive_timeout);
        let (ended, end) = oneshot::channel();
        let watched = Arc::clone(&pulse);
        tokio::spawn(async move {
            let pings = connection.ping_pong();
            let dead = async {
                match pings {
                    Some(pings) => watch_over(pings, interval, patience, watched).await,
                    None => std::future::pending().await,
                }
            };
            let result = tokio::select! {
                result = last(Pin::new(&mut connection)) => result.map_err(NotConnected::because),
                () = dead => Err(NotConnected::because(format_args!("no sign of life within {patience:?}"))),
            };
            // ends the streams that are left
            drop(connection);
            if let Err(error) = &result {
                tracing::debug!(%error, "a connection ended");
            }
            // nobody waits for it once the first byte has come
            let _ = ended.send(result);
        });
        tokio::select! {
            biased;
            Ok(()) = first_byte => Ok(Sender::new(sender, pulse)),
            result = end => Err(match result {
                Ok(Err(error)) => error,
                _ => NotConnected::because("closed by the peer"),
            }),
        }
    }
}

/// Says when the peer's first byte was read, and the last one so far.
struct Listening<S> {
    stream: S,
    spoken: Option<oneshot::Sender<()>>,
    pulse: Arc<Pulse>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.pulse.beat();
            if let Some(spoken) = self.spoken.take() {
                // the connecting side may have given up by now
                let _ = spoken.send(());
            }
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
