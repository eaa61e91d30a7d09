//! Which sensors and series there are, in memory: the projection of `devices`, and the number of each series.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use sensormesh_proto::devices::v1::QualityTests;
use sensormesh_series::{Reading, Resolution};
use sensormesh_types::Scope;
use tokio::time::Instant;

use crate::calibration::Calibration;
use crate::quality::Tests;
use crate::tail::Tail;

/// What `devices` says of a sensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sensor {
    /// The device that carries it.
    pub device: String,
    /// The site it belongs to; empty = the whole tenant.
    pub site: String,
    /// The unit of its values, a UCUM code.
    pub unit: String,
    /// The smallest value that can be true.
    pub min: Option<f64>,
    /// The greatest value that can be true.
    pub max: Option<f64>,
    /// How often it should report, nanoseconds.
    pub interval: Option<i64>,
    /// The tests that its readings are put to beside that of its range.
    pub quality_tests: Option<QualityTests>,
    /// For how many days its raw readings are kept; 0 = as long as the system says.
    pub retention_days: u32,
    /// To how many decimals its readings are rounded as they come; most are not.
    pub resolution: Option<Resolution>,
    /// Labels to find it by.
    pub labels: BTreeMap<String, String>,
    /// Nobody has registered it any more; its readings stay.
    pub deleted: bool,
}

impl Sensor {
    /// Whether a value lies outside the sensor's range.
    #[inline]
    pub fn is_out_of_range(&self, value: f64) -> bool {
        self.min.is_some_and(|min| value < min) || self.max.is_some_and(|max| value > max)
    }

    /// Whether it has a range at all.
    pub fn has_range(&self) -> bool {
        self.min.is_some() || self.max.is_some()
    }
}

/// One sensor's readings, under a number that is for good.
#[derive(Debug)]
pub struct Series {
    /// The number.
    pub number: u32,
    /// The tenant it belongs to.
    pub tenant: Arc<str>,
    /// The sensor.
    pub sensor_id: Arc<str>,
    sensor: ArcSwapOption<Sensor>,
    calibration: ArcSwapOption<Calibration>,
    /// Its unsealed readings and its latest one.
    pub tail: Mutex<Tail>,
}

impl Series {
    /// What is known of the sensor; of a deleted one what was known last.
    pub fn sensor(&self) -> Option<Arc<Sensor>> {
        self.sensor.load_full()
    }

    /// Whether a scope admits it.
    pub fn is_visible(&self, scope: &Scope) -> bool {
        match &*self.sensor.load() {
            Some(sensor) => scope.admits(&self.tenant, &sensor.site),
            None => scope.admits(&self.tenant, ""),
        }
    }

    /// The tests that its readings are put to; of most there is none.
    #[inline]
    pub fn tests(&self) -> Option<Tests> {
        let sensor = self.sensor.load();
        let sensor = sensor.as_ref()?;
        Tests::from_proto(sensor.quality_tests.as_ref()?, sensor.interval)
    }

    /// For how many days its raw readings are kept where its profile says so; 0 = as long as the system says.
    pub fn retention_days(&self) -> u32 {
        self.sensor.load().as_ref().map_or(0, |sensor| sensor.retention_days)
    }

    /// How its values are calibrated where they are read; of most not at all.
    pub fn calibration(&self) -> Option<Arc<Calibration>> {
        self.calibration.load_full()
    }

    /// A reading as it is told: calibrated, unless it is wanted raw.
    pub fn told(&self, reading: Reading, raw: bool) -> Reading {
        match &*self.calibration.load() {
            Some(calibration) if !raw => calibration.reading(reading),
            _ => reading,
        }
    }

    /// The unit of its values as they are told; empty where it is not known.
    pub fn unit(&self, raw: bool) -> String {
        unit(self.sensor.load().as_ref(), self.calibration.load().as_ref(), raw)
    }
}

/// The unit of a sensor's values as they are told.
fn unit(sensor: Option<&Arc<Sensor>>, calibration: Option<&Arc<Calibration>>, raw: bool) -> String {
    let calibrated = calibration.filter(|_| !raw).map(|c| c.unit()).filter(|unit| !unit.is_empty());
    calibrated.or(sensor.map(|s| s.unit.as_str())).unwrap_or_default().to_owned()
}

/// A sensor, its series, or both.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What `devices` says of it.
    pub sensor: Option<Arc<Sensor>>,
    /// Its readings, once it has or was announced to have some.
    pub series: Option<Arc<Series>>,
    /// How its values are calibrated.
    pub calibration: Option<Arc<Calibration>>,
    /// When this service had it registered.
    ensured: Option<Instant>,
}

impl Known {
    /// The sensor, where it is registered now.
    pub fn registered(&self) -> Option<&Arc<Sensor>> {
        self.sensor.as_ref().filter(|sensor| !sensor.deleted)
    }

