//! A group of readings as it stands on the wire (`telemetry.v1.Group`), read in place: no message is made of it.
//!
//! Protobuf allows a repeated field in several pieces, packed or not, and any order of fields. All of that is read; the form
//! that everybody writes is read fast. Field numbers are those of the contract, which never change.

use sensormesh_types::{Code, Error, Result};

use super::{times_of, values_of};
use crate::varint;

/// A group in its packed form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group<'a> {
    start: i64,
    tick: u64,
    steps: Numbers<'a>,
    channels: Vec<&'a [u8]>,
}

/// One sensor's values in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channel<'a> {
    /// The number of the series.
    pub series: u32,
    /// Encoded `telemetry.v1.QualityException`s.
    pub exceptions: Vec<&'a [u8]>,
    values: Values<'a>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Values<'a> {
    #[default]
    None,
    Doubles(Doubles<'a>),
    Scaled(u32, Numbers<'a>),
}

/// Doubles: in one packed piece, or in any other form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Doubles<'a> {
    packed: &'a [u8],
    more: Vec<u64>,
}

/// The whole numbers of a repeated field: in one packed piece, or in any other form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Numbers<'a> {
    packed: &'a [u8],
    more: Vec<u64>,
}

impl<'a> Group<'a> {
    /// Reads a group, its channels apart. MALFORMED_MESSAGE where it is none.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        Self::of(bytes).ok_or_else(malformed)
    }

    fn of(bytes: &'a [u8]) -> Option<Self> {
        let channels = Fields(bytes).filter(|field| matches!(field, Some((4, _)))).count();
        let mut group = Self { channels: Vec::with_capacity(channels), ..Self::default() };
        for field in Fields(bytes) {
            match field? {
                (1, Value::Number(start)) => group.start = start as i64,
                (2, Value::Number(tick)) => group.tick = tick,
                (3, steps) => group.steps.take(steps)?,
                (4, Value::Bytes(channel)) => group.channels.push(channel),
                (1 | 2 | 4, _) => return None,
                _ => {}
            }
        }
        Some(group)
    }

    /// How many times it has.
    pub fn len(&self) -> usize {
        self.steps.len() + 1
    }

    /// Whether it has no readings.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// The times, nanoseconds since the Unix epoch. Refuses times beyond what `i64` nanoseconds can say.
    pub fn times(&self) -> Result<Vec<i64>> {
        times_of(self.start, self.tick, self.steps.len(), self.steps.signed())
    }

    /// How many channels it has.
    pub fn width(&self) -> usize {
        self.channels.len()
    }

    /// The channels; MALFORMED_MESSAGE in place of one that is none.
    pub fn channels(&self) -> impl Iterator<Item = Result<Channel<'a>>> + '_ {
        self.channels.iter().map(|channel| Channel::of(channel).ok_or_else(malformed))
    }

    /// The group with the channels of some series only, encoded.
    pub fn only(&self, wanted: impl Fn(u32) -> bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.steps.packed.len() + 32);
        for (key, number) in [(1 << 3, self.start as u64), (2 << 3, self.tick)] {
            if number != 0 {
                varint::put(&mut out, key);
                varint::put(&mut out, number);
            }
        }
        let rest = self.steps.more.iter().flat_map(|number| {
            let mut bytes = Vec::new();
            varint::put(&mut bytes, *number);
            bytes
        });
        let steps: Vec<u8> = self.steps.packed.iter().copied().chain(rest).collect();
        let wanted = |channel: &[u8]| Channel::of(channel).is_some_and(|channel| wanted(channel.series));
        let channels = self.channels.iter().filter(|channel| wanted(channel)).map(|channel| (4, *channel));
        for (field, bytes) in std::iter::once((3, &*steps)).filter(|(_, steps)| !steps.is_empty()).chain(channels) {
            varint::put(&mut out, field << 3 | 2);
            varint::put(&mut out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
        out
    }
}

