//! Readings as telemetry streams them, unpacked once for all viewers.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message as _;
use sensormesh_proto::telemetry::v1::{self as telemetry, Quality, QualityException, WatchReadingsResponse};
use sensormesh_series::wire;
use sensormesh_types::{DEFAULT_TENANT, Error, Result, time};

use super::hub::Hub;
use crate::metrics::Reading;
use crate::model::Tenant;

/// A reading and its sensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The sensor.
    pub sensor: Arc<str>,
    /// The reading.
    pub reading: Reading,
}

/// Readings of one tenant in the order of telemetry's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The readings; of recorded data only the latest of each sensor.
    pub samples: Vec<Sample>,
    /// They are recorded data.
    pub backfill: bool,
    /// Sensors of which readings were deleted then, with the latest one that is left.
    pub deleted: Vec<(Arc<str>, Option<Reading>)>,
}

/// One message of telemetry's stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    /// Resume after it; empty within a snapshot.
    pub cursor: String,
    /// Its readings, if it has any.
    pub batch: Option<Batch>,
    /// It is also a bookmark: whether everything there is has been sent.
    pub live: Option<bool>,
    /// What follows replaces all earlier state.
    pub reset: bool,
}

/// Unpacks the messages of one stream, which names its series numbers as it goes.
#[derive(Default)]
pub struct Decoder {
    names: HashMap<u32, Arc<str>>,
    tenant: Option<Arc<str>>,
    hub: Option<Hub>,
}

impl Decoder {
    /// One that has of each sensor that is in no room only the latest reading of a message: nobody can be watching it.
    pub fn of_placed(hub: Hub) -> Self {
        Self { hub: Some(hub), ..Self::default() }
    }

    /// Unpacks one message.
    pub fn decode(&mut self, message: WatchReadingsResponse) -> Result<Incoming> {
        let WatchReadingsResponse { cursor, readings, names, groups, bookmark, backfill, tenant, deleted, .. } =
            message;
        for name in names {
            self.names.insert(name.series, name.sensor_id.into());
        }
        let mut samples = Vec::new();
        for reading in readings {
            let sensor = reading.sensor_id.as_str().into();
            samples.extend(row(&reading).map(|reading| Sample { sensor, reading }));
        }
        let tenant = self.tenant(tenant);
        let placed = self.hub.as_ref().map(|hub| hub.model().tenant(&tenant));
        for group in &groups {
            self.unpack(&wire::Group::read(group)?, placed.as_deref(), &mut samples)?;
        }
        if backfill {
            samples = latest_of_each(samples);
        }
        let deleted: Vec<_> =
            deleted.into_iter().map(|told| (told.sensor_id.into(), told.reading.as_ref().and_then(row))).collect();
        let none = samples.is_empty() && deleted.is_empty();
        let batch = if none { None } else { Some(Batch { tenant, samples, backfill, deleted }) };
        let reset = bookmark.as_ref().is_some_and(|bookmark| bookmark.reset);
        Ok(Incoming { cursor, batch, live: bookmark.map(|bookmark| bookmark.live), reset })
    }

    fn tenant(&mut self, name: String) -> Arc<str> {
        let name = if name.is_empty() { DEFAULT_TENANT.to_owned() } else { name };
        match &self.tenant {
            Some(tenant) if **tenant == *name => Arc::clone(tenant),
            _ => Arc::clone(self.tenant.insert(name.into())),
        }
    }

    fn unpack(&self, group: &wire::Group<'_>, placed: Option<&Tenant>, samples: &mut Vec<Sample>) -> Result<()> {
        let times = group.times()?;
        for channel in group.channels() {
            let channel = channel?;
            let sensor = self
                .names
                .get(&channel.series)
                .ok_or_else(|| Error::internal(format!("telemetry sent series {} without its name", channel.series)))?;
            let values = channel.values()?;
            if values.len() != times.len() {
                return Err(Error::internal("telemetry sent a channel that is not as long as its group"));
            }
            let exceptions = channel.exceptions.iter().map(|bytes| QualityException::decode(*bytes));
            let exceptions = exceptions.collect::<Result<Vec<_>, _>>().map_err(Error::internal)?;
            let mut exceptions = exceptions.iter().peekable();
            let readings = times.iter().zip(&values).enumerate().filter_map(|(index, (time, value))| {
                let exception = exceptions.next_if(|exception| exception.index as usize == index);
                shown(*time, *value, exception.map_or(0, |exception| exception.quality))
            });
            let sample = |reading| Sample { sensor: Arc::clone(sensor), reading };
            if placed.is_none_or(|tenant| tenant.placements.contains_key(sensor)) {
                samples.extend(readings.map(sample));
            } else {
                samples.extend(readings.max_by_key(|reading| reading.time).map(sample));
            }
        }
        Ok(())
    }
}

/// A reading that came by itself, as rooms show it.
fn row(reading: &telemetry::Reading) -> Option<Reading> {
    shown(reading.time.as_ref().and_then(time::to_nanos)?, reading.value?, reading.quality)
}

/// A reading as rooms show it; `None` where there is no value.
fn shown(time: i64, value: f64, quality: i32) -> Option<Reading> {
    // what fails a test is as little a value to show as one out of range
    let out_of_range = quality == Quality::OutOfRange as i32 || quality == Quality::Fail as i32;
    (value.is_finite() && quality != Quality::Missing as i32).then_some(Reading { time, value, out_of_range })
}

