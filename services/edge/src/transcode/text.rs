//! Values as JSON text: numbers, strings, times.

use std::fmt::Display;
use std::io::Write as _;

/// Appends a whole number of up to 32 bits.
pub fn display(value: impl Display, out: &mut Vec<u8>) {
    // writing to a Vec does not fail
    let _ = write!(out, "{value}");
}

/// Appends text that needs no escapes, in quotes: 64-bit numbers, base 64, names.
pub fn quoted(value: impl Display, out: &mut Vec<u8>) {
    let _ = write!(out, "\"{value}\"");
}

/// Appends any text, in quotes.
pub fn string(value: &str, out: &mut Vec<u8>) {
    // writing a string to a Vec does not fail
    let _ = serde_json::to_writer(out, value);
}

/// Appends a number; what JSON has no number for is one of the three words.
pub fn double(value: f64, out: &mut Vec<u8>) {
    if value.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
    } else if value.fract() == 0.0 && value.abs() < 1e15 && !(value == 0.0 && value.is_sign_negative()) {
        #[allow(clippy::cast_possible_truncation)] // whole and below 1e15
        display(value as i64, out);
    } else {
        // a finite number is always written
        let _ = serde_json::to_writer(out, &value);
    }
}

/// Appends a number of single precision, as short as it can be read back.
pub fn float(value: f32, out: &mut Vec<u8>) {
    if value.is_finite() && value.fract() != 0.0 {
        let _ = serde_json::to_writer(out, &value);
    } else {
        double(value.into(), out);
    }
}

/// Appends a time as RFC 3339 in UTC with 0, 3, 6 or 9 digits after the point.
pub fn timestamp(seconds: i64, nanos: i32, out: &mut Vec<u8>) {
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, date) = civil(day);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let _ = write!(out, "\"{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}");
    fraction(nanos.unsigned_abs(), out);
    out.extend_from_slice(b"Z\"");
}

/// Appends a duration: seconds with 0, 3, 6 or 9 digits after the point, and an `s`.
pub fn duration(seconds: i64, nanos: i32, out: &mut Vec<u8>) {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let _ = write!(out, "\"{sign}{}", seconds.unsigned_abs());
    fraction(nanos.unsigned_abs(), out);
    out.extend_from_slice(b"s\"");
}

fn fraction(nanos: u32, out: &mut Vec<u8>) {
    let _ = match nanos {
        0 => Ok(()),
        n if n % 1_000_000 == 0 => write!(out, ".{:03}", n / 1_000_000),
        n if n % 1000 == 0 => write!(out, ".{:06}", n / 1000),
        n => write!(out, ".{n:09}"),
    };
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar.
fn civil(day: i64) -> (i64, i64, i64) {
    // counted in eras of 400 years that begin on the first of March of the year 0
    let shifted = day.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era.saturating_mul(400) + year_of_era + i64::from(month <= 2);
    (year, month, date)
}

/// A path of a field mask as JSON spells it: `display_name` becomes `displayName`.
pub fn camel_case(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut upper = false;
    for c in path.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn numbers_are_short_and_exact() {
        for (value, text) in [
            (612.0, "612"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e300, "1e+300"),
            (f64::NAN, "\"NaN\""),
            (f64::NEG_INFINITY, "\"-Infinity\""),
        ] {
            assert_eq!(written(|out| double(value, out)), text);
        }
        assert_eq!(written(|out| float(0.1, out)), "0.1");
        assert_eq!(written(|out| float(7.0, out)), "7");
    }

    #[test]
    fn times_and_durations_have_three_six_or_nine_digits() {
        assert_eq!(written(|out| timestamp(0, 0, out)), "\"1970-01-01T00:00:00Z\"");
        assert_eq!(written(|out| timestamp(-1, 500_000_000, out)), "\"1969-12-31T23:59:59.500Z\"");
        assert_eq!(written(|out| timestamp(951_782_400, 1_000, out)), "\"2000-02-29T00:00:00.000001Z\"");
        assert_eq!(written(|out| duration(-1, -1, out)), "\"-1.000000001s\"");
        assert_eq!(written(|out| duration(3600, 0, out)), "\"3600s\"");
    }

    proptest! {
        #[test]
        fn every_time_reads_back(seconds in -62_135_596_800_i64..253_402_300_799, nanos in 0_i32..1_000_000_000) {
            let text = written(|out| timestamp(seconds, nanos, out));
            let time: jiff::Timestamp = text.trim_matches('"').parse().expect("a time");
            let expected = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            prop_assert_eq!(time.as_nanosecond(), expected);
        }

        #[test]
        fn every_number_reads_back(value: f64) {
            let text = written(|out| double(value, out));
            if value.is_finite() {
                prop_assert_eq!(text.parse::<f64>().expect("a number").to_bits(), value.to_bits());
            }
        }
    }
}
