//! The place in a watch: where telemetry's log was, and what the reader had been shown.

use sensormesh_store::Cursors;
use sensormesh_types::{Error, Result};

/// Where to resume, and what the reader knew there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Telemetry's cursor; empty = before its first answer.
    pub reading: String,
    /// Readings after it that the reader had been sent already: one of telemetry's messages can make many of ours.
    pub sent: u64,
    /// Which sensor was which metric of which room, as a sum of hashes.
    pub members: u64,
    /// Which of them were stale, as a sum of hashes.
    pub stale: u64,
}

impl Cursor {
    /// The text for the reader. It is sealed with the log's own seal: only this database can have written it.
    pub fn encode(&self, seal: &Cursors) -> String {
        let words = [(0, self.sent), (1, self.members), (2, self.stale), (3, hash(&[&self.reading]))];
        format!("{}.{}", seal.encode(&words), self.reading)
    }

    /// Reads the text back. One that this service has not written is invalid, one from before a restore is gone.
    pub fn decode(text: &str, seal: &Cursors) -> Result<Self> {
        let forged = || Error::invalid("cursor", "is not a cursor that this service gave out");
        let (words, reading) = text.split_once('.').ok_or_else(forged)?;
        match seal.decode(words)?.as_slice() {
            &[(0, sent), (1, members), (2, stale), (3, seen)] if seen == hash(&[reading]) => {
                Ok(Self { reading: reading.to_owned(), sent, members, stale })
            }
            _ => Err(forged()),
        }
    }
}

/// FNV-1a over words, 64 bits: the same in every build, so that a cursor outlives an upgrade.
pub fn hash(words: &[&str]) -> u64 {
    let bytes = words.iter().flat_map(|word| word.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_do_not_run_into_each_other() {
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["ab", "c"]), hash(&["ab", "c"]));
    }
}
