//! Which sensors a watcher wants and may see.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_types::Scope;

use crate::catalog::{Catalog, Series};

/// Marks on series, by their numbers: a bit for each, so that a reader of a hundred thousand sensors holds 13 KB.
#[derive(Clone, Debug, Default)]
pub struct Marks(Vec<u64>);

impl Marks {
    /// Whether a series is marked.
    pub fn has(&self, number: u32) -> bool {
        self.0.get(number as usize / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// Marks a series; false where it was.
    pub fn set(&mut self, number: u32) -> bool {
        let place = number as usize / 64;
        if place >= self.0.len() {
            self.0.resize(place + 1, 0);
        }
        let (before, bit) = (self.0[place], 1 << (number % 64));
        self.0[place] = before | bit;
        before & bit == 0
    }

    /// Takes every mark away.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// What a watcher asked for, within what it may see. Remembers its answer for each series until a sensor changes, unless it wants
/// all of a tenant, which needs no looking up.
#[derive(Debug)]
pub struct Filter {
    scope: Scope,
    sensors: HashSet<String>,
    devices: HashSet<String>,
    sites: HashSet<String>,
    labels: BTreeMap<String, String>,
    /// Nothing but the tenant decides.
    everything: bool,
    decided: Marks,
    admitted: Marks,
    version: u64,
}

impl Filter {
    /// The filter of a request.
    pub fn new(scope: &Scope, request: pb::WatchReadingsRequest) -> Self {
        let everything = scope.sites().is_empty()
            && request.sensor_ids.is_empty()
            && request.device_ids.is_empty()
            && request.site_ids.is_empty()
            && request.labels.is_empty();
        Self {
            scope: scope.clone(),
            sensors: request.sensor_ids.into_iter().collect(),
            devices: request.device_ids.into_iter().collect(),
            sites: request.site_ids.into_iter().collect(),
            labels: request.labels.into_iter().collect(),
            everything,
            decided: Marks::default(),
            admitted: Marks::default(),
            version: 0,
        }
    }

    /// The tenants that any series may pass of.
    pub fn tenants(&self, catalog: &Catalog) -> Vec<Arc<str>> {
        let mut tenants = catalog.tenants();
        tenants.retain(|tenant| self.scope.is_system() || **tenant == *self.scope.tenant());
        tenants
    }

    /// Whether a series passes.
    pub fn admits(&mut self, catalog: &Catalog, series: &Series) -> bool {
        if self.everything {
            return self.scope.admits(&series.tenant, "");
        }
        let version = catalog.version();
        if version != self.version {
            self.version = version;
            self.decided.clear();
            self.admitted.clear();
        }
        if self.decided.set(series.number) && self.decide(series) {
            self.admitted.set(series.number);
        }
        self.admitted.has(series.number)
    }

    fn decide(&self, series: &Series) -> bool {
        if !series.is_visible(&self.scope) || !(self.sensors.is_empty() || self.sensors.contains(&*series.sensor_id)) {
            return false;
        }
        if self.devices.is_empty() && self.sites.is_empty() && self.labels.is_empty() {
            return true;
        }
        series.sensor().is_some_and(|sensor| {
            (self.devices.is_empty() || self.devices.contains(&sensor.device))
                && (self.sites.is_empty() || self.sites.contains(&sensor.site))
                && self.labels.iter().all(|(name, value)| sensor.labels.get(name) == Some(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Sensor;
    use crate::tail::Tail;

    fn sensor(site: &str) -> Sensor {
        let labels = [("floor".to_owned(), "2".to_owned())].into();
        Sensor { device: "lab".into(), site: site.into(), labels, ..Sensor::default() }
    }

    fn admits(scope: &Scope, request: pb::WatchReadingsRequest) -> bool {
        let catalog = Catalog::default();
        catalog.put_sensor("acme", "lab.co2", sensor("north"));
        let series = catalog.put_series("acme", "lab.co2", 1, Tail::default());
        Filter::new(scope, request).admits(&catalog, &series)
    }

    #[test]
    fn every_condition_must_hold() {
        let scope = Scope::tenant_of("acme");
        let request = |sensor: &str, device: &str, site: &str, floor: &str| pb::WatchReadingsRequest {
            sensor_ids: vec![sensor.into()],
            device_ids: vec![device.into()],
            site_ids: vec![site.into()],
            labels: [("floor".to_owned(), floor.to_owned())].into(),
            ..pb::WatchReadingsRequest::default()
        };
        assert!(admits(&scope, pb::WatchReadingsRequest::default()));
        assert!(admits(&scope, request("lab.co2", "lab", "north", "2")));
        assert!(!admits(&scope, request("lab.x", "lab", "north", "2")));
        assert!(!admits(&scope, request("lab.co2", "hall", "north", "2")));
        assert!(!admits(&scope, request("lab.co2", "lab", "south", "2")));
        assert!(!admits(&scope, request("lab.co2", "lab", "north", "3")));
        assert!(!admits(&Scope::tenant_of("other"), pb::WatchReadingsRequest::default()));
        assert!(!admits(&Scope::sites_of("acme", vec!["south".into()]), pb::WatchReadingsRequest::default()));
    }

    #[test]
    fn a_sensor_that_moves_to_another_site_is_looked_at_again() {
        let catalog = Catalog::default();
        catalog.put_sensor("acme", "lab.co2", sensor("north"));
        let series = catalog.put_series("acme", "lab.co2", 1, Tail::default());
        let mut filter = Filter::new(&Scope::sites_of("acme", vec!["north".into()]), Default::default());
        assert!(filter.admits(&catalog, &series));
        catalog.put_sensor("acme", "lab.co2", sensor("south"));
        assert!(!filter.admits(&catalog, &series));
    }

    #[test]
    fn who_wants_everything_remembers_nothing() {
        let catalog = Catalog::default();
        let mut filter = Filter::new(&Scope::tenant_of("acme"), pb::WatchReadingsRequest::default());
        for number in 1..1000 {
            let series = catalog.put_series("acme", &format!("lab.{number}"), number, Tail::default());
            assert!(filter.admits(&catalog, &series));
        }
        assert!(filter.decided.0.is_empty() && filter.admitted.0.is_empty());
        assert!(!filter.admits(&catalog, &catalog.put_series("other", "lab.1", 1000, Tail::default())));
        assert_eq!(filter.tenants(&catalog), ["acme".into()]);
        assert_eq!(Filter::new(&Scope::system(), Default::default()).tenants(&catalog).len(), 2);
    }

    #[test]
    fn a_mark_is_on_its_series_alone() {
        let mut marks = Marks::default();
        assert!(!marks.has(64) && marks.set(64) && !marks.set(64));
        assert!(marks.has(64) && !marks.has(63) && !marks.has(0) && !marks.has(u32::MAX));
        marks.clear();
        assert!(!marks.has(64));
    }
}
