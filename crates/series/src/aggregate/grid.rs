//! The intervals that readings are sorted into.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// The start of the interval of `width` nanoseconds that holds `time`: a multiple of the width, also before 1970.
pub fn bucket_start(time: i64, width: i64) -> i64 {
    let width = width.max(1);
    time.checked_sub(time.rem_euclid(width)).unwrap_or(i64::MIN)
}

/// A unit of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// From midnight to midnight: 23 or 25 hours where the clocks change.
    Day,
    /// From Monday on, as ISO 8601 has it.
    Week,
    /// From the first of a month on.
    Month,
    /// From the first of January on.
    Year,
}

/// How time is divided into intervals.
#[derive(Clone, Debug, PartialEq)]
pub enum Grid {
    /// One interval for everything.
    Whole,
    /// Intervals of so many nanoseconds, aligned to the Unix epoch in UTC.
    Fixed(i64),
    /// Units of the calendar in a time zone.
    Calendar(Unit, TimeZone),
}

impl Grid {
    /// The interval that holds `time`: its start, and the start of the next. Nanoseconds since the Unix epoch; `i64::MIN` and
    /// `i64::MAX` where there is no bound. A day whose midnight the clocks skip starts with the first moment after it, one
    /// whose midnight comes twice with the first of the two.
    pub fn span(&self, time: i64) -> (i64, i64) {
        match self {
            Grid::Whole => (i64::MIN, i64::MAX),
            Grid::Fixed(width) => {
                let (width, into) = ((*width).max(1), time.rem_euclid((*width).max(1)));
                (time.checked_sub(into).unwrap_or(i64::MIN), time.saturating_add(width - into))
            }
            Grid::Calendar(unit, zone) => {
                let date = zone.to_datetime(instant(time)).date();
                let first = unit.first(date);
                let next = unit.after(first);
                let (start, end) = (midnight(first, zone), midnight(next, zone));
                // clocks that go back over midnight bring the day before again: that hour stays where midnight put it
                if time < end { (start, end) } else { (end, midnight(unit.after(next), zone)) }
            }
        }
    }

    /// The interval that holds `time`, which is not before the end of another that is known: mostly the next one.
    pub(super) fn span_after(&self, (_, end): (i64, i64), time: i64) -> (i64, i64) {
        match self {
            Grid::Fixed(width) if end.checked_add(*width).is_some_and(|next| (end..next).contains(&time)) => {
                (end, end + width)
            }
            _ => self.span(time),
        }
    }

    /// The start of the interval that holds `time`.
    pub fn start_of(&self, time: i64) -> i64 {
        match self {
            Grid::Fixed(width) => bucket_start(time, *width),
            _ => self.span(time).0,
        }
    }
}

impl Unit {
    fn first(self, date: Date) -> Date {
        match self {
            Unit::Day => date,
            Unit::Week => date.saturating_sub(Span::new().days(i64::from(date.weekday().to_monday_zero_offset()))),
            Unit::Month => date.first_of_month(),
            Unit::Year => date.first_of_year(),
        }
    }

    fn after(self, first: Date) -> Date {
        first.saturating_add(match self {
            Unit::Day => Span::new().days(1),
            Unit::Week => Span::new().weeks(1),
            Unit::Month => Span::new().months(1),
            Unit::Year => Span::new().years(1),
        })
    }
}

