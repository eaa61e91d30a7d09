//! Sensors: streams of numbers, and what is known about them.

use std::collections::BTreeMap;

use sensormesh_proto::devices::v1 as proto;
use sensormesh_types::mask::{self, Fields};
use sensormesh_types::{Changes, Error, Result, quantity, time};

use crate::profile::{Effective, Profile};
use crate::quality;
use crate::rules::{self, Stamp};

/// Fields of a sensor that an update may take.
const FIELDS: &[&str] = &[
    "name",
    "profile_id",
    "unit",
    "range_min",
    "range_max",
    "expected_interval",
    "labels",
    "suggested_room",
    "suggested_metric",
];
/// Fields that an update may name and that never change.
const FIXED: &[&str] = &[
    "sensor_id",
    "device_id",
    "site_id",
    "quantity",
    "create_time",
    "update_time",
    "etag",
    "quality_tests",
    "retention_days",
    "decimals",
];

/// One stream of numbers. What is empty or `None` comes from its profile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sensor {
    /// The id, chosen by whoever connects it.
    pub sensor_id: String,
    /// The device that carries it.
    pub device_id: String,
    /// The site: its device's.
    pub site: String,
    /// What people call it; the id where empty.
    pub name: String,
    /// The profile; empty = none.
    pub profile_id: String,
    /// The UCUM code of its unit.
    pub unit: String,
    /// The smallest value that can be true, in the sensor's unit.
    pub range_min: Option<f64>,
    /// The greatest value that can be true, in the sensor's unit.
    pub range_max: Option<f64>,
    /// How often it should report, in microseconds.
    pub interval: Option<i64>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// The room it says it is in.
    pub suggested_room: String,
    /// The metric it would be there; empty = the text after the id's last dot.
    pub suggested_metric: String,
    /// When it was made and changed.
    pub stamp: Stamp,
}

/// The device of a sensor that names none: the text before the id's first dot.
pub fn device_of(sensor_id: &str) -> &str {
    sensor_id.split_once('.').map_or(sensor_id, |(device, _)| device)
}

impl Sensor {
    /// The sensor a caller wants to register. Its site is its device's and not known yet. `field` is where it stands in
    /// the request.
    pub fn from_proto(brought: &proto::Sensor, field: &str, now: i64) -> Result<Self> {
        rules::sensor_id(&brought.sensor_id, &format!("{field}.sensor_id"))?;
        let device_id = match brought.device_id.as_str() {
            "" => {
                let device = device_of(&brought.sensor_id);
                rules::device_id(device, &format!("{field}.sensor_id"))?;
                device
            }
            named => {
                rules::device_id(named, &format!("{field}.device_id"))?;
                named
            }
        };
        let empty = Self {
            sensor_id: brought.sensor_id.clone(),
            device_id: device_id.to_owned(),
            stamp: Stamp::new(now),
            ..Self::default()
        };
        let everything = mask::fields(None, FIELDS, FIXED, |_| true)?;
        empty.updated(brought, &everything, &Effective::default(), field)
    }

    /// What holds with the profile's values where the sensor has none. The profile's range, tests and decimals are in the
    /// profile's unit and say nothing about another.
    pub fn effective(&self, profile: Option<&Profile>) -> Effective {
        let profile = profile.map(Profile::effective).unwrap_or_default();
        let unit = if self.unit.is_empty() { profile.unit.clone() } else { self.unit.clone() };
        let same = unit == profile.unit;
        let range = if same { profile.range } else { (None, None) };
        let tests = if same { profile.tests } else { profile.tests.as_ref().and_then(quality::in_another_unit) };
        let quantity = match profile.quantity.as_str() {
            "" => quantity::ucum(&unit).1.unwrap_or_default().to_owned(),
            _ => profile.quantity,
        };
        Effective {
            quantity,
            unit,
            range: (self.range_min.or(range.0), self.range_max.or(range.1)),
            interval: self.interval.or(profile.interval),
            tests,
            retention_days: profile.retention_days,
            decimals: profile.decimals.filter(|_| same),
        }
    }

