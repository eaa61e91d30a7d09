//! Keeps a service below the load at which it would fail for everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use sensormesh_observability::metrics::{self, Counter, Gauge};
use sensormesh_types::{Error, Result, random};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::limit::{Ended, Limit, Usual};
use crate::ServerLimits;

const OVERLOADED: &str = "OVERLOADED";

/// Calls that wait in a row for a place at most, and for how long: enough to smooth a burst, too little to build a queue.
const QUEUED: usize = 64;
const QUEUE: Duration = Duration::from_millis(50);

/// Who found none looks again now and then and is refused after about so long, as far as no more than so many wait: who is
/// refused at once is back at once, and refusing small calls takes as long as a good part of serving them.
const WAITING: usize = 1024;
const WAIT: Duration = Duration::from_millis(750);
const LOOK: Duration = Duration::from_millis(100);

/// When to come back.
const HINT: Duration = Duration::from_millis(500);

/// The places of one service.
pub(crate) struct Admission {
    calls: Arc<Calls>,
    streams: Arc<Semaphore>,
    /// Who waits at all, and who of them in the row.
    waiting: AtomicUsize,
    queued: AtomicUsize,
    full: Counter,
    slow: Counter,
}

/// The places of one method.
pub(crate) struct Method {
    most: u32,
    places: Arc<Semaphore>,
    usual: Usual,
}

impl Method {
    pub(crate) fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { most, places: Arc::new(Semaphore::new(most as usize)), usual: Usual::default() })
    }

    fn running(&self) -> u32 {
        self.most.saturating_sub(count(&self.places))
    }
}

/// The places of calls that are no streams: as many as the limit, which follows how long calls take.
struct Calls {
    limit: Limit,
    places: Arc<Semaphore>,
    /// Places that are taken and will not be given back, because the limit fell.
    owed: AtomicU32,
    shown: Gauge,
}

impl Calls {
    fn running(&self) -> u32 {
        (self.limit.current() + self.owed.load(Ordering::Relaxed)).saturating_sub(count(&self.places))
    }

    /// One method has its half where there are less places than there may be, so that others find some.
    fn has_share(&self, method: &Method) -> bool {
        !self.limit.is_lowered() || method.running() < (self.limit.current() / 2).max(1)
    }

    /// Makes places or takes some away, where the limit changes.
    fn follow(&self, now: Instant) -> bool {
        let Some(change) = self.limit.turn(now) else { return false };
        let count = u32::try_from(change.unsigned_abs()).unwrap_or(u32::MAX);
        if change < 0 {
            let gone = self.places.forget_permits(count as usize);
            self.owed.fetch_add(count - u32::try_from(gone).unwrap_or(count), Ordering::Relaxed);
        } else {
            let pay = |owed: u32| Some(owed.saturating_sub(count));
            let owed = self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).unwrap_or_default();
            self.places.add_permits(count.saturating_sub(owed) as usize);
        }
        self.shown.show(self.limit.current().into());
        true
    }

    fn give_back(&self, place: OwnedSemaphorePermit) {
        let owes = |owed: u32| owed.checked_sub(1);
        if self.owed.load(Ordering::Relaxed) > 0
            && self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, owes).is_ok()
        {
            place.forget();
        }
    }
}

fn count(places: &Semaphore) -> u32 {
    u32::try_from(places.available_permits()).unwrap_or(u32::MAX)
}

/// The places one call occupies.
pub(crate) struct Places {
    process: Option<OwnedSemaphorePermit>,
    _method: OwnedSemaphorePermit,
    /// Absent for a stream, which lasts as long as somebody listens.
    judged: Option<Judged>,
}

struct Judged {
    calls: Arc<Calls>,
    method: Arc<Method>,
    began: Instant,
    beside: u32,
    answered: Option<Instant>,
}

