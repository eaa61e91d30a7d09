//! Which replica owns the log of readings.
//!
//! A SQLite file has one owner by nature. On PostgreSQL the owner holds a lease; another replica waits for it, and a former
//! owner that was paused is refused by the epoch in its next commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sensormesh_store::{Engine, Lease, Store};
use sensormesh_types::{Error, Result, Scope};
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::db;

const NAME: &str = "reading_log";
const LIFE: Duration = Duration::from_secs(5);
const RENEWAL: Duration = Duration::from_millis(1500);
const RETRY: Duration = Duration::from_millis(200);

/// The right to write the log, until it is dropped or lost.
#[derive(Debug)]
pub struct Ownership {
    epoch: u64,
    held: Arc<AtomicBool>,
    /// Gives the lease back.
    _release: Option<DropGuard>,
}

impl Ownership {
    /// Takes the log over; waits while another replica owns it.
    pub async fn take(log: &Store) -> Result<Self> {
        if log.engine() == Engine::Sqlite {
            return Ok(Self { epoch: 0, held: Arc::new(AtomicBool::new(true)), _release: None });
        }
        let mut told = Instant::now();
        let lease = loop {
            if let Some(lease) = log.lease(NAME, LIFE).await? {
                break lease;
            }
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                tracing::info!("waiting: another replica owns the log of readings");
            }
            sleep(RETRY).await;
        };
        let epoch = lease.epoch();
        let mut tx = log.tx(&Scope::system()).await?;
        db::log::take_over(&mut tx, epoch).await?;
        tx.commit().await?;
        let (held, stop) = (Arc::new(AtomicBool::new(true)), CancellationToken::new());
        tokio::spawn(keep(lease, Arc::clone(&held), stop.clone()));
        Ok(Self { epoch, held, _release: Some(stop.drop_guard()) })
    }

    /// The lease's epoch: every commit names it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Fails unless this replica owns the log.
    pub fn check(&self) -> Result<()> {
        if self.held.load(Ordering::Acquire) { Ok(()) } else { Err(elsewhere()) }
    }
}

/// Renews the lease until it is given back or taken by another.
async fn keep(mut lease: Lease, held: Arc<AtomicBool>, stop: CancellationToken) {
    loop {
        if stop.run_until_cancelled(sleep(RENEWAL)).await.is_none() {
            break;
        }
        match lease.renew().await {
            Ok(true) => held.store(true, Ordering::Release),
            Ok(false) => {
                held.store(false, Ordering::Release);
                tracing::error!("another replica has taken the log of readings over; this one serves no more writes");
                return;
            }
            Err(error) => {
                held.store(lease.is_held(), Ordering::Release);
                tracing::warn!(?error, "the lease of the log of readings could not be renewed");
            }
        }
    }
    if let Err(error) = lease.release().await {
        tracing::warn!(?error, "the lease of the log of readings could not be given back; it runs out by itself");
    }
}

/// What a writer is told where another replica owns the log.
pub fn elsewhere() -> Error {
    let message = "another replica owns the log of readings; try again there or in a moment";
    Error::unavailable("NOT_OWNER", message, Duration::from_secs(1))
}