impl<'a> Channel<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut channel = Self::default();
        for field in Fields(bytes) {
            match field? {
                (1, Value::Number(series)) => channel.series = series as u32,
                (2, Value::Bytes(doubles)) => {
                    let mut all = match std::mem::take(&mut channel.values) {
                        Values::Doubles(doubles) => doubles,
                        _ => Doubles::default(),
                    };
                    all.merge(doubles)?;
                    channel.values = Values::Doubles(all);
                }
                (3, Value::Bytes(scaled)) => {
                    let (mut decimals, mut deltas) = match std::mem::take(&mut channel.values) {
                        Values::Scaled(decimals, deltas) => (decimals, deltas),
                        _ => Default::default(),
                    };
                    for field in Fields(scaled) {
                        match field? {
                            (1, Value::Number(number)) => decimals = number as u32,
                            (2, numbers) => deltas.take(numbers)?,
                            (1, _) => return None,
                            _ => {}
                        }
                    }
                    channel.values = Values::Scaled(decimals, deltas);
                }
                (4, Value::Bytes(exception)) => channel.exceptions.push(exception),
                (1..=4, _) => return None,
                _ => {}
            }
        }
        Some(channel)
    }

    /// The power of ten that its values are whole parts of, where it says one.
    pub fn decimals(&self) -> Option<u32> {
        match self.values {
            Values::Scaled(decimals, _) => Some(decimals),
            Values::None | Values::Doubles(_) => None,
        }
    }

    /// The values. Refuses a channel without any, and whole numbers that cannot be values.
    pub fn values(&self) -> Result<Vec<f64>> {
        match &self.values {
            Values::None => Err(Error::invalid("values", "must be given")),
            Values::Doubles(doubles) => Ok(doubles.values()),
            Values::Scaled(decimals, deltas) => values_of(*decimals, deltas.len(), deltas.signed()),
        }
    }
}

impl<'a> Doubles<'a> {
    fn merge(&mut self, bytes: &'a [u8]) -> Option<()> {
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(packed)) if packed.len() % 8 == 0 => {
                    if self.packed.is_empty() && self.more.is_empty() {
                        self.packed = packed;
                    } else {
                        self.more.extend(eights(packed));
                    }
                }
                (1, Value::Fixed(bits)) => self.more.push(bits),
                (1, _) => return None,
                _ => {}
            }
        }
        Some(())
    }

    fn values(&self) -> Vec<f64> {
        eights(self.packed).chain(self.more.iter().copied()).map(f64::from_bits).collect()
    }
}

fn eights(bytes: &[u8]) -> impl ExactSizeIterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|eight| u64::from_le_bytes(eight.try_into().unwrap_or_default()))
}

impl<'a> Numbers<'a> {
    fn take(&mut self, value: Value<'a>) -> Option<()> {
        match value {
            Value::Number(number) => self.more.push(number),
            Value::Bytes(packed) if self.packed.is_empty() && self.more.is_empty() => self.packed = packed,
            Value::Bytes(mut packed) => {
                while !packed.is_empty() {
                    self.more.push(varint::take(&mut packed)?);
                }
            }
            Value::Fixed(_) | Value::Other => return None,
        }
        Some(())
    }

    fn len(&self) -> usize {
        self.packed.iter().filter(|byte| **byte < 0x80).count() + self.more.len()
    }

    /// The numbers, their signs unfolded (`sint64`).
    fn signed(&self) -> impl Iterator<Item = Result<i64>> + '_ {
        self.iter().map(|number| number.map(varint::unzigzag).ok_or_else(malformed))
    }

    /// The numbers; `None` where one cannot be read, which is the last.
    fn iter(&self) -> impl Iterator<Item = Option<u64>> + '_ {
        let mut packed = self.packed;
        let first = std::iter::from_fn(move || {
            if packed.is_empty() {
                return None;
            }
            let number = varint::take(&mut packed);
            if number.is_none() {
                packed = &[];
            }
            Some(number)
        });
        first.chain(self.more.iter().map(|number| Some(*number)))
    }
}

/// A field's value, as far as its wire type tells.
#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message; `None` where it is none, which is the last.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    #[inline]
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = varint::take(&mut self.0)?;
        let value = match key & 7 {
            0 => Value::Number(varint::take(&mut self.0)?),
            1 => Value::Fixed(u64::from_le_bytes(self.cut(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(varint::take(&mut self.0)?).ok()?;
                Value::Bytes(self.cut(length)?)
            }
            5 => {
                self.cut(4)?;
                Value::Other
            }
            _ => return None,
        };
        (key >> 3 > 0).then_some((key >> 3, value))
    }

    fn cut(&mut self, length: usize) -> Option<&'a [u8]> {
        let (cut, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(cut)
    }
}

