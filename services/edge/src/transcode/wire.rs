//! The protobuf wire format, written and read without knowing any message.

use crate::transcode::shape::Kind;

/// How a record is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireType {
    /// A number of up to ten bytes.
    Varint = 0,
    /// Eight bytes.
    Fixed64 = 1,
    /// A length, then as many bytes.
    Length = 2,
    /// Four bytes.
    Fixed32 = 5,
}

/// How values of a kind are laid out.
pub fn wire_type(kind: Kind) -> WireType {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::Fixed64,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::Fixed32,
        Kind::String | Kind::Bytes | Kind::Message(_) => WireType::Length,
        _ => WireType::Varint,
    }
}

/// Appends a number.
pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0] & 0x7f
}

/// Appends the tag of a field.
pub fn tag(out: &mut Vec<u8>, number: u32, wire: WireType) {
    varint(out, u64::from(number) << 3 | wire as u64);
}

/// Appends a field of bytes.
pub fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    tag(out, number, WireType::Length);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Zigzag, for `sint32` and `sint64`.
pub fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

/// The reverse of [`zigzag`].
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// Writes what `fill` appends as one length-delimited record: its tag must have been written already.
pub fn delimited<E>(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    let start = out.len();
    out.push(0);
    fill(out)?;
    let length = out.len() - start - 1;
    if let Ok(short) = u8::try_from(length)
        && short < 0x80
    {
        out[start] = short;
        return Ok(());
    }
    let mut prefix = Vec::with_capacity(5);
    varint(&mut prefix, length as u64);
    out.splice(start..=start, prefix);
    Ok(())
}

/// One record of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Record<'a> {
    /// A number.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Bytes.
    Length(&'a [u8]),
    /// Four bytes.
    Fixed32(u32),
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a well-formed protobuf message")
    }
}

impl std::error::Error for Malformed {}

/// Reads the records of a message one after the other. Groups, which proto3 does not have, are refused.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a>(pub &'a [u8]);

impl<'a> Records<'a> {
    /// A number.
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// Bytes after their length.
    pub fn length(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        let (value, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(value)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (value, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*value)
    }

    /// A value of a known layout.
    pub fn record(&mut self, wire: WireType) -> Result<Record<'a>, Malformed> {
        Ok(match wire {
            WireType::Varint => Record::Varint(self.varint()?),
            WireType::Fixed64 => Record::Fixed64(u64::from_le_bytes(self.fixed()?)),
            WireType::Length => Record::Length(self.length()?),
            WireType::Fixed32 => Record::Fixed32(u32::from_le_bytes(self.fixed()?)),
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(u32, Record<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut read = || {
            let tag = self.varint()?;
            let number = u32::try_from(tag >> 3).ok().filter(|n| *n > 0).ok_or(Malformed)?;
            let wire = match tag & 7 {
                0 => WireType::Varint,
                1 => WireType::Fixed64,
                2 => WireType::Length,
                5 => WireType::Fixed32,
                _ => return Err(Malformed),
            };
            Ok((number, self.record(wire)?))
        };
        let record = read();
        if record.is_err() {
            self.0 = &[];
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_read_back_what_was_written(value: u64, signed: i64) {
            let mut out = Vec::new();
            varint(&mut out, value);
            prop_assert_eq!(Records(&out).varint(), Ok(value));
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }

        #[test]
        fn a_delimited_record_of_any_length_reads_back(length in 0_usize..40_000) {
            let mut out = Vec::new();
            tag(&mut out, 7, WireType::Length);
            delimited(&mut out, |out| { out.resize(out.len() + length, 1); Ok::<(), ()>(()) }).expect("fills");
            let mut records = Records(&out);
            let Some(Ok((7, Record::Length(value)))) = records.next() else { panic!("a record") };
            prop_assert_eq!(value.len(), length);
            prop_assert!(records.next().is_none());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Records(&bytes).count();
        }
    }
}
