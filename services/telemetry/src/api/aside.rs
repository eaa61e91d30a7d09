//! How many readings are kept aside, without counting them for each batch.

use std::collections::HashMap;

use parking_lot::Mutex;
use sensormesh_types::{Result, Scope};

use crate::db;
use crate::engine::State;

/// How long a count is believed, microseconds. Meanwhile what this replica keeps aside is added to it; what other replicas keep
/// aside, and what is stored after all, shows in the next one.
const BELIEVED: i64 = 1_000_000;

/// The readings of each tenant that are kept aside.
#[derive(Debug, Default)]
pub struct Aside(Mutex<HashMap<String, Count>>);

#[derive(Clone, Copy, Debug)]
struct Count {
    readings: u64,
    /// When they were counted, microseconds since the Unix epoch.
    at: i64,
}

impl Aside {
    /// How many more readings of a tenant may be kept aside.
    pub async fn room(&self, state: &State, tenant: &str) -> Result<u64> {
        let most = state.config.quarantine_readings;
        let now = state.clock.now_micros();
        let believed = |count: &Count| (0..BELIEVED).contains(&now.saturating_sub(count.at));
        if let Some(count) = self.0.lock().get(tenant).filter(|count| believed(count)) {
            return Ok(most.saturating_sub(count.readings));
        }
        let readings = db::quarantine::count(&mut state.databases.log.read(&Scope::system()).await?, tenant).await?;
        self.0.lock().insert(tenant.to_owned(), Count { readings, at: now });
        Ok(most.saturating_sub(readings))
    }

    /// Notes that so many more are going to be kept aside.
    pub fn add(&self, tenant: &str, readings: u64) {
        if let Some(count) = self.0.lock().get_mut(tenant) {
            count.readings = count.readings.saturating_add(readings);
        }
    }

    /// Notes that there are fewer now: they are counted anew.
    pub fn forget(&self, tenant: &str) {
        self.0.lock().remove(tenant);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sensormesh_series::Quality;

    use super::*;
    use crate::Config;
    use crate::db::quarantine::Kept;
    use crate::rig::{NOW, Rig};

    async fn keep(rig: &Rig, time: i64) {
        let kept = Kept {
            tenant: "acme".into(),
            sensor_id: "lab.a".into(),
            time,
            value: 1.0,
            quality: Quality::USUAL,
            received: NOW / 1000,
            sender: "user:ada".into(),
            register: false,
        };
        let mut tx = rig.engine.databases.log.tx(&Scope::system()).await.expect("tx");
        db::quarantine::insert(&mut tx, &kept).await.expect("kept");
        tx.commit().await.expect("commit");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn they_are_counted_once_in_a_second_or_when_there_are_fewer() {
        for rig in Rig::on_both(Config { quarantine_readings: 10, ..Config::default() }).await {
            let aside = Aside::default();
            let room = || async { aside.room(&rig.engine, "acme").await.expect("counted") };
            keep(&rig, 1).await;
            assert_eq!(room().await, 9);
            keep(&rig, 2).await;
            assert_eq!(room().await, 9, "counted a moment ago");
            aside.add("acme", 4);
            assert_eq!((room().await, aside.room(&rig.engine, "other").await.expect("counted")), (5, 10));
            rig.clock.advance(Duration::from_secs(1));
            assert_eq!(room().await, 8);
            aside.add("acme", 20);
            assert_eq!(room().await, 0);
            aside.forget("acme");
            assert_eq!(room().await, 8);
        }
    }
}
