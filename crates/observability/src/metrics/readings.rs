//! What telemetry counts of readings.

use std::sync::{Arc, OnceLock};

use opentelemetry::KeyValue;
use opentelemetry::metrics::BoundGauge;

use super::{Counter, Durations, Level, instruments};

/// What ingest counts.
#[derive(Clone, Debug)]
pub struct Ingest {
    /// Readings stored.
    pub accepted: Counter,
    /// Readings that were there already with the same value.
    pub duplicate: Counter,
    /// Readings that were there already with another value.
    pub conflict: Counter,
    /// Readings stored that are older than the newest one of their sensor.
    pub late: Counter,
    /// Readings stored that lie outside their sensor's range.
    pub out_of_range: Counter,
    /// Readings refused.
    pub rejected: Counter,
    /// Readings kept aside until their sensor is known.
    pub quarantined: Counter,
    /// Batches received.
    pub batches: Counter,
    /// Group commits, fsync included.
    pub commit: Durations,
}

/// The handles of ingest.
pub fn ingest() -> &'static Ingest {
    static INGEST: OnceLock<Ingest> = OnceLock::new();
    INGEST.get_or_init(|| {
        let all = instruments();
        let outcome = |word| Counter::of(&all.readings, &[KeyValue::new("outcome", word)]);
        Ingest {
            accepted: outcome("accepted"),
            duplicate: outcome("duplicate"),
            conflict: outcome("conflict"),
            late: outcome("late"),
            out_of_range: outcome("out_of_range"),
            rejected: outcome("rejected"),
            quarantined: outcome("quarantined"),
            batches: Counter::of(&all.batches, &[]),
            commit: Durations::of(&all.commit, &[]),
        }
    })
}

/// What the scrub of readings counts.
#[derive(Clone, Debug)]
pub struct Scrub {
    /// Blocks and batches verified.
    pub verified: Counter,
    damaged: Arc<BoundGauge<u64>>,
}

impl Scrub {
    /// Shows how many blocks and batches are damaged.
    pub fn damaged(&self, count: u64) {
        self.damaged.record(count);
    }
}

/// The handles of the scrub.
pub fn scrub() -> &'static Scrub {
    static SCRUB: OnceLock<Scrub> = OnceLock::new();
    SCRUB.get_or_init(|| {
        let all = instruments();
        Scrub { verified: Counter::of(&all.scrubbed, &[]), damaged: Arc::new(all.damaged.bind(&[])) }
    })
}

/// What reads of long ranges count.
#[derive(Clone, Debug)]
pub struct LongReads {
    /// Those whose turn it is.
    pub reading: Level,
    /// Those that wait for a turn.
    pub waiting: Level,
    /// Those for which none came.
    pub refused: Counter,
}

/// The handles of long reads.
pub fn long_reads() -> &'static LongReads {
    static LONG_READS: OnceLock<LongReads> = OnceLock::new();
    LONG_READS.get_or_init(|| {
        let all = instruments();
        let state = |word| Level::of(&all.long_reads, &[KeyValue::new("state", word)]);
        LongReads {
            reading: state("reading"),
            waiting: state("waiting"),
            refused: Counter::of(&all.long_reads_refused, &[]),
        }
    })
}

/// Readings that were refused, by the word that the contract has for why: `NON_FINITE`, `FUTURE`, `QUOTA`.
pub fn refused_readings(reason: &str) -> Counter {
    Counter::of(&instruments().refused_readings, &[KeyValue::new("reason", reason.to_ascii_lowercase())])
}
