//! A sender of a load: what every kind of sender notes and counts.

use std::sync::Arc;

use anyhow::Result;
use hdrhistogram::Histogram;
use sensormesh_types::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::history::{Line, Recorder, State};
use super::pace::Pace;
use super::plan::Plan;

/// One sender. It sends a batch only behind all that are open, so that its sensors' readings are stored in order.
pub struct Lane {
    /// Its number.
    pub number: u32,
    /// What is sent.
    pub plan: Arc<Plan>,
    /// Where it is noted.
    pub recorder: Recorder,
    /// When.
    pub pace: Pace,
    /// Nothing new is sent any more.
    pub stop: CancellationToken,
    /// What came of it.
    pub tally: Tally,
}

/// What a lane counts in this process.
pub struct Tally {
    /// Batches acknowledged.
    pub batches: u64,
    /// Batches refused.
    pub refused: u64,
    /// Of these, how many without a word on when to try again.
    pub without_hint: u64,
    /// When the last one was acknowledged, on the history's clock.
    pub last: u64,
    /// From sending a batch the first time to its acknowledgement, microseconds.
    pub latencies: Histogram<u64>,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Result<Self> {
        Ok(Self { batches: 0, refused: 0, without_hint: 0, last: 0, latencies: Histogram::new(3)? })
    }

    /// Adds what another lane counted.
    pub fn add(&mut self, other: &Tally) -> Result<()> {
        self.batches += other.batches;
        self.refused += other.refused;
        self.without_hint += other.without_hint;
        self.last = self.last.max(other.last);
        Ok(self.latencies.add(&other.latencies)?)
    }
}

impl Lane {
    /// The batches that may be stored or not, and the number of the first one that was never sent.
    pub fn open(&self) -> (Vec<u64>, u64) {
        let history = self.recorder.history();
        let states = history.sent(self.number);
        let open = (0..).zip(states).filter(|(_, state)| **state == State::Open).map(|(batch, _)| batch);
        (open.collect(), states.len() as u64)
    }

    /// A batch is about to be sent.
    pub fn invoke(&self, batch: u64) -> Result<()> {
        self.recorder.record(&Line::Invoke { at: self.recorder.at(), lane: self.number, batch })
    }

    /// A batch is stored.
    pub fn ok(&mut self, batch: u64, cursor: String, sent: Instant) -> Result<()> {
        let at = self.recorder.at();
        self.recorder.record(&Line::Ok { at, lane: self.number, batch, cursor })?;
        self.tally.batches += 1;
        self.tally.last = at;
        Ok(self.tally.latencies.record(u64::try_from(sent.elapsed().as_micros())?)?)
    }

    /// A batch was refused. Nothing of it is stored, unless that is in doubt because of an attempt before.
    pub fn refused(&mut self, batch: u64, doubt: bool, error: &Error) -> Result<()> {
        self.tally.refused += 1;
        self.tally.without_hint += u64::from(error.retry_after().is_none());
        if doubt {
            return self.unknown(batch, error.message());
        }
        let why = error.message().to_owned();
        self.recorder.record(&Line::Failed { at: self.recorder.at(), lane: self.number, batch, why })
    }

    /// Nobody knows.
    pub fn unknown(&self, batch: u64, why: &str) -> Result<()> {
        let why = why.to_owned();
        self.recorder.record(&Line::Unknown { at: self.recorder.at(), lane: self.number, batch, why })
    }
}