impl Places {
    /// Notes that the handler has answered. How long the peer takes to read is not its fault.
    pub(crate) fn answered(&mut self) {
        if let Some(judged) = &mut self.judged {
            judged.answered = Some(Instant::now());
            // of those that come together the first find nobody there, and wait for each other all the same
            judged.beside = judged.beside.max(judged.calls.running());
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let Some(Judged { calls, method, began, beside, answered }) = self.judged.take() else { return };
        let now = Instant::now();
        let took = answered.unwrap_or(now).saturating_duration_since(began);
        calls.limit.note(&method.usual, &Ended { took, beside, answered: answered.is_some() });
        calls.follow(now);
        if let Some(place) = self.process.take() {
            calls.give_back(place);
        }
    }
}

impl Admission {
    pub(crate) fn new(service: &'static str, limits: &ServerLimits) -> Self {
        let shown = metrics::calls_limit(service);
        shown.show(limits.calls.into());
        let calls = Calls {
            limit: Limit::new(limits.calls_floor, limits.calls, Instant::now()),
            places: Arc::new(Semaphore::new(limits.calls as usize)),
            owed: AtomicU32::new(0),
            shown,
        };
        Self {
            calls: Arc::new(calls),
            streams: Arc::new(Semaphore::new(limits.streams as usize)),
            waiting: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            full: metrics::shed(service, "concurrency"),
            slow: metrics::shed(service, "latency"),
        }
    }

    /// Takes a place in the process and one of the method's, at `now`, or waits for them until `end` at the latest.
    /// RESOURCE_EXHAUSTED with a hint where there is none.
    pub(crate) async fn enter(&self, method: &Arc<Method>, stream: bool, now: Instant, end: Instant) -> Result<Places> {
        if let Some(places) = self.take(method, stream, now) {
            return Ok(places);
        }
        // after a pause nobody but who comes now makes places again
        if !stream
            && self.calls.follow(now)
            && let Some(places) = self.take(method, stream, now)
        {
            return Ok(places);
        }
        if let Some(places) = self.wait(method, stream, end).await {
            return Ok(places);
        }
        let shed = if !stream && self.calls.limit.is_lowered() { &self.slow } else { &self.full };
        shed.add(1);
        Err(Error::exhausted(OVERLOADED, "too many calls at once; try again later", around(HINT)))
    }

    /// Waits for both places, first in a row with others, then by looking for them: those who come later may find them sooner.
    async fn wait(&self, method: &Arc<Method>, stream: bool, end: Instant) -> Option<Places> {
        let until = end.min(Instant::now() + around(WAIT));
        let (before, _leaving) = Leaving::enter(&self.waiting);
        if before >= WAITING {
            return None;
        }
        let (before, row) = Leaving::enter(&self.queued);
        if before < QUEUED && self.has_share(method, stream) {
            let both = async {
                let place = Arc::clone(&method.places).acquire_owned().await?;
                let process = Arc::clone(self.process(stream)).acquire_owned().await?;
                Ok::<_, tokio::sync::AcquireError>((process, place))
            };
            let row_ends = until.min(Instant::now() + QUEUE);
            if let Ok(Ok((process, place))) = tokio::time::timeout_at(row_ends, both).await {
                return Some(self.places(process, place, method, stream, Instant::now()));
            }
        }
        drop(row);
        while Instant::now() < until {
            tokio::time::sleep_until(until.min(Instant::now() + around(LOOK))).await;
            let places = self.take(method, stream, Instant::now());
            if places.is_some() {
                return places;
            }
        }
        None
    }

    fn process(&self, stream: bool) -> &Arc<Semaphore> {
        if stream { &self.streams } else { &self.calls.places }
    }

    fn has_share(&self, method: &Method, stream: bool) -> bool {
        stream || self.calls.has_share(method)
    }

    /// Takes both places where they are free.
    fn take(&self, method: &Arc<Method>, stream: bool, now: Instant) -> Option<Places> {
        if !self.has_share(method, stream) {
            return None;
        }
        let process = Arc::clone(self.process(stream)).try_acquire_owned().ok()?;
        let place = Arc::clone(&method.places).try_acquire_owned().ok()?;
        Some(self.places(process, place, method, stream, now))
    }

    fn places(
        &self,
        process: OwnedSemaphorePermit,
        place: OwnedSemaphorePermit,
        method: &Arc<Method>,
        stream: bool,
        began: Instant,
    ) -> Places {
        let judged = (!stream).then(|| Judged {
            calls: Arc::clone(&self.calls),
            method: Arc::clone(method),
            began,
            beside: self.calls.running(),
            answered: None,
        });
        Places { process: Some(process), _method: place, judged }
    }
}

/// Half of it to one and a half: those who came together do not go on together.
fn around(time: Duration) -> Duration {
    time.mul_f64(0.5 + random::fraction())
}

struct Leaving<'a>(&'a AtomicUsize);

