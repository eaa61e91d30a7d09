//! Each fault is made on purpose and found; nothing else is.

use super::*;
use crate::load::history::Line;
use crate::load::plan::Plan;

/// Two lanes of two sensors, batches of two readings of each: batches 0 to 3 of each lane are acknowledged, 4 is refused, 5 is
/// open.
fn history() -> History {
    let mut history = History::new(Plan { seed: 3, sensors: 4, lanes: 2, batch: 4, base: 1_000_000 });
    for lane in 0..2 {
        for batch in 0..6 {
            send(&mut history, lane, batch);
        }
    }
    history
}

fn send(history: &mut History, lane: u32, batch: u64) {
    history.apply(&Line::Invoke { at: 0, lane, batch });
    match batch {
        0..4 => history.apply(&Line::Ok { at: 1, lane, batch, cursor: format!("{lane}-{batch}") }),
        4 => history.apply(&Line::Failed { at: 1, lane, batch, why: String::new() }),
        _ => history.apply(&Line::Unknown { at: 1, lane, batch, why: String::new() }),
    }
}

/// A reading: sensor, tick, value.
type Shown = (u32, u64, f64);

/// What is acknowledged, sensor by sensor.
fn acknowledged(history: &History) -> Vec<Shown> {
    let of = |sensor| (0..8).map(move |tick| (sensor, tick, history.plan.value(sensor, tick)));
    (0..4).flat_map(of).collect()
}

fn read(history: &History, readings: &[Shown]) -> Verdict {
    let mut read = ReadBack::new(history);
    for sensor in 0..4 {
        read.begin(sensor);
        for (_, tick, value) in readings.iter().filter(|(of, ..)| *of == sensor) {
            read.reading(history.plan.time(*tick), *value);
        }
    }
    read.verdict()
}

/// A stream that was there from the beginning shows this.
fn show(history: &History, readings: &[Shown]) -> Verdict {
    let mut stream = Stream::new(&History::new(history.plan.clone()));
    for (sensor, tick, value) in readings {
        stream.reading(history, *sensor, history.plan.time(*tick), *value);
    }
    stream.verdict(history)
}

#[track_caller]
fn only(verdict: &Verdict, fault: Fault, count: u64) {
    for other in Fault::ALL {
        assert_eq!(verdict.count(other), if other == fault { count } else { 0 }, "{verdict}");
    }
}

#[test]
fn all_that_was_acknowledged_is_a_clean_verdict_and_what_is_open_may_be_there() {
    let history = history();
    let mut readings = acknowledged(&history);
    assert!(read(&history, &readings).is_clean());
    assert!(show(&history, &readings).is_clean());
    readings.extend([10, 11].map(|tick| (1, tick, history.plan.value(1, tick))));
    assert!(read(&history, &readings).is_clean(), "{}", read(&history, &readings));
    assert!(show(&history, &readings).is_clean());
    assert!(Verdict::of(&history).is_clean());
}

#[test]
fn a_lost_reading_is_found() {
    let history = history();
    for gone in [0, 5, 7, 20, 31] {
        let mut readings = acknowledged(&history);
        readings.remove(gone);
        only(&read(&history, &readings), Fault::Lost, 1);
    }
    only(&read(&history, &[]), Fault::Lost, 32);
}

#[test]
fn a_phantom_is_found_wherever_it_comes_from() {
    let history = history();
    let readings = acknowledged(&history);
    for (tick, what) in [(8, "refused"), (12, "never sent")] {
        let mut more = readings.clone();
        more.push((3, tick, history.plan.value(3, tick)));
        only(&read(&history, &more), Fault::Phantom, 1);
        assert_eq!(show(&history, &more).count(Fault::Phantom), 1, "{what}");
    }
    let mut read = ReadBack::new(&history);
    read.begin(0);
    read.reading(history.plan.time(0) - 1, 1.0);
    assert_eq!(read.verdict().count(Fault::Phantom), 1, "between two times");
}

#[test]
fn a_duplicate_is_found() {
    let history = history();
    let mut readings = acknowledged(&history);
    readings.insert(3, readings[2]);
    only(&read(&history, &readings), Fault::Duplicate, 1);
}

#[test]
fn a_gap_in_the_stream_is_found() {
    let history = history();
    for gone in [0, 3, 7, 31] {
        let mut readings = acknowledged(&history);
        readings.remove(gone);
        only(&show(&history, &readings), Fault::Gap, 1);
    }
}

#[test]
fn readings_in_another_order_are_found() {
    let history = history();
    let mut readings = acknowledged(&history);
    readings.swap(2, 3);
    only(&show(&history, &readings), Fault::Reorder, 1);
    // sensors among each other have no order
    let mut readings = acknowledged(&history);
    readings.rotate_left(8);
    assert!(show(&history, &readings).is_clean());
}

#[test]
fn a_stream_that_goes_back_is_found() {
    let history = history();
    let mut readings = acknowledged(&history);
    readings.insert(6, readings[4]);
    only(&show(&history, &readings), Fault::Rewind, 1);
    let mut stream = Stream::new(&history);
    stream.cursor_gone("it lies beyond the end");
    only(&stream.verdict(&history), Fault::Rewind, 1);
}

#[test]
fn another_value_is_found_bit_by_bit() {
    let history = history();
    for bit in [0, 30, 63] {
        let mut readings = acknowledged(&history);
        readings[9].2 = f64::from_bits(readings[9].2.to_bits() ^ 1 << bit);
        only(&read(&history, &readings), Fault::Mismatch, 1);
        only(&show(&history, &readings), Fault::Mismatch, 1);
    }
}

#[test]
fn a_place_given_twice_is_found() {
    let mut history = history();
    history.sequence.note("1-3", 1, 3); // the stream says the same
    assert!(Verdict::of(&history).is_clean());
    history.apply(&Line::Ok { at: 2, lane: 0, batch: 5, cursor: "1-2".to_owned() });
    only(&Verdict::of(&history), Fault::Reused, 1);
}

#[test]
fn a_stream_that_began_later_owes_only_what_was_sent_since() {
    let mut history = history();
    let mut stream = Stream::new(&history);
    assert!(!stream.is_behind(&history));
    history.apply(&Line::Invoke { at: 9, lane: 0, batch: 6 });
    history.apply(&Line::Ok { at: 9, lane: 0, batch: 6, cursor: String::new() });
    assert!(stream.is_behind(&history));
    for (sensor, tick) in [(0, 10), (0, 12), (0, 13), (1, 12), (1, 13)] {
        stream.reading(&history, sensor, history.plan.time(tick), history.plan.value(sensor, tick));
    }
    assert!(!stream.is_behind(&history) && stream.verdict(&history).is_clean());
}
