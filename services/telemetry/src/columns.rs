//! A batch in columns as a sender sent it, checked: what can be taken, and why the rest cannot.

use std::sync::Arc;

use prost::Message as _;
use prost::bytes::Bytes;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::Verdict;
use sensormesh_series::wire;
use sensormesh_types::{Error, Result};

use crate::batch::{self, Channel, Group};
use crate::catalog::{Sensor, Series};
use crate::validate::{self, Window};

/// A batch after its check.
#[derive(Debug, Default)]
pub struct Checked {
    /// The readings that can be taken.
    pub groups: Vec<Group>,
    /// The same, encoded for the log.
    pub body: Bytes,
    /// Why the rest cannot, without the batch's number.
    pub rejections: Vec<pb::Rejection>,
    /// How many channels each group had as it was sent.
    pub widths: Vec<usize>,
}

/// The most readings of a batch.
const MOST_READINGS: usize = 10_000;
/// The most bytes of a batch.
const MOST_BYTES: usize = 128 << 10;

/// Checks a batch. `find` answers the series with a number where the sender may use it. Refuses a batch that is too great,
/// and one whose groups cannot be read.
pub fn check(
    batch: pb::ReadingBatch,
    window: Window,
    mut find: impl FnMut(u32) -> Option<(Arc<Series>, Arc<Sensor>)>,
) -> Result<Checked> {
    let groups = batch.groups.iter().map(|group| wire::Group::read(group)).collect::<Result<Vec<_>>>()?;
    let readings: usize = groups.iter().map(|group| group.len().saturating_mul(group.width())).sum();
    if readings > MOST_READINGS || batch.encoded_len() > MOST_BYTES {
        return Err(Error::invalid("batch", "must have at most 10,000 readings and 128 KiB"));
    }
    let mut checked = Checked { widths: groups.iter().map(wire::Group::width).collect(), ..Checked::default() };
    // a group without channels is left out
    let mut changed = groups.iter().any(wire::Group::is_empty);
    for (place, group) in groups.iter().enumerate() {
        let mut check = Check { window, place: place as u32, checked: &mut checked, changed: &mut changed };
        check.group(group, &mut find);
    }
    changed |= !checked.rejections.is_empty();
    checked.body = if changed {
        batch::encode(&checked.groups).into()
    } else {
        // nothing was left out, rounded or marked: it goes into the log in the form the sender chose
        pb::ReadingBatch { number: 0, batch_id: String::new(), groups: batch.groups }.encode_to_vec().into()
    };
    if checked.groups.is_empty() {
        checked.body = Bytes::new();
    }
    Ok(checked)
}

/// The refusal of all of a batch, whose groups have so many channels each: of every channel.
pub fn refuse(batch: u64, widths: &[usize], reason: &str, message: &str) -> Vec<pb::Rejection> {
    let channel = |(group, channel): (usize, usize)| pb::Rejection {
        batch,
        group: group as u32,
        channel: channel as u32,
        indices: Vec::new(),
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    let groups = widths.iter().enumerate();
    groups.flat_map(|(group, width)| (0..*width).map(move |channel| (group, channel))).map(channel).collect()
}

struct Check<'a> {
    window: Window,
    place: u32,
    checked: &'a mut Checked,
    changed: &'a mut bool,
}

impl Check<'_> {
    fn reject(&mut self, channel: usize, indices: Vec<u32>, reason: &str, message: &str) {
        self.checked.rejections.push(pb::Rejection {
            batch: 0,
            group: self.place,
            channel: channel as u32,
            indices,
            reason: reason.to_owned(),
            message: message.to_owned(),
        });
    }

    fn group(&mut self, group: &wire::Group<'_>, find: &mut impl FnMut(u32) -> Option<(Arc<Series>, Arc<Sensor>)>) {
        let times = match group.times() {
            Ok(times) => times,
            Err(error) => {
                (0..group.width()).for_each(|channel| self.reject(channel, Vec::new(), "INVALID", error.message()));
                return;
            }
        };
        let late = self.refused_times(&times);
        let mut whole = Group::new(times, Vec::with_capacity(group.width()));
        let mut apart = Vec::new();
        for (place, channel) in group.channels().enumerate() {
            let channel = match channel {
                Ok(channel) => channel,
                Err(error) => {
                    self.reject(place, Vec::new(), "INVALID", error.message());
                    continue;
                }
            };
            let Some((series, sensor)) = find(channel.series) else {
                self.reject(place, Vec::new(), "UNKNOWN_SERIES", "the number was not announced to this sender");
                continue;
            };
            let values = channel.values().ok().filter(|values| values.len() == whole.times.len());
            let qualities = batch::qualities(&channel, whole.times.len());
            let Some((mut values, mut qualities)) = values.zip(qualities) else {
                self.reject(
                    place,
                    Vec::new(),
                    "INVALID",
                    "must have one value for each time, and exceptions among them",
                );
                continue;
            };
            *self.changed |= validate::round(&sensor, channel.decimals(), &mut values);
            *self.changed |= validate::mark_out_of_range(&sensor, &values, &mut qualities);
            let mut gone: Vec<u32> = late.iter().map(|(index, _)| *index).collect();
            for verdict in [Verdict::Future, Verdict::TooOld] {
                let indices: Vec<u32> = late.iter().filter(|(_, v)| *v == verdict).map(|(index, _)| *index).collect();
                if !indices.is_empty() {
                    self.reject(place, indices, validate::word(verdict), self.window.words(verdict));
                }
            }
            let odd: Vec<u32> = not_finite(&values).into_iter().filter(|i| gone.binary_search(i).is_err()).collect();
            if !odd.is_empty() {
                gone.extend(&odd);
                gone.sort_unstable();
                self.reject(place, odd, "NON_FINITE", "must be finite");
            }
            let channel = Channel { series, values, qualities };
            if gone.is_empty() {
                whole.channels.push(channel);
            } else if gone.len() < whole.times.len() {
                apart.push(whole.filtered(&channel, |index| gone.binary_search(&(index as u32)).is_err()));
            }
        }
        if !whole.channels.is_empty() {
            self.checked.groups.push(whole);
        }
        self.checked.groups.append(&mut apart);
    }

    fn refused_times(&self, times: &[i64]) -> Vec<(u32, Verdict)> {
        let refused = |(index, time): (usize, &i64)| self.window.refuses(*time).map(|verdict| (index as u32, verdict));
        times.iter().enumerate().filter_map(refused).collect()
    }
}