impl<'a> Leaving<'a> {
    /// Counts one more, until that is dropped; says how many there were before.
    fn enter(count: &'a AtomicUsize) -> (usize, Self) {
        (count.fetch_add(1, Ordering::Relaxed), Self(count))
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_is_refused_soon_and_with_a_hint() {
        let limits = ServerLimits { calls: 2, streams: 1, ..ServerLimits::mesh() };
        let admission = Admission::new("admission-test", &limits);
        let method = Method::new(8);
        let now = Instant::now();
        let first = admission.enter(&method, false, now, far()).await.expect("first");
        let _second = admission.enter(&method, false, now, far()).await.expect("second");
        let refused = admission.enter(&method, false, now, far()).await.err().expect("third");
        assert!((WAIT / 2..WAIT * 2).contains(&now.elapsed()), "{:?}", now.elapsed());
        assert_eq!(refused.reason(), "OVERLOADED");
        assert!(refused.retry_after().is_some());
        admission.waiting.store(WAITING, Ordering::Relaxed);
        let began = Instant::now();
        admission.enter(&method, false, now, far()).await.err().expect("no more than so many wait");
        assert_eq!(began.elapsed(), Duration::ZERO);
        admission.enter(&method, true, now, far()).await.expect("a stream is counted apart");
        drop(first);
        admission.enter(&method, false, now, far()).await.expect("a place became free");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_beyond_the_callers_deadline() {
        let limits = ServerLimits { calls: 1, ..ServerLimits::mesh() };
        let admission = Admission::new("deadline-test", &limits);
        let method = Method::new(8);
        let now = Instant::now();
        let _first = admission.enter(&method, false, now, far()).await.expect("first");
        let end = now + Duration::from_millis(120);
        admission.enter(&method, false, now, end).await.err().expect("no place");
        assert_eq!(Instant::now(), end);
        assert_eq!(admission.waiting.load(Ordering::Relaxed) + admission.queued.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_has_the_place_that_becomes_free() {
        let limits = ServerLimits { calls: 1, ..ServerLimits::mesh() };
        let admission = Arc::new(Admission::new("waiting-test", &limits));
        let method = Method::new(8);
        let first = admission.enter(&method, false, Instant::now(), far()).await.expect("first");
        let waiting = tokio::spawn({
            let (admission, method) = (Arc::clone(&admission), Arc::clone(&method));
            async move { admission.enter(&method, false, Instant::now(), far()).await.map(drop) }
        });
        tokio::time::sleep(QUEUE + LOOK / 4).await;
        drop(first);
        waiting.await.expect("runs").expect("has the place");
    }

    /// Calls that begin together and are all answered after so long.
    async fn together(admission: &Admission, method: &Arc<Method>, most: usize, took: Duration) -> usize {
        let mut running = Vec::new();
        for _ in 0..most {
            match admission.enter(method, false, Instant::now(), far()).now_or_never() {
                Some(Ok(places)) => running.push(places),
                _ => break,
            }
        }
        tokio::time::sleep(took).await;
        running.iter_mut().for_each(Places::answered);
        running.len()
    }

    #[tokio::test(start_paused = true)]
    async fn places_follow_the_limit_and_others_find_one_beside_a_slow_method() {
        let limits = ServerLimits { calls: 64, calls_floor: 8, calls_per_method: 64, ..ServerLimits::mesh() };
        let admission = Admission::new("limit-test", &limits);
        let (method, other) = (Method::new(64), Method::new(64));
        assert_eq!(together(&admission, &method, 1, Duration::from_millis(5)).await, 1);
        assert_eq!(together(&admission, &method, 64, Duration::from_secs(1)).await, 64);
        for _ in 0..9 {
            together(&admission, &method, 64, Duration::from_secs(1)).await;
        }
        assert!(admission.calls.limit.current() < 32, "{}", admission.calls.limit.current());
        assert_eq!(admission.calls.places.available_permits(), admission.calls.limit.current() as usize);
        let mut running = Vec::new();
        while let Some(Ok(places)) = admission.enter(&method, false, Instant::now(), far()).now_or_never() {
            running.push(places);
        }
        assert_eq!(running.len(), admission.calls.limit.current() as usize / 2);
        let _beside = admission.enter(&other, false, Instant::now(), far()).await.expect("others have the other half");
        drop(running);
        tokio::time::sleep(Duration::from_secs(30)).await;
        // the first that is refused finds out that time has passed
        together(&admission, &other, 64, Duration::ZERO).await;
        assert_eq!(together(&admission, &other, 63, Duration::ZERO).await, 63);
        assert_eq!((admission.calls.running(), admission.calls.owed.load(Ordering::Relaxed)), (1, 0));
    }
}
