//! Bounds of numbers in configuration.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::{Error, FieldViolation, Result};
use crate::text::{format_duration, format_size};

/// Looks at the numbers of one table of the configuration, and names all that are out of bounds:
/// `Bounds::of("edge").time("heartbeat", config.heartbeat, SECOND..=HOUR).met()`.
#[derive(Debug)]
#[must_use = "what is wrong is known from `met`"]
pub struct Bounds {
    table: &'static str,
    wrong: Vec<FieldViolation>,
}

impl Bounds {
    /// For the table of this name.
    pub fn of(table: &'static str) -> Self {
        Self { table, wrong: Vec::new() }
    }

    /// A count, or a share. What is no number is out of all bounds.
    pub fn number<T: Copy + PartialOrd + Display>(self, key: &str, value: T, range: RangeInclusive<T>) -> Self {
        self.within(key, &value, &range, ToString::to_string)
    }

    /// A duration.
    pub fn time(self, key: &str, value: Duration, range: RangeInclusive<Duration>) -> Self {
        self.within(key, &value, &range, |time| format_duration(*time))
    }

    /// A size in bytes.
    pub fn size(self, key: &str, value: u64, range: RangeInclusive<u64>) -> Self {
        self.within(key, &value, &range, |size| format_size(*size))
    }

    fn within<T: PartialOrd>(
        mut self,
        key: &str,
        value: &T,
        range: &RangeInclusive<T>,
        show: impl Fn(&T) -> String,
    ) -> Self {
        if !range.contains(value) {
            let description = format!("must be from {} to {}", show(range.start()), show(range.end()));
            self.wrong.push(FieldViolation { field: format!("{}.{key}", self.table), description });
        }
        self
    }

    /// INVALID_ARGUMENT that names every number out of bounds.
    pub fn met(self) -> Result<()> {
        if self.wrong.is_empty() { Ok(()) } else { Err(Error::invalid_fields(self.wrong)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_out_of_bounds_is_named() {
        let second = Duration::from_secs(1);
        let bounds = Bounds::of("edge")
            .number("calls", 0, 1..=10)
            .number("share", f64::NAN, 0.0..=1.0)
            .number("streams", 10, 1..=10)
            .time("heartbeat", Duration::ZERO, second..=second * 60)
            .size("body", 0, 1..=1 << 20);
        let error = bounds.met().expect_err("four are wrong").to_string();
        for said in ["edge.calls: must be from 1 to 10", "edge.share", "edge.heartbeat: must be from 1s to 1m"] {
            assert!(error.contains(said), "{error}");
        }
        assert!(error.contains("edge.body: must be from 1 B to 1 MiB") && !error.contains("streams"), "{error}");
    }
}
