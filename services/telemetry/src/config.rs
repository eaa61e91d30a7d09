//! The `[telemetry]` table of the configuration.

use std::time::Duration;

use sensormesh_types::{Bounds, Result, text};
use serde::{Deserialize, Serialize};

/// How readings are taken and kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Raw readings are deleted this many days after their time or their arrival, whichever is later, where their sensor's
    /// profile does not say otherwise; their sums of 15 minutes and of days stay. 0 = never.
    pub retention_days: u32,
    /// Sums of 15 minutes, which stay when raw readings are deleted, are deleted this many days after their time. 0 = never.
    pub rollup_15min_days: u32,
    /// The same of sums of days in UTC.
    pub rollup_daily_days: u32,
    /// The checksums of everything stored are verified once in so many days, whether it is read or not. 0 = never.
    pub scrub_days: u32,
    /// A stream of readings can be resumed for this long.
    #[serde(with = "text::duration")]
    pub log_max_age: Duration,
    /// And as long as the log is not greater than this.
    #[serde(with = "text::size")]
    pub log_max_bytes: u64,
    /// When the log behind the oldest unsealed reading holds more readings than this, the oldest are sealed whatever their
    /// number. Bounds memory and the time a start takes.
    pub unsealed_readings: u64,
    /// The same in bytes of the log.
    #[serde(with = "text::size")]
    pub unsealed_bytes: u64,
    /// How often it is looked for blocks to be merged: small ones, late ones, ones that hold revisions.
    #[serde(with = "text::duration")]
    pub merge_every: Duration,
    /// A commit takes no more than this at once.
    #[serde(with = "text::size")]
    pub commit_bytes: u64,
    /// Sensors of a tenant that may have readings: those of another one are refused, with QUOTA. Each takes some memory.
    /// 0 = any number.
    pub sensors: u64,
    /// Summaries, charts, exports and streams of history that are read at once, of which one caller has all but one at most; more
    /// wait for 2 s, then they are refused with RESOURCE_EXHAUSTED. 0 = as many as there are processors, and at least 4.
    pub long_reads: u32,
    /// Readings of unknown sensors that are kept aside, for each tenant.
    pub quarantine_readings: u64,
    /// Batches that became durable lately are kept in memory up to this size, for live streams.
    #[serde(with = "text::size")]
    pub live_bytes: u64,
    /// A stream whose reader takes nothing for this long while more than 256 KiB wait for it is ended.
    #[serde(with = "text::duration")]
    pub slow_reader: Duration,
}

impl Config {
    /// Refuses numbers that nothing could work with, naming them.
    pub fn check(&self) -> Result<()> {
        let times = Duration::from_millis(1)..=Duration::from_secs(86_400);
        Bounds::of("telemetry")
            .time("merge_every", self.merge_every, times.clone())
            .time("slow_reader", self.slow_reader, times)
            .met()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retention_days: 0,
            rollup_15min_days: 0,
            rollup_daily_days: 0,
            scrub_days: 7,
            log_max_age: Duration::from_secs(24 * 3600),
            log_max_bytes: 256 << 20,
            unsealed_readings: 2_000_000,
            unsealed_bytes: 256 << 20,
            merge_every: Duration::from_secs(60),
            commit_bytes: 4 << 20,
            sensors: 1_000_000,
            long_reads: 0,
            quarantine_readings: 100_000,
            live_bytes: 8 << 20,
            slow_reader: Duration::from_secs(10),
        }
    }
}
