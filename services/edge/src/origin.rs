//! Which web pages may use the edge from a browser.

use std::net::IpAddr;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue};
use sensormesh_types::{Error, Result};

use crate::forwarded::Whence;

const ALLOWED_HEADERS: &str = "authorization, content-type, x-grpc-web, x-user-agent, grpc-timeout, last-event-id, \
                               connect-protocol-version, x-request-id, traceparent, sensormesh-service";
const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
const EXPOSED_HEADERS: &str = "grpc-status, grpc-message, grpc-status-details-bin, grpc-encoding, x-request-id, \
                               retry-after, ratelimit-limit, ratelimit-remaining, ratelimit-reset, www-authenticate";

/// The origins that may, beside the edge's own.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    listed: Vec<String>,
    /// Only names of this machine are the edge's own: nobody else's page can claim to be, whatever its name resolves to.
    loopback: bool,
}

/// Whose page asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// No page: a program, or a browser that follows a link.
    None,
    /// A page of the edge itself.
    Own,
    /// A page of a listed origin.
    Listed(HeaderValue),
    /// Another page.
    Foreign,
}

impl Origins {
    /// Takes exact origins such as `https://dashboard.example.com`. With `loopback`, the edge is reached from this machine
    /// only.
    pub fn new(listed: &[String], loopback: bool) -> Result<Self> {
        for origin in listed {
            let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            let plain = rest.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', '?', '#', '@', ' ']));
            if !plain {
                let message =
                    format!("{origin:?} is no origin like \"https://dashboard.example.com\"; \"*\" is not one");
                return Err(Error::invalid("cors_origins", message));
            }
        }
        Ok(Self { listed: listed.iter().map(|origin| origin.to_ascii_lowercase()).collect(), loopback })
    }

    /// Says whose page a request comes from.
    pub fn asker(&self, headers: &HeaderMap, whence: &Whence) -> Asker {
        let Some(value) = headers.get(ORIGIN) else { return Asker::None };
        let Ok(origin) = value.to_str().map(str::to_ascii_lowercase) else { return Asker::Foreign };
        if self.listed.contains(&origin) {
            return Asker::Listed(value.clone());
        }
        let host = origin.split_once("://").map(|(_, host)| host);
        let own = host.is_some_and(|host| host.eq_ignore_ascii_case(&whence.host));
        let reachable = whence.proxied || !self.loopback || host.is_some_and(names_this_machine);
        if own && reachable { Asker::Own } else { Asker::Foreign }
    }
}

/// `localhost`, a name under it, or an address: a name that somebody else can make resolve to this machine is none.
fn names_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.ends_with(".localhost") || bare.parse::<IpAddr>().is_ok()
}

impl Asker {
    /// Adds what the browser needs to see to hand the answer to the page.
    pub fn allow(&self, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Asker::Listed(origin) = self {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
        }
    }

    /// Adds what the browser asks before it sends the request itself.
    pub fn preflight(&self, headers: &mut HeaderMap) {
        self.allow(headers);
        if *self != Asker::Foreign {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(ALLOWED_METHODS));
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(origins: &Origins, origin: &str, host: &str) -> Asker {
        let headers = HeaderMap::from_iter([(ORIGIN, origin.parse().expect("value"))]);
        let address = "127.0.0.1".parse().expect("address");
        origins.asker(&headers, &Whence { address, host: host.to_owned(), proxied: false })
    }

    #[test]
    fn only_exact_origins_are_listed() {
        let origins = Origins::new(&["https://dash.example.com".to_owned()], false).expect("origins");
        assert!(matches!(asker(&origins, "https://dash.example.com", "edge"), Asker::Listed(_)));
        for foreign in ["http://dash.example.com", "https://dash.example.com:444", "https://evil.com", "null", ""] {
            assert_eq!(asker(&origins, foreign, "edge"), Asker::Foreign, "{foreign}");
        }
        assert_eq!(asker(&origins, "http://edge:8000", "edge:8000"), Asker::Own);
        for wrong in ["*", "https://*.example.com", "example.com", "https://a/b", "https://"] {
            assert!(Origins::new(&[wrong.to_owned()], false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn on_loopback_a_name_that_resolves_here_is_not_enough() {
        let origins = Origins::new(&[], true).expect("origins");
        assert_eq!(asker(&origins, "http://evil.com:8000", "evil.com:8000"), Asker::Foreign);
        for own in ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "dash.localhost"] {
            assert_eq!(asker(&origins, &format!("http://{own}"), own), Asker::Own, "{own}");
        }
    }
}
