//! A batch between a door and the log: groups of readings, in the contract's packed form and in columns.

use std::sync::Arc;

use prost::Message as _;
use prost::bytes::Bytes;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_series::{Column, Quality, Test, wire};
use sensormesh_types::{Code, Error, Result};

use crate::calibration::Calibration;
use crate::catalog::Series;
use crate::flags;

/// Readings of one or more series that were taken at the same times.
#[derive(Clone, Debug)]
pub struct Group {
    /// Nanoseconds since the Unix epoch.
    pub times: Vec<i64>,
    /// Whether each time is later than the one before.
    pub in_order: bool,
    /// A list of values for each series.
    pub channels: Vec<Channel>,
}

/// One series' values, in the order of the group's times.
#[derive(Clone, Debug)]
pub struct Channel {
    /// The series.
    pub series: Arc<Series>,
    /// The values, all finite.
    pub values: Vec<f64>,
    /// Empty while every quality is the usual one.
    pub qualities: Vec<Quality>,
}

impl Group {
    /// A group of these times and channels.
    pub fn new(times: Vec<i64>, channels: Vec<Channel>) -> Self {
        let in_order = times.windows(2).all(|pair| pair[0] < pair[1]);
        Self { times, in_order, channels }
    }

    /// The readings of one series calibrated, in the contract's form, encoded.
    pub fn calibrated<'a>(&'a self, series: u32, calibration: &'a Calibration) -> impl Iterator<Item = Bytes> + 'a {
        self.channels.iter().filter(move |channel| channel.series.number == series).map(|channel| {
            let mut channel = channel.clone();
            calibration.apply(&self.times, &mut channel.values, &mut channel.qualities);
            let channel = pack_channel(channel.series.number, &channel.values, &channel.qualities);
            pack_times(&self.times, vec![channel]).encode_to_vec().into()
        })
    }

    /// How many readings.
    pub fn readings(&self) -> usize {
        self.times.len() * self.channels.len()
    }

    /// The readings at the places that `keep` admits.
    pub fn filtered(&self, channel: &Channel, keep: impl Fn(usize) -> bool) -> Group {
        let places: Vec<usize> = (0..self.times.len()).filter(|i| keep(*i)).collect();
        let qualities = if channel.qualities.is_empty() {
            Vec::new()
        } else {
            places.iter().map(|i| channel.qualities[*i]).collect()
        };
        let values = places.iter().map(|i| channel.values[*i]).collect();
        let channel = Channel { series: Arc::clone(&channel.series), values, qualities };
        Group::new(places.iter().map(|i| self.times[*i]).collect(), vec![channel])
    }
}

/// How many readings lie outside their sensor's range.
pub fn count_out_of_range(groups: &[Group]) -> usize {
    let qualities = groups.iter().flat_map(|group| &group.channels).flat_map(|channel| &channel.qualities);
    qualities.filter(|quality| quality.is_by(Test::GrossRange) && !quality.counts()).count()
}

/// How many readings groups hold.
pub fn count(groups: &[Group]) -> usize {
    groups.iter().map(Group::readings).sum()
}

/// Groups as the log keeps them: an encoded `ReadingBatch`.
pub fn encode(groups: &[Group]) -> Vec<u8> {
    let groups = groups.iter().map(|group| pack(group).encode_to_vec().into()).collect();
    pb::ReadingBatch { groups, ..pb::ReadingBatch::default() }.encode_to_vec()
}

/// A group in the contract's form.
pub fn pack(group: &Group) -> pb::Group {
    let channels = group.channels.iter().map(|c| pack_channel(c.series.number, &c.values, &c.qualities)).collect();
    pack_times(&group.times, channels)
}

/// A column in the contract's form.
pub fn pack_column(series: u32, column: &Column) -> pb::Group {
    pack_times(column.times(), vec![pack_channel(series, column.values(), column.qualities())])
}