    /// The sensor as the contract has it.
    pub fn to_proto(&self, profile: Option<&Profile>) -> proto::Sensor {
        let effective = self.effective(profile);
        let name = if self.name.is_empty() { &self.sensor_id } else { &self.name };
        proto::Sensor {
            sensor_id: self.sensor_id.clone(),
            device_id: self.device_id.clone(),
            name: name.clone(),
            profile_id: self.profile_id.clone(),
            unit: effective.unit,
            range_min: effective.range.0,
            range_max: effective.range.1,
            expected_interval: effective.interval.map(rules::interval_to_proto),
            labels: self.labels.clone().into_iter().collect(),
            suggested_room: self.suggested_room.clone(),
            suggested_metric: self.metric().to_owned(),
            site_id: self.site.clone(),
            quantity: effective.quantity,
            create_time: Some(time::from_micros(self.stamp.create_time)),
            update_time: Some(time::from_micros(self.stamp.update_time)),
            etag: self.stamp.etag(),
            quality_tests: effective.tests,
            retention_days: effective.retention_days,
            decimals: effective.decimals,
        }
    }

    /// The metric it would be in a room.
    fn metric(&self) -> &str {
        match self.suggested_metric.as_str() {
            "" => self.sensor_id.rsplit_once('.').map_or(self.sensor_id.as_str(), |(_, metric)| metric),
            suggested => suggested,
        }
    }

    /// What differs in another state of the sensor, for the audit. Intervals are in microseconds.
    pub fn changes(&self, after: &Self) -> String {
        Changes::default()
            .field("device_id", &self.device_id, &after.device_id)
            .field("name", &self.name, &after.name)
            .field("profile_id", &self.profile_id, &after.profile_id)
            .field("unit", &self.unit, &after.unit)
            .field("range_min", &self.range_min, &after.range_min)
            .field("range_max", &self.range_max, &after.range_max)
            .field("expected_interval", &self.interval, &after.interval)
            .field("labels", &self.labels, &after.labels)
            .text()
    }

    /// The sensor after an update, without its new stamp. `now` is what holds for it at present.
    pub fn updated(&self, brought: &proto::Sensor, fields: &Fields, now: &Effective, field: &str) -> Result<Self> {
        if !brought.device_id.is_empty() && brought.device_id != self.device_id {
            return Err(Error::invalid(format!("{field}.device_id"), "never changes; register another sensor"));
        }
        // a value that is only shown because the profile has it is not taken for the sensor's own
        let takes = |field, differs: bool| fields.takes(field) && (fields.names(field) || differs);
        let mut changed = self.clone();
        if takes("name", brought.name != self.sensor_id) {
            brought.name.clone_into(&mut changed.name);
        }
        if fields.takes("profile_id") {
            brought.profile_id.clone_into(&mut changed.profile_id);
        }
        let unit = quantity::ucum(&brought.unit).0;
        if takes("unit", unit != now.unit) {
            changed.unit = unit;
        }
        if takes("range_min", brought.range_min != now.range.0) {
            changed.range_min = brought.range_min;
        }
        if takes("range_max", brought.range_max != now.range.1) {
            changed.range_max = brought.range_max;
        }
        let interval = rules::interval(brought.expected_interval.as_ref(), &format!("{field}.expected_interval"))?;
        if takes("expected_interval", interval != now.interval) {
            changed.interval = interval;
        }
        if fields.takes("labels") {
            changed.labels = rules::labels(brought.labels.clone(), &format!("{field}.labels"))?;
        }
        if fields.takes("suggested_room") {
            brought.suggested_room.trim().clone_into(&mut changed.suggested_room);
        }
        if takes("suggested_metric", brought.suggested_metric != self.metric()) {
            brought.suggested_metric.clone_into(&mut changed.suggested_metric);
        }
        rules::range(changed.range_min, changed.range_max, &format!("{field}.range_min"))?;
        Ok(changed)
    }
}

