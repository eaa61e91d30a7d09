//! What ids, labels, ranges and intervals must be, and the stamp of everything that changes.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sensormesh_types::{Code, Error, Result, time};

/// The longest text of a label's key and of its value, bytes.
const LONGEST_LABEL: (usize, usize) = (64, 256);
/// The longest interval that can be expected between two readings.
const LONGEST_INTERVAL: Duration = Duration::from_secs(366 * 24 * 3600);

/// When something was made and changed. Times are microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// When it was made.
    pub create_time: i64,
    /// When it last changed.
    pub update_time: i64,
    /// How often it was written.
    pub version: i64,
}

impl Stamp {
    /// The stamp of something made now.
    pub fn new(now: i64) -> Self {
        Self { create_time: now, update_time: now, version: 1 }
    }

    /// The stamp after a change.
    #[must_use]
    pub fn changed(self, now: i64) -> Self {
        Self { update_time: now, version: self.version + 1, ..self }
    }

    /// Differs after every change, and when something of the same id is made anew.
    pub fn etag(self) -> String {
        format!("{:x}-{:x}", self.version, self.update_time)
    }

    /// Refuses an update that was made for another state: ABORTED. An empty `etag` is for any.
    pub fn check(self, what: &str, id: &str, etag: &str) -> Result<()> {
        if etag.is_empty() || etag == self.etag() {
            return Ok(());
        }
        let message = format!("{what} {id:?} has changed since it was read; read it again");
        Err(Error::new(Code::Conflict, "ETAG_MISMATCH", message))
    }
}

/// Refuses what is no device id.
pub fn device_id(id: &str, field: &str) -> Result<()> {
    id_of(id, 64, "_-:").ok_or_else(|| {
        Error::invalid(field, "must be 1 to 64 letters, digits, _, - or :, and begin with a letter or digit")
    })
}

/// Refuses an origin that says what only we know: which bridge brought a device, or that it was claimed.
pub fn origin(origin: &str, field: &str) -> Result<()> {
    match origin.starts_with("bridge:") || origin == "claim" {
        false => Ok(()),
        true => {
            Err(Error::invalid(field, "must not begin with bridge: and not be claim; devices get these by themselves"))
        }
    }
}

/// Refuses what is no sensor id.
pub fn sensor_id(id: &str, field: &str) -> Result<()> {
    id_of(id, 128, "_-:.").ok_or_else(|| {
        Error::invalid(field, "must be 1 to 128 letters, digits, _, -, : or ., and begin with a letter or digit")
    })
}

fn id_of(id: &str, longest: usize, marks: &str) -> Option<()> {
    let first = id.chars().next()?;
    let fits = id.len() <= longest && first.is_ascii_alphanumeric();
    (fits && id.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))).then_some(())
}

/// Refuses labels that are too long; how many there may be is in the contract.
pub fn labels(labels: HashMap<String, String>, field: &str) -> Result<BTreeMap<String, String>> {
    let (key, value) = LONGEST_LABEL;
    match labels.iter().find(|(k, v)| k.is_empty() || k.len() > key || v.len() > value) {
        None => Ok(labels.into_iter().collect()),
        Some(_) => Err(Error::invalid(field, format!("keys have 1 to {key} bytes and values at most {value} bytes"))),
    }
}

/// Refuses a range that no value lies in.
pub fn range(min: Option<f64>, max: Option<f64>, field: &str) -> Result<()> {
    match (min, max) {
        (Some(min), Some(max)) if min > max => Err(Error::invalid(field, "must not be above range_max")),
        _ => Ok(()),
    }
}

/// An interval as microseconds; refuses one that is not between a millisecond and a year.
pub fn interval(interval: Option<&prost_types::Duration>, field: &str) -> Result<Option<i64>> {
    let Some(interval) = interval else { return Ok(None) };
    time::to_duration(interval)
        .filter(|interval| (Duration::from_millis(1)..=LONGEST_INTERVAL).contains(interval))
        .and_then(|interval| i64::try_from(interval.as_micros()).ok())
        .map(Some)
        .ok_or_else(|| Error::invalid(field, "must be between a millisecond and a year"))
}

/// Microseconds as the contract has them.
pub fn interval_to_proto(micros: i64) -> prost_types::Duration {
    time::from_duration(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_the_contract_says() {
        for good in ["lab", "7", "a:b_c-d"] {
            device_id(good, "f").expect(good);
        }
        for bad in ["", "lab.co2", "_lab", "läb", "a b", &"x".repeat(65)] {
            assert!(device_id(bad, "f").is_err(), "{bad}");
        }
        sensor_id("lab.co2", "f").expect("dots");
        assert!(sensor_id(".co2", "f").is_err());
    }

    #[test]
    fn an_etag_changes_with_every_write() {
        let stamp = Stamp::new(7);
        assert_ne!(stamp.etag(), stamp.changed(7).etag());
        assert!(stamp.changed(7).check("device", "lab", &stamp.etag()).is_err());
        stamp.check("device", "lab", "").expect("no etag is for any state");
    }

    #[test]
    fn an_interval_is_between_a_millisecond_and_a_year() {
        let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
        assert_eq!(interval(Some(&seconds(60)), "f").expect("minute"), Some(60_000_000));
        for bad in [0, -1, 10_000_000_000] {
            assert!(interval(Some(&seconds(bad)), "f").is_err());
        }
        assert_eq!(interval_to_proto(60_000_000), seconds(60));
    }

    #[test]
    fn labels_and_ranges_have_limits() {
        assert!(labels(HashMap::from([(String::new(), "x".to_owned())]), "f").is_err());
        assert!(labels(HashMap::from([("k".to_owned(), "x".repeat(257))]), "f").is_err());
        assert!(range(Some(2.0), Some(1.0), "f").is_err());
        range(None, Some(1.0), "f").expect("open");
    }
}
