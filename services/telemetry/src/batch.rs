//! A batch between a door and the log: groups of readings, in the contract's packed form and in columns.

use std::sync::Arc;

use prost::Message as _;
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

    /// The readings of one series calibrated, in the contract's form.
    pub fn calibrated<'a>(&'a self, series: u32, calibration: &'a Calibration) -> impl Iterator<Item = pb::Group> + 'a {
        self.channels.iter().filter(move |channel| channel.series.number == series).map(|channel| {
            let mut channel = channel.clone();
            calibration.apply(&self.times, &mut channel.values, &mut channel.qualities);
            pack_times(&self.times, vec![pack_channel(channel.series.number, &channel.values, &channel.qualities)])
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
    pb::ReadingBatch { groups: groups.iter().map(pack).collect(), ..pb::ReadingBatch::default() }.encode_to_vec()
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

/// The values of a channel; `None` where it has none or they cannot be read.
pub fn values(channel: &pb::Channel) -> Option<Vec<f64>> {
    match channel.values.as_ref()? {
        pb::channel::Values::Doubles(doubles) => Some(doubles.values.clone()),
        pb::channel::Values::Scaled(scaled) => wire::values(scaled.decimals, &scaled.deltas).ok(),
    }
}

/// The qualities of a channel of `readings` values; empty where all are usual, `None` where an exception has no place or no
/// meaning.
pub fn qualities(channel: &pb::Channel, readings: usize) -> Option<Vec<Quality>> {
    let mut qualities = Vec::new();
    for exception in &channel.exceptions {
        let index = exception.index as usize;
        let quality = flags::of_exception(exception)?;
        qualities.resize(readings, Quality::USUAL);
        *qualities.get_mut(index)? = quality;
    }
    Some(qualities)
}

/// Reads what [`encode`] or a door wrote into the log. Channels of series that `find` does not know are left out.
pub fn decode(body: &[u8], find: impl Fn(u32) -> Option<Arc<Series>>) -> Result<Vec<Group>> {
    let batch = pb::ReadingBatch::decode(body).map_err(|error| damaged().caused_by(error))?;
    batch.groups.iter().map(|group| unpack(group, &find)).collect()
}

fn unpack(group: &pb::Group, find: impl Fn(u32) -> Option<Arc<Series>>) -> Result<Group> {
    let times = wire::times(group.start_ns, group.tick_ns, &group.steps)?;
    let mut channels = Vec::with_capacity(group.channels.len());
    for channel in &group.channels {
        let Some(series) = find(channel.series) else { continue };
        let values = values(channel).filter(|values| values.len() == times.len()).ok_or_else(damaged)?;
        let qualities = qualities(channel, times.len()).ok_or_else(damaged)?;
        channels.push(Channel { series, values, qualities });
    }
    Ok(Group::new(times, channels))
}

fn damaged() -> Error {
    Error::new(Code::Corrupt, "LOG_CORRUPT", "a batch in the log of readings is damaged")
}

#[cfg(test)]
mod tests {
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
        let read = decode(&encode(&groups), |number| catalog.series(number)).expect("decoded");
        assert_eq!(read[0].times, groups[0].times);
        assert!(read[0].in_order);
        for (read, written) in read[0].channels.iter().zip(&groups[0].channels) {
            let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&read.values), bits(&written.values));
            assert_eq!(read.qualities, written.qualities);
        }
        assert_eq!(count(&read), 6);
        assert!(decode(&[0xff, 0x01], |number| catalog.series(number)).is_err());
    }

    #[test]
    fn a_quality_without_a_place_or_a_meaning_is_refused() {
        let channel = |index, quality| pb::Channel {
            exceptions: vec![pb::QualityException { index, quality, ..pb::QualityException::default() }],
            ..pb::Channel::default()
        };
        assert!(qualities(&channel(3, 4), 3).is_none());
        assert!(qualities(&channel(0, 77), 3).is_none());
        assert_eq!(qualities(&channel(2, 4), 3).expect("qualities")[2], Quality::OUT_OF_RANGE);
    }
}
