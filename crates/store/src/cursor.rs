//! Cursors: places in a log, given to readers as text that only this database can have written.
//!
//! The text is URL-safe base64 of: version, log, incarnation, positions, and a keyed BLAKE3 of all that (16 bytes).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sensormesh_types::{Code, Error, Result};

const VERSION: u8 = 1;
const MAC: usize = 16;
/// No log has more shards than this, so no honest cursor is longer.
const MOST_POSITIONS: u64 = 4096;

/// Writes and reads the cursors of one log.
#[derive(Clone)]
pub struct Cursors {
    log: Arc<str>,
    incarnation: u64,
    key: [u8; 32],
}

/// A place in each shard of a log: the shard and the last sequence number seen of it.
pub type Position = (u32, u64);

impl Cursors {
    pub(crate) fn new(log: &str, incarnation: u64, key: [u8; 32]) -> Self {
        Self { log: log.into(), incarnation, key }
    }

    pub(crate) fn of(&self, log: &str) -> Self {
        Self { log: log.into(), ..self.clone() }
    }

    /// The cursor of these positions. The same positions always give the same text.
    pub fn encode(&self, positions: &[Position]) -> String {
        let mut bytes = Vec::with_capacity(32 + self.log.len() + positions.len() * 8);
        bytes.push(VERSION);
        put(&mut bytes, self.log.len() as u64);
        bytes.extend_from_slice(self.log.as_bytes());
        bytes.extend_from_slice(&self.incarnation.to_le_bytes());
        put(&mut bytes, positions.len() as u64);
        for (shard, seq) in positions {
            put(&mut bytes, (*shard).into());
            put(&mut bytes, *seq);
        }
        let mac = self.mac(&bytes);
        bytes.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The positions of a cursor. One of another log or of an earlier life of this database is gone
    /// (OUT_OF_RANGE); one that we have not written is invalid, in the field `cursor`.
    pub fn decode(&self, cursor: &str) -> Result<Vec<Position>> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| forged())?;
        let (body, mac) = bytes.split_last_chunk::<MAC>().ok_or_else(forged)?;
        let (log, incarnation, positions) = parse(body).ok_or_else(forged)?;
        if log != self.log.as_bytes() {
            return Err(gone("another service or stream than this one gave the cursor out"));
        }
        if incarnation != self.incarnation {
            return Err(gone("the cursor belongs to an earlier life of this database"));
        }
        // blake3::Hash compares in constant time
        if blake3::Hash::from_bytes(widen(*mac)) != blake3::Hash::from_bytes(widen(self.mac(body))) {
            return Err(forged());
        }
        Ok(positions)
    }

    /// The failure for a place that the log has no longer, or not yet; `earliest` is where it can be read from.
    pub fn out_of_range(&self, why: &str, earliest: &[Position]) -> Error {
        gone(why).with("earliest_cursor", self.encode(earliest))
    }

    fn mac(&self, body: &[u8]) -> [u8; MAC] {
        let hash = blake3::keyed_hash(&self.key, body);
        let mut mac = [0; MAC];
        mac.copy_from_slice(&hash.as_bytes()[..MAC]);
        mac
    }
}

fn widen(mac: [u8; MAC]) -> [u8; 32] {
    let mut wide = [0; 32];
    wide[..MAC].copy_from_slice(&mac);
    wide
}

fn forged() -> Error {
    Error::invalid("cursor", "is not a cursor that this service gave out")
}

/// The reason that every reader branches on: start again without a cursor.
pub(crate) fn gone(why: &str) -> Error {
    Error::new(Code::Gone, "CURSOR_GONE", format!("{why}; start again without a cursor"))
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn parse(mut body: &[u8]) -> Option<(&[u8], u64, Vec<Position>)> {
    let (&version, rest) = body.split_first()?;
    body = rest;
    if version != VERSION {
        return None;
    }
    let length = usize::try_from(take(&mut body)?).ok()?;
    let (log, rest) = body.split_at_checked(length)?;
    let (incarnation, rest) = rest.split_first_chunk::<8>()?;
    body = rest;
    let count = take(&mut body)?;
    if count > MOST_POSITIONS {
        return None;
    }
    let mut positions = Vec::new();
    for _ in 0..count {
        positions.push((u32::try_from(take(&mut body)?).ok()?, take(&mut body)?));
    }
    body.is_empty().then_some((log, u64::from_le_bytes(*incarnation), positions))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursors() -> Cursors {
        Cursors::new("rooms", 7, [3; 32])
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for positions in [vec![], vec![(0, 0)], vec![(0, u64::MAX), (63, 1 << 40)], vec![(u32::MAX, 127)]] {
            assert_eq!(cursors().decode(&cursors().encode(&positions)).expect("own cursor"), positions);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_positions_come_back_and_no_other_text_is_taken(
            positions in proptest::collection::vec(proptest::prelude::any::<(u32, u64)>(), 0..70),
            text in "[A-Za-z0-9_-]{0,120}",
        ) {
            let cursor = cursors().encode(&positions);
            proptest::prop_assert_eq!(cursors().decode(&cursor).expect("own cursor"), positions);
            proptest::prop_assert!(text == cursor || cursors().decode(&text).is_err());
        }
    }

    #[test]
    fn a_cursor_with_any_bit_changed_is_refused() {
        let honest = URL_SAFE_NO_PAD.decode(cursors().encode(&[(0, 12345)])).expect("base64");
        for bit in 0..honest.len() * 8 {
            let mut bent = honest.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            let error = cursors().decode(&URL_SAFE_NO_PAD.encode(bent)).expect_err("bent");
            assert!(matches!(error.code(), Code::Invalid | Code::Gone), "{error:?}");
            if error.code() == Code::Invalid {
                assert_eq!(error.fields()[0].field, "cursor");
            }
        }
    }

    #[test]
    fn a_forged_position_is_invalid_and_a_foreign_cursor_is_gone() {
        let mut bytes = URL_SAFE_NO_PAD.decode(cursors().encode(&[(0, 5)])).expect("base64");
        let position = bytes.len() - MAC - 1;
        bytes[position] = 6;
        let forged = cursors().decode(&URL_SAFE_NO_PAD.encode(bytes)).expect_err("forged");
        assert_eq!(forged.code(), Code::Invalid);
        let other_log = Cursors::new("devices", 7, [3; 32]).encode(&[(0, 5)]);
        assert_eq!(cursors().decode(&other_log).expect_err("foreign").code(), Code::Gone);
        let restored = Cursors::new("rooms", 8, [3; 32]).encode(&[(0, 5)]);
        assert_eq!(cursors().decode(&restored).expect_err("earlier life").code(), Code::Gone);
        for nonsense in ["", "x", "AAAA", "not base64 at all!", &"A".repeat(5000)] {
            assert_eq!(cursors().decode(nonsense).expect_err(nonsense).code(), Code::Invalid);
        }
    }
}
