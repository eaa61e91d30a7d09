//! Where an upstream is.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::BoxFuture;
use http::uri::Authority;
use sensormesh_types::{Error, Result};

/// One place where an upstream answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where to connect to.
    pub socket: SocketAddr,
    /// What requests name as their `:authority`: the host and port as they were configured, which a sidecar routes by.
    pub authority: Authority,
}

/// Says where an upstream is, as often as it is asked.
///
/// A service of the same process is found before any of these is asked, in the [`crate::LocalRegistry`].
pub trait Discovery: Send + Sync + 'static {
    /// The addresses as they are now, each once.
    fn resolve(&self) -> BoxFuture<'_, Result<Vec<Address>>>;

    /// How often the answer may change; `None` where it never does.
    fn refresh(&self) -> Option<Duration>;
}

/// Addresses from the configuration: `127.0.0.1:8006`, and names that are looked up again and again, written
/// `dns:rooms:8006` or just `rooms:8006`. A name with several addresses, as a headless Kubernetes Service has, is several
/// endpoints.
#[derive(Clone, Debug)]
pub struct Configured {
    fixed: Vec<Address>,
    names: Vec<(String, u16, Authority)>,
    every: Duration,
}

impl Configured {
    /// Reads the entries; INVALID_ARGUMENT names the first that is no address.
    pub fn new(entries: &[String], every: Duration) -> Result<Self> {
        let mut found = Self { fixed: Vec::new(), names: Vec::new(), every };
        for entry in entries {
            let text = entry.strip_prefix("dns:").unwrap_or(entry);
            let refuse = || Error::invalid("endpoints", format!("{entry:?} is not host:port or dns:host:port"));
            let authority: Authority = text.parse().map_err(|_| refuse())?;
            let port = authority.port_u16().ok_or_else(refuse)?;
            let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
            match host.parse::<IpAddr>() {
                Ok(ip) => found.fixed.push(Address { socket: SocketAddr::new(ip, port), authority }),
                Err(_) => found.names.push((host, port, authority)),
            }
        }
        Ok(found)
    }
}

impl Discovery for Configured {
    fn resolve(&self) -> BoxFuture<'_, Result<Vec<Address>>> {
        Box::pin(async move {
            let mut all = self.fixed.clone();
            let mut failed = None;
            for (host, port, authority) in &self.names {
                match tokio::net::lookup_host((host.as_str(), *port)).await {
                    Ok(found) => all.extend(found.map(|socket| Address { socket, authority: authority.clone() })),
                    Err(error) => failed = Some(Error::internal(format!("looking up {host}: {error}"))),
                }
            }
            all.sort_by_key(|a| a.socket);
            all.dedup_by_key(|a| a.socket);
            match failed {
                Some(error) if all.is_empty() => Err(error),
                _ => Ok(all),
            }
        })
    }

    fn refresh(&self) -> Option<Duration> {
        (!self.names.is_empty()).then_some(self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(entries: &[&str]) -> Result<Configured> {
        let entries: Vec<String> = entries.iter().map(|e| (*e).to_owned()).collect();
        Configured::new(&entries, Duration::from_secs(5))
    }

    #[tokio::test]
    async fn addresses_are_taken_as_they_are_and_names_looked_up() {
        let fixed = configured(&["127.0.0.1:8006", "[::1]:8006", "127.0.0.1:8006"]).expect("addresses");
        assert_eq!(fixed.resolve().await.expect("resolved").len(), 2);
        assert_eq!(fixed.refresh(), None);
        let named = configured(&["dns:localhost:8006"]).expect("a name");
        assert_eq!(named.refresh(), Some(Duration::from_secs(5)));
        let found = named.resolve().await.expect("resolved");
        assert!(found.iter().all(|a| a.socket.ip().is_loopback() && a.authority == "localhost:8006"), "{found:?}");
        assert!(!found.is_empty());
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for entry in ["rooms", "127.0.0.1", "dns:", "a b:1", "rooms:port"] {
            let error = configured(&[entry]).expect_err(entry);
            assert!(error.message().contains(entry), "{error}");
        }
    }
}
