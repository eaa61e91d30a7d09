//! The accept loop: everything that reaches a port passes here.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use parking_lot::Mutex;
use sensormesh_observability::metrics::{self, Counter, LevelGuard};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection;
use super::drain::Drain;
use super::memory::{Memory, Short};
use crate::ServerLimits;
use crate::tls::Credentials;

/// Gives the TLS configuration for the next connection, so that certificates can change while the door is open.
pub(crate) type TlsSource = Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;

/// How long accepting pauses when the process has no file descriptors left.
const BREATHE: Duration = Duration::from_millis(50);
/// How often a failing accept is logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// A port and what it lets through.
pub struct Door {
    service: &'static str,
    listener: TcpListener,
    rules: Rules,
}

pub(super) struct Rules {
    pub(super) limits: ServerLimits,
    pub(super) tls: Option<TlsSource>,
    pub(super) http1: bool,
    pub(super) handshakes: Semaphore,
    pub(super) memory: Memory,
    pub(super) stalled: Counter,
    pub(super) flooded: Counter,
}

impl Door {
    /// A plaintext door for HTTP/1.1 and HTTP/2. `service` is the label of its metrics.
    pub fn new(service: &'static str, listener: TcpListener, limits: ServerLimits) -> Self {
        let handshakes = Semaphore::new(limits.handshakes as usize);
        let (stalled, flooded) = (metrics::shed(service, "stalled"), metrics::shed(service, "flood"));
        let memory = Memory::unlimited();
        Self {
            service,
            listener,
            rules: Rules { limits, tls: None, http1: true, handshakes, memory, stalled, flooded },
        }
    }

    /// Closes new connections at once while the process is so short of memory that calls are refused. For strangers' doors: a
    /// service is told in an answer, which says when to come back.
    #[must_use]
    pub fn with_memory(mut self, memory: Memory) -> Self {
        self.rules.memory = memory;
        self
    }

    /// Asks for TLS, with the configuration that `source` returns for each connection. ALPN is the configuration's.
    #[must_use]
    pub fn with_tls(mut self, source: impl Fn() -> Arc<rustls::ServerConfig> + Send + Sync + 'static) -> Self {
        self.rules.tls = Some(Arc::new(source));
        self
    }

    /// Asks for a client certificate of the mesh; HTTP/2 only. Requests carry the identity as [`crate::Peer`].
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.rules.http1 = false;
        self.with_tls(move || credentials.server())
    }

    /// The address it listens at.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Accepts connections and hands their requests to `app` until `drain` has run its steps.
///
/// `app` is any tower service over HTTP, such as an `axum::Router` with `map_request`; it is asked for each request, must
/// always be ready, and finds [`crate::PeerAddr`] and, behind mutual TLS, [`crate::Peer`] among the request's extensions.
/// WebSocket upgrades work on HTTP/1.1. Nothing happens at the end of `shutdown` unless somebody runs the drain:
///
/// ```no_run
/// # use sensormesh_mesh::{ServerLimits, Shutdown, server::{Door, Drain, listen}};
/// # async fn example(listener: tokio::net::TcpListener, shutdown: Shutdown) {
/// use tower::ServiceExt as _;
/// let limits = ServerLimits::public();
/// let drain = Drain::new(&limits, &shutdown);
/// let router = axum::Router::new();
/// let app = router.into_service().map_request(|r: http::Request<hyper::body::Incoming>| r.map(axum::body::Body::new));
/// tokio::join!(drain.run(), listen(Door::new("edge", listener, limits), app, &drain));
/// # }
/// ```
///
/// Count what should finish first with `drain.calls.enter()`, and end long responses when `drain.ending` is requested.
pub async fn listen<S, B>(door: Door, app: S, drain: &Drain)
where
    S: tower::Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Door { service, listener, rules } = door;
    print_once(&rules.limits);
    let rules = Arc::new(rules);
    let places = Arc::new(Semaphore::new(rules.limits.connections as usize));
    let guests = Guests::default();
    let open = metrics::open_connections(service);
    let refused = metrics::shed(service, "connections");
    let mut complained: Option<Instant> = None;
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Some(accepted) = drain.closing.cut(accept(&listener, &places)).await else { break };
        let (stream, address, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if is_of_the_connection(&error) {
                    continue;
                }
                if complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
                    tracing::error!(%error, "no connection can be accepted");
                    complained = Some(Instant::now());
                }
                tokio::time::sleep(BREATHE).await;
                continue;
            }
        };
        if rules.memory.short() == Short::Calls {
            refused.add(1);
            continue;
        }
        let Some(guest) = guests.enter(address.ip(), rules.limits.connections_per_address) else {
            refused.add(1);
            continue;
        };
        let held = Held { _place: place, _guest: guest, _open: open.hold() };
        connections.spawn(connection::serve(stream, address, held, Arc::clone(&rules), app.clone(), drain.clone()));
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Every set of limits stands in the log once a process, however many ports have it.
fn print_once(limits: &ServerLimits) {
    static PRINTED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let line = limits.to_string();
    let mut printed = PRINTED.lock();
    if !printed.contains(&line) {
        tracing::info!(limits = line, "limits of a port");
        printed.push(line);
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address, place))
}

/// Errors that say something about the connection that was to be accepted and nothing about the listener.
fn is_of_the_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// What a connection occupies as long as it is open.
struct Held {
    _place: OwnedSemaphorePermit,
    _guest: Guest,
    _open: LevelGuard,
}

/// Connections by address.
#[derive(Clone, Default)]
struct Guests(Arc<Mutex<HashMap<IpAddr, u32>>>);

impl Guests {
    fn enter(&self, address: IpAddr, most: u32) -> Option<Guest> {
        let address = address.to_canonical();
        let mut guests = self.0.lock();
        let count = guests.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Guest { guests: self.clone(), address })
    }
}

struct Guest {
    guests: Guests,
    address: IpAddr,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.guests.0.lock();
        if let Some(count) = guests.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                guests.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_only_so_many_places_and_gets_them_back() {
        let guests = Guests::default();
        let address: IpAddr = "10.0.0.1".parse().expect("address");
        let first = guests.enter(address, 2).expect("first");
        let _second = guests.enter(address, 2).expect("second");
        assert!(guests.enter(address, 2).is_none());
        assert!(guests.enter("10.0.0.2".parse().expect("address"), 2).is_some());
        drop(first);
        assert!(guests.enter(address, 2).is_some());
    }
}