fn pack_times(times: &[i64], channels: Vec<pb::Channel>) -> pb::Group {
    // times too far apart for steps cannot pass validation, which admits some decades
    let steps = wire::steps(times).unwrap_or_default();
    pb::Group { start_ns: steps.start, tick_ns: steps.tick, steps: steps.steps, channels }
}

fn pack_channel(series: u32, values: &[f64], qualities: &[Quality]) -> pb::Channel {
    // one value is as small either way
    let scaled = if values.len() > 1 { wire::deltas(values) } else { None };
    let values = match scaled {
        Some((decimals, deltas)) => pb::channel::Values::Scaled(pb::Scaled { decimals, deltas }),
        None => pb::channel::Values::Doubles(pb::Doubles { values: values.to_vec() }),
    };
    pb::Channel { series, values: Some(values), exceptions: exceptions(qualities) }
}

/// The qualities that are not the usual, in the contract's form.
pub fn exceptions(qualities: &[Quality]) -> Vec<pb::QualityException> {
    let unusual = qualities.iter().enumerate().filter(|(_, quality)| **quality != Quality::USUAL);
    unusual.map(|(index, quality)| flags::exception(index as u32, *quality)).collect()
}

/// The qualities of a channel of `readings` values; empty where all are usual, `None` where an exception has no place or no
/// meaning.
pub fn qualities(channel: &wire::Channel<'_>, readings: usize) -> Option<Vec<Quality>> {
    let mut qualities = Vec::new();
    for exception in &channel.exceptions {
        let exception = pb::QualityException::decode(*exception).ok()?;
        let quality = flags::of_exception(&exception)?;
        qualities.resize(readings, Quality::USUAL);
        *qualities.get_mut(exception.index as usize)? = quality;
    }
    Some(qualities)
}

/// Reads what [`encode`] or a door wrote into the log. Channels of series that `find` does not know are left out, of the
/// encoded groups too, which are answered beside.
pub fn decode(body: Bytes, find: impl Fn(u32) -> Option<Arc<Series>>) -> Result<(Vec<Group>, Bytes)> {
    let mut whole = true;
    let mut groups = Vec::new();
    for packed in packed(&body)? {
        let packed = wire::Group::read(&packed)?;
        let group = unpack(&packed, &find)?;
        whole &= group.channels.len() == packed.width();
        groups.push(group);
    }
    let body = if whole { body } else { encode(&groups).into() };
    Ok((groups, body))
}

/// That readings of a series were deleted, as the log has it instead of a batch. The tags are none of a `ReadingBatch`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Deletion {
    /// The series' number.
    #[prost(uint32, tag = "14")]
    pub series: u32,
    /// How often some of it were deleted.
    #[prost(uint64, tag = "15")]
    pub deletions: u64,
}

/// The groups of what the log has, each as it stands there.
pub fn packed(body: &Bytes) -> Result<Vec<Bytes>> {
    Ok(pb::ReadingBatch::decode(body.clone()).map_err(|error| damaged().caused_by(error))?.groups)
}

fn unpack(group: &wire::Group<'_>, find: impl Fn(u32) -> Option<Arc<Series>>) -> Result<Group> {
    let times = group.times()?;
    let mut channels = Vec::with_capacity(group.width());
    for channel in group.channels() {
        let channel = channel?;
        let Some(series) = find(channel.series) else { continue };
        let values = channel.values().ok().filter(|values| values.len() == times.len()).ok_or_else(damaged)?;
        let qualities = qualities(&channel, times.len()).ok_or_else(damaged)?;
        channels.push(Channel { series, values, qualities });
    }
    Ok(Group::new(times, channels))
}

