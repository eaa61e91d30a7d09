//! One connection of a proxy, from its first byte to its last.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Line, State};
use crate::chance::Chance;

/// Bytes read at once, and reads that are on their way at once at most: what a long wire holds.
const READ: usize = 16 << 10;
const ON_THE_WAY: usize = 64;

/// What had happened to all connections when this one was made.
#[derive(Clone, Copy)]
pub(super) struct Born {
    pub(super) resets: u64,
    pub(super) losses: u64,
}

/// The connection is to be reset.
struct Broken;

/// Holds a connection that leads nowhere.
pub(super) async fn hold(mut near: TcpStream, state: watch::Receiver<State>, born: Born) {
    let mut bytes = [0; 1024];
    let reads = async { while let Ok(1..) = near.read(&mut bytes).await {} };
    let reset = tokio::select! {
        () = reads => false,
        () = reset(state, born) => true,
    };
    if reset {
        let _ = near.set_zero_linger();
    }
}

/// Carries bytes both ways until both sides are done or the connection is reset.
pub(super) async fn carry(near: TcpStream, far: TcpStream, state: watch::Receiver<State>, chance: Chance, born: Born) {
    for stream in [&near, &far] {
        let _ = stream.set_nodelay(true);
    }
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = (near.into_split(), far.into_split());
    let broken = {
        let way = |up, chance| Way { up, state: state.clone(), born, chance };
        let up = way(true, chance.fork(0)).carry(&mut near_read, &mut far_write);
        let down = way(false, chance.fork(1)).carry(&mut far_read, &mut near_write);
        tokio::select! {
            ended = async { tokio::try_join!(up, down) } => ended.is_err(),
            () = reset(state.clone(), born) => true,
        }
    };
    if broken {
        for half in [&near_read, &far_read] {
            let _ = half.as_ref().set_zero_linger();
        }
        // dropped they would say a polite end
        near_write.forget();
        far_write.forget();
    }
}

/// Waits until the connection is to be reset.
async fn reset(mut state: watch::Receiver<State>, born: Born) {
    if state.wait_for(|now| now.resets > born.resets).await.is_err() {
        // the proxy is gone, and this task with it
        std::future::pending::<()>().await;
    }
}

/// One direction.
struct Way {
    up: bool,
    state: watch::Receiver<State>,
    born: Born,
    chance: Chance,
}

impl Way {
    fn line(&self) -> Line {
        let now = self.state.borrow();
        let mut line = if self.up { now.faults.up.clone() } else { now.faults.down.clone() };
        line.swallow |= now.losses > self.born.losses;
        line
    }

    /// Reads, and writes when it is time: what is on its way does not hold up what follows.
    async fn carry(mut self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> Result<(), Broken> {
        let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
        let (state, up, born) = (self.state.clone(), self.up, self.born);
        let writer = Way { up, state, born, chance: self.chance.fork(2) }.write(receiver, to);
        let reader = async {
            let mut bytes = vec![0; READ];
            let mut last = Instant::now();
            loop {
                let count = from.read(&mut bytes).await.map_err(|_| Broken)?;
                let line = self.line();
                if count == 0 && !line.swallow {
                    drop(sender);
                    return Ok(());
                }
                if count == 0 {
                    // an end that nobody hears of
                    std::future::pending::<()>().await;
                }
                if line.swallow {
                    continue;
                }
                let jitter = line.jitter.mul_f64(self.chance.fraction());
                last = last.max(Instant::now() + line.delay + jitter);
                if sender.send((last, bytes[..count].to_vec())).await.is_err() {
                    return Err(Broken);
                }
            }
        };
        tokio::try_join!(reader, writer).map(|_| ())
    }

    async fn write(
        self,
        mut receiver: mpsc::Receiver<(Instant, Vec<u8>)>,
        to: &mut OwnedWriteHalf,
    ) -> Result<(), Broken> {
        let mut passed = 0_u64;
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let line = self.line();
                if line.swallow {
                    break;
                }
                let room = line.reset_after.map(|most| most.saturating_sub(passed));
                if room == Some(0) {
                    return Err(Broken);
                }
                let most = [line.slice, line.rate.map(tenth), room.and_then(|r| usize::try_from(r).ok())];
                let size = most.into_iter().flatten().fold(rest.len(), usize::min).max(1);
                let (now, later) = rest.split_at(size);
                to.write_all(now).await.map_err(|_| Broken)?;
                passed += now.len() as u64;
                rest = later;
                if let Some(rate) = line.rate {
                    sleep(Duration::from_secs_f64(size as f64 / rate.max(1) as f64)).await;
                } else if line.slice.is_some() {
                    // so that the next slice is a packet of its own
                    tokio::task::yield_now().await;
                }
            }
        }
        to.shutdown().await.map_err(|_| Broken)
    }
}

/// What passes within a tenth of a second.
fn tenth(rate: u64) -> usize {
    usize::try_from(rate / 10).unwrap_or(usize::MAX).max(1)
}
