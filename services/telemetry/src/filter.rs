//! Which sensors a watcher wants and may see.

use std::collections::{BTreeMap, HashSet};

use rustc_hash::FxHashMap;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_types::Scope;

use crate::catalog::{Catalog, Series};

/// What a watcher asked for, within what it may see. Remembers its answer for each series until a sensor changes.
#[derive(Debug)]
pub struct Filter {
    scope: Scope,
    sensors: HashSet<String>,
    devices: HashSet<String>,
    sites: HashSet<String>,
    labels: BTreeMap<String, String>,
    answers: FxHashMap<u32, bool>,
    version: u64,
}

impl Filter {
    /// The filter of a request.
    pub fn new(scope: &Scope, request: pb::WatchReadingsRequest) -> Self {
        Self {
            scope: scope.clone(),
            sensors: request.sensor_ids.into_iter().collect(),
            devices: request.device_ids.into_iter().collect(),
            sites: request.site_ids.into_iter().collect(),
            labels: request.labels.into_iter().collect(),
            answers: FxHashMap::default(),
            version: 0,
        }
    }

    /// Whether a series passes.
    pub fn admits(&mut self, catalog: &Catalog, series: &Series) -> bool {
        let version = catalog.version();
        if version != self.version {
            self.version = version;
            self.answers.clear();
        }
        if let Some(answer) = self.answers.get(&series.number) {
            return *answer;
        }
        let answer = self.decide(series);
        self.answers.insert(series.number, answer);
        answer
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
}