    /// The unit of its values as they are told; empty where it is not known.
    pub fn unit(&self, raw: bool) -> String {
        unit(self.sensor.as_ref(), self.calibration.as_ref(), raw)
    }
}

#[derive(Debug, Default)]
struct Tables {
    tenants: HashMap<Arc<str>, BTreeMap<Arc<str>, Known>>,
    numbers: FxHashMap<u32, Arc<Series>>,
    greatest: u32,
}

/// Every sensor and series.
#[derive(Debug, Default)]
pub struct Catalog {
    tables: RwLock<Tables>,
    version: AtomicU64,
}

impl Catalog {
    /// Changes whenever a sensor changes: what was derived from sensors must be derived again.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// What is known of a sensor.
    pub fn find(&self, tenant: &str, sensor_id: &str) -> Option<Known> {
        self.tables.read().tenants.get(tenant)?.get(sensor_id).cloned()
    }

    /// The series with this number.
    pub fn series(&self, number: u32) -> Option<Arc<Series>> {
        self.tables.read().numbers.get(&number).cloned()
    }

    /// Every series, in no order.
    pub fn all_series(&self) -> Vec<Arc<Series>> {
        self.tables.read().numbers.values().cloned().collect()
    }

    /// The greatest number given so far.
    pub fn greatest_number(&self) -> u32 {
        self.tables.read().greatest
    }

    /// The tenant's series by sensor id, from behind `after` on, as long as `take` answers true.
    pub fn scan(&self, tenant: &str, after: &str, mut take: impl FnMut(&Arc<Series>) -> bool) {
        let tables = self.tables.read();
        let Some(sensors) = tables.tenants.get(tenant) else { return };
        let from = if after.is_empty() { Bound::Unbounded } else { Bound::Excluded(after) };
        for known in sensors.range::<str, _>((from, Bound::Unbounded)).map(|(_, known)| known) {
            if let Some(series) = &known.series
                && !take(series)
            {
                return;
            }
        }
    }

    /// How many sensors of a tenant have readings, or a number for them.
    pub fn count_series(&self, tenant: &str) -> u64 {
        let tables = self.tables.read();
        tables
            .tenants
            .get(tenant)
            .map_or(0, |sensors| sensors.values().filter(|known| known.series.is_some()).count() as u64)
    }

    /// Those of these devices that have a registered sensor.
    pub fn devices_among(&self, tenant: &str, devices: &HashSet<&str>) -> HashSet<String> {
        let tables = self.tables.read();
        let sensors = tables.tenants.get(tenant).into_iter().flat_map(BTreeMap::values);
        let registered = sensors.filter_map(Known::registered).map(|sensor| sensor.device.as_str());
        registered.filter(|device| devices.contains(device)).map(str::to_owned).collect()
    }

    /// The tenants that have sensors.
    pub fn tenants(&self) -> Vec<Arc<str>> {
        self.tables.read().tenants.keys().cloned().collect()
    }

