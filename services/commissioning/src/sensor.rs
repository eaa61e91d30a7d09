//! A sensor as `devices` describes it, and which sensors are of a type.

use std::collections::HashMap;

use sensormesh_types::quantity::{self, Quantity};

/// What people say for a quantity.
const ALIASES: &[(&str, &str)] = &[
    ("co", "carbon_monoxide"),
    ("co2", "carbon_dioxide"),
    ("light", "illuminance"),
    ("lux", "illuminance"),
    ("motion", "occupancy"),
    ("no2", "nitrogen_dioxide"),
    ("noise", "sound_level"),
    ("o3", "ozone"),
    ("pm2.5", "pm25"),
    ("presence", "occupancy"),
    ("rh", "humidity"),
    ("temp", "temperature"),
];

/// What is known of a sensor, or of the profile it takes its traits from. Empty and absent = not said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traits {
    /// What is measured.
    pub quantity: String,
    /// The unit, a UCUM code.
    pub unit: String,
    /// The smallest value that can be true.
    pub min: Option<f64>,
    /// The greatest value that can be true.
    pub max: Option<f64>,
    /// Nanoseconds between readings.
    pub interval: Option<i64>,
}

/// When its readings are stuck or have a gap, as its profile says. 0 = not said.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// Values that differ by no more are the same.
    pub flat_tolerance: f64,
    /// So many of them in a row fail.
    pub flat_count: u32,
    /// A gap is longer than so many intervals.
    pub gap_intervals: u32,
}

/// A sensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sensor {
    /// Its id.
    pub id: String,
    /// The device that carries it.
    pub device: String,
    /// What people call it.
    pub name: String,
    /// The site of its device; empty = the whole tenant.
    pub site: String,
    /// The profile it takes its traits from; empty = none.
    pub profile: String,
    /// What it says of itself.
    pub traits: Traits,
    /// What its profile says of its quality.
    pub quality: Quality,
}

impl Sensor {
    /// Its traits, completed from its profile: one of the tenant's own, or a built-in one of the quantity's name.
    pub fn completed(&self, profiles: &HashMap<String, Traits>) -> Traits {
        let builtin = || quantity::by_name(&self.profile).map(Traits::usual);
        let mut traits = self.traits.clone();
        if let Some(profile) = profiles.get(&self.profile).cloned().or_else(builtin) {
            traits.fill(&profile);
        }
        if traits.quantity.is_empty() && !traits.unit.is_empty() {
            traits.quantity = quantity::ucum(&traits.unit).1.unwrap_or_default().to_owned();
        }
        if let Some(usual) = quantity::by_name(&traits.quantity).filter(|_| traits.unit.is_empty()) {
            usual.unit.clone_into(&mut traits.unit);
        }
        traits
    }

    /// Whether it is of a type, as [`type_key`] spells it.
    pub fn is_of(&self, key: &str) -> bool {
        self.traits.quantity == quantity_of(key) || type_key(&self.profile) == key || suffix(&self.id) == key
    }
}

impl Traits {
    /// What is usual for a quantity.
    pub fn usual(quantity: &Quantity) -> Self {
        Self {
            quantity: quantity.name.to_owned(),
            unit: quantity.unit.to_owned(),
            min: Some(quantity.range.0),
            max: Some(quantity.range.1),
            interval: Some(i64::from(quantity.interval_seconds) * 1_000_000_000),
        }
    }

    fn fill(&mut self, from: &Traits) {
        if self.quantity.is_empty() {
            self.quantity.clone_from(&from.quantity);
        }
        // a range is in a unit: another unit's says nothing
        if self.unit.is_empty() || self.unit == from.unit {
            self.unit.clone_from(&from.unit);
            self.min = self.min.or(from.min);
            self.max = self.max.or(from.max);
        }
        self.interval = self.interval.or(from.interval);
    }
}

/// A type as it is compared: in lower case, `_` for a space.
pub fn type_key(text: &str) -> String {
    text.trim().to_lowercase().replace(' ', "_")
}

/// The quantity that a type key means: itself, unless people have another word for it.
pub fn quantity_of(key: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, quantity)| quantity)
}

/// The text after an id's last dot, as types are compared.
pub fn suffix(id: &str) -> String {
    type_key(id.rsplit('.').next().unwrap_or(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alias_means_a_quantity() {
        for (alias, name) in ALIASES {
            assert!(quantity::by_name(name).is_some(), "{alias}");
        }
    }

    #[test]
    fn a_type_is_a_quantity_a_profile_or_the_end_of_an_id() {
        let traits = Traits { quantity: "carbon_dioxide".into(), ..Traits::default() };
        let sensor = Sensor { id: "lab.Air".into(), profile: "Scd-41".into(), traits, ..Sensor::default() };
        for of in ["CO2", "carbon dioxide", "scd-41", "air"] {
            assert!(sensor.is_of(&type_key(of)), "{of}");
        }
        for other in ["temperature", "lab", ""] {
            assert!(!sensor.is_of(&type_key(other)), "{other}");
        }
    }

    #[test]
    fn a_sensor_takes_from_its_profile_what_it_leaves_open() {
        let profile = Traits { unit: "Cel".into(), min: Some(0.0), max: Some(50.0), ..Traits::default() };
        let profiles = HashMap::from([("room".to_owned(), profile)]);
        let own = Traits { max: Some(30.0), ..Traits::default() };
        let sensor = Sensor { profile: "room".into(), traits: own, ..Sensor::default() };
        let completed = sensor.completed(&profiles);
        assert_eq!((completed.min, completed.max, completed.quantity.as_str()), (Some(0.0), Some(30.0), "temperature"));
        let builtin = Sensor { profile: "humidity".into(), ..Sensor::default() }.completed(&profiles);
        assert_eq!((builtin.max, builtin.interval), (Some(100.0), Some(60_000_000_000)));
    }
}
