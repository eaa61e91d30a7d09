//! Which of an upstream's endpoints takes the next call.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use sensormesh_observability::metrics;
use sensormesh_types::{Error, random};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connect::Connector;
use super::endpoint::Endpoint;
use super::failure;
use super::resolve::Discovery;

/// The shortest time between two resolutions that failures ask for.
const RESOLVE_GAP: Duration = Duration::from_secs(1);

/// The endpoints of one upstream: power of two choices by load among those that are well.
///
/// An endpoint that cannot be connected to gets no calls until a task of its own has reached it. One that keeps failing
/// calls is ejected for a while, but never more than half of them: if most are bad, it is not they.
pub(crate) struct Balancer {
    upstream: String,
    discovery: Box<dyn Discovery>,
    connector: Arc<Connector>,
    shown: metrics::Upstream,
    endpoints: RwLock<Vec<Arc<Endpoint>>>,
    /// When it was last resolved; also keeps two resolutions from running at once.
    resolved: tokio::sync::Mutex<Option<Instant>>,
    again: Arc<Notify>,
}

impl Balancer {
    pub(crate) fn new(
        upstream: &str,
        discovery: Box<dyn Discovery>,
        connector: Arc<Connector>,
        shown: metrics::Upstream,
    ) -> Arc<Self> {
        Arc::new(Self {
            upstream: upstream.to_owned(),
            discovery,
            connector,
            shown,
            endpoints: RwLock::default(),
            resolved: tokio::sync::Mutex::new(None),
            again: Arc::default(),
        })
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// An endpoint for the next call, another than those `tried` where there is one.
    pub(crate) async fn pick(self: &Arc<Self>, tried: &[Arc<Endpoint>]) -> Result<Arc<Endpoint>, Error> {
        if let Some(endpoint) = self.choose(tried) {
            return Ok(endpoint);
        }
        self.resolve_first().await?;
        self.choose(tried).ok_or_else(|| failure::unreachable(&self.upstream, "no address"))
    }

    /// Whether there is an endpoint that was not tried and may well answer.
    pub(crate) fn has_another(&self, tried: &[Arc<Endpoint>]) -> bool {
        self.endpoints.read().iter().any(|e| !e.is_down() && !e.is_ejected() && is_fresh(e, tried))
    }

    /// Counts how a call to an endpoint went.
    pub(crate) fn report(&self, endpoint: &Endpoint, good: bool) {
        if good {
            endpoint.well();
        } else if endpoint.failed(self.connector.rules().eject_failures) && self.may_eject() {
            endpoint.eject();
            self.shown.ejections.add(1);
            let address = endpoint.address.socket;
            tracing::warn!(upstream = self.upstream, %address, "an endpoint keeps failing and gets no calls for now");
        }
    }

    /// Asks for another resolution soon: an endpoint could not be reached.
    pub(crate) fn doubt(&self) {
        self.again.notify_one();
    }

    fn may_eject(&self) -> bool {
        let endpoints = self.endpoints.read();
        let ejected = endpoints.iter().filter(|e| e.is_ejected()).count();
        (ejected + 1) * 2 <= endpoints.len()
    }

    fn choose(&self, tried: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.read();
        if let [only] = endpoints.as_slice() {
            return Some(Arc::clone(only));
        }
        let fresh = |e: &Endpoint| is_fresh(e, tried);
        choose(&endpoints, |e| fresh(e) && !e.is_down() && !e.is_ejected())
            .or_else(|| choose(&endpoints, |e| fresh(e) && !e.is_down()))
            .or_else(|| choose(&endpoints, |e| !e.is_down()))
            .or_else(|| choose(&endpoints, fresh))
            .or_else(|| choose(&endpoints, |_| true))
    }

    /// Resolves if that has not succeeded yet, and keeps resolving where the answer may change.
    async fn resolve_first(self: &Arc<Self>) -> Result<(), Error> {
        let mut resolved = self.resolved.lock().await;
        if !self.endpoints.read().is_empty() {
            return Ok(());
        }
        let first = resolved.is_none();
        if resolved.is_some_and(|last| last.elapsed() < RESOLVE_GAP) {
            return Err(failure::unreachable(&self.upstream, "no address"));
        }
        *resolved = Some(Instant::now());
        if first && let Some(every) = self.discovery.refresh() {
            tokio::spawn(keep_resolving(Arc::downgrade(self), Arc::clone(&self.again), every));
        }
        self.resolve().await
    }

    async fn resolve(&self) -> Result<(), Error> {
        let addresses = self.discovery.resolve().await.map_err(|e| failure::unreachable(&self.upstream, e))?;
        if addresses.is_empty() {
            // an empty answer is more often a broken resolver than the end of a service
            return Ok(());
        }
        let mut endpoints = self.endpoints.write();
        *endpoints = addresses
            .into_iter()
            .map(|address| match endpoints.iter().find(|e| e.address == address) {
                Some(known) => Arc::clone(known),
                None => Endpoint::new(address, Arc::clone(&self.connector)),
            })
            .collect();
        Ok(())
    }
}

fn is_fresh(endpoint: &Endpoint, tried: &[Arc<Endpoint>]) -> bool {
    !tried.iter().any(|t| std::ptr::eq(Arc::as_ptr(t), endpoint))
}

/// The less loaded of two at random among those that are fit.
fn choose(endpoints: &[Arc<Endpoint>], fit: impl Fn(&Endpoint) -> bool) -> Option<Arc<Endpoint>> {
    let fit: Vec<&Arc<Endpoint>> = endpoints.iter().filter(|e| fit(e)).collect();
    let count = fit.len();
    if count < 2 {
        return fit.first().map(|e| Arc::clone(e));
    }
    let draw = u64::from_le_bytes(random::bytes());
    let index = |bits: u64, below: usize| usize::try_from(bits % u64::try_from(below).unwrap_or(1)).unwrap_or(0);
    let first = index(draw & 0xffff_ffff, count);
    let second = (first + 1 + index(draw >> 32, count - 1)) % count;
    let chosen = if fit[second].load() < fit[first].load() { second } else { first };
    Some(Arc::clone(fit[chosen]))
}

async fn keep_resolving(balancer: Weak<Balancer>, again: Arc<Notify>, every: Duration) {
    loop {
        tokio::time::sleep(RESOLVE_GAP).await;
        // never later than said: whoever reads the setting counts on it
        let rest = every.saturating_sub(RESOLVE_GAP).mul_f64(0.6 + 0.4 * random::fraction());
        // woken early or not, it is time
        let _ = tokio::time::timeout(rest, again.notified()).await;
        let Some(balancer) = balancer.upgrade() else { return };
        if let Err(error) = balancer.resolve().await {
            tracing::debug!(?error, upstream = balancer.upstream, "the addresses stay as they are");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures::future::BoxFuture;
    use parking_lot::Mutex;

    use super::*;
    use crate::client::Resilience;
    use crate::client::resolve::Address;

    /// Answers what the test wrote last; an error where that is nothing.
    struct Scripted(Script);

    const EVERY: Duration = Duration::from_secs(5);

    type Script = Arc<Mutex<Option<Vec<u16>>>>;

    impl Discovery for Scripted {
        fn resolve(&self) -> BoxFuture<'_, Result<Vec<Address>, Error>> {
            let ports = self.0.lock().clone();
            let address = |port| Address {
                socket: SocketAddr::from(([127, 0, 0, 1], port)),
                authority: http::uri::Authority::from_static("rooms:8006"),
            };
            Box::pin(async move {
                ports.map(|p| p.into_iter().map(address).collect()).ok_or_else(|| Error::internal("no resolver"))
            })
        }

        fn refresh(&self) -> Option<Duration> {
            Some(EVERY)
        }
    }

    fn balancer() -> (Arc<Balancer>, Script) {
        let script = Arc::new(Mutex::new(None));
        let connector = Arc::new(Connector::new(Resilience::default(), None));
        let discovery = Box::new(Scripted(Arc::clone(&script)));
        (Balancer::new("rooms", discovery, connector, metrics::upstream("edge", "rooms")), script)
    }

    fn ports(balancer: &Balancer) -> Vec<u16> {
        balancer.endpoints.read().iter().map(|e| e.address.socket.port()).collect()
    }

    #[tokio::test]
    async fn f26_an_empty_or_failed_answer_leaves_the_addresses_as_they_are() {
        let (balancer, script) = balancer();
        assert!(balancer.resolve().await.is_err());
        *script.lock() = Some(vec![1, 2]);
        balancer.resolve().await.expect("resolved");
        let known = Arc::clone(&balancer.endpoints.read()[1]);
        *script.lock() = Some(Vec::new());
        balancer.resolve().await.expect("resolved");
        *script.lock() = None;
        assert!(balancer.resolve().await.is_err());
        assert_eq!(ports(&balancer), [1, 2]);
        *script.lock() = Some(vec![2, 3]);
        balancer.resolve().await.expect("resolved");
        assert_eq!(ports(&balancer), [2, 3]);
        assert!(Arc::ptr_eq(&known, &balancer.endpoints.read()[0]), "who stays keeps its connections and its record");
    }

    #[tokio::test(start_paused = true)]
    async fn f26_a_new_address_is_used_within_its_time_and_the_old_one_is_let_go() {
        let (balancer, script) = balancer();
        *script.lock() = Some(vec![1]);
        let old = Arc::downgrade(&balancer.pick(&[]).await.expect("an endpoint"));
        for port in [2, 3, 4] {
            *script.lock() = Some(vec![port]);
            tokio::time::sleep(EVERY + Duration::from_millis(1)).await;
            assert_eq!(balancer.pick(&[]).await.expect("an endpoint").address.socket.port(), port);
        }
        assert!(old.upgrade().is_none(), "its connections are closed when its calls are over");
        // one that cannot be reached is doubted, and another looked for soon
        *script.lock() = Some(vec![5]);
        tokio::time::sleep(RESOLVE_GAP).await;
        balancer.doubt();
        tokio::time::sleep(RESOLVE_GAP + Duration::from_millis(1)).await;
        assert_eq!(ports(&balancer), [5]);
    }

    #[tokio::test]
    async fn never_more_than_half_of_the_endpoints_are_taken_out() {
        let (balancer, script) = balancer();
        *script.lock() = Some(vec![1, 2, 3, 4]);
        balancer.resolve().await.expect("resolved");
        let endpoints = balancer.endpoints.read().clone();
        for _ in 0..20 {
            endpoints.iter().for_each(|endpoint| balancer.report(endpoint, false));
        }
        assert_eq!(endpoints.iter().filter(|e| e.is_ejected()).count(), 2);
        let mut tried = Vec::new();
        for _ in 0..2 {
            tried.push(balancer.pick(&tried).await.expect("an endpoint"));
        }
        assert!(tried.iter().all(|e| !e.is_ejected()), "the good ones first");
        assert!(balancer.pick(&tried).await.expect("an endpoint").is_ejected(), "then those that were taken out");
    }

    #[tokio::test]
    async fn the_less_loaded_of_two_is_taken() {
        let (balancer, script) = balancer();
        *script.lock() = Some(vec![1, 2]);
        balancer.resolve().await.expect("resolved");
        let busy = Arc::clone(&balancer.endpoints.read()[0]);
        let _leases: Vec<_> = (0..3).map(|_| busy.lease(false)).collect();
        for _ in 0..50 {
            assert_eq!(balancer.pick(&[]).await.expect("an endpoint").address.socket.port(), 2);
        }
    }
}
