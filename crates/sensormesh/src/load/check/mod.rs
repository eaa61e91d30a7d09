//! The checker: a history, what the live stream showed and what can be read, in; a verdict out. It knows no network.

mod read;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;

use super::history::History;

pub use read::ReadBack;
pub use stream::Stream;

/// What must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Acknowledged, and cannot be read.
    Lost,
    /// Can be read, or was shown, and was never sent or was refused.
    Phantom,
    /// Can be read twice.
    Duplicate,
    /// Acknowledged, and the stream never showed it.
    Gap,
    /// The stream showed it behind a later one of its sensor.
    Reorder,
    /// The stream showed it again, or could not go on from its cursor.
    Rewind,
    /// Its value is not the one that was sent, bit by bit.
    Mismatch,
    /// Its place in the log was another batch's before.
    Reused,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 8] = [
        Fault::Lost,
        Fault::Phantom,
        Fault::Duplicate,
        Fault::Gap,
        Fault::Reorder,
        Fault::Rewind,
        Fault::Mismatch,
        Fault::Reused,
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Fault::Lost => "lost",
            Fault::Phantom => "phantom",
            Fault::Duplicate => "duplicate",
            Fault::Gap => "gap",
            Fault::Reorder => "reorder",
            Fault::Rewind => "rewind",
            Fault::Mismatch => "mismatch",
            Fault::Reused => "reused",
        }
    }
}

/// Faults described in words at most, of each kind.
const DESCRIBED: u64 = 5;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    counts: [u64; 8],
    /// The first of each kind in words.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Counts a fault; `what` says which reading it is about.
    pub fn note(&mut self, fault: Fault, what: impl FnOnce() -> String) {
        let count = &mut self.counts[fault as usize];
        *count += 1;
        if *count <= DESCRIBED {
            self.examples.push(format!("{}: {}", fault.word(), what()));
        }
    }

    /// How many of this kind.
    pub fn count(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.counts == [0; 8]
    }

    /// Adds what was found elsewhere.
    pub fn add(&mut self, other: Verdict) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.examples.extend(other.examples);
    }

    /// What the history itself shows: places that were given twice.
    pub fn of(history: &History) -> Self {
        let mut verdict = Self::default();
        for (lane, batch) in history.sequence.reused() {
            verdict.note(Fault::Reused, || format!("the place of batch {batch} of lane {lane}"));
        }
        verdict
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            let space = if index == 0 { "" } else { ", " };
            write!(f, "{space}{} {}", fault.word(), self.count(fault))?;
        }
        self.examples.iter().try_for_each(|example| write!(f, "\n  {example}"))
    }
}
