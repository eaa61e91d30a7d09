//! All SQL of telemetry: two databases, one for what is sealed and known, one for the log.

pub mod answer;
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
use sensormesh_types::{Clock, Error, Result, Scope};

const MAIN: &[Migration] = &[
    Migration { version: 1, name: "telemetry", sql: include_str!("../../migrations/0001_telemetry.sql") },
    Migration { version: 3, name: "quality", sql: include_str!("../../migrations/0003_quality.sql") },
    Migration { version: 5, name: "retention", sql: include_str!("../../migrations/0005_retention.sql") },
    Migration {
        version: 6,
        name: "decimals and deletions",
        sql: include_str!("../../migrations/0006_decimals_and_deletions.sql"),
    },
];

const LOG: &[Migration] = &[
    Migration { version: 1, name: "telemetry log", sql: include_str!("../../migrations/log/0001_telemetry_log.sql") },
    Migration { version: 2, name: "batch digest", sql: include_str!("../../migrations/log/0002_batch_digest.sql") },
    Migration {
        version: 3,
        name: "quarantine sender",
        sql: include_str!("../../migrations/log/0003_quarantine_sender.sql"),
    },
];

/// The two databases of telemetry. Cheap to clone.
#[derive(Clone)]
pub struct Databases {
    /// Sensors, series, blocks.
    pub main: Store,
    /// The log of readings, first answers, the quarantine.
    pub log: Store,
}

impl Databases {
    /// Opens both where `config` says: `telemetry` and `telemetry-log`, with 4 MiB of page cache a connection. Pages of 4 KiB for blocks,
    /// which are greater and go on in pages of their own, so that little of a page is left over; of 8 KiB for batches.
    pub async fn open(config: &Config, clock: Clock) -> Result<Self> {
        let pages = |page_size| Config { page_size, cache_kib: 4096, ..config.clone() };
        let main = Store::open("telemetry", &pages(4 << 10), MAIN, clock.clone()).await?;
        let log = Store::open("telemetry-log", &pages(8 << 10), LOG, clock).await?;
        Ok(Self { main, log })
    }

    /// Opens both as they are, to look at them: nothing is written. An error names the `database` it is about.
    pub async fn inspect(config: &Config, clock: Clock) -> Result<Self> {
        let named = |name: &'static str| move |error: Error| error.with("database", name);
        let main = Store::inspect("telemetry", config, clock.clone()).await.map_err(named("telemetry"))?;
        let log = Store::inspect("telemetry-log", config, clock).await.map_err(named("telemetry-log"))?;
        Ok(Self { main, log })
    }

    /// After a restore: the log goes on behind everything that is sealed, and a good way on. A backup copies the log before
    /// the blocks, so that no reading is in neither; blocks may then be ahead of the log.
    pub async fn restored(&self) -> Result<()> {
        let sealed = series::sealed_of_shards(&mut self.main.read(&Scope::system()).await?).await?;
        let heads = log::heads(&mut self.log.read(&Scope::system()).await?).await?;
        let mut tx = self.log.tx(&Scope::system()).await?;
        for (shard, _) in heads {
            let sealed = sealed.iter().find(|(other, _)| *other == shard).map_or(0, |(_, sealed)| *sealed);
            log::continue_behind(&mut tx, shard, sealed, GAP).await?;
        }
        tx.commit().await.map(drop)
    }
}

/// Numbers that a log leaves out after a restore: more than were given since the backup.
const GAP: u64 = 1 << 32;
