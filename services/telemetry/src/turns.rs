//! Turns of reads that may look at every reading of a long range: so many at once, and never all of them one caller's, so that
//! what is taken, and what is read quickly, does not wait behind them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use sensormesh_observability::metrics::{LevelGuard, long_reads};
use sensormesh_types::{Caller, Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a call waits for its turn before it is refused.
const PATIENCE: Duration = Duration::from_secs(2);
/// Callers that are remembered before those without a turn are forgotten.
const REMEMBERED: usize = 256;

/// Who reads at present.
#[derive(Debug)]
pub struct Turns {
    all: Arc<Semaphore>,
    /// Of one caller.
    share: usize,
    callers: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// The right to read until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
    /// Keeps the caller's share until nobody uses it.
    _share: Arc<Semaphore>,
    _shown: LevelGuard,
}

impl Turns {
    /// So many at once; 0 = as many as there are processors, and at least 4.
    pub fn new(at_once: u32) -> Self {
        let processors = || std::thread::available_parallelism().map_or(4, usize::from).max(4);
        let at_once = if at_once == 0 { processors() } else { at_once as usize };
        let share = at_once.saturating_sub(1).max(1);
        Self { all: Arc::new(Semaphore::new(at_once)), share, callers: Mutex::default() }
    }

    /// Waits for a turn, 2 s at most. RESOURCE_EXHAUSTED (READS_BUSY) where none comes.
    pub async fn take(&self, caller: &Caller) -> Result<Turn> {
        tokio::time::timeout(PATIENCE, self.wait(caller)).await.unwrap_or_else(|_| {
            long_reads().refused.add(1);
            let message = "too many histories are being read at present; ask for less at once, or later";
            Err(Error::exhausted("READS_BUSY", message, Duration::from_secs(1)))
        })
    }

    /// That a turn comes within 2 s, before a stream begins that will [`Turns::wait`] for each of its own.
    pub async fn admit(&self, caller: &Caller) -> Result<()> {
        self.take(caller).await.map(drop)
    }

    /// Waits for a turn, however long: for what is sent as it is read, and must not break off for this.
    pub async fn wait(&self, caller: &Caller) -> Result<Turn> {
        let share = self.share_of(caller);
        let _shown = long_reads().waiting.hold();
        // first one's own, so that who waits for it does not stand in others' way
        let own = Arc::clone(&share).acquire_owned().await.map_err(Error::internal)?;
        let all = Arc::clone(&self.all).acquire_owned().await.map_err(Error::internal)?;
        Ok(Turn { _own: own, _all: all, _share: share, _shown: long_reads().reading.hold() })
    }

    fn share_of(&self, caller: &Caller) -> Arc<Semaphore> {
        let name = format!("{}/{}", caller.tenant(), caller.actor());
        let mut callers = self.callers.lock();
        if let Some(share) = callers.get(&name).and_then(Weak::upgrade) {
            return share;
        }
        if callers.len() >= REMEMBERED {
            callers.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Semaphore::new(self.share));
        callers.insert(name, Arc::downgrade(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensormesh_types::{Code, Principal, Scope};

    fn caller(name: &str) -> Caller {
        let (principal, scope) = (Principal::Service { name: name.to_owned() }, Scope::tenant_of("acme"));
        Caller {
            principal,
            scope,
            peer: None,
            traceparent: String::new(),
            address: String::new(),
            request_id: String::new(),
            accepted_time: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_never_has_every_turn_and_one_who_waits_too_long_is_told() {
        let turns = Turns::new(3);
        let (ada, bob) = (caller("ada"), caller("bob"));
        let mut held = vec![turns.take(&ada).await.expect("one"), turns.take(&ada).await.expect("two")];
        let refused = turns.take(&ada).await.expect_err("more than a share");
        assert_eq!((refused.code(), refused.reason()), (Code::Exhausted, "READS_BUSY"));
        let others = turns.take(&bob).await.expect("another's");
        assert!(turns.take(&bob).await.is_err(), "all are taken");
        let (waited, ()) = tokio::join!(turns.take(&ada), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            held.clear();
        });
        waited.expect("one became free");
        drop(others);
        // who gave up waiting has left nothing behind
        let again = [turns.take(&bob).await, turns.take(&bob).await];
        assert!(again.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn callers_without_a_turn_are_forgotten() {
        let turns = Turns::new(0);
        let kept = turns.take(&caller("kept")).await.expect("a turn");
        for n in 0..REMEMBERED * 2 {
            turns.take(&caller(&n.to_string())).await.expect("a turn");
        }
        let callers = turns.callers.lock();
        assert!(callers.len() <= REMEMBERED && callers["acme/service:kept"].strong_count() > 0);
        drop(kept);
    }
}
