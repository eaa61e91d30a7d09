//! All SQL of telemetry: two databases, one for what is sealed and known, one for the log.

pub mod block;
pub mod calibration;
pub mod log;
pub mod quarantine;
pub mod sensor;
pub mod series;

use sensormesh_store::{Config, Migration, Store};
use sensormesh_types::{Clock, Error, Result, Scope};

const MAIN: &[Migration] = &[
    Migration { version: 1, name: "telemetry", sql: include_str!("../../migrations/0001_telemetry.sql") },
    Migration { version: 3, name: "quality", sql: include_str!("../../migrations/0003_quality.sql") },
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
        let sealed = series::sealed(&mut self.main.read(&Scope::system()).await?).await?;
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
