//! Which replica writes what a consumer makes of its stream, where several follow under one name.
//!
//! On PostgreSQL one of them holds a lease and applies the stream, in transactions that fail once another has taken the lease;
//! the others follow for what they keep in memory. A SQLite file has one process by nature.

use std::time::Duration;

use sensormesh_types::{Error, Result};
use tokio::time::Instant;

use crate::{Engine, Lease, Store, Tx};

/// How long a replica that is gone holds the others up. A stream has a bookmark every 5 s, and with each the lease is renewed.
const LIFE: Duration = Duration::from_secs(15);
/// How old a lease gets before it is renewed.
const RENEWAL: Duration = Duration::from_secs(4);
/// How often it is asked for.
const RETRY: Duration = Duration::from_secs(1);

/// The right to apply a stream, or the wish for it.
pub(crate) struct Lead {
    store: Store,
    name: String,
    lease: Option<Lease>,
    /// When the lease was last taken, renewed or asked for.
    asked: Option<Instant>,
}

/// Whether this replica applies a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It does, and did before.
    Leads,
    /// It does from now on: another one may have done so up to now.
    TookOver,
    /// Another one does.
    Follows,
}

impl Lead {
    pub(crate) fn new(store: &Store, consumer: &str) -> Self {
        Self { store: store.clone(), name: format!("consumer/{consumer}"), lease: None, asked: None }
    }

    /// Renews the lease where it is held and asks for it where it is not, as often as is due.
    pub(crate) async fn stand(&mut self) -> Result<Standing> {
        if self.store.engine() == Engine::Sqlite {
            return Ok(Standing::Leads);
        }
        let held = self.lease.is_some();
        let due = self.asked.is_none_or(|asked| asked.elapsed() >= if held { RENEWAL } else { RETRY });
        if !due {
            return Ok(if held { Standing::Leads } else { Standing::Follows });
        }
        self.asked = Some(Instant::now());
        if let Some(lease) = &mut self.lease {
            if lease.renew().await? {
                return Ok(Standing::Leads);
            }
            self.lease = None;
        }
        self.lease = self.store.lease(&self.name, LIFE).await?;
        Ok(if self.lease.is_some() { Standing::TookOver } else { Standing::Follows })
    }

    /// Fails a transaction unless the lease is held still when it commits.
    pub(crate) async fn fence(&mut self, tx: &mut Tx) -> Result<()> {
        match (&self.lease, self.store.engine()) {
            (_, Engine::Sqlite) => Ok(()),
            (Some(lease), _) => {
                let fenced = tx.fence(lease).await;
                if fenced.as_ref().is_err_and(|error| error.reason() == "LEASE_LOST") {
                    self.lease = None;
                }
                fenced
            }
            (None, _) => Err(Error::internal("a stream was applied without its lease")),
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        // so that the next one need not wait for its end; where there is nothing to run it, it runs out by itself
        if let (Some(lease), Ok(runtime)) = (self.lease.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { lease.release().await.ok() });
        }
    }
}
