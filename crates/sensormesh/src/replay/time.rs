//! Times as recordings write them.

use anyhow::{Context as _, Result, bail};
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// Names of columns that hold the time, in the order in which they are looked for.
pub const USUAL_NAMES: [&str; 6] = ["timestamp", "time", "datetime", "date_time", "date", "ts"];

/// Reads `+08:00`, `-0530`, `Z` as an offset from UTC.
pub fn parse_offset(text: &str) -> Result<Offset> {
    if matches!(text, "Z" | "z" | "UTC") {
        return Ok(Offset::UTC);
    }
    let wrong = || format!("{text:?} is not an offset like +08:00");
    let (sign, rest) = match text.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => bail!(wrong()),
    };
    let digits: String = rest.chars().filter(|c| *c != ':').collect();
    if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        bail!(wrong());
    }
    let (hours, minutes): (i32, i32) = (digits[..2].parse()?, digits[2..].parse()?);
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).with_context(wrong)
}

/// Reads a time made of one or more columns, as nanoseconds since the Unix epoch.
///
/// One column: RFC 3339, `YYYY-MM-DD HH:MM[:SS[.fff]]` with or without an offset behind it, `DD/MM/YYYY HH:MM[:SS]`, or a
/// number of seconds (or milli-, micro-, nanoseconds, told by its size) since the epoch. Two columns: a date and a time of
/// day. Three to six numbers: year, month, day, hour, minute, second. A time without an offset is taken at `offset`.
pub fn parse(parts: &[&str], offset: Offset) -> Result<i64> {
    let parts: Vec<&str> = parts.iter().map(|part| part.trim()).collect();
    if (3..=6).contains(&parts.len()) {
        return from_numbers(&parts, offset);
    }
    let text = parts.join(" ");
    if let Ok(number) = text.parse::<f64>() {
        return from_epoch(number, &text);
    }
    let (civil, own_offset) = split_offset(&text)?;
    let moment = parse_civil(civil).with_context(|| format!("{text:?} is not a time"))?;
    nanos(moment, own_offset.unwrap_or(offset))
}

fn from_numbers(parts: &[&str], offset: Offset) -> Result<i64> {
    let number = |i: usize| -> Result<i16> {
        parts.get(i).map_or(Ok(0), |p| p.parse().with_context(|| format!("{p:?} is not a part of a time")))
    };
    let small = |i: usize| -> Result<i8> { i8::try_from(number(i)?).context("a part of a time is too large") };
    let day = jiff::civil::Date::new(number(0)?, small(1)?, small(2)?)?;
    let time = jiff::civil::Time::new(small(3)?, small(4)?, small(5)?, 0)?;
    nanos(day.to_datetime(time), offset)
}

/// The unit follows from the size: seconds reach 1e11 in the year 5138.
fn from_epoch(number: f64, text: &str) -> Result<i64> {
    let factor: i128 = match number.abs() {
        n if n < 1e11 => 1_000_000_000,
        n if n < 1e14 => 1_000_000,
        n if n < 1e17 => 1_000,
        _ => 1,
    };
    let exact = match text.parse::<i128>() {
        Ok(whole) => whole.checked_mul(factor),
        #[allow(clippy::cast_possible_truncation)] // checked against i64 below
        Err(_) => Some((number * factor as f64).round() as i128),
    };
    exact.and_then(|n| i64::try_from(n).ok()).with_context(|| format!("{text:?} is not a time"))
}

fn split_offset(text: &str) -> Result<(&str, Option<Offset>)> {
    if let Some(civil) = text.strip_suffix(['Z', 'z']) {
        return Ok((civil, Some(Offset::UTC)));
    }
    // A sign after the date part starts the offset; before it, signs are the date's own dashes.
    match text.char_indices().skip(10).find(|(_, c)| matches!(c, '+' | '-')) {
        Some((at, _)) => Ok((text[..at].trim_end(), Some(parse_offset(text[at..].trim())?))),
        None => Ok((text, None)),
    }
}

fn parse_civil(text: &str) -> Option<DateTime> {
    if let Ok(moment) = text.parse::<DateTime>() {
        return Some(moment);
    }
    let (day, time) = text.split_once([' ', 'T']).unwrap_or((text, "00:00"));
    let separator = ['/', '.', '-'].into_iter().find(|c| day.contains(*c))?;
    let numbers: Vec<i16> = day.split(separator).map(|p| p.parse().ok()).collect::<Option<_>>()?;
    let [a, b, c] = numbers[..] else { return None };
    let (year, month, dom) = if a > 31 { (a, b, c) } else { (c, b, a) };
    if !(1..=12).contains(&month) || !(1..=31).contains(&dom) || !(0..=9999).contains(&year) {
        return None;
    }
    let time = if time.len() == 5 { format!("{time}:00") } else { time.to_owned() };
    let time = time.parse::<jiff::civil::Time>().ok()?;
    jiff::civil::Date::new(year, i8::try_from(month).ok()?, i8::try_from(dom).ok()?).ok().map(|d| d.to_datetime(time))
}

fn nanos(moment: DateTime, offset: Offset) -> Result<i64> {
    let timestamp = offset.to_timestamp(moment)?;
    i64::try_from(timestamp.as_nanosecond()).context("the time is outside 1677 to 2262")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn an_offset_in_the_text_wins() {
        let parsed = parse(&["2021-09-07 00:00 +08:00"], Offset::UTC).expect("time");
        assert_eq!(parsed, 1_630_944_000 * SECOND);
        let at_offset = parse(&["2021-09-07 00:00"], parse_offset("+08:00").expect("offset")).expect("time");
        assert_eq!(at_offset, parsed);
    }

    #[test]
    fn times_in_several_columns_are_joined() {
        let two = parse(&["2004-03-10", "18:00:00"], Offset::UTC).expect("two");
        let many = parse(&["2004", "3", "10", "18"], Offset::UTC).expect("many");
        assert_eq!(two, many);
        assert_eq!(two, 1_078_941_600 * SECOND);
    }

    #[test]
    fn epochs_of_every_unit_mean_the_same_moment() {
        for text in ["1078941600", "1078941600000", "1078941600000000", "1078941600000000000", "1078941600.0"] {
            assert_eq!(parse(&[text], Offset::UTC).expect(text), 1_078_941_600 * SECOND, "{text}");
        }
    }

    #[test]
    fn days_before_months_are_understood() {
        assert_eq!(
            parse(&["10/03/2004 18:00"], Offset::UTC).expect("time"),
            parse(&["2004-03-10T18:00:00Z"], Offset::UTC).expect("time")
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "yesterday", "2021-13-01 00:00", "2021-02-30"] {
            assert!(parse(&[text], Offset::UTC).is_err(), "{text}");
        }
        assert!(parse_offset("8").is_err());
        assert!(parse_offset("+é8:00").is_err());
    }
}
