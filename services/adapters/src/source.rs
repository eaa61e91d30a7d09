//! What an adapter reads: sensors that describe themselves, and their values.

use std::collections::HashMap;

use sensormesh_proto::devices::v1 as devices;
use sensormesh_types::time;

/// A sensor as its adapter knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// Its id: `<device>.<what>`.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The profile it takes its quantity and range from; empty = none.
    pub profile: &'static str,
    /// The unit of its values, a UCUM code; empty = the profile's.
    pub unit: &'static str,
}

/// What was read from a source at one time.
pub type Measured = Vec<(Description, f64)>;

/// The sensors of a connection, numbered as they appear.
#[derive(Debug, Default)]
pub struct Catalog {
    sensors: Vec<Description>,
    places: HashMap<String, usize>,
}

impl Catalog {
    /// The number of a sensor; a new one gets the next.
    pub fn number(&mut self, sensor: &Description) -> usize {
        if let Some(place) = self.places.get(&sensor.id) {
            return *place;
        }
        self.sensors.push(sensor.clone());
        self.places.insert(sensor.id.clone(), self.sensors.len() - 1);
        self.sensors.len() - 1
    }

    /// The number of the sensor with this id.
    pub fn find(&self, id: &str) -> Option<usize> {
        self.places.get(id).copied()
    }

    /// The sensor with this number.
    pub fn get(&self, number: usize) -> Option<&Description> {
        self.sensors.get(number)
    }

    /// Every sensor, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Description> {
        self.sensors.iter()
    }
}

/// How a sensor is registered. `room` = where it says it is.
pub fn registration(sensor: &Description, room: &str, interval: std::time::Duration) -> devices::Sensor {
    devices::Sensor {
        sensor_id: sensor.id.clone(),
        name: sensor.name.clone(),
        profile_id: sensor.profile.to_owned(),
        unit: sensor.unit.to_owned(),
        expected_interval: Some(time::from_duration(interval)),
        suggested_room: room.to_owned(),
        ..Default::default()
    }
}

/// A text made fit to be part of a sensor's id: lower-case letters and digits, joined by `_`.
pub fn slug(text: &str) -> String {
    let mut slug = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('_') {
            slug.push('_');
        }
    }
    slug.truncate(40);
    slug.truncate(slug.trim_end_matches('_').len());
    slug
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sensor_keeps_its_number() {
        let mut catalog = Catalog::default();
        let sensor = |id: &str| Description { id: id.into(), ..Description::default() };
        assert_eq!(
            [catalog.number(&sensor("a")), catalog.number(&sensor("b")), catalog.number(&sensor("a"))],
            [0, 1, 0]
        );
        assert_eq!(catalog.find("b"), Some(1));
        assert_eq!(catalog.iter().count(), 2);
    }

    #[test]
    fn a_slug_is_part_of_an_id() {
        assert_eq!(slug("/mnt/Data Disk"), "mnt_data_disk");
        assert_eq!(slug("coretemp Package id 0"), "coretemp_package_id_0");
        assert_eq!(slug("/"), "");
        assert!(slug(&"x_".repeat(60)).len() <= 40);
    }
}
