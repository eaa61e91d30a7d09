//! Every test against its definition, over random readings and over recordings.

use std::io::Read as _;

use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000_000_000;

const TESTS: Tests = Tests {
    usual: (-40.0, 40.0),
    spike_suspect: 10.0,
    spike_fail: 30.0,
    change_per_second: 8.0,
    flat_tolerance: 0.5,
    flat_suspect: 3,
    flat_fail: 5,
    gap: 4 * SECOND,
};

/// Every test by its definition, over all neighbours at once.
fn naive(tests: &Tests, readings: &[(i64, f64)]) -> Vec<Quality> {
    let neighbours_needed = tests.need_neighbours();
    (0..readings.len())
        .map(|n| {
            let (time, value) = readings[n];
            let mut quality = Quality::USUAL;
            if value < tests.usual.0 || value > tests.usual.1 {
                quality = quality.found(Flag::Suspect, Test::GrossRange);
            }
            match n.checked_sub(1).map(|before| readings[before]) {
                None if neighbours_needed => quality = quality.not_evaluated(),
                None => {}
                Some((last_time, last)) => {
                    let seconds = (time - last_time) as f64 / 1e9;
                    if time - last_time > tests.gap {
                        quality = quality.found(Flag::Suspect, Test::Gap);
                    }
                    if (value - last).abs() > tests.change_per_second * seconds {
                        quality = quality.found(Flag::Suspect, Test::RateOfChange);
                    }
                    let flat = |count: usize| {
                        count <= n + 1 && {
                            let last = readings[n + 1 - count..=n].iter().map(|(_, value)| *value);
                            let (min, max) = last.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
                            max - min <= tests.flat_tolerance
                        }
                    };
                    if flat(tests.flat_fail) {
                        quality = quality.found(Flag::Fail, Test::FlatLine);
                    } else if flat(tests.flat_suspect) {
                        quality = quality.found(Flag::Suspect, Test::FlatLine);
                    }
                    if let Some((_, next)) = readings.get(n + 1) {
                        let off = (value - (last / 2.0 + next / 2.0)).abs();
                        if off > tests.spike_fail {
                            quality = quality.found(Flag::Fail, Test::Spike);
                        } else if off > tests.spike_suspect {
                            quality = quality.found(Flag::Suspect, Test::Spike);
                        }
                    }
                }
            }
            quality
        })
        .collect()
}

/// Judges readings in parts and keeps them as the store does. With `again` the track is made anew before each part.
fn judged(tests: Tests, parts: &[&[(i64, f64)]], again: bool) -> Column {
    let mut stored = Column::default();
    let mut track = Track::new(tests, &stored);
    for part in parts {
        if again {
            let from = stored.len().saturating_sub(tests.reach());
            track = Track::new(tests, &stored.slice(from..stored.len()));
        }
        let (times, values): (Vec<i64>, Vec<f64>) = part.iter().copied().unzip();
        let mut qualities = Vec::new();
        let findings = track.judge(&times, &values, &mut qualities, true);
        if let Some(before) = findings.before {
            assert_eq!(stored.find(before.time).map(|r| r.value), Some(before.value));
            stored.upsert(before.time, before.value, before.quality);
        }
        assert_eq!(findings.changed, qualities.iter().any(|quality| *quality != Quality::USUAL));
        for (index, time) in times.iter().enumerate() {
            stored.upsert(*time, values[index], qualities.get(index).copied().unwrap_or_default());
        }
    }
    stored
}

fn qualities(column: &Column) -> Vec<Quality> {
    (0..column.len()).map(|index| column.quality(index)).collect()
}

fn chunks<'a>(readings: &'a [(i64, f64)], sizes: &[usize]) -> Vec<&'a [(i64, f64)]> {
    let (mut parts, mut rest) = (Vec::new(), readings);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            return parts;
        }
        let (part, after) = rest.split_at((*size).min(rest.len()));
        parts.push(part);
        rest = after;
    }
    parts
}

