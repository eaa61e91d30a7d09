//! Which replica looks after the log of readings: seals it, cuts it and deletes what is past its time.
//!
//! Every replica takes readings and serves them. What is done once for all is done by the one that holds a lease; the others
//! try for it, so that it changes hands at once where it is given back and after its life where its holder is gone. A
//! SQLite file has one owner by nature.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sensormesh_store::{Engine, Lease, Store};
use sensormesh_types::{Error, Result};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

const NAME: &str = "reading_log";
const LIFE: Duration = Duration::from_secs(5);
const RENEWAL: Duration = Duration::from_millis(1500);
const RETRY: Duration = Duration::from_millis(500);

/// Whether this replica looks after the log; tries for it until it is dropped.
#[derive(Debug)]
pub struct Ownership {
    held: Arc<AtomicBool>,
    /// Gives the lease back.
    _release: Option<DropGuard>,
}

impl Ownership {
    /// Takes the lease if it is free, and goes on trying where it is not.
    pub async fn seek(log: &Store) -> Result<Self> {
        if log.engine() == Engine::Sqlite {
            return Ok(Self { held: Arc::new(AtomicBool::new(true)), _release: None });
        }
        let lease = log.lease(NAME, LIFE).await?;
        let (held, stop) = (Arc::new(AtomicBool::new(lease.is_some())), CancellationToken::new());
        tokio::spawn(keep(log.clone(), lease, Arc::clone(&held), stop.clone()));
        Ok(Self { held, _release: Some(stop.drop_guard()) })
    }

    /// Whether this replica looks after the log.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Fails unless this replica looks after the log.
    pub fn check(&self) -> Result<()> {
        if self.is_held() { Ok(()) } else { Err(elsewhere()) }
    }
}

/// Takes the lease whenever it is free and renews it, until it is to be given back.
async fn keep(log: Store, mut lease: Option<Lease>, held: Arc<AtomicBool>, stop: CancellationToken) {
    loop {
        let pause = if lease.is_some() { RENEWAL } else { RETRY };
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            break;
        }
        lease = match lease {
            None => log.lease(NAME, LIFE).await.unwrap_or_else(|error| {
                tracing::debug!(?error, "the lease of the log of readings cannot be asked for");
                None
            }),
            Some(mut lease) => match lease.renew().await {
                Ok(true) => Some(lease),
                Ok(false) => {
                    tracing::info!("another replica looks after the log of readings now");
                    None
                }
                Err(error) => {
                    tracing::warn!(?error, "the lease of the log of readings could not be renewed");
                    Some(lease)
                }
            },
        };
        held.store(lease.as_ref().is_some_and(Lease::is_held), Ordering::Release);
    }
    held.store(false, Ordering::Release);
    if let Some(lease) = lease
        && let Err(error) = lease.release().await
    {
        tracing::warn!(?error, "the lease of the log of readings could not be given back; it runs out by itself");
    }
}

/// What is told where another replica looks after the log.
pub fn elsewhere() -> Error {
    let message = "another replica looks after the log of readings";
    Error::unavailable("NOT_OWNER", message, Duration::from_secs(1))
}
