//! All SQL of telemetry: two databases, one for what is sealed and known, one for the log.

pub mod block;
pub mod calibration;
#[cfg(test)]
pub mod damage;
pub mod log;
pub mod quarantine;
pub mod retention;
pub mod rollup;
pub mod scrub;
pub mod sensor;
pub mod series;

use sensormesh_store::{Config, Migration, Store};
use sensormesh_types::{Clock, Result};

const MAIN: &[Migration] = &[
    Migration { version: 1, name: "telemetry", sql: include_str!("../../migrations/0001_telemetry.sql") },
    Migration { version: 3, name: "quality", sql: include_str!("../../migrations/0003_quality.sql") },
    Migration { version: 5, name: "retention", sql: include_str!("../../migrations/0005_retention.sql") },
];

const LOG: &[Migration] = &[Migration {
    version: 1,
    name: "telemetry log",
    sql: include_str!("../../migrations/log/0001_telemetry_log.sql"),
}];

/// The two databases of telemetry. Cheap to clone.
#[derive(Clone)]
pub struct Databases {
    /// Sensors, series, blocks.
    pub main: Store,
    /// The log of readings, first answers, the quarantine.
    pub log: Store,
}

impl Databases {
    /// Opens both where `config` says: `telemetry` and `telemetry-log`. Pages of 16 KiB, because blocks and batches are of
    /// that size, and 4 MiB of page cache.
    pub async fn open(config: &Config, clock: Clock) -> Result<Self> {
        let config = Config { page_size: 16 << 10, cache_kib: 4096, ..config.clone() };
        let main = Store::open("telemetry", &config, MAIN, clock.clone()).await?;
        let log = Store::open("telemetry-log", &config, LOG, clock).await?;
        Ok(Self { main, log })
    }
}
