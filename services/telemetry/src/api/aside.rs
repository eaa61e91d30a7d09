//! How many readings are kept aside, without counting them for each batch.

use std::collections::HashMap;

use parking_lot::Mutex;
use sensormesh_types::{Result, Scope};

use crate::db;
use crate::engine::State;
use crate::sender::Sender;

/// How long a count is believed, microseconds. Meanwhile what this replica keeps aside is added to it; what other replicas keep
/// aside, and what is stored after all, shows in the next one.
const BELIEVED: i64 = 1_000_000;

/// What of the room one device or bridge may take: a tenth, so that others find some.
const SHARE: u64 = 10;

/// The readings of each tenant that are kept aside, and of each of its devices and bridges that send some.
#[derive(Debug, Default)]
pub struct Aside(Mutex<HashMap<(String, String), Count>>);

#[derive(Clone, Copy, Debug)]
struct Count {
    readings: u64,
    /// When they were counted, microseconds since the Unix epoch.
    at: i64,
}

impl Aside {
    /// How many more readings of a sender may be kept aside.
    pub async fn room(&self, state: &State, sender: &Sender) -> Result<u64> {
        let most = state.config.quarantine_readings;
        let all = self.left(state, &sender.tenant, "", most).await?;
        match sender.is_machine() {
            false => Ok(all),
            true => Ok(all.min(self.left(state, &sender.tenant, &sender.actor, (most / SHARE).max(1)).await?)),
        }
    }

    async fn left(&self, state: &State, tenant: &str, sender: &str, most: u64) -> Result<u64> {
        let key = (tenant.to_owned(), sender.to_owned());
        let now = state.clock.now_micros();
        let believed = |count: &Count| (0..BELIEVED).contains(&now.saturating_sub(count.at));
        if let Some(count) = self.0.lock().get(&key).filter(|count| believed(count)) {
            return Ok(most.saturating_sub(count.readings));
        }
        let mut read = state.databases.log.read(&Scope::system()).await?;
        let readings = db::quarantine::count(&mut read, tenant, sender).await?;
        let mut counts = self.0.lock();
        counts.retain(|_, count| believed(count));
        counts.insert(key, Count { readings, at: now });
        Ok(most.saturating_sub(readings))
    }

    /// Notes that so many more of a sender are going to be kept aside.
    pub fn add(&self, sender: &Sender, readings: u64) {
        let mut counts = self.0.lock();
        for of in ["", &sender.actor] {
            if let Some(count) = counts.get_mut(&(sender.tenant.to_string(), of.to_owned())) {
                count.readings = count.readings.saturating_add(readings);
            }
        }
    }

    /// Notes that there are fewer now: they are counted anew.
    pub fn forget(&self, tenant: &str) {
        self.0.lock().retain(|(of, _), _| of != tenant);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sensormesh_series::Quality;
    use sensormesh_types::{Caller, Principal};

    use super::*;
    use crate::Config;
    use crate::db::quarantine::Kept;
    use crate::rig::{NOW, Rig};

    fn sender(tenant: &str, principal: Principal) -> Sender {
        Sender::of(&Caller {
            principal,
            scope: Scope::tenant_of(tenant),
            peer: None,
            traceparent: String::new(),
            address: String::new(),
            request_id: String::new(),
            accepted_time: None,
        })
    }

    async fn keep(rig: &Rig, time: i64) {
        let kept = Kept {
            tenant: "acme".into(),
            sensor_id: "lab.a".into(),
            time,
            value: 1.0,
            quality: Quality::USUAL,
            received: NOW / 1000,
            sender: "device:lab".into(),
            site: String::new(),
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
            let (rooms, lab) = (Principal::Service { name: "rooms".into() }, Principal::Device { id: "lab".into() });
            let (ada, other) = (sender("acme", rooms.clone()), sender("other", rooms));
            let lab = sender("acme", lab);
            let room = || async { aside.room(&rig.engine, &ada).await.expect("counted") };
            keep(&rig, 1).await;
            assert_eq!(room().await, 9);
            keep(&rig, 2).await;
            assert_eq!(room().await, 9, "counted a moment ago");
            aside.add(&ada, 4);
            assert_eq!((room().await, aside.room(&rig.engine, &other).await.expect("counted")), (5, 10));
            rig.clock.advance(Duration::from_secs(1));
            assert_eq!(room().await, 8);
            aside.add(&ada, 20);
            assert_eq!(room().await, 0);
            aside.forget("acme");
            assert_eq!(room().await, 8);
            assert_eq!(aside.room(&rig.engine, &lab).await.expect("counted"), 0, "a device has its tenth");
        }
    }
}