proptest! {
    #[test]
    fn readings_are_found_what_the_definitions_say_in_whatever_parts_they_come(
        steps in prop::collection::vec((1i64..6, prop::sample::select(vec![0.0, 0.1, 0.3, 5.0, -5.0, 25.0, -25.0, 80.0])), 1..120),
        sizes in prop::collection::vec(1usize..9, 1..6),
        flat in (2usize..4, 4usize..9),
        again: bool,
    ) {
        let mut time = 0;
        let readings: Vec<(i64, f64)> = steps
            .iter()
            .map(|(step, value)| {
                time += step * SECOND;
                (time, *value)
            })
            .collect();
        let tests = Tests { flat_suspect: flat.0, flat_fail: flat.1, ..TESTS };
        let stored = judged(tests, &chunks(&readings, &sizes), again);
        prop_assert_eq!(qualities(&stored), naive(&tests, &readings));
    }

    #[test]
    fn late_readings_leave_the_track_as_if_it_were_made_anew(
        batches in prop::collection::vec(prop::collection::vec((0i64..60, prop::sample::select(vec![1.0, 1.2, 6.0, 50.0])), 1..5), 1..30),
    ) {
        let mut stored = Column::default();
        let mut track = Track::new(TESTS, &stored);
        for batch in batches {
            let mut anew = Track::new(TESTS, &stored);
            let batch: std::collections::BTreeMap<i64, f64> = batch.into_iter().collect();
            // a reading of the same value is a duplicate, which the tests never see
            let new = batch.into_iter().map(|(time, value)| (time * SECOND, value));
            let new = new.filter(|(time, value)| stored.find(*time).is_none_or(|reading| reading.value != *value));
            let (times, values): (Vec<i64>, Vec<f64>) = new.unzip();
            let (mut one, mut other) = (Vec::new(), Vec::new());
            let found = track.judge(&times, &values, &mut one, true);
            prop_assert_eq!(found, anew.judge(&times, &values, &mut other, true));
            prop_assert_eq!(&one, &other);
            if let Some(reading) = found.before {
                stored.upsert(reading.time, reading.value, reading.quality);
            }
            for (index, time) in times.iter().enumerate() {
                stored.upsert(*time, values[index], one.get(index).copied().unwrap_or_default());
            }
        }
    }

    #[test]
    fn a_batch_in_any_order_is_found_the_same(
        readings in prop::collection::btree_map(0i64..100, prop::sample::select(vec![1.0, 6.0, 50.0]), 1..20),
        turn in 0usize..20,
    ) {
        let mut readings: Vec<(i64, f64)> = readings.into_iter().map(|(t, v)| (t * SECOND, v)).collect();
        let expected = naive(&TESTS, &readings);
        let turn = turn % readings.len();
        readings.rotate_left(turn);
        let (times, values): (Vec<i64>, Vec<f64>) = readings.into_iter().unzip();
        let mut found = Vec::new();
        Track::new(TESTS, &Column::default()).judge(&times, &values, &mut found, false);
        found.resize(times.len(), Quality::USUAL);
        found.rotate_right(turn);
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn values_out_of_range_are_no_neighbours() {
    let mut track = Track::new(TESTS, &Column::default());
    let times: Vec<i64> = (0..4).map(|i| i * SECOND).collect();
    let mut found = vec![Quality::USUAL, Quality::OUT_OF_RANGE, Quality::MISSING, Quality::USUAL];
    track.judge(&times, &[1.0, 999.0, 0.0, 2.0], &mut found, true);
    assert_eq!(found, [Quality::NOT_EVALUATED, Quality::OUT_OF_RANGE, Quality::MISSING, Quality::USUAL]);
}

#[test]
fn great_numbers_are_compared_without_overflow() {
    let readings = [(0, f64::MAX), (SECOND, f64::MAX), (2 * SECOND, f64::MAX), (3 * SECOND, -f64::MAX)];
    let stored = judged(Tests { usual: Tests::NONE.usual, ..TESTS }, &[&readings], false);
    assert!(stored.quality(3).is_by(Test::RateOfChange));
    assert!(!stored.quality(1).is_by(Test::Spike) && stored.quality(2).is_by(Test::Spike));
}

/// The values of a labelled recording, five minutes apart.
fn recording(name: &str) -> Option<Vec<(i64, f64)>> {
    let file = format!("{}/../../../shared/data/anomaly/nab/{name}.csv.gz", env!("CARGO_MANIFEST_DIR"));
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) => {
            sensormesh_testkit::skip(format_args!("{file}: {error}"));
            return None;
        }
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).expect("gzip");
    let values = text.lines().skip(1).map(|line| line.rsplit(',').next().expect("a value").parse().expect("a number"));
    Some(values.enumerate().map(|(i, value)| (i as i64 * 300 * SECOND, value)).collect())
}

fn of(column: &Column, test: Test) -> Vec<usize> {
    (0..column.len()).filter(|index| column.quality(*index).is_by(test)).collect()
}

#[test]
fn a_stuck_sensor_and_spikes_are_found_in_recordings() {
    let Some(flat) = recording("artificialNoAnomaly__art_flatline") else { return };
    let tests = Tests { flat_suspect: 6, flat_fail: 12, ..Tests::NONE };
    let found = judged(tests, &chunks(&flat, &[100, 1, 7]), true);
    assert_eq!(of(&found, Test::FlatLine), (5..flat.len()).collect::<Vec<_>>());
    assert!((11..flat.len()).all(|index| found.quality(index).flag() == Flag::Fail));

    let Some(stuck) = recording("artificialWithAnomaly__art_daily_flatmiddle") else { return };
    let found = of(&judged(tests, &chunks(&stuck, &[50]), false), Test::FlatLine);
    // the labelled window is 2014-04-10 07:15 to 2014-04-11 16:45; the sensor is stuck for the whole of the second day
    assert!((2679..=3081).contains(&found[0]) && found.len() > 200, "{found:?}");
    assert!(found.iter().all(|index| (2880..3168).contains(index)), "{found:?}");

    let Some(spikes) = recording("artificialWithAnomaly__art_increase_spike_density") else { return };
    let tests = Tests { spike_suspect: 5.0, spike_fail: 15.0, ..Tests::NONE };
    let found = judged(tests, &chunks(&spikes, &[3, 1]), true);
    assert_eq!(qualities(&found), naive(&tests, &spikes));
    let high: Vec<usize> = (1..spikes.len() - 1).filter(|index| spikes[*index].1 > 15.0).collect();
    let alone = high.iter().filter(|index| spikes[**index - 1].1 == 0.0 && spikes[**index + 1].1 == 0.0);
    for index in alone {
        assert_eq!(found.quality(*index).flag(), Flag::Fail, "the spike at {index}");
    }
}
