//! The `[edge]` table of the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sensormesh_mesh::token::KEPT_FOR;
use sensormesh_mesh::{Network, ServerLimits};
use sensormesh_store::spool::SpoolBounds;
use sensormesh_types::{Bounds, Error, Result, text};
use serde::{Deserialize, Serialize};

use crate::limit::Rate;

/// Receipts of calls that were settled are kept for so long.
const RECEIPTS: Duration = Duration::from_secs(24 * 3600);

/// How the edge is reached and how much it takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it listens. An address that other machines reach needs a certificate or `behind_proxy`.
    /// Absent = port 8000 of this machine only; `up` puts its port base there.
    pub listen: Option<SocketAddr>,
    /// The certificate chain for HTTPS, PEM. Read again when it changes. Empty = plain HTTP.
    pub tls_cert: PathBuf,
    /// The key of the certificate, PEM.
    pub tls_key: PathBuf,
    /// Where reverse proxies are: `X-Forwarded-For` and `X-Forwarded-Host` are believed from there only.
    pub behind_proxy: Vec<Network>,
    /// Web pages of these origins may use the edge from a browser: `https://dashboard.example.com`.
    pub cors_origins: Vec<String>,
    /// What one user may ask.
    pub user_rate: Rate,
    /// What one address may ask without a token.
    pub address_rate: Rate,
    /// Streams one caller may have open.
    pub streams_per_caller: u32,
    /// The longest request body.
    #[serde(with = "text::size")]
    pub body: u64,
    /// The longest message of a WebSocket.
    #[serde(with = "text::size")]
    pub socket_message: u64,
    /// The longest message of an answer.
    #[serde(with = "text::size")]
    pub answer: u64,
    /// How often services are asked how they do.
    #[serde(with = "text::duration")]
    pub health_interval: Duration,
    /// The pause after which a silent stream gets a sign of life.
    #[serde(with = "text::duration")]
    pub heartbeat: Duration,
    /// Calls that are accepted while their service cannot be reached; 0 = none is.
    pub spool_calls: u64,
    /// Bytes that they take at most.
    #[serde(with = "text::size")]
    pub spool_bytes: u64,
    /// How long a call waits before it is given up: at most 24 h, for so long `auth` keeps the keys of old tokens.
    #[serde(with = "text::duration")]
    pub spool_age: Duration,
    /// The limits of the port.
    pub limits: ServerLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: None,
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            behind_proxy: Vec::new(),
            cors_origins: Vec::new(),
            user_rate: Rate { per_second: 100, burst: 200 },
            address_rate: Rate { per_second: 50, burst: 100 },
            streams_per_caller: 32,
            body: 1 << 20,
            socket_message: 256 << 10,
            answer: 16 << 20,
            health_interval: Duration::from_secs(2),
            heartbeat: Duration::from_secs(15),
            spool_calls: 10_000,
            spool_bytes: 64 << 20,
            spool_age: Duration::from_secs(23 * 3600),
            limits: ServerLimits::public(),
        }
    }
}

impl Config {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8000)))
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        !self.tls_cert.as_os_str().is_empty()
    }

    /// How much is kept for later.
    pub fn spool(&self) -> SpoolBounds {
        SpoolBounds { calls: self.spool_calls, bytes: self.spool_bytes, age: self.spool_age, receipts: RECEIPTS }
    }

    /// Refuses in words what cannot be meant: half a certificate, plain HTTP for everybody to read, numbers out of bounds.
    pub fn check(&self) -> Result<()> {
        if self.is_tls() == self.tls_key.as_os_str().is_empty() {
            let message = "a certificate and its key belong together: give --tls-cert and --tls-key, or neither";
            return Err(Error::precondition("TLS_INCOMPLETE", message));
        }
        if !self.address().ip().is_loopback() && !self.is_tls() && self.behind_proxy.is_empty() {
            let message = format!(
                "listening at {} in plain HTTP would show passwords and tokens to the network; give --tls-cert and \
                 --tls-key for HTTPS, or --behind-proxy with the address range of the reverse proxy that does TLS",
                self.address()
            );
            return Err(Error::precondition("PLAINTEXT_REFUSED", message));
        }
        self.check_numbers()
    }

    /// Refuses numbers that nothing could be answered with, naming them.
    pub fn check_numbers(&self) -> Result<()> {
        self.limits.check("edge.limits")?;
        let times = Duration::from_millis(1)..=Duration::from_secs(3600);
        Bounds::of("edge")
            .size("body", self.body, 1..=1 << 30)
            .size("socket_message", self.socket_message, 1..=1 << 30)
            .size("answer", self.answer, 1..=1 << 30)
            .time("health_interval", self.health_interval, times.clone())
            .time("heartbeat", self.heartbeat, times)
            .time("spool_age", self.spool_age, Duration::ZERO..=KEPT_FOR)
            .met()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_or_a_proxy_only() {
        let local = Config::default();
        assert!(local.check().is_ok());
        let open = Config { listen: Some("0.0.0.0:8000".parse().expect("address")), ..Config::default() };
        let error = open.check().expect_err("refused");
        assert!(error.message().contains("--tls-cert") && error.message().contains("--behind-proxy"), "{error}");
        let proxied = Config { behind_proxy: vec!["10.0.0.0/8".parse().expect("range")], ..open.clone() };
        assert!(proxied.check().is_ok());
        let secured = Config { tls_cert: "cert.pem".into(), tls_key: "key.pem".into(), ..open.clone() };
        assert!(secured.check().is_ok());
        let half = Config { tls_cert: "cert.pem".into(), ..Config::default() };
        assert!(half.check().is_err());
    }
}
