//! What `devices` says of sensors, taken over; and the placements that follow from it.

use std::collections::{BTreeSet, HashMap};

use sensormesh_proto::devices::v1 as devices;
use sensormesh_proto::devices::v1::watch_devices_response::Event;
use sensormesh_store::Tx;
use sensormesh_types::{DEFAULT_TENANT, Result, time};

use crate::db;
use crate::metrics::Traits;
use crate::model::Sensor;
use crate::place::{Kind, Place, Tree, slug};
use crate::placement::{Plan, Wish, as_metric, default_metric, plan};
use crate::record::{self, Author};

/// A sensor that was asked for by name may be younger than the snapshot that does not name it: for so long (60 s, in
/// microseconds) it stays.
const FRESH: i64 = 60_000_000;

/// Takes over messages of `WatchDevices` in one transaction.
pub struct Projection<'t> {
    tx: &'t mut Tx,
    now_micros: i64,
    now_nanos: i64,
    trees: HashMap<String, Tree>,
    locked: BTreeSet<String>,
    changed: BTreeSet<String>,
}

impl<'t> Projection<'t> {
    /// Changes are made in `tx`, at this time in nanoseconds since the Unix epoch.
    pub fn new(tx: &'t mut Tx, now: i64) -> Self {
        let (trees, locked, changed) = (HashMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { tx, now_micros: now / 1000, now_nanos: now, trees, locked, changed }
    }

    /// Takes over what the stream says, in its order. `reset` = it replaces all that was said before.
    pub async fn apply(
        mut self,
        reset: bool,
        messages: impl IntoIterator<Item = &devices::WatchDevicesResponse>,
    ) -> Result<()> {
        let mut gone: BTreeSet<(String, String)> = BTreeSet::new();
        if reset {
            gone.extend(db::wipe_projection(self.tx, self.now_micros - FRESH).await?);
            self.changed.extend(gone.iter().map(|(tenant, _)| tenant.clone()));
        }
        for message in messages {
            let tenant = if message.tenant.is_empty() { DEFAULT_TENANT } else { &message.tenant };
            if let Some(Event::Sensor(sensor)) = &message.event {
                gone.remove(&(tenant.to_owned(), sensor.sensor_id.clone()));
            }
            if let Some(event) = &message.event {
                self.take(tenant, event).await?;
            }
        }
        for (tenant, sensor) in gone {
            self.end(&tenant, &sensor).await?;
        }
        for tenant in std::mem::take(&mut self.changed) {
            record::projection(self.tx, &Author::service(&tenant));
        }
        Ok(())
    }

    /// Before placements and places are looked at to change them.
    async fn lock(&mut self, tenant: &str) -> Result<()> {
        if self.locked.insert(tenant.to_owned()) {
            db::lock(self.tx, tenant).await?;
        }
        Ok(())
    }

    async fn take(&mut self, tenant: &str, event: &Event) -> Result<()> {
        match event {
            Event::Sensor(message) => self.sensor(tenant, sensor(message.clone())).await?,
            Event::Device(device) => {
                for sensor in db::list_of_device(self.tx, tenant, &device.device_id).await? {
                    self.sensor(tenant, Sensor { site: device.site_id.clone(), ..sensor }).await?;
                }
            }
            Event::Profile(profile) => {
                db::save_profile(self.tx, tenant, &profile.profile_id, &traits_of(profile)).await?;
                self.changed.insert(tenant.to_owned());
            }
            Event::DeletedSensorId(id) => {
                self.lock(tenant).await?;
                db::delete_sensor(self.tx, tenant, id).await?;
                self.end(tenant, id).await?;
                self.changed.insert(tenant.to_owned());
            }
            Event::DeletedDeviceId(id) => {
                self.lock(tenant).await?;
                for sensor in db::list_of_device(self.tx, tenant, id).await? {
                    db::delete_sensor(self.tx, tenant, &sensor.id).await?;
                    self.end(tenant, &sensor.id).await?;
                    self.changed.insert(tenant.to_owned());
                }
            }
            Event::DeletedProfileId(id) => {
                db::delete_profile(self.tx, tenant, id).await?;
                self.changed.insert(tenant.to_owned());
            }
            Event::Bookmark(_) => {}
        }
        Ok(())
    }

    async fn sensor(&mut self, tenant: &str, sensor: Sensor) -> Result<()> {
        if db::find_sensor(self.tx, tenant, &sensor.id).await?.as_ref() != Some(&sensor) {
            // before the sensor is written: who places it locks in this order too
            self.lock(tenant).await?;
            db::save_sensor(self.tx, tenant, &sensor).await?;
            self.changed.insert(tenant.to_owned());
        }
        let mut known = db::list_of_sensor(self.tx, tenant, &sensor.id).await?;
        let waits = known.is_empty() && !sensor.suggested_room.is_empty();
        if waits || known.iter().any(|placement| placement.is_current() && placement.site != sensor.site) {
            self.lock(tenant).await?;
            known = db::list_of_sensor(self.tx, tenant, &sensor.id).await?;
        }
        match known.into_iter().find(crate::placement::Placement::is_current) {
            Some(current) if current.site != sensor.site => {
                let room =
                    self.tree(tenant).await?.get(&current.room).map(|room| room.site.clone()).unwrap_or_default();
                if record::check_site(&room, &sensor.site, &sensor.id).is_err() {
                    return record::end(self.tx, &Author::service(tenant), current, self.now_nanos).await;
                }
                let moved = crate::placement::Placement { site: sensor.site, ..current };
                db::save_placement(self.tx, tenant, &moved).await
            }
            Some(_) => Ok(()),
            None => self.suggest(tenant, &sensor).await,
        }
    }

    /// Places a sensor that says where it is and was never placed before. Once: where somebody took it out, it stays out.
    async fn suggest(&mut self, tenant: &str, sensor: &Sensor) -> Result<()> {
        let name = sensor.suggested_room.trim();
        if name.is_empty() || !db::list_of_sensor(self.tx, tenant, &sensor.id).await?.is_empty() {
            return Ok(());
        }
        let Some(room) = self.suggested_room(tenant, name, &sensor.site).await? else { return Ok(()) };
        let there = db::list_current(self.tx, tenant, &room).await?;
        let wanted = Some(as_metric(&sensor.suggested_metric)).filter(|_| !sensor.suggested_metric.is_empty());
        let choices = [wanted.unwrap_or_else(|| default_metric(&sensor.id)), as_metric(&sensor.id)];
        let free = |metric: &String| there.iter().all(|placement| placement.metric != *metric);
        let Some(metric) = choices.into_iter().find(free) else {
            tracing::warn!(tenant, sensor = sensor.id, room, "the room has another sensor under the suggested metric");
            return Ok(());
        };
        let (id, site) = (sensor.id.clone(), sensor.site.clone());
        let wish = Wish { sensor: id, room, metric, start: None, end: None, site };
        let plan: Plan = plan(wish, &[], self.now_nanos)?;
        record::carry_out(self.tx, &Author::service(tenant), plan).await?;
        Ok(())
    }

    /// The room of that name, made where there is none; `None` where it stands in another site than the sensor.
    async fn suggested_room(&mut self, tenant: &str, name: &str, site: &str) -> Result<Option<String>> {
        let now = self.now_micros;
        let tree = self.tree(tenant).await?;
        let named = || tree.iter().find(|place| place.kind == Kind::Room && place.name.eq_ignore_ascii_case(name));
        if let Some(room) = tree.room(&slug(name)).or_else(named) {
            let fits = record::check_site(&room.site, site, "").is_ok();
            return Ok(Some(room.id.clone()).filter(|_| fits));
        }
        let parent = tree.get(site).filter(|place| place.kind == Kind::Site).map(|place| place.id.clone());
        let room = tree.add(Place {
            id: String::new(),
            kind: Kind::Room,
            name: name.to_owned(),
            parent: parent.unwrap_or_default(),
            site: String::new(),
            created: now,
            updated: now,
            revision: 1,
        })?;
        db::save_place(self.tx, tenant, &room).await?;
        record::place(self.tx, &Author::service(tenant), "place.created", &room);
        Ok(Some(room.id))
    }

    async fn tree(&mut self, tenant: &str) -> Result<&mut Tree> {
        if !self.trees.contains_key(tenant) {
            let tree = db::list_places(self.tx, tenant).await?;
            self.trees.insert(tenant.to_owned(), tree);
        }
        Ok(self.trees.entry(tenant.to_owned()).or_default())
    }

    /// A sensor that is gone is in no room.
    async fn end(&mut self, tenant: &str, sensor: &str) -> Result<()> {
        self.lock(tenant).await?;
        let known = db::list_of_sensor(self.tx, tenant, sensor).await?;
        match known.into_iter().find(crate::placement::Placement::is_current) {
            Some(current) => record::end(self.tx, &Author::service(tenant), current, self.now_nanos).await,
            None => Ok(()),
        }
    }
}

/// A sensor as `devices` describes it.
pub fn sensor(message: devices::Sensor) -> Sensor {
    Sensor {
        traits: Traits {
            quantity: message.quantity,
            unit: message.unit,
            min: message.range_min,
            max: message.range_max,
            interval: nanos(message.expected_interval.as_ref()),
        },
        id: message.sensor_id,
        device: message.device_id,
        name: message.name,
        site: message.site_id,
        profile: message.profile_id,
        suggested_room: message.suggested_room,
        suggested_metric: message.suggested_metric,
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