/// Every `i64` of nanoseconds is within what `jiff` can say.
fn instant(time: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(time)).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn midnight(date: Date, zone: &TimeZone) -> i64 {
    let nanos = date.to_zoned(zone.clone()).map(|start| start.timestamp().as_nanosecond());
    // years that nanoseconds do not reach
    let beyond = if date.year() < 1970 { i64::MIN } else { i64::MAX };
    nanos.ok().and_then(|nanos| i64::try_from(nanos).ok()).unwrap_or(beyond)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: i64 = 3_600_000_000_000;

    fn at(text: &str) -> i64 {
        i64::try_from(text.parse::<Timestamp>().expect("a time").as_nanosecond()).expect("in range")
    }

    fn days(zone: &str) -> Grid {
        Grid::Calendar(Unit::Day, TimeZone::get(zone).expect("a zone"))
    }

    #[test]
    fn intervals_before_the_epoch_start_below_their_readings() {
        assert_eq!(bucket_start(-1, 10), -10);
        assert_eq!(bucket_start(-10, 10), -10);
        assert_eq!(bucket_start(19, 10), 10);
        assert_eq!(bucket_start(i64::MIN, 1_000), i64::MIN);
        assert_eq!(Grid::Fixed(10).span(-1), (-10, 0));
        assert_eq!(Grid::Fixed(1_000).span(i64::MAX).1, i64::MAX);
    }

    #[test]
    fn days_on_which_the_clocks_change_have_23_and_25_hours() {
        for (zone, noon, start, hours) in [
            ("Europe/Berlin", "2026-03-29T12:00:00+02:00", "2026-03-29T00:00:00+01:00", 23),
            ("Europe/Berlin", "2026-10-25T12:00:00+01:00", "2026-10-25T00:00:00+02:00", 25),
            ("Europe/Berlin", "2026-06-01T23:59:59+02:00", "2026-06-01T00:00:00+02:00", 24),
            ("America/New_York", "2026-03-08T12:00:00-04:00", "2026-03-08T00:00:00-05:00", 23),
            ("America/New_York", "2026-11-01T12:00:00-05:00", "2026-11-01T00:00:00-04:00", 25),
            // midnight does not exist, comes twice, and lies after an hour that comes twice
            ("America/Sao_Paulo", "2018-11-04T12:00:00-02:00", "2018-11-04T01:00:00-02:00", 23),
            ("America/Havana", "2025-11-02T12:00:00-05:00", "2025-11-02T00:00:00-04:00", 25),
        ] {
            let (from, until) = days(zone).span(at(noon));
            assert_eq!(from, at(start), "{zone} {noon}");
            assert_eq!(until - from, hours * HOUR, "{zone} {noon}");
        }
    }

    #[test]
    fn clocks_that_go_back_over_midnight_do_not_open_a_day_again() {
        // in 2010 St. John's went from 00:01 back to 23:01 of the day before
        let grid = days("America/St_Johns");
        let (before, again) = (at("2010-11-07T02:29:00Z"), at("2010-11-07T02:45:00Z"));
        let (first, second) = (grid.span(before), grid.span(again));
        assert_eq!(first.1, second.0);
        assert!(second.0 <= again && again < second.1);
    }

    #[test]
    fn weeks_start_on_mondays_months_and_years_with_their_first_day() {
        let zone = TimeZone::get("Europe/Berlin").expect("a zone");
        let span = |unit| Grid::Calendar(unit, zone.clone()).span(at("2026-03-29T12:00:00Z"));
        assert_eq!(span(Unit::Week), (at("2026-03-23T00:00:00+01:00"), at("2026-03-30T00:00:00+02:00")));
        assert_eq!(span(Unit::Month), (at("2026-03-01T00:00:00+01:00"), at("2026-04-01T00:00:00+02:00")));
        assert_eq!(span(Unit::Year), (at("2026-01-01T00:00:00+01:00"), at("2027-01-01T00:00:00+01:00")));
    }

    proptest! {
        #[test]
        fn intervals_lie_side_by_side_and_hold_their_times(
            time in any::<i64>(),
            unit in prop::sample::select(vec![Unit::Day, Unit::Week, Unit::Month, Unit::Year]),
            zone in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "America/Havana", "Pacific/Apia", "Asia/Kathmandu",
            ]),
        ) {
            let grid = Grid::Calendar(unit, TimeZone::get(zone).expect("a zone"));
            let (start, end) = grid.span(time);
            prop_assert!(start <= time && (time < end || end == i64::MAX), "{} {} {}", start, time, end);
            if start > i64::MIN && end < i64::MAX {
                prop_assert_eq!(grid.span(start), (start, end));
                prop_assert_eq!(grid.span(end - 1), (start, end));
                prop_assert_eq!(grid.span(end).0, end);
            }
        }
    }
}
