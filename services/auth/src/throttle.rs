//! Slows down whoever guesses passwords: per account, whether it exists or not, and per address.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use sensormesh_types::{Error, Result};
use serde::{Deserialize, Serialize};

/// Accounts and addresses remembered at most; the least used are forgotten first.
const REMEMBERED: u64 = 20_000;

/// How much guessing is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Failed log-ins of one account before the next must wait.
    pub account_attempts: u32,
    /// Failed log-ins from one address before the next must wait.
    pub address_attempts: u32,
    /// The first wait; each further failure doubles it.
    #[serde(with = "sensormesh_types::text::duration")]
    pub first_wait: Duration,
    /// The longest wait.
    #[serde(with = "sensormesh_types::text::duration")]
    pub longest_wait: Duration,
    /// Failures are forgotten after this long without another.
    #[serde(with = "sensormesh_types::text::duration")]
    pub forget_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            account_attempts: 10,
            address_attempts: 50,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(60),
            forget_after: Duration::from_secs(15 * 60),
        }
    }
}

impl Config {
    /// How many wrong codes there may be: of a million, three are right at any moment (RFC 6238, section 5.2, and the steps beside).
    fn of_codes() -> Self {
        Self {
            account_attempts: 5,
            address_attempts: 50,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(15 * 60),
            forget_after: Duration::from_secs(24 * 3600),
        }
    }

    /// How much mail may be asked for: three times for an account, ten times from an address, then after minutes to an hour.
    fn of_resets() -> Self {
        Self {
            account_attempts: 3,
            address_attempts: 10,
            first_wait: Duration::from_secs(5 * 60),
            longest_wait: Duration::from_secs(3600),
            forget_after: Duration::from_secs(3600),
        }
    }
}

#[derive(Default)]
struct Attempts {
    failures: u32,
    last: i64,
    blocked_until: i64,
}

impl Attempts {
    /// Counts an attempt as failed until it proves right, so that parallel guesses count too.
    fn admit(&mut self, free: u32, config: &Config, now: i64) -> Result<(), Duration> {
        if now - self.last > micros(config.forget_after) {
            *self = Self::default();
        }
        if now < self.blocked_until {
            return Err(Duration::from_micros(u64::try_from(self.blocked_until - now).unwrap_or(0)));
        }
        self.failures = self.failures.saturating_add(1);
        self.last = now;
        if self.failures >= free {
            let doublings = (self.failures - free).min(20);
            let wait = micros(config.first_wait).saturating_mul(1 << doublings).min(micros(config.longest_wait));
            self.blocked_until = now.saturating_add(wait);
        }
        Ok(())
    }
}

/// Who has an address: of IPv6, everybody has at least 2^64 (RFC 6177).
fn network(address: &str) -> String {
    match address.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V6(address)) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).to_string(),
        Ok(address) => address.to_string(),
        Err(_) => address.to_owned(),
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Remembers failed log-ins. In memory, and so for each replica by itself.
pub struct Throttle {
    config: Config,
    accounts: Cache<String, Arc<Mutex<Attempts>>>,
    addresses: Cache<String, Arc<Mutex<Attempts>>>,
    reason: &'static str,
    message: &'static str,
}

impl Throttle {
    /// Of log-ins; nobody has failed yet.
    pub fn new(config: Config) -> Self {
        Self::with(config, "LOGIN_THROTTLED", "too many failed log-ins; wait before the next one")
    }

    /// Of codes of a second factor; nobody has failed yet.
    pub(crate) fn of_codes() -> Self {
        Self::with(Config::of_codes(), "LOGIN_THROTTLED", "too many wrong codes; wait before the next one")
    }

    /// Of mail for forgotten passwords; nobody has asked yet.
    pub(crate) fn of_resets() -> Self {
        Self::with(Config::of_resets(), "RESET_THROTTLED", "mail was asked for often; wait before the next one")
    }

    fn with(config: Config, reason: &'static str, message: &'static str) -> Self {
        // a new one is always remembered, however often the others came
        let policy = EvictionPolicy::lru;
        let cache = || {
            let cache = Cache::builder().max_capacity(REMEMBERED).eviction_policy(policy());
            cache.time_to_idle(config.forget_after).build()
        };
        Self { accounts: cache(), addresses: cache(), config, reason, message }
    }

