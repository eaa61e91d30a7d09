//! A network that is bad on purpose: a TCP proxy whose faults are switched while it runs.
//!
//! ```text
//! client ⇄ Proxy ⇄ upstream      up: client to upstream      down: upstream to client
//! ```
//!
//! What it does by chance (jitter) follows from a seed, which is printed.

mod line;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::chance::Chance;

/// What happens to the bytes of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// How much later they arrive. Those that follow each other closely still do.
    pub delay: Duration,
    /// Up to this much more, by chance; their order stays.
    pub jitter: Duration,
    /// How many pass in a second at most.
    pub rate: Option<u64>,
    /// How many are written at once at most, in packets of their own.
    pub slice: Option<usize>,
    /// They are read and thrown away.
    pub swallow: bool,
    /// A connection is reset when so many have passed.
    pub reset_after: Option<u64>,
}

/// What happens to a connection when it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Door {
    /// It is led to the upstream.
    #[default]
    Open,
    /// It is reset at once.
    Reset,
    /// It is accepted, and nobody is behind it: a process that listens and hangs.
    Dead,
}

/// What is wrong with the network at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// From the client to the upstream.
    pub up: Line,
    /// From the upstream to the client.
    pub down: Line,
    /// New connections.
    pub door: Door,
}

impl Faults {
    /// The same in both directions.
    pub fn both(line: Line) -> Self {
        Self { up: line.clone(), down: line, door: Door::Open }
    }

    /// Everything takes longer, each way.
    pub fn slow(delay: Duration, jitter: Duration) -> Self {
        Self::both(Line { delay, jitter, ..Line::default() })
    }

    /// No byte passes and nobody is told: a link that was cut.
    pub fn blackhole() -> Self {
        Self { door: Door::Dead, ..Self::both(Line { swallow: true, ..Line::default() }) }
    }

    /// Requests pass, answers do not.
    pub fn answers_lost() -> Self {
        Self { down: Line { swallow: true, ..Line::default() }, ..Self::default() }
    }

    /// So many bytes a second, each way.
    pub fn narrow(bytes_per_second: u64) -> Self {
        Self::both(Line { rate: Some(bytes_per_second), ..Line::default() })
    }

    /// Packets of so many bytes.
    pub fn sliced(bytes: usize) -> Self {
        Self::both(Line { slice: Some(bytes), ..Line::default() })
    }

    /// Every connection is reset when so many bytes have come back over it.
    pub fn reset_after(bytes: u64) -> Self {
        Self { down: Line { reset_after: Some(bytes), ..Line::default() }, ..Self::default() }
    }

    /// New connections are reset at once; those there are stay.
    pub fn refusing() -> Self {
        Self { door: Door::Reset, ..Self::default() }
    }
}

/// What every connection looks at.
#[derive(Clone, Debug)]
struct State {
    faults: Faults,
    upstream: Option<SocketAddr>,
    /// Connections made before the last count of either are reset, or lost.
    resets: u64,
    losses: u64,
}

/// The proxy. Dropped, its port is closed and its connections are cut.
pub struct Proxy {
    /// Where clients connect to.
    pub address: SocketAddr,
    state: watch::Sender<State>,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of an upstream, without a fault yet.
    pub async fn to(upstream: SocketAddr) -> Result<Self> {
        let proxy = Self::new(Chance::new("proxy")).await?;
        proxy.lead_to(upstream);
        Ok(proxy)
    }

    /// A proxy that is led somewhere later ([`Proxy::lead_to`]); until then it resets connections.
    pub async fn new(chance: Chance) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (state, seen) = watch::channel(State { faults: Faults::default(), upstream: None, resets: 0, losses: 0 });
        let (accepted, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&accepted), Arc::clone(&open));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let number = counts.0.fetch_add(1, Ordering::SeqCst) as u64;
                let open = Open::count(&counts.1);
                connections.spawn(connect(near, seen.clone(), chance.fork(number), open));
            }
        });
        Ok(Self { address, state, accepted, open, task })
    }

    /// Where new connections are led to from now on.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.state.send_modify(|state| state.upstream = Some(upstream));
    }

    /// What is wrong from now on, also on connections that are open.
    pub fn set(&self, faults: Faults) {
        self.state.send_modify(|state| state.faults = faults);
    }

    /// Nothing is wrong any more. What was swallowed stays lost, and so do connections that were lost.
    pub fn heal(&self) {
        self.set(Faults::default());
    }

    /// Resets every open connection, on both sides.
    pub fn reset(&self) {
        self.state.send_modify(|state| state.resets += 1);
    }

    /// Loses every open connection: no byte passes over it any more, and neither side is told. New ones pass.
    pub fn lose(&self) {
        self.state.send_modify(|state| state.losses += 1);
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a connection as long as it is open.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn connect(near: TcpStream, state: watch::Receiver<State>, chance: Chance, _open: Open) {
    let (door, upstream, resets, losses) = {
        let now = state.borrow();
        (now.faults.door, now.upstream, now.resets, now.losses)
    };
    let born = line::Born { resets, losses };
    let far = match (door, upstream) {
        (Door::Open, Some(upstream)) => TcpStream::connect(upstream).await.ok(),
        (Door::Dead, _) => {
            // held until everything is reset, or the client gives up
            line::hold(near, state, born).await;
            return;
        }
        _ => None,
    };
    match far {
        Some(far) => line::carry(near, far, state, chance, born).await,
        None => {
            // without it, closing would be a polite end
            let _ = near.set_zero_linger();
        }
    }
}
