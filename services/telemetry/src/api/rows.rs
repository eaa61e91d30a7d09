//! A reading as a message of its own.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_series::{Quality, Reading};
use sensormesh_types::time;

/// A reading in the contract's form.
pub fn row(sensor_id: &str, reading: Reading) -> pb::Reading {
    pb::Reading {
        sensor_id: sensor_id.to_owned(),
        time: Some(time::from_nanos(reading.time)),
        value: Some(reading.value),
        quality: i32::from(reading.quality.0),
        time_of_receipt: reading.quality == Quality::TIME_OF_RECEIPT,
    }
}
