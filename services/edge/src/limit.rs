//! How much one caller may ask: calls by the second, streams at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use sensormesh_types::{Error, Result};
use serde::{Deserialize, Serialize};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Units a second, and how many may come at once. A call costs what its contract says, usually 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Units a second; 0 = no limit.
    pub per_second: u32,
    /// Units at once after a pause.
    pub burst: u32,
}

/// Who is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payer {
    /// A user, by tenant and id.
    User(String),
    /// Somebody unknown, by address or network.
    Address(IpAddr),
}

/// What a caller has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Units at once.
    pub burst: u32,
    /// Units left now.
    pub remaining: u32,
    /// Seconds until all are there again.
    pub reset: u32,
}

impl Left {
    /// Adds the `RateLimit-…` headers.
    pub fn show(&self, headers: &mut HeaderMap) {
        headers.insert(LIMIT, HeaderValue::from(self.burst));
        headers.insert(REMAINING, HeaderValue::from(self.remaining));
        headers.insert(RESET, HeaderValue::from(self.reset));
    }
}

type Buckets<K> = RateLimiter<K, DashMapStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// The limits of every caller.
#[derive(Debug)]
pub struct Limits {
    users: Option<(Rate, Buckets<String>)>,
    addresses: Option<(Rate, Buckets<IpAddr>)>,
    streams: Streams,
}

impl Limits {
    /// Limits for users, for everybody else by address, and for the streams that one caller may have open.
    pub fn new(users: Rate, addresses: Rate, streams: u32) -> Self {
        Self {
            users: buckets(users),
            addresses: buckets(addresses),
            streams: Streams { most: streams, open: Arc::default() },
        }
    }

    /// Takes `cost` units from a caller. RESOURCE_EXHAUSTED with the time to wait where there are not as many.
    pub fn take(&self, payer: &Payer, cost: u32) -> Result<Option<Left>> {
        match payer {
            Payer::User(id) => self.users.as_ref().map(|(rate, buckets)| check(*rate, buckets, id, cost)).transpose(),
            Payer::Address(address) => {
                self.addresses.as_ref().map(|(rate, buckets)| check(*rate, buckets, address, cost)).transpose()
            }
        }
    }

    /// Takes the place of one stream until the guard is dropped.
    pub fn stream(&self, payer: &Payer) -> Result<StreamGuard> {
        self.streams.enter(payer)
    }

    /// Forgets callers that have everything again.
    pub fn forget(&self) {
        if let Some((_, buckets)) = &self.users {
            buckets.retain_recent();
            buckets.shrink_to_fit();
        }
        if let Some((_, buckets)) = &self.addresses {
            buckets.retain_recent();
            buckets.shrink_to_fit();
        }
    }
}

fn buckets<K: Hash + Eq + Clone>(rate: Rate) -> Option<(Rate, Buckets<K>)> {
    let per_second = NonZeroU32::new(rate.per_second)?;
    let burst = NonZeroU32::new(rate.burst).unwrap_or(per_second);
    let quota = Quota::per_second(per_second).allow_burst(burst);
    let rate = Rate { per_second: per_second.get(), burst: burst.get() };
    Some((rate, RateLimiter::dashmap(quota).with_middleware::<StateInformationMiddleware>()))
}

fn check<K: Hash + Eq + Clone>(rate: Rate, buckets: &Buckets<K>, key: &K, cost: u32) -> Result<Left> {
    let cost = NonZeroU32::new(cost.min(rate.burst)).unwrap_or(NonZeroU32::MIN);
    let wait = match buckets.check_key_n(key, cost) {
        Ok(Ok(state)) => {
            let remaining = state.remaining_burst_capacity();
            let reset = (rate.burst - remaining.min(rate.burst)).div_ceil(rate.per_second);
            return Ok(Left { burst: rate.burst, remaining, reset });
        }
        Ok(Err(until)) => until.wait_time_from(DefaultClock::default().now()),
        Err(_) => Duration::from_secs(1),
    };
    let message = format!("more than {} calls a second at this edge; slow down", rate.per_second);
    Err(Error::exhausted("RATE_LIMITED", message, wait.max(Duration::from_millis(1))))
}

/// Streams by caller.
#[derive(Debug)]
struct Streams {
    most: u32,
    open: Arc<Mutex<HashMap<Payer, u32>>>,
}

impl Streams {
    fn enter(&self, payer: &Payer) -> Result<StreamGuard> {
        let mut open = self.open.lock();
        let count = open.entry(payer.clone()).or_default();
        if *count >= self.most {
            let message = format!("{} streams are open already; close one", self.most);
            return Err(Error::exhausted("TOO_MANY_STREAMS", message, Duration::from_secs(5)));
        }
        *count += 1;
        Ok(StreamGuard { payer: payer.clone(), open: Arc::clone(&self.open) })
    }
}

/// The place of one open stream.
#[derive(Debug)]
pub struct StreamGuard {
    payer: Payer,
    open: Arc<Mutex<HashMap<Payer, u32>>>,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&self.payer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.payer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensormesh_types::Code;

    const RATE: Rate = Rate { per_second: 1, burst: 10 };

    #[test]
    fn a_caller_has_its_burst_and_then_waits() {
        let limits = Limits::new(RATE, RATE, 2);
        let ada = Payer::User("ada".into());
        assert_eq!(limits.take(&ada, 4).expect("allowed").expect("limited").remaining, 6);
        assert_eq!(limits.take(&ada, 6).expect("allowed").expect("limited").remaining, 0);
        let error = limits.take(&ada, 1).expect_err("exhausted");
        assert_eq!(error.code(), Code::Exhausted);
        assert!(error.retry_after().expect("a hint") <= Duration::from_secs(1));
        assert!(limits.take(&Payer::User("bob".into()), 1).is_ok());
        assert!(limits.take(&Payer::Address("192.0.2.1".parse().expect("address")), 1).is_ok());
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let limits = Limits::new(Rate { per_second: 0, burst: 0 }, RATE, 2);
        for _ in 0..1000 {
            assert_eq!(limits.take(&Payer::User("ada".into()), 100).expect("allowed"), None);
        }
    }

    #[test]
    fn a_call_that_costs_more_than_the_burst_costs_the_burst() {
        let limits = Limits::new(RATE, RATE, 2);
        assert!(limits.take(&Payer::User("ada".into()), 1000).is_ok());
        assert!(limits.take(&Payer::User("ada".into()), 1).is_err());
    }

    #[test]
    fn a_caller_has_so_many_streams_and_gets_them_back() {
        let limits = Limits::new(RATE, RATE, 2);
        let ada = Payer::User("ada".into());
        let one = limits.stream(&ada).expect("first");
        let _two = limits.stream(&ada).expect("second");
        assert!(limits.stream(&ada).is_err());
        assert!(limits.stream(&Payer::User("bob".into())).is_ok());
        drop(one);
        assert!(limits.stream(&ada).is_ok());
    }
}
