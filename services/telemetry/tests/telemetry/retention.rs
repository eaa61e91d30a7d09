//! How long readings stay.

use std::time::Duration;

use sensormesh_proto::devices::v1::Sensor;
use sensormesh_telemetry::Config;

use crate::devices::sensor;
use crate::history::fill;
use crate::system::{Engine, NOW, SECOND, System, eventually};

const DAY: Duration = Duration::from_secs(86_400);

pub async fn old_readings_end_with_their_retention(engine: Engine) {
    let system = System::with(engine, Config { retention_days: 10_000, ..Config::default() }).await;
    system.devices.put("default", Sensor { retention_days: 1, ..sensor("lab.a", "", None) });
    let user = system.operator();
    let values: Vec<f64> = (0..3_000).map(f64::from).collect();
    for sensor_id in ["lab.a", "lab.b"] {
        fill(&user, sensor_id, NOW - 3 * 86_400 * SECOND, SECOND, &values).await;
    }
    assert_eq!(user.readings("lab.a").await.len(), 3_000);
    let gone = || async {
        system.clock.advance(DAY / 4);
        system.operator().readings("lab.a").await.is_empty()
    };
    eventually("what is past its retention is deleted", gone).await;
    assert_eq!(system.operator().readings("lab.b").await.len(), 3_000);
}
