//! What goes into a block comes out bit by bit, and what was damaged is noticed.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sensormesh_types::Code;

use super::*;

fn column(times: Vec<i64>, values: Vec<f64>) -> Column {
    Column::from_parts(times, values, Vec::new()).expect("a column")
}

fn same_bits(a: &Column, b: &Column) -> bool {
    a.times() == b.times()
        && a.qualities() == b.qualities()
        && a.values().iter().zip(b.values()).all(|(x, y)| x.to_bits() == y.to_bits())
}

fn round_trip(column: &Column) -> Block {
    let block = encode(column).expect("encoded");
    let back = decode(&block.header, &block.data).expect("decoded");
    assert!(same_bits(&back, column), "{column:?} came back as {back:?}");
    block
}

#[test]
fn a_day_of_minutes_at_a_tenth_of_a_degree_takes_less_than_a_byte_a_reading() {
    let times: Vec<i64> = (0..1024).map(|i| 1_700_000_000_000_000_000 + i * 60_000_000_000).collect();
    let values = (0..1024).map(|i| (200.0 + (f64::from(i) / 40.0).sin() * 30.0).round() / 10.0).collect();
    let block = round_trip(&column(times, values));
    assert!(block.data.len() + block.header.len() < 1024, "{} bytes", block.data.len() + block.header.len());
}

#[test]
fn jittering_times_take_less_than_varints_would() {
    let times: Vec<i64> = (0..1024).map(|i| i * 60_000_000_000 - (i % 2) * 1_000_000_000).collect();
    let block = round_trip(&column(times, vec![1.0; 1024]));
    assert!(block.data.len() < 400, "{} bytes", block.data.len());
}

#[test]
fn one_odd_value_does_not_cost_the_block() {
    let times: Vec<i64> = (0..1024).map(|i| i * 1_000_000_000).collect();
    let mut values: Vec<f64> = (0..1024u32).map(|i| f64::from(i.wrapping_mul(2_654_435_761) >> 22) / 10.0).collect();
    let plain = round_trip(&column(times.clone(), values.clone())).data.len();
    values[500] = std::f64::consts::PI;
    values[501] = -0.0;
    let odd = round_trip(&column(times, values)).data.len();
    assert!(odd < plain + 40, "{odd} instead of {plain} bytes");
}

#[test]
fn extremes_of_time_and_value_come_back() {
    round_trip(&Column::default());
    round_trip(&column(vec![i64::MIN, -1, 0, 1, i64::MAX], vec![f64::MAX, f64::MIN, -0.0, 5e-324, f64::MIN_POSITIVE]));
    round_trip(&column(vec![i64::MIN], vec![0.1 + 0.2]));
    round_trip(&column(vec![i64::MIN, i64::MAX], vec![1e300, -1e-300]));
}

#[test]
fn the_header_answers_for_the_readings_that_count() {
    let mut column = Column::default();
    for (time, value, quality) in [(10, 4.0, 0), (20, 1000.0, 4), (30, 2.0, 0)] {
        column.upsert(time, value, Quality(quality));
    }
    let block = round_trip(&column);
    let header = header(&block.header, 10, 30).expect("header");
    let aggregate = header.aggregate.expect("aggregate");
    assert_eq!((header.count, header.all_count, aggregate.count), (3, false, 2));
    assert_eq!((aggregate.sum.value(), aggregate.min, aggregate.max), (6.0, 2.0, 4.0));
    assert_eq!((aggregate.first, aggregate.last), ((10, 4.0), (30, 2.0)));
}

#[test]
fn a_shared_time_column_is_encoded_once() {
    let times: Vec<i64> = (0..300).map(|i| i * i * 1_000_000).collect();
    let values: Vec<f64> = (0..300).map(|i| f64::from(i) * 0.25).collect();
    assert_eq!(decode_times(&encode_times(&times).expect("times")).expect("times"), times);
    assert_eq!(decode_values(&encode_values(&values).expect("values")).expect("values"), values);
    let mut damaged = encode_times(&times).expect("times");
    damaged[3] ^= 1;
    assert_eq!(decode_times(&damaged).expect_err("damaged").code(), Code::Corrupt);
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (-100_000i64..100_000, 0u32..6).prop_map(|(whole, e)| whole as f64 / 10f64.powi(e as i32)),
        1 => any::<f32>().prop_filter("finite", |v| v.is_finite()).prop_map(f64::from),
        1 => any::<f64>().prop_filter("no NaN", |v| !v.is_nan()),
        1 => prop::sample::select(vec![0.0, -0.0, 5e-324, f64::MAX, f64::MIN, f64::MIN_POSITIVE]),
    ]
}

fn any_time() -> impl Strategy<Value = i64> {
    prop_oneof![3 => 0i64..100_000, 1 => any::<i64>(), 1 => prop::sample::select(vec![i64::MIN, i64::MAX, 0, -1])]
}

fn any_column(most: usize) -> impl Strategy<Value = Column> {
    let reading = (any_value(), prop::sample::select(vec![0u8, 0, 0, 0, 1, 4, 5, 9]));
    prop::collection::btree_map(any_time(), reading, 0..most).prop_map(|readings: BTreeMap<i64, (f64, u8)>| {
        let mut column = Column::default();
        for (time, (value, quality)) in readings {
            column.upsert(time, value, Quality(quality));
        }
        column
    })
}

proptest! {
    #[test]
    fn any_column_comes_back_bit_by_bit(column in any_column(400)) {
        round_trip(&column);
    }

    #[test]
    fn decimal_columns_come_back_bit_by_bit(wholes in prop::collection::vec(-1_000_000i64..1_000_000, 1..700), e in 0u32..10) {
        let times = (0..wholes.len() as i64).map(|i| i * 7_000_000).collect();
        let power = 10f64.powi(e as i32);
        round_trip(&column(times, wholes.iter().map(|w| *w as f64 / power).collect()));
    }

    #[test]
    fn a_flipped_bit_is_noticed(column in any_column(60), place in any::<prop::sample::Index>(), bit in 0u8..8) {
        let block = encode(&column).expect("encoded");
        let place = place.index(block.header.len() + block.data.len());
        let Block { mut header, mut data } = block;
        let at = if place < header.len() { &mut header[place] } else { let place = place - header.len(); &mut data[place] };
        *at ^= 1 << bit;
        prop_assert_eq!(decode(&header, &data).expect_err("damaged").code(), Code::Corrupt);
    }

    #[test]
    fn rubbish_is_refused_without_panic(header_ in prop::collection::vec(any::<u8>(), 0..80), data in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&header_, &data).is_err());
        prop_assert!(decode_times(&data).is_err());
        prop_assert!(decode_values(&sealed(data)).map_or_else(|e| e.code() == Code::Corrupt, |v| v.len() <= MOST_READINGS));
    }
}