fn malformed() -> Error {
    Error::new(Code::Invalid, "MALFORMED_MESSAGE", "a group of readings is not a telemetry.v1.Group")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// start 10, tick 5, steps 1 and 2; series 7 with doubles 1.5, 2.5, 3.5; series 8 with scaled 21.5, 21.6, 21.4.
    fn bytes() -> Vec<u8> {
        let doubles: Vec<u8> = [1.5f64, 2.5, 3.5].iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut channel = vec![0x08, 7, 0x12, 26, 0x0a, 24];
        channel.extend(doubles);
        let scaled = [0x08, 8, 0x1a, 8, 0x08, 1, 0x12, 4, 0xae, 3, 2, 3];
        let mut group = vec![0x08, 10, 0x10, 5, 0x1a, 2, 2, 4, 0x22, channel.len() as u8];
        group.extend(&channel);
        group.extend([0x22, scaled.len() as u8]);
        group.extend(scaled);
        group
    }

    fn read(bytes: &[u8]) -> (Vec<i64>, Vec<(u32, Vec<f64>)>) {
        let group = Group::read(bytes).expect("a group");
        let channels =
            group.channels().map(|c| c.expect("a channel")).map(|c| (c.series, c.values().expect("values"))).collect();
        (group.times().expect("times"), channels)
    }

    #[test]
    fn a_group_is_read_in_place() {
        let expected = (vec![10, 15, 25], vec![(7, vec![1.5, 2.5, 3.5]), (8, vec![21.5, 21.6, 21.4])]);
        assert_eq!(read(&bytes()), expected);
        assert_eq!(Group::read(&bytes()).expect("a group").len(), 3);
    }

    #[test]
    fn other_forms_of_the_same_are_read_too() {
        // steps one by one, then packed; the start at the end; an unknown field
        let group = [0x18, 2, 0x1a, 1, 4, 0x4a, 1, 0, 0x10, 5, 0x08, 10];
        assert_eq!(Group::read(&group).expect("a group").times().expect("times"), [10, 15, 25]);
        // doubles one by one, in two messages, of which the contract makes one
        let mut channel = vec![0x08, 7];
        for value in [1.5f64, 2.5] {
            channel.extend([0x12, 9, 0x09]);
            channel.extend(value.to_le_bytes());
        }
        let channel = Channel::of(&channel).expect("a channel");
        assert_eq!(channel.values().expect("values"), [1.5, 2.5]);
    }

    #[test]
    fn some_channels_of_a_group_are_a_group() {
        let bytes = bytes();
        let group = Group::read(&bytes).expect("a group");
        assert_eq!(group.only(|_| true), bytes);
        assert_eq!(read(&group.only(|series| series == 8)), (vec![10, 15, 25], vec![(8, vec![21.5, 21.6, 21.4])]));
        let listed = [0x08, 10, 0x10, 5, 0x18, 2, 0x18, 4];
        assert_eq!(read(&Group::read(&listed).expect("a group").only(|_| true)).0, [10, 15, 25]);
    }

    #[test]
    fn what_is_no_group_is_refused_and_nothing_panics() {
        let whole = bytes();
        for cut in 0..whole.len() {
            if let Ok(group) = Group::read(&whole[..cut]) {
                let _ = group.times();
                group.channels().flatten().for_each(|channel| drop(channel.values()));
            }
        }
        for wrong in [&[0x08][..], &[0x00, 1], &[0x22, 5, 1], &[0x0a, 1, 1], &[0x23]] {
            assert!(Group::read(wrong).is_err(), "{wrong:?}");
        }
        assert!(Group::read(&[0x22, 2, 0x0a, 0]).expect("a group").channels().next().expect("a channel").is_err());
        // a step that is cut off
        assert!(Group::read(&[0x1a, 1, 0x80]).expect("a group").times().is_err());
    }
}
