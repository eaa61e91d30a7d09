//! A reading as a message of its own.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_series::{Quality, Reading};
use sensormesh_types::time;

use crate::flags;

/// A reading in the contract's form.
pub fn row(sensor_id: &str, reading: Reading) -> pb::Reading {
    pb::Reading {
        sensor_id: sensor_id.to_owned(),
        time: Some(time::from_nanos(reading.time)),
        value: Some(reading.value),
        quality: flags::flag(reading.quality) as i32,
        time_of_receipt: reading.quality.is_time_of_receipt(),
        quality_tests: if reading.quality == Quality::USUAL { Vec::new() } else { flags::tests(reading.quality) },
    }
}
