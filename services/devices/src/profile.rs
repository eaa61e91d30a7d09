//! Profiles: what a kind of sensor measures, and what is plausible. One of every quantity ships with the program.

use sensormesh_proto::devices::v1 as proto;
use sensormesh_types::mask::{self, Fields};
use sensormesh_types::quantity::{self, QUANTITIES, Quantity};
use sensormesh_types::{Changes, Error, Result};

use crate::quality;
use crate::rules::{self, Stamp};

/// Fields of a profile that an update may take.
const FIELDS: &[&str] = &[
    "name",
    "quantity",
    "unit",
    "range_min",
    "range_max",
    "expected_interval",
    "quality_tests",
    "retention_days",
    "decimals",
];
/// Fields that an update may name and that never change.
const FIXED: &[&str] = &["profile_id", "builtin", "etag"];

/// What a kind of sensor measures. What is empty or `None` comes from its quantity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// The id.
    pub profile_id: String,
    /// What people call it; the id where empty.
    pub name: String,
    /// The name of its quantity.
    pub quantity: String,
    /// The UCUM code of its unit.
    pub unit: String,
    /// The smallest value that can be true.
    pub range_min: Option<f64>,
    /// The greatest value that can be true.
    pub range_max: Option<f64>,
    /// How often such a sensor reports, in microseconds.
    pub interval: Option<i64>,
    /// The tests that readings are put to, in the profile's unit.
    pub tests: Option<proto::QualityTests>,
    /// For how many days raw readings are kept; 0 = as long as the system says.
    pub retention_days: u32,
    /// To how many decimals of the profile's unit readings are rounded.
    pub decimals: Option<u32>,
    /// Ships with the program.
    pub builtin: bool,
    /// When it was made and changed.
    pub stamp: Stamp,
}

/// The profile of a quantity, if `id` names one.
pub fn builtin(id: &str) -> Option<Profile> {
    quantity::by_name(id).map(of_quantity)
}

/// The profiles of all quantities, by id.
pub fn builtins() -> impl Iterator<Item = Profile> {
    QUANTITIES.iter().map(of_quantity)
}

fn of_quantity(quantity: &Quantity) -> Profile {
    Profile {
        profile_id: quantity.name.to_owned(),
        name: words(quantity.name),
        quantity: quantity.name.to_owned(),
        builtin: true,
        ..Profile::default()
    }
}

/// `carbon_dioxide` as `Carbon dioxide`.
fn words(name: &str) -> String {
    let mut text = name.replace('_', " ");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

/// What a sensor takes from its profile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    /// The name of the quantity.
    pub quantity: String,
    /// The unit as a UCUM code.
    pub unit: String,
    /// The range that can be true, in `unit`.
    pub range: (Option<f64>, Option<f64>),
    /// How often it reports, in microseconds.
    pub interval: Option<i64>,
    /// The tests that readings are put to, in `unit`.
    pub tests: Option<proto::QualityTests>,
    /// For how many days raw readings are kept; 0 = as long as the system says.
    pub retention_days: u32,
    /// To how many decimals of `unit` readings are rounded.
    pub decimals: Option<u32>,
}

impl Profile {
    /// What holds with the quantity's values where the profile has none. The quantity's range is in the quantity's unit
    /// and says nothing about another.
    pub fn effective(&self) -> Effective {
        let quantity = quantity::by_name(&self.quantity);
        let usual = quantity.map_or("", |quantity| quantity.unit);
        let unit = if self.unit.is_empty() { usual } else { &self.unit };
        let range = quantity.filter(|_| unit == usual).map(|quantity| quantity.range);
        Effective {
            quantity: self.quantity.clone(),
            unit: unit.to_owned(),
            range: (self.range_min.or(range.map(|r| r.0)), self.range_max.or(range.map(|r| r.1))),
            interval: self.interval.or(quantity.map(|quantity| i64::from(quantity.interval_seconds) * 1_000_000)),
            tests: self.tests,
            retention_days: self.retention_days,
            decimals: self.decimals,
        }
    }

    /// The profile a caller wants to make.
    pub fn from_proto(brought: &proto::Profile, now: i64) -> Result<Self> {
        let empty = Self { profile_id: brought.profile_id.clone(), stamp: Stamp::new(now), ..Self::default() };
        let everything = mask::fields(None, FIELDS, FIXED, |_| true)?;
        empty.updated(brought, &everything)
    }

    /// The profile as the contract has it.
    pub fn to_proto(&self) -> proto::Profile {
        let effective = self.effective();
        let name = if self.name.is_empty() { &self.profile_id } else { &self.name };
        proto::Profile {
            profile_id: self.profile_id.clone(),
            name: name.clone(),
            quantity: effective.quantity,
            unit: effective.unit,
            range_min: effective.range.0,
            range_max: effective.range.1,
            expected_interval: effective.interval.map(rules::interval_to_proto),
            builtin: self.builtin,
            etag: if self.builtin { String::new() } else { self.stamp.etag() },
            quality_tests: effective.tests,
            retention_days: effective.retention_days,
            decimals: effective.decimals,
        }
    }