    /// Takes over what `devices` says of a sensor.
    pub fn put_sensor(&self, tenant: &str, sensor_id: &str, sensor: Sensor) {
        let sensor = Arc::new(sensor);
        let mut tables = self.tables.write();
        let known = tables.known(tenant, sensor_id);
        if let Some(series) = &known.series {
            series.sensor.store(Some(Arc::clone(&sensor)));
        }
        known.sensor = Some(sensor);
        drop(tables);
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes over how a sensor's values are calibrated.
    pub fn put_calibration(&self, tenant: &str, sensor_id: &str, calibration: Option<Arc<Calibration>>) {
        let mut tables = self.tables.write();
        let known = tables.known(tenant, sensor_id);
        if known.calibration == calibration {
            return;
        }
        if let Some(series) = &known.series {
            series.calibration.store(calibration.clone());
        }
        known.calibration = calibration;
        drop(tables);
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Nobody has registered a sensor any more.
    pub fn delete_sensor(&self, tenant: &str, sensor_id: &str) {
        let sensor = self.find(tenant, sensor_id).and_then(|known| known.sensor).filter(|sensor| !sensor.deleted);
        if let Some(sensor) = sensor {
            self.put_sensor(tenant, sensor_id, Sensor { deleted: true, ..(*sensor).clone() });
        }
    }

    /// Nobody has registered any sensor but these, by tenant and id, and those registered since `told`, when they were
    /// told of.
    pub fn delete_all_but(&self, present: &HashSet<(&str, &str)>, told: Instant) {
        let mut gone = Vec::new();
        for (tenant, sensors) in &self.tables.read().tenants {
            for (id, known) in sensors {
                if !present.contains(&(&**tenant, &**id)) && known.ensured.is_none_or(|at| at < told) {
                    gone.push((Arc::clone(tenant), Arc::clone(id)));
                }
            }
        }
        for (tenant, sensor_id) in gone {
            self.delete_sensor(&tenant, &sensor_id);
        }
    }

    /// Notes that this service had a sensor registered.
    pub fn note_ensured(&self, tenant: &str, sensor_id: &str) {
        self.tables.write().known(tenant, sensor_id).ensured = Some(Instant::now());
    }

    /// The sensors this service had registered since then.
    pub fn ensured_since(&self, then: Instant) -> Vec<(Arc<str>, Arc<str>)> {
        let mut ensured = Vec::new();
        for (tenant, sensors) in &self.tables.read().tenants {
            let since = sensors.iter().filter(|(_, known)| known.ensured.is_some_and(|at| at >= then));
            ensured.extend(since.map(|(id, _)| (Arc::clone(tenant), Arc::clone(id))));
        }
        ensured
    }

    /// The series of a sensor, made with this number and this tail where there is none.
    pub fn put_series(&self, tenant: &str, sensor_id: &str, number: u32, tail: Tail) -> Arc<Series> {
        let mut tables = self.tables.write();
        let tenant = tables.tenant(tenant);
        let known = tables.known(&tenant, sensor_id);
        if let Some(series) = &known.series {
            return Arc::clone(series);
        }
        let series = Arc::new(Series {
            number,
            tenant,
            sensor_id: sensor_id.into(),
            sensor: ArcSwapOption::from(known.sensor.clone()),
            calibration: ArcSwapOption::from(known.calibration.clone()),
            tail: Mutex::new(tail),
        });
        known.series = Some(Arc::clone(&series));
        tables.numbers.insert(number, Arc::clone(&series));
        tables.greatest = tables.greatest.max(number);
        series
    }
}

impl Tables {
    fn tenant(&mut self, tenant: &str) -> Arc<str> {
        match self.tenants.get_key_value(tenant) {
            Some((known, _)) => Arc::clone(known),
            None => {
                let tenant: Arc<str> = tenant.into();
                self.tenants.insert(Arc::clone(&tenant), BTreeMap::new());
                tenant
            }
        }
    }

    fn known(&mut self, tenant: &str, sensor_id: &str) -> &mut Known {
        let tenant = self.tenant(tenant);
        let sensors = self.tenants.entry(tenant).or_default();
        if !sensors.contains_key(sensor_id) {
            sensors.insert(sensor_id.into(), Known::default());
        }
        sensors.get_mut(sensor_id).expect("it was just put there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_sees_what_becomes_of_its_sensor() {
        let catalog = Catalog::default();
        catalog.put_sensor("acme", "lab.co2", Sensor { site: "north".into(), ..Sensor::default() });
        let series = catalog.put_series("acme", "lab.co2", 7, Tail::default());
        assert!(series.is_visible(&Scope::sites_of("acme", vec!["north".into()])));
        let version = catalog.version();
        catalog.put_sensor("acme", "lab.co2", Sensor { site: "south".into(), deleted: true, ..Sensor::default() });
        assert!(catalog.version() > version);
        assert!(!series.is_visible(&Scope::sites_of("acme", vec!["north".into()])));
        assert!(series.is_visible(&Scope::tenant_of("acme")));
        assert!(!series.is_visible(&Scope::tenant_of("other")));
        let known = catalog.find("acme", "lab.co2").expect("known");
        assert!(known.registered().is_none() && known.series.is_some());
        assert_eq!(catalog.put_series("acme", "lab.co2", 8, Tail::default()).number, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_does_not_end_what_was_registered_after_it_was_asked_for() {
        let catalog = Catalog::default();
        for id in ["a", "b", "c"] {
            catalog.put_sensor("acme", id, Sensor::default());
        }
        catalog.note_ensured("acme", "a");
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        let told = Instant::now();
        catalog.note_ensured("acme", "b");
        catalog.delete_all_but(&HashSet::from([("acme", "c")]), told);
        let registered = |id| catalog.find("acme", id).is_some_and(|known| known.registered().is_some());
        assert!(!registered("a") && registered("b") && registered("c"));
        assert_eq!(catalog.ensured_since(told), [("acme".into(), "b".into())]);
    }

    #[test]
    fn series_are_listed_by_sensor_id_behind_a_given_one() {
        let catalog = Catalog::default();
        for (number, id) in ["c", "a", "b"].into_iter().enumerate() {
            catalog.put_series("acme", id, number as u32, Tail::default());
        }
        let mut seen = Vec::new();
        catalog.scan("acme", "a", |series| {
            seen.push(series.sensor_id.to_string());
            true
        });
        assert_eq!(seen, ["b", "c"]);
        assert_eq!(catalog.greatest_number(), 2);
    }
}