fn damaged() -> Error {
    Error::new(Code::Corrupt, "LOG_CORRUPT", "a batch in the log of readings is damaged")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::Catalog;
    use crate::tail::Tail;

    #[test]
    fn what_the_log_keeps_is_read_back() {
        let catalog = Catalog::default();
        let a = catalog.put_series("acme", "lab.a", 1, Tail::default());
        let b = catalog.put_series("acme", "lab.b", 2, Tail::default());
        let qualities = vec![Quality::USUAL, Quality::OUT_OF_RANGE, Quality::USUAL];
        let groups = vec![Group::new(
            vec![1_000_000_000, 2_000_000_000, 3_000_000_007],
            vec![
                Channel { series: a, values: vec![0.1 + 0.2, 1.0, -0.0], qualities: Vec::new() },
                Channel { series: b, values: vec![20.5, 999.0, 20.75], qualities: qualities.clone() },
            ],
        )];
        let (read, _) = decode(encode(&groups).into(), |number| catalog.series(number)).expect("decoded");
        assert_eq!(read[0].times, groups[0].times);
        assert!(read[0].in_order);
        for (read, written) in read[0].channels.iter().zip(&groups[0].channels) {
            let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&read.values), bits(&written.values));
            assert_eq!(read.qualities, written.qualities);
        }
        assert_eq!(count(&read), 6);
        assert!(decode(Bytes::from_static(&[0xff, 0x01]), |number| catalog.series(number)).is_err());
        // a series that is not known is left out of both forms
        let (read, body) =
            decode(encode(&groups).into(), |number| catalog.series(number).filter(|_| number == 2)).expect("decoded");
        assert_eq!(read[0].channels.len(), 1);
        assert_eq!(body, encode(&read));
    }

    #[test]
    fn a_quality_without_a_place_or_a_meaning_is_refused() {
        let read = |index, quality| {
            let exception = pb::QualityException { index, quality, ..pb::QualityException::default() };
            let channel = pb::Channel { exceptions: vec![exception], ..pb::Channel::default() };
            let group = pb::Group { channels: vec![channel], ..pb::Group::default() }.encode_to_vec();
            let group = wire::Group::read(&group).expect("a group");
            qualities(&group.channels().next().expect("a channel").expect("a channel"), 3)
        };
        assert!(read(3, 4).is_none());
        assert!(read(0, 77).is_none());
        assert_eq!(read(2, 4).expect("qualities")[2], Quality::OUT_OF_RANGE);
    }

    proptest! {
        #[test]
        fn groups_mean_the_same_in_place_as_in_messages(
            start_ns in any::<i64>(), tick_ns in 0u64..9, steps in prop::collection::vec(-9i64..9, 0..5),
            scaled in prop::option::of((0u32..11, prop::collection::vec(any::<i32>().prop_map(i64::from), 0..5))),
            doubles in prop::collection::vec(any::<f64>(), 0..5), series in any::<u32>(),
        ) {
            let values = match scaled {
                Some((decimals, deltas)) => pb::channel::Values::Scaled(pb::Scaled { decimals, deltas }),
                None => pb::channel::Values::Doubles(pb::Doubles { values: doubles }),
            };
            let expected_values = match &values {
                pb::channel::Values::Scaled(scaled) => wire::values(scaled.decimals, &scaled.deltas).ok(),
                pb::channel::Values::Doubles(doubles) => Some(doubles.values.clone()),
            };
            let channel = pb::Channel { series, values: Some(values), exceptions: Vec::new() };
            let message = pb::Group { start_ns, tick_ns, steps, channels: vec![channel] };
            let bytes = message.encode_to_vec();
            let group = wire::Group::read(&bytes).expect("a group");
            prop_assert_eq!(group.times().ok(), wire::times(start_ns, tick_ns, &message.steps).ok());
            let channel = group.channels().next().expect("a channel").expect("a channel");
            prop_assert_eq!(channel.series, series);
            let bits = |values: Option<Vec<f64>>| values.map(|v| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
            prop_assert_eq!(bits(channel.values().ok()), bits(expected_values));
            prop_assert_eq!(group.only(|_| true), bytes);
        }
    }
}