    /// What differs in another state of the profile, for the audit. Intervals are in microseconds.
    pub fn changes(&self, after: &Self) -> String {
        Changes::default()
            .field("name", &self.name, &after.name)
            .field("quantity", &self.quantity, &after.quantity)
            .field("unit", &self.unit, &after.unit)
            .field("range_min", &self.range_min, &after.range_min)
            .field("range_max", &self.range_max, &after.range_max)
            .field("expected_interval", &self.interval, &after.interval)
            .field("quality_tests", &self.tests, &after.tests)
            .field("retention_days", &self.retention_days, &after.retention_days)
            .field("decimals", &self.decimals, &after.decimals)
            .text()
    }

    /// The profile after an update, without its new stamp.
    pub fn updated(&self, brought: &proto::Profile, fields: &Fields) -> Result<Self> {
        let shown = self.to_proto();
        // a value that is only shown because the quantity has it is not taken for the profile's own
        let takes = |field, differs: bool| fields.takes(field) && (fields.names(field) || differs);
        let mut changed = self.clone();
        if takes("name", brought.name != shown.name) {
            brought.name.clone_into(&mut changed.name);
        }
        if fields.takes("quantity") {
            if quantity::by_name(&brought.quantity).is_none() {
                let known = QUANTITIES.iter().map(|quantity| quantity.name).collect::<Vec<_>>().join(", ");
                return Err(Error::invalid("profile.quantity", format!("must be one of {known}")));
            }
            brought.quantity.clone_into(&mut changed.quantity);
        }
        if takes("unit", brought.unit != shown.unit) {
            changed.unit = quantity::ucum(&brought.unit).0;
        }
        if takes("range_min", brought.range_min != shown.range_min) {
            changed.range_min = brought.range_min;
        }
        if takes("range_max", brought.range_max != shown.range_max) {
            changed.range_max = brought.range_max;
        }
        if takes("expected_interval", brought.expected_interval != shown.expected_interval) {
            changed.interval = rules::interval(brought.expected_interval.as_ref(), "profile.expected_interval")?;
        }
        if fields.takes("quality_tests") {
            changed.tests = brought.quality_tests;
        }
        if fields.takes("retention_days") {
            changed.retention_days = brought.retention_days;
        }
        if fields.takes("decimals") {
            changed.decimals = brought.decimals;
        }
        let range = changed.effective().range;
        rules::range(range.0, range.1, "profile.range_min")?;
        changed.tests = quality::checked(changed.tests.as_ref(), range, "profile.quality_tests")?;
        Ok(changed)
    }
}

/// Reads which fields an update takes from `brought`.
pub fn fields(update_mask: Option<&prost_types::FieldMask>, brought: &proto::Profile) -> Result<Fields> {
    mask::fields(update_mask, FIELDS, FIXED, |field| match field {
        "name" => !brought.name.is_empty(),
        "quantity" => !brought.quantity.is_empty(),
        "unit" => !brought.unit.is_empty(),
        "range_min" => brought.range_min.is_some(),
        "range_max" => brought.range_max.is_some(),
        "quality_tests" => brought.quality_tests.is_some(),
        "retention_days" => brought.retention_days > 0,
        "decimals" => brought.decimals.is_some(),
        _ => brought.expected_interval.is_some(),
    })
}

/// A built-in profile cannot be changed.
pub fn refuse_builtin(id: &str) -> Result<()> {
    match builtin(id) {
        None => Ok(()),
        Some(_) => Err(Error::precondition(
            "BUILTIN_PROFILE",
            format!("the profile {id:?} ships with the program and cannot be changed; make one of your own"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fridge() -> proto::Profile {
        proto::Profile {
            profile_id: "fridge".into(),
            quantity: "temperature".into(),
            range_max: Some(15.0),
            ..proto::Profile::default()
        }
    }

    #[test]
    fn a_profile_takes_from_its_quantity_what_it_does_not_say() {
        let shown = Profile::from_proto(&fridge(), 1).expect("profile").to_proto();
        assert_eq!((shown.unit.as_str(), shown.range_min, shown.range_max), ("Cel", Some(-90.0), Some(15.0)));
        assert_eq!(shown.expected_interval.map(|interval| interval.seconds), Some(60));
    }

    #[test]
    fn a_range_of_another_unit_is_not_taken_over() {
        let profile = Profile::from_proto(&proto::Profile { unit: "°F".into(), ..fridge() }, 1).expect("profile");
        assert_eq!(profile.unit, "[degF]");
        assert_eq!(profile.effective().range, (None, Some(15.0)));
    }

    #[test]
    fn what_is_only_shown_does_not_become_the_profiles_own() {
        let profile = Profile::from_proto(&fridge(), 1).expect("profile");
        let shown = profile.to_proto();
        let same = profile.updated(&shown, &fields(None, &shown).expect("mask")).expect("same");
        assert_eq!(same, profile);
    }

    #[test]
    fn every_quantity_has_a_builtin_profile_and_unknown_ones_are_refused() {
        let shown = builtin("carbon_dioxide").expect("builtin").to_proto();
        assert_eq!((shown.name.as_str(), shown.unit.as_str(), shown.builtin), ("Carbon dioxide", "[ppm]", true));
        assert_eq!(builtins().count(), QUANTITIES.len());
        assert!(Profile::from_proto(&proto::Profile { quantity: "happiness".into(), ..fridge() }, 1).is_err());
        assert!(Profile::from_proto(&proto::Profile { range_min: Some(20.0), ..fridge() }, 1).is_err());
        assert_eq!(refuse_builtin("humidity").expect_err("builtin").reason(), "BUILTIN_PROFILE");
    }
}