/// Reads which fields an update takes from `brought`.
pub fn fields(update_mask: Option<&prost_types::FieldMask>, brought: &proto::Sensor) -> Result<Fields> {
    mask::fields(update_mask, FIELDS, FIXED, |field| match field {
        "name" => !brought.name.is_empty(),
        "profile_id" => !brought.profile_id.is_empty(),
        "unit" => !brought.unit.is_empty(),
        "range_min" => brought.range_min.is_some(),
        "range_max" => brought.range_max.is_some(),
        "expected_interval" => brought.expected_interval.is_some(),
        "labels" => !brought.labels.is_empty(),
        "suggested_room" => !brought.suggested_room.is_empty(),
        _ => !brought.suggested_metric.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile;

    fn co2() -> proto::Sensor {
        proto::Sensor { sensor_id: "lab.air.co2".into(), unit: "ppm".into(), ..proto::Sensor::default() }
    }

    #[test]
    fn device_and_metric_come_from_the_id() {
        let sensor = Sensor::from_proto(&co2(), "sensor", 1).expect("sensor");
        assert_eq!(sensor.device_id, "lab");
        let shown = sensor.to_proto(None);
        assert_eq!((shown.name.as_str(), shown.suggested_metric.as_str()), ("lab.air.co2", "co2"));
        assert_eq!(device_of("meter"), "meter");
        let long = proto::Sensor { sensor_id: format!("{}.x", "d".repeat(65)), ..co2() };
        assert!(Sensor::from_proto(&long, "sensor", 1).is_err());
    }

    #[test]
    fn a_unit_is_kept_as_its_ucum_code_and_tells_the_quantity() {
        let shown = Sensor::from_proto(&co2(), "sensor", 1).expect("sensor").to_proto(None);
        assert_eq!((shown.unit.as_str(), shown.quantity.as_str()), ("[ppm]", "carbon_dioxide"));
        assert_eq!((shown.range_max, shown.expected_interval), (None, None));
    }

    #[test]
    fn what_a_sensor_does_not_say_comes_from_its_profile() {
        let said = proto::Sensor { profile_id: "temperature".into(), unit: String::new(), ..co2() };
        let sensor = Sensor::from_proto(&said, "sensor", 1).expect("sensor");
        let profile = profile::builtin("temperature");
        let shown = sensor.to_proto(profile.as_ref());
        assert_eq!((shown.unit.as_str(), shown.range_min), ("Cel", Some(-90.0)));
        let kelvin = Sensor { unit: "K".into(), ..sensor.clone() };
        assert_eq!(kelvin.effective(profile.as_ref()).range, (None, None));
        assert_eq!(kelvin.effective(profile.as_ref()).quantity, "temperature");
        let same =
            sensor.updated(&shown, &fields(None, &shown).expect("mask"), &sensor.effective(profile.as_ref()), "sensor");
        assert_eq!(same.expect("same"), sensor);
    }

    #[test]
    fn a_named_value_becomes_the_sensors_own_and_can_be_taken_back() {
        let profile = profile::builtin("temperature");
        let sensor = Sensor { sensor_id: "a.t".into(), profile_id: "temperature".into(), ..Sensor::default() };
        let now = sensor.effective(profile.as_ref());
        let mask = prost_types::FieldMask { paths: vec!["unit".into()] };
        let brought = proto::Sensor { sensor_id: "a.t".into(), unit: "Celsius".into(), ..proto::Sensor::default() };
        let named = sensor.updated(&brought, &fields(Some(&mask), &brought).expect("mask"), &now, "sensor");
        assert_eq!(named.as_ref().expect("named").unit, "Cel");
        let empty = proto::Sensor { unit: String::new(), ..brought };
        let back = named.expect("named").updated(&empty, &fields(Some(&mask), &empty).expect("mask"), &now, "sensor");
        assert_eq!(back.expect("back"), sensor);
    }

    #[test]
    fn a_sensor_stays_on_its_device() {
        let sensor = Sensor { sensor_id: "a.t".into(), device_id: "a".into(), ..Sensor::default() };
        let brought = proto::Sensor { device_id: "b".into(), name: "x".into(), ..proto::Sensor::default() };
        let mask = fields(None, &brought).expect("mask");
        assert!(sensor.updated(&brought, &mask, &Effective::default(), "sensor").is_err());
    }
}
