//! What `devices` says of sensors, taken over.

use sensormesh_proto::devices::v1 as devices;
use sensormesh_proto::devices::v1::watch_devices_response::Event;
use sensormesh_store::Tx;
use sensormesh_types::{DEFAULT_TENANT, Result, time};

use crate::db;
use crate::sensor::{Quality, Sensor, Traits};

/// A sensor that was asked for by name may be younger than the snapshot that does not name it: for so long (60 s, in
/// microseconds) it stays.
const FRESH: i64 = 60_000_000;

/// Takes over messages of `WatchDevices`, in their order, at this time in microseconds. `reset` = they replace all that was said
/// before.
pub async fn apply(tx: &mut Tx, now: i64, reset: bool, messages: &[devices::WatchDevicesResponse]) -> Result<()> {
    if reset {
        db::wipe_projection(tx, now - FRESH).await?;
    }
    for message in messages {
        let tenant = if message.tenant.is_empty() { DEFAULT_TENANT } else { &message.tenant };
        match &message.event {
            Some(Event::Sensor(message)) => db::save_sensor(tx, tenant, &sensor(message)).await?,
            Some(Event::Device(device)) => {
                for sensor in db::list_of_device(tx, tenant, &device.device_id).await? {
                    db::save_sensor(tx, tenant, &Sensor { site: device.site_id.clone(), ..sensor }).await?;
                }
            }
            Some(Event::Profile(profile)) => {
                db::save_profile(tx, tenant, &profile.profile_id, &traits_of(profile)).await?;
            }
            Some(Event::DeletedSensorId(id)) => db::delete_sensor(tx, tenant, id).await?,
            Some(Event::DeletedDeviceId(id)) => {
                for sensor in db::list_of_device(tx, tenant, id).await? {
                    db::delete_sensor(tx, tenant, &sensor.id).await?;
                }
            }
            Some(Event::DeletedProfileId(id)) => db::delete_profile(tx, tenant, id).await?,
            Some(Event::Bookmark(_)) | None => {}
        }
    }
    Ok(())
}

/// A sensor as `devices` describes it.
pub fn sensor(message: &devices::Sensor) -> Sensor {
    let tests = message.quality_tests.unwrap_or_default();
    Sensor {
        id: message.sensor_id.clone(),
        device: message.device_id.clone(),
        name: message.name.clone(),
        site: message.site_id.clone(),
        profile: message.profile_id.clone(),
        traits: Traits {
            quantity: message.quantity.clone(),
            unit: message.unit.clone(),
            min: message.range_min,
            max: message.range_max,
            interval: nanos(message.expected_interval.as_ref()),
        },
        quality: Quality {
            flat_tolerance: tests.flat_tolerance,
            flat_count: tests.flat_fail_count,
            gap_intervals: tests.gap_intervals,
        },
    }
}

fn traits_of(profile: &devices::Profile) -> Traits {
    Traits {
        quantity: profile.quantity.clone(),
        unit: profile.unit.clone(),
        min: profile.range_min,
        max: profile.range_max,
        interval: nanos(profile.expected_interval.as_ref()),
    }
}

fn nanos(interval: Option<&prost_types::Duration>) -> Option<i64> {
    interval
        .and_then(time::to_duration)
        .and_then(|interval| i64::try_from(interval.as_nanos()).ok())
        .filter(|nanos| *nanos > 0)
}
