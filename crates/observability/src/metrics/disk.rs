//! The room on the disks that databases lie on.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundGauge, Gauge as OtelGauge, Meter};

/// Bytes free on the disk of the databases beside the ballast, by `service`.
pub const DISK_FREE: &str = "sensormesh.disk.free";
/// Bytes that the directory of the databases holds, by `service`.
pub const DISK_USED: &str = "sensormesh.disk.used";
/// 0 enough, 1 scarce, 2 full: new readings are refused; by `service`.
pub const DISK_STATE: &str = "sensormesh.disk.state";

pub(super) struct Instruments {
    free: OtelGauge<u64>,
    used: OtelGauge<u64>,
    state: OtelGauge<u64>,
}

impl Instruments {
    pub(super) fn new(meter: &Meter) -> Self {
        let bytes = |name, about| meter.u64_gauge(name).with_unit("By").with_description(about).build();
        Self {
            free: bytes(DISK_FREE, "Bytes free on the disk of the databases beside the ballast."),
            used: bytes(DISK_USED, "Bytes that the directory of the databases holds."),
            state: meter
                .u64_gauge(DISK_STATE)
                .with_description("Room on the disk: 0 enough, 1 scarce, 2 full, when new readings are refused.")
                .build(),
        }
    }
}

/// The room on the disk of one service's databases.
#[derive(Clone, Debug)]
pub struct DiskRoom {
    free: Arc<BoundGauge<u64>>,
    used: Arc<BoundGauge<u64>>,
    state: Arc<BoundGauge<u64>>,
}

impl DiskRoom {
    /// Notes the bytes free and used, and the state: 0 enough, 1 scarce, 2 full.
    pub fn record(&self, free: u64, used: u64, state: u64) {
        self.free.record(free);
        self.used.record(used);
        self.state.record(state);
    }
}

/// The room on the disk of `service`'s databases.
pub fn disk_room(service: &'static str) -> DiskRoom {
    let (all, labels) = (&super::instruments().disk, [KeyValue::new("service", service)]);
    DiskRoom {
        free: Arc::new(all.free.bind(&labels)),
        used: Arc::new(all.used.bind(&labels)),
        state: Arc::new(all.state.bind(&labels)),
    }
}
