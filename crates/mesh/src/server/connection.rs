//! One accepted connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryFutureExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use sensormesh_types::random;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tower::ServiceExt as _;

use super::drain::Drain;
use super::flood::Guarded;
use super::listen::Rules;
use super::replay::{Protocol, Replay};
use super::stall::{Noted, Patience, Streams, Turn, Turns};
use crate::identity::{Peer, PeerAddr};
use crate::turn::last;
use crate::{Identity, ServerLimits, tls};

/// How long a handshake keeps its place among those at once.
const PLACE: Duration = Duration::from_millis(500);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves one connection to its end. `held` is what it occupies: places, counters.
pub(super) async fn serve<S, B, H>(
    stream: tokio::net::TcpStream,
    address: SocketAddr,
    held: H,
    rules: Arc<Rules>,
    app: S,
    drain: Drain,
) where
    S: tower::Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
    H: Unpin + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let Some(source) = &rules.tls else {
        return run(stream, address, None, held, &rules, app, drain).await;
    };
    let patience = rules.limits.handshake_timeout;
    let handshake = async {
        // who has not said anything needs no place, and takes none from those who have
        let greeting = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
        let greeting = timeout(patience, greeting).await.ok()?.ok()?;
        let place = rules.handshakes.acquire().await.ok()?;
        let mut shaking = greeting.into_stream(source());
        let shaking = async {
            // the work is done by then; who only waits for the peer gives the place back
            if let Ok(shaken) = timeout(PLACE, &mut shaking).await {
                return shaken;
            }
            drop(place);
            shaking.await
        };
        timeout(patience, shaking).await.ok()?.ok()
    };
    // a place to shake hands is waited for no longer than the handshake itself may take
    let shaken = timeout(patience * 2, handshake);
    let Some(Ok(Some(stream))) = drain.closing.cut(shaken).await else {
        tracing::debug!(%address, "the TLS handshake failed or took too long");
        return;
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let identity = leaf.and_then(|leaf| tls::identity_of(leaf).ok());
    run(stream, address, identity, held, &rules, app, drain).await;
}

async fn run<T, S, B, H>(
    stream: T,
    address: SocketAddr,
    identity: Option<Identity>,
    held: H,
    rules: &Rules,
    app: S,
    drain: Drain,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: tower::Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
    H: Unpin + Send + 'static,
{
    let limits = &rules.limits;
    let recognised = drain.closing.cut(Replay::recognise(stream, held, limits.first_byte_timeout)).await;
    let Some(Some((stream, protocol))) = recognised else {
        tracing::debug!(%address, "the connection said nothing and was closed");
        return;
    };
    let serve = move |mut request: http::Request<Incoming>, turn: Arc<Turn>| {
        request.extensions_mut().insert(PeerAddr(address));
        if let Some(identity) = &identity {
            request.extensions_mut().insert(Peer(identity.clone()));
        }
        app.clone().oneshot(request).map_ok(|response| response.map(|body| Noted::new(body, turn)))
    };
    match protocol {
        Protocol::Http2 => {
            let turns = Turns::default();
            let (patience, stalled) = (limits.stalled_after, rules.stalled.clone());
            let streams = Streams { turns: turns.clone(), patience, stalled };
            let service = hyper::service::service_fn(move |request| serve(request, turns.next()));
            let stream = Guarded::new(stream, limits.empty_frames, rules.flooded.clone());
            let connection = http2(limits, streams).serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let mut age = Age::new(limits);
            loop {
                tokio::select! {
                    biased;
                    ended = last(connection.as_mut()) => {
                        if let Err(error) = ended { tracing::debug!(%address, %error, "the connection broke"); }
                        return;
                    }
                    () = age.step(&drain) => {
                        if age.over { return; }
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
        Protocol::Http1 if rules.http1 => {
            let turn = Arc::<Turn>::default();
            let mut patience = Patience::new(Arc::clone(&turn), limits.stalled_after);
            let service = hyper::service::service_fn(move |request| serve(request, Arc::clone(&turn)));
            let connection = http1(limits).serve_connection(TokioIo::new(stream), service).with_upgrades();
            tokio::pin!(connection);
            let mut age = Age::new(limits);
            loop {
                tokio::select! {
                    biased;
                    ended = connection.as_mut() => {
                        if let Err(error) = ended { tracing::debug!(%address, %error, "the connection broke"); }
                        return;
                    }
                    () = poll_fn(|cx| patience.poll(cx)) => {
                        rules.stalled.add(1);
                        return;
                    }
                    () = age.step(&drain) => {
                        if age.over { return; }
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
        Protocol::Http1 => tracing::debug!(%address, "the connection does not speak HTTP/2 and was closed"),
    }
}

/// When a connection is told to go, and when it is cut.
struct Age {
    told: bool,
    over: bool,
    next: Instant,
    grace: Duration,
}

impl Age {
    fn new(limits: &ServerLimits) -> Self {
        let jitter = 0.9 + 0.2 * random::fraction();
        let next = Instant::now() + limits.connection_age.mul_f64(jitter);
        Self { told: false, over: false, next, grace: limits.connection_age_grace }
    }

    /// Waits for the next step and takes it: first `told`, then `over`.
    async fn step(&mut self, drain: &Drain) {
        tokio::select! {
            () = drain.cut.requested() => self.over = true,
            () = drain.closing.requested(), if !self.told => {
                self.told = true;
                // from here the drain says when it is over
                self.next = Instant::now() + Duration::from_secs(3600);
            }
            () = sleep_until(self.next) => {
                self.over = self.told;
                self.told = true;
                self.next += self.grace;
            }
        }
    }
}

fn http2(limits: &ServerLimits, streams: Streams) -> hyper::server::conn::http2::Builder<Streams> {
    let mut builder = hyper::server::conn::http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.concurrent_streams)
        .max_pending_accept_reset_streams(limits.pending_accept_reset_streams as usize)
        .max_local_error_reset_streams(limits.local_error_reset_streams as usize)
        .max_header_list_size(narrow(limits.header_list))
        .header_table_size(narrow(limits.header_table))
        .max_frame_size(narrow(limits.frame).clamp(16 << 10, (16 << 20) - 1))
        .initial_stream_window_size(narrow(limits.stream_window))
        .initial_connection_window_size(narrow(limits.connection_window))
        .max_send_buf_size(narrow(limits.send_buffer) as usize)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

fn http1(limits: &ServerLimits) -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.keepalive_interval)
        .max_buf_size((narrow(limits.header_list) as usize).max(8 << 10));
    builder
}

fn narrow(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).min(u32::MAX >> 1)
}
