//! Who is at the other end: the connection's address, or what a trusted proxy says it is.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::HOST;
use sensormesh_mesh::Network;

/// Where a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whence {
    /// The client's address.
    pub address: IpAddr,
    /// The host it asked for, as it wrote it: `example.com:8443`.
    pub host: String,
    /// It came over a trusted proxy.
    pub proxied: bool,
}

impl Whence {
    /// Reads where a request comes from. Headers count only where the connection itself is a trusted proxy's.
    ///
    /// Of the addresses in `X-Forwarded-For` the rightmost one that is no trusted proxy counts: what stands left of it was
    /// written by whoever sent the request.
    pub fn of(peer: SocketAddr, uri_host: Option<&str>, headers: &HeaderMap, proxies: &[Network]) -> Self {
        let peer = peer.ip().to_canonical();
        let trusted = |address: IpAddr| proxies.iter().any(|network| network.contains(address));
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let host = uri_host.or_else(|| text(HOST.as_str())).unwrap_or_default().to_owned();
        if !trusted(peer) {
            return Self { address: peer, host, proxied: false };
        }
        let mut address = peer;
        let lines = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let listed: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
        for entry in listed.into_iter().rev() {
            let Some(next) = parse(entry) else { break };
            address = next;
            if !trusted(next) {
                break;
            }
        }
        let host = text("x-forwarded-host").map_or(host, str::to_owned);
        Self { address, host, proxied: true }
    }
}

/// An address with or without a port: `1.2.3.4`, `1.2.3.4:5`, `[::1]:5`.
fn parse(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    let address = bare.parse::<IpAddr>().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|a| a.ip()));
    address.map(|address| address.to_canonical())
}

/// What one sender is known by: an IPv4 address, or the /64 network that an IPv6 customer gets.
pub fn sender(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peer: &str, headers: &[(&'static str, &str)]) -> Whence {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("value"));
        }
        let proxies = ["10.0.0.0/8".parse().expect("network"), "::1".parse().expect("network")];
        Whence::of(peer.parse().expect("address"), None, &map, &proxies)
    }

    fn address(peer: &str, forwarded: &[&str]) -> String {
        let headers: Vec<_> = forwarded.iter().map(|value| ("x-forwarded-for", *value)).collect();
        of(peer, &headers).address.to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(address("192.0.2.1:5", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(address("10.0.0.1:5", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(address("[::1]:5", &["198.51.100.7:1234"]), "198.51.100.7");
        assert_eq!(address("[::ffff:10.0.0.1]:5", &["[2001:db8::1]:9"]), "2001:db8::1");
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxy_counts() {
        assert_eq!(address("10.0.0.1:5", &["6.6.6.6, 198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(address("10.0.0.1:5", &["6.6.6.6", "198.51.100.7", "10.0.0.2"]), "198.51.100.7");
        assert_eq!(address("10.0.0.1:5", &["10.0.0.9"]), "10.0.0.9");
        assert_eq!(address("10.0.0.1:5", &["6.6.6.6, nonsense"]), "10.0.0.1");
        assert_eq!(address("10.0.0.1:5", &[]), "10.0.0.1");
    }

    #[test]
    fn the_host_is_the_proxys_word_only_through_the_proxy() {
        let headers = [("host", "edge:8000"), ("x-forwarded-host", "example.com")];
        assert_eq!(of("10.0.0.1:5", &headers).host, "example.com");
        assert_eq!(of("192.0.2.1:5", &headers).host, "edge:8000");
    }

    #[test]
    fn a_network_of_one_customer_is_one_sender() {
        let one: IpAddr = "2001:db8:1:2:3::4".parse().expect("address");
        let other: IpAddr = "2001:db8:1:2:ffff::1".parse().expect("address");
        assert_eq!(sender(one), sender(other));
        assert_ne!(sender(one), sender("2001:db8:1:3::1".parse().expect("address")));
    }
}