    /// Lets an attempt through or says how long to wait: RESOURCE_EXHAUSTED, reason `LOGIN_THROTTLED` or `RESET_THROTTLED`.
    /// `now` is in microseconds since the Unix epoch.
    pub fn admit(&self, account: &str, address: Option<&str>, now: i64) -> Result<()> {
        let refuse = |wait| Error::exhausted(self.reason, self.message, wait);
        if let Some(address) = address {
            let attempts = self.addresses.get_with(network(address), Arc::default);
            attempts.lock().admit(self.config.address_attempts, &self.config, now).map_err(refuse)?;
        }
        let attempts = self.accounts.get_with(account.to_owned(), Arc::default);
        attempts.lock().admit(self.config.account_attempts, &self.config, now).map_err(refuse)
    }

    /// The password was right: the account's failures are forgotten, and this one was none of the address's.
    pub fn succeeded(&self, account: &str, address: Option<&str>) {
        self.accounts.invalidate(account);
        self.take_back(&self.addresses, address.map(network).as_deref());
    }

    /// Nobody found out whether the password was right.
    pub fn undecided(&self, account: &str, address: Option<&str>) {
        self.take_back(&self.accounts, Some(account));
        self.take_back(&self.addresses, address.map(network).as_deref());
    }

    fn take_back(&self, cache: &Cache<String, Arc<Mutex<Attempts>>>, key: Option<&str>) {
        if let Some(attempts) = key.and_then(|key| cache.get(key)) {
            let mut attempts = attempts.lock();
            attempts.failures = attempts.failures.saturating_sub(1);
            attempts.blocked_until = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn throttle() -> Throttle {
        Throttle::new(Config { account_attempts: 3, address_attempts: 5, ..Config::default() })
    }

    #[test]
    fn failures_make_the_next_attempt_wait_twice_as_long() {
        let throttle = throttle();
        for _ in 0..3 {
            throttle.admit("ada", None, SECOND).expect("free attempts");
        }
        let refused = throttle.admit("ada", None, SECOND).expect_err("must wait");
        assert_eq!((refused.reason(), refused.retry_after()), ("LOGIN_THROTTLED", Some(Duration::from_secs(1))));
        throttle.admit("ada", None, 2 * SECOND).expect("waited");
        let refused = throttle.admit("ada", None, 2 * SECOND).expect_err("must wait longer");
        assert_eq!(refused.retry_after(), Some(Duration::from_secs(2)));
        throttle.admit("bob", None, 2 * SECOND).expect("another account is free");
    }

    #[test]
    fn the_wait_has_an_end_and_failures_are_forgotten() {
        let throttle = throttle();
        let mut now = SECOND;
        for _ in 0..30 {
            if let Err(refused) = throttle.admit("ada", None, now) {
                assert!(refused.retry_after().expect("wait") <= Duration::from_secs(60));
            }
            now += 61 * SECOND;
        }
        now += 16 * 60 * SECOND;
        for _ in 0..3 {
            throttle.admit("ada", None, now).expect("forgotten");
        }
    }

    #[test]
    fn a_right_password_clears_the_account_and_spraying_stops_the_address() {
        let throttle = throttle();
        for _ in 0..20 {
            throttle.admit("ada", Some("192.0.2.1"), SECOND).expect("right every time");
            throttle.succeeded("ada", Some("192.0.2.1"));
        }
        for user in ["a", "b", "c", "d", "e"] {
            throttle.admit(user, Some("192.0.2.1"), SECOND).expect("free attempts");
        }
        assert!(throttle.admit("f", Some("192.0.2.1"), SECOND).is_err());
        throttle.admit("f", Some("192.0.2.2"), SECOND).expect("another address is free");
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_are_one() {
        let throttle = throttle();
        for n in 0..5 {
            throttle.admit(&format!("u{n}"), Some(&format!("2001:db8:0:1::{n}")), SECOND).expect("free attempts");
        }
        assert!(throttle.admit("v", Some("2001:db8:0:1:ffff::9"), SECOND).is_err());
        throttle.admit("v", Some("2001:db8:0:2::9"), SECOND).expect("another network is free");
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