fn not_finite(values: &[f64]) -> Vec<u32> {
    if values.iter().all(|value| value.is_finite()) {
        return Vec::new();
    }
    values.iter().enumerate().filter(|(_, value)| !value.is_finite()).map(|(index, _)| index as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::tail::Tail;
    use sensormesh_series::Quality;

    const SECOND: i64 = 1_000_000_000;
    const NOW: i64 = 1_800_000_000 * SECOND;

    fn catalog() -> Catalog {
        let catalog = Catalog::default();
        catalog.put_sensor("acme", "lab.a", Sensor { max: Some(100.0), ..Sensor::default() });
        catalog.put_series("acme", "lab.a", 1, Tail::default());
        catalog
    }

    fn check_group(group: &pb::Group) -> Checked {
        let catalog = catalog();
        let batch = pb::ReadingBatch { groups: vec![group.encode_to_vec().into()], ..pb::ReadingBatch::default() };
        let checked = check(batch, Window::at(NOW, false), |number| {
            let series = catalog.series(number)?;
            let sensor = series.sensor()?;
            Some((series, sensor))
        });
        checked.expect("within the limits")
    }

    fn group(start_ns: i64, values: &[f64]) -> pb::Group {
        let doubles = pb::channel::Values::Doubles(pb::Doubles { values: values.to_vec() });
        pb::Group {
            start_ns,
            tick_ns: SECOND as u64,
            steps: vec![1; values.len() - 1],
            channels: vec![pb::Channel { series: 1, values: Some(doubles), exceptions: Vec::new() }],
        }
    }

    #[test]
    fn a_sound_batch_is_taken_as_it_is() {
        let group = group(NOW, &[1.0, 2.0, 3.0]);
        let sent = pb::ReadingBatch { groups: vec![group.encode_to_vec().into()], ..pb::ReadingBatch::default() };
        let checked = check_group(&group);
        assert!(checked.rejections.is_empty());
        assert_eq!(batch::count(&checked.groups), 3);
        assert_eq!(checked.body, sent.encode_to_vec());
    }

    #[test]
    fn what_is_wrong_is_named_and_the_rest_is_taken() {
        let checked = check_group(&group(NOW + 299 * SECOND, &[1.0, f64::NAN, 3.0, 4.0]));
        let rejections: Vec<_> = checked.rejections.iter().map(|r| (r.reason.as_str(), r.indices.clone())).collect();
        assert_eq!(rejections, [("FUTURE", vec![2, 3]), ("NON_FINITE", vec![1])]);
        assert_eq!(checked.groups[0].times, [NOW + 299 * SECOND]);
        let catalog = catalog();
        let (read, _) = batch::decode(checked.body, |number| catalog.series(number)).expect("decoded");
        assert_eq!(read[0].channels[0].values, [1.0]);
    }

    #[test]
    fn values_out_of_range_are_taken_and_marked_in_the_log_too() {
        let checked = check_group(&group(NOW, &[1.0, 101.0]));
        assert!(checked.rejections.is_empty());
        let catalog = catalog();
        let (read, _) = batch::decode(checked.body, |number| catalog.series(number)).expect("decoded");
        assert_eq!(read[0].channels[0].qualities, [Quality::USUAL, Quality::OUT_OF_RANGE]);
    }

    #[test]
    fn channels_that_make_no_sense_are_refused_whole() {
        let mut unknown = group(NOW, &[1.0]);
        unknown.channels[0].series = 9;
        let mut short = group(NOW, &[1.0, 2.0]);
        short.steps.push(1);
        let mut far = group(i64::MAX, &[1.0, 2.0]);
        far.tick_ns = u64::MAX;
        for (group, reason) in [(unknown, "UNKNOWN_SERIES"), (short, "INVALID"), (far, "INVALID")] {
            let checked = check_group(&group);
            assert_eq!(checked.rejections.len(), 1);
            assert_eq!(checked.rejections[0].reason, reason);
            assert!(checked.groups.is_empty() && checked.body.is_empty());
        }
    }
}
