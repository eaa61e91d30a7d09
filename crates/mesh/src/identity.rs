//! Who a service is: a SPIFFE id, proven by its certificate.

use std::fmt;
use std::str::FromStr;

use sensormesh_types::Error;

/// The service name of the operator's certificate, whose holder is a user with the role `platform_admin`.
pub const OPERATOR: &str = "operator";

/// The metadata key that says who calls where the transport cannot: in the `plaintext` transport only.
pub const PEER_HEADER: &str = "sensormesh-peer";

/// A service's SPIFFE id: `spiffe://<trust domain>/ns/<namespace>/sa/<service>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The trust domain: whose certificate authority vouches for it.
    pub trust_domain: String,
    /// The namespace within the trust domain.
    pub namespace: String,
    /// The service's name: `rooms`.
    pub service: String,
}

impl Identity {
    /// The identity of a service.
    pub fn new(trust_domain: impl Into<String>, namespace: impl Into<String>, service: impl Into<String>) -> Self {
        Self { trust_domain: trust_domain.into(), namespace: namespace.into(), service: service.into() }
    }

    /// Whether it is the operator's.
    pub fn is_operator(&self) -> bool {
        self.service == OPERATOR
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service)
    }
}

impl FromStr for Identity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse =
            || Error::invalid("identity", format!("{text:?} is not spiffe://<domain>/ns/<namespace>/sa/<service>"));
        let rest = text.strip_prefix("spiffe://").ok_or_else(refuse)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let &[trust_domain, "ns", namespace, "sa", service] = parts.as_slice() else { return Err(refuse()) };
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        };
        if [trust_domain, namespace, service].iter().all(|part| plain(part)) {
            Ok(Identity::new(trust_domain, namespace, service))
        } else {
            Err(refuse())
        }
    }
}

/// The proven identity at the other end of a call, as a request extension.
///
/// The accept loop takes it from the client certificate; an in-process channel attaches its own service's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(pub Identity);

/// The network address at the other end of a connection, as a request extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(pub std::net::SocketAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_what_it_writes() {
        let identity = Identity::new("sensormesh.local", "sensormesh", "rooms");
        assert_eq!(identity.to_string().parse::<Identity>().expect("identity"), identity);
    }

    #[test]
    fn what_is_no_spiffe_id_of_a_service_is_refused() {
        for text in [
            "",
            "rooms",
            "https://sensormesh.local/ns/a/sa/b",
            "spiffe://sensormesh.local/ns/a",
            "spiffe:///ns/a/sa/b",
            "spiffe://d/ns/a/sa/b/c",
            "spiffe://d/ns/a/sa/",
            "spiffe://d/ns/a/sa/b?x",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}
