//! Keeps a service below the load at which it would fail for everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sensormesh_observability::metrics::{self, Counter};
use sensormesh_types::{Error, Result, random};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ServerLimits;

const OVERLOADED: &str = "OVERLOADED";

/// Calls that wait for a place at most, and for how long: enough to smooth a burst, too little to build a queue.
const WAITING: usize = 64;
const WAIT: Duration = Duration::from_millis(50);

/// A refusal is told after about so long, as far as no more than so many wait: who is refused at once is back at once, and
/// refusing small calls takes as long as a good part of serving them.
const HELD: usize = 1024;
const HOLD: Duration = Duration::from_millis(250);

/// The places of one service.
pub(crate) struct Admission {
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    waiting: AtomicUsize,
    held: AtomicUsize,
    shed: Counter,
}

/// The places one call occupies.
#[derive(Debug)]
pub(crate) struct Places(#[allow(dead_code)] [OwnedSemaphorePermit; 2]); // held, never read

impl Admission {
    pub(crate) fn new(service: &'static str, limits: &ServerLimits) -> Self {
        Self {
            calls: Arc::new(Semaphore::new(limits.calls as usize)),
            streams: Arc::new(Semaphore::new(limits.streams as usize)),
            waiting: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            shed: metrics::shed(service, "concurrency"),
        }
    }

    /// Takes a place in the process and one of the method's. RESOURCE_EXHAUSTED with a hint where there is none.
    pub(crate) async fn enter(&self, method: &Arc<Semaphore>, stream: bool) -> Result<Places> {
        let process = if stream { &self.streams } else { &self.calls };
        let take = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned();
        if let (Ok(process), Ok(method)) = (take(process), take(method)) {
            return Ok(Places([process, method]));
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING {
            let _leaving = Leaving(&self.waiting);
            let both = async {
                let method = Arc::clone(method).acquire_owned().await?;
                let process = Arc::clone(process).acquire_owned().await?;
                Ok::<_, tokio::sync::AcquireError>([process, method])
            };
            if let Ok(Ok(places)) = tokio::time::timeout(WAIT, both).await {
                return Ok(Places(places));
            }
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.shed.add(1);
        // those who were refused together do not come back together
        let after = Duration::from_millis(500).mul_f64(0.5 + random::fraction());
        Err(Error::exhausted(OVERLOADED, "too many calls at once; try again later", after))
    }

    /// Waits before a refusal of [`Admission::enter`] is told. Others are told at once.
    pub(crate) async fn hold(&self, refusal: &Error) {
        if refusal.reason() != OVERLOADED {
            return;
        }
        let held = self.held.fetch_add(1, Ordering::Relaxed);
        let _leaving = Leaving(&self.held);
        if held < HELD {
            tokio::time::sleep(HOLD.mul_f64(0.5 + random::fraction())).await;
        }
    }
}

struct Leaving<'a>(&'a AtomicUsize);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_is_refused_soon_and_with_a_hint() {
        let limits = ServerLimits { calls: 2, streams: 1, ..ServerLimits::mesh() };
        let admission = Admission::new("admission-test", &limits);
        let method = Arc::new(Semaphore::new(8));
        let first = admission.enter(&method, false).await.expect("first");
        let _second = admission.enter(&method, false).await.expect("second");
        let refused = admission.enter(&method, false).await.expect_err("third");
        assert_eq!(refused.reason(), "OVERLOADED");
        assert!(refused.retry_after().is_some());
        let began = tokio::time::Instant::now();
        admission.hold(&Error::not_found("sensor", "a")).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "only for want of places");
        admission.hold(&refused).await;
        assert!((HOLD / 2..HOLD * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        admission.held.store(HELD, Ordering::Relaxed);
        let began = tokio::time::Instant::now();
        admission.hold(&refused).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "no more than so many wait");
        admission.enter(&method, true).await.expect("a stream is counted apart");
        drop(first);
        admission.enter(&method, false).await.expect("a place became free");
    }
}
