//! How a service's database is reached and kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::disk::Budget;

/// When a commit is on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Synchronous {
    /// Every commit is synced before it is acknowledged. For everything that acts outside or cannot be derived again.
    #[default]
    Full,
    /// Commits since the last checkpoint may be lost with the power, never the order of them. For derived databases.
    Normal,
}

/// Where a database is and how it is kept. The defaults suit every service but telemetry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `sqlite:PATH` or `postgres://…`; `{service}` in it is replaced by the service's name.
    /// One PostgreSQL URL without `{service}` is one database with a schema for each service.
    pub url: String,
    /// Bytes of a SQLite page. Decided when the file is created, never changed later.
    pub page_size: u32,
    /// When a commit is on the disk (SQLite; PostgreSQL decides by `synchronous_commit`).
    pub synchronous: Synchronous,
    /// KiB of page cache for each SQLite connection.
    pub cache_kib: u32,
    /// At most this many SQLite connections read at once; idle ones are closed.
    pub readers: u32,
    /// At most this many PostgreSQL connections.
    pub connections: u32,
    /// How long a transaction waits for a connection before it fails as unavailable.
    #[serde(with = "sensormesh_types::text::duration")]
    pub acquire_timeout: Duration,
    /// Log entries older than this are removed.
    #[serde(with = "sensormesh_types::text::duration")]
    pub log_max_age: Duration,
    /// The oldest log entries are removed when the payloads together exceed this many bytes.
    #[serde(with = "sensormesh_types::text::size")]
    pub log_max_bytes: u64,
    /// How much of the disk that SQLite files lie on may be used.
    pub disk: Budget,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "sqlite:{service}.db".to_owned(),
            page_size: 4096,
            synchronous: Synchronous::Full,
            cache_kib: 512,
            readers: 8,
            connections: 4,
            acquire_timeout: Duration::from_secs(5),
            log_max_age: Duration::from_secs(30 * 24 * 3600),
            log_max_bytes: 256 << 20,
            disk: Budget::NONE,
        }
    }
}

impl Config {
    /// The defaults with this URL.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}
