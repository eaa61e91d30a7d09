//! Leases: work that one replica does at a time.

use std::time::Duration;

use sensormesh_types::{Code, Error, Result, Scope, random};
use tokio::time::Instant;

use crate::{Store, Tx};

/// The right to do a piece of work, for a while. Renew it in time; release it when done.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    name: String,
    holder: String,
    epoch: u64,
    life: Duration,
    renewed: Instant,
}

impl Store {
    /// Takes the lease for `life` if nobody holds it; `None` while another does.
    pub async fn lease(&self, name: &str, life: Duration) -> Result<Option<Lease>> {
        let holder = random::secret();
        let renewed = Instant::now();
        let mut tx = self.tx(&Scope::system()).await?;
        let now = self.clock().now_micros();
        let row = tx
            .query(
                "INSERT INTO lease (name, holder, epoch, expires) VALUES ($1, $2, 1, $3) ON CONFLICT (name) DO UPDATE \
                 SET holder = excluded.holder, epoch = lease.epoch + 1, expires = excluded.expires \
                 WHERE lease.expires < $4 RETURNING epoch",
            )
            .bind(name)
            .bind(&holder)
            .bind(until(now, life))
            .bind(now)
            .fetch_optional()
            .await?;
        tx.commit().await?;
        let Some(row) = row else { return Ok(None) };
        let epoch = row.get("epoch")?;
        Ok(Some(Lease { store: self.clone(), name: name.to_owned(), holder, epoch, life, renewed }))
    }
}

impl Lease {
    /// Counts the holders: whoever writes under the lease stores it, so that a predecessor that was paused can be told.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether it is certain to be held still, by this process's own clock of durations.
    pub fn is_held(&self) -> bool {
        self.renewed.elapsed() < self.life
    }

    /// Holds it for another life from now on; false when another has taken it.
    pub async fn renew(&mut self) -> Result<bool> {
        let start = Instant::now();
        let mut tx = self.store.tx(&Scope::system()).await?;
        let expires = until(self.store.clock().now_micros(), self.life);
        let held = tx
            .query("UPDATE lease SET expires = $1 WHERE name = $2 AND holder = $3 AND epoch = $4")
            .bind(expires)
            .bind(&self.name)
            .bind(&self.holder)
            .bind(i64::try_from(self.epoch).unwrap_or(i64::MAX))
            .execute()
            .await?;
        tx.commit().await?;
        if held == 1 {
            self.renewed = start;
        }
        Ok(held == 1)
    }

    /// Gives it back, so that another need not wait for its end.
    pub async fn release(self) -> Result<()> {
        let mut tx = self.store.tx(&Scope::system()).await?;
        tx.query("UPDATE lease SET expires = 0 WHERE name = $1 AND holder = $2")
            .bind(&self.name)
            .bind(&self.holder)
            .execute()
            .await?;
        tx.commit().await?;
        Ok(())
    }
}

impl Tx {
    /// Fails the transaction with ABORTED unless the lease is still held when it commits: what a holder that was paused
    /// for too long writes is never seen.
    pub async fn fence(&mut self, lease: &Lease) -> Result<()> {
        // the update keeps the row until the commit, so that nobody takes the lease in between
        let held = self
            .query("UPDATE lease SET epoch = epoch WHERE name = $1 AND holder = $2 AND epoch = $3")
            .bind(&lease.name)
            .bind(&lease.holder)
            .bind(i64::try_from(lease.epoch).unwrap_or(i64::MAX))
            .execute()
            .await?;
        if held == 1 {
            return Ok(());
        }
        Err(Error::new(Code::Conflict, "LEASE_LOST", format!("another has taken the lease {:?}", lease.name)))
    }
}

fn until(now: i64, life: Duration) -> i64 {
    now.saturating_add(i64::try_from(life.as_micros()).unwrap_or(i64::MAX))
}