/// The newest sample of each sensor, in the order of their first ones.
fn latest_of_each(samples: Vec<Sample>) -> Vec<Sample> {
    let mut places: HashMap<Arc<str>, usize> = HashMap::new();
    let mut latest: Vec<Sample> = Vec::new();
    for sample in samples {
        match places.get(&sample.sensor) {
            Some(place) if sample.reading.time >= latest[*place].reading.time => latest[*place] = sample,
            Some(_) => {}
            None => {
                places.insert(Arc::clone(&sample.sensor), latest.len());
                latest.push(sample);
            }
        }
    }
    latest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Tree;
    use crate::placement::Placement;
    use prost::bytes::Bytes;
    use sensormesh_proto::telemetry::v1::{Channel, Doubles, Group, Reading as Row, Scaled, SeriesName, channel};
    use sensormesh_types::Clock;

    fn group(start: i64, series: u32, values: channel::Values, steps: Vec<i64>) -> Bytes {
        let exceptions = vec![QualityException { index: 1, quality: Quality::Fail as i32, ..Default::default() }];
        let channels = vec![Channel { series, values: Some(values), exceptions }];
        Group { start_ns: start, tick_ns: 1, steps, channels }.encode_to_vec().into()
    }

    #[test]
    fn columns_and_rows_say_the_same() {
        let mut decoder = Decoder::default();
        let name = |series, id: &str| SeriesName { series, sensor_id: id.into(), unit: String::new() };
        let columns = WatchReadingsResponse {
            tenant: "acme".into(),
            names: vec![name(7, "lab.t")],
            groups: vec![group(10, 7, channel::Values::Scaled(Scaled { decimals: 1, deltas: vec![215, 1] }), vec![5])],
            ..Default::default()
        };
        let row = |time, value, quality: Quality| Row {
            sensor_id: "lab.t".into(),
            time: Some(time::from_nanos(time)),
            value: Some(value),
            quality: quality as i32,
            ..Row::default()
        };
        let rows = WatchReadingsResponse {
            tenant: "acme".into(),
            readings: vec![row(10, 21.5, Quality::Unspecified), row(15, 21.6, Quality::OutOfRange)],
            ..Default::default()
        };
        let columns = decoder.decode(columns).expect("columns");
        assert_eq!(columns, decoder.decode(rows).expect("rows"));
        let batch = columns.batch.expect("readings");
        assert_eq!(batch.samples[1].reading, Reading { time: 15, value: 21.6, out_of_range: true });
        assert_eq!(&*batch.tenant, "acme");
    }

    #[test]
    fn a_name_holds_for_the_rest_of_the_stream_and_an_unknown_number_is_an_error() {
        let mut decoder = Decoder::default();
        let doubles = || channel::Values::Doubles(Doubles { values: vec![1.0, 2.0] });
        let message =
            |series| WatchReadingsResponse { groups: vec![group(0, series, doubles(), vec![1])], ..Default::default() };
        assert!(decoder.decode(message(3)).is_err());
        decoder.names.insert(3, "lab.t".into());
        assert_eq!(decoder.decode(message(3)).expect("named").batch.expect("batch").samples.len(), 2);
    }

    #[test]
    fn of_a_sensor_in_no_room_only_the_latest_is_kept() {
        let hub = Hub::new(10, Clock::fixed(0));
        let mut decoder = Decoder { names: HashMap::from([(1, "a.t".into())]), ..Decoder::of_placed(hub.clone()) };
        let message = || WatchReadingsResponse {
            groups: vec![group(
                100,
                1,
                channel::Values::Doubles(Doubles { values: vec![1.0, 2.0, 3.0] }),
                vec![50, -20],
            )],
            ..Default::default()
        };
        let values =
            |batch: Option<Batch>| batch.expect("batch").samples.iter().map(|s| s.reading.value).collect::<Vec<_>>();
        assert_eq!(values(decoder.decode(message()).expect("decoded").batch), [2.0]);
        let placement = Placement {
            sensor: "a.t".into(),
            room: "lab".into(),
            metric: "t".into(),
            start: 0,
            end: None,
            site: String::new(),
        };
        let tenant = Tenant::new(Tree::default(), vec![placement], &HashMap::new(), &HashMap::new());
        hub.change_model(|model| model.replace(DEFAULT_TENANT, tenant));
        assert_eq!(values(decoder.decode(message()).expect("decoded").batch), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn of_recorded_data_only_the_latest_is_kept() {
        let mut decoder = Decoder { names: HashMap::from([(1, "a.t".into())]), ..Decoder::default() };
        let doubles = channel::Values::Doubles(Doubles { values: vec![1.0, 2.0, 3.0] });
        let message = WatchReadingsResponse {
            groups: vec![group(100, 1, doubles, vec![50, -20])],
            backfill: true,
            ..Default::default()
        };
        let batch = decoder.decode(message).expect("decoded").batch.expect("batch");
        assert_eq!(batch.samples.len(), 1);
        assert_eq!(batch.samples[0].reading, Reading { time: 150, value: 2.0, out_of_range: true });
    }
}
