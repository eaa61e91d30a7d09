//! Devices: what carries sensors.

use std::collections::BTreeMap;

use sensormesh_proto::devices::v1 as proto;
use sensormesh_types::mask::{self, Fields};
use sensormesh_types::{Changes, Error, Result, Scope, time};

use crate::credential::{Holder, Subject};
use crate::rules::{self, Stamp};

/// Fields of a device that an update may take.
const FIELDS: &[&str] = &["name", "manufacturer", "model", "site_id", "labels"];
/// Fields that an update may name and that never change.
const FIXED: &[&str] = &["device_id", "origin", "create_time", "update_time", "etag"];

/// How a device comes here when somebody registers it by hand.
pub const MANUAL: &str = "manual";
/// How a device comes here when a sensor of it is registered first.
pub const INGEST: &str = "ingest";
/// How a device comes here that used a claim code.
pub const CLAIM: &str = "claim";

/// Something that carries sensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The id, chosen by whoever connects it.
    pub device_id: String,
    /// The site; empty = the whole tenant.
    pub site: String,
    /// What people call it; the id where empty.
    pub name: String,
    /// Who makes it.
    pub manufacturer: String,
    /// What the maker calls it.
    pub model: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// `manual`, `ingest` or the name of an adapter.
    pub origin: String,
    /// When it was made and changed.
    pub stamp: Stamp,
}

impl Device {
    /// The device a caller wants to register.
    pub fn from_proto(brought: proto::Device, scope: &Scope, now: i64) -> Result<Self> {
        rules::device_id(&brought.device_id, "device.device_id")?;
        let site = site_for(&brought.site_id, scope, "device.site_id")?;
        let origin = if brought.origin.is_empty() { MANUAL.to_owned() } else { brought.origin };
        Ok(Self {
            device_id: brought.device_id,
            site,
            name: brought.name,
            manufacturer: brought.manufacturer,
            model: brought.model,
            labels: rules::labels(brought.labels, "device.labels")?,
            origin,
            stamp: Stamp::new(now),
        })
    }

    /// The device as the contract has it.
    pub fn to_proto(&self) -> proto::Device {
        let name = if self.name.is_empty() { &self.device_id } else { &self.name };
        proto::Device {
            device_id: self.device_id.clone(),
            name: name.clone(),
            manufacturer: self.manufacturer.clone(),
            model: self.model.clone(),
            site_id: self.site.clone(),
            labels: self.labels.clone().into_iter().collect(),
            origin: self.origin.clone(),
            create_time: Some(time::from_micros(self.stamp.create_time)),
            update_time: Some(time::from_micros(self.stamp.update_time)),
            etag: self.stamp.etag(),
        }
    }

    /// What its credentials allow.
    pub fn holder(&self) -> Holder {
        let subject = Subject::Device(self.device_id.clone());
        Holder { subject, site: self.site.clone(), prefixes: Vec::new(), may_register: false }
    }

    /// What differs in another state of the device, for the audit.
    pub fn changes(&self, after: &Self) -> String {
        Changes::default()
            .field("name", &self.name, &after.name)
            .field("manufacturer", &self.manufacturer, &after.manufacturer)
            .field("model", &self.model, &after.model)
            .field("site_id", &self.site, &after.site)
            .field("labels", &self.labels, &after.labels)
            .text()
    }

    /// The device after an update, without its new stamp.
    pub fn updated(&self, brought: &proto::Device, fields: &Fields, scope: &Scope) -> Result<Self> {
        let mut changed = self.clone();
        // a name equal to the id is what an unnamed device shows, and not a name somebody gave it
        if fields.takes("name") && (fields.names("name") || brought.name != self.device_id) {
            brought.name.clone_into(&mut changed.name);
        }
        if fields.takes("manufacturer") {
            brought.manufacturer.clone_into(&mut changed.manufacturer);
        }
        if fields.takes("model") {
            brought.model.clone_into(&mut changed.model);
        }
        if fields.takes("site_id") {
            changed.site = site_for(&brought.site_id, scope, "device.site_id")?;
        }
        if fields.takes("labels") {
            changed.labels = rules::labels(brought.labels.clone(), "device.labels")?;
        }
        Ok(changed)
    }
}

/// Reads which fields an update takes from `brought`.
pub fn fields(update_mask: Option<&prost_types::FieldMask>, brought: &proto::Device) -> Result<Fields> {
    mask::fields(update_mask, FIELDS, FIXED, |field| match field {
        "name" => !brought.name.is_empty(),
        "manufacturer" => !brought.manufacturer.is_empty(),
        "model" => !brought.model.is_empty(),
        "site_id" => !brought.site_id.is_empty(),
        _ => !brought.labels.is_empty(),
    })
}

/// The site a caller may put a device in. A caller narrowed to one site need not name it.
pub fn site_for(asked: &str, scope: &Scope, field: &str) -> Result<String> {
    match (asked, scope.sites()) {
        ("", [only]) => Ok(only.clone()),
        (asked, []) => Ok(asked.to_owned()),
        (asked, own) if own.iter().any(|site| site == asked) => Ok(asked.to_owned()),
        (_, own) => Err(Error::invalid(field, format!("must be one of your sites: {}", own.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab() -> proto::Device {
        proto::Device { device_id: "lab".into(), site_id: "north".into(), ..proto::Device::default() }
    }

    #[test]
    fn an_unnamed_device_shows_its_id_and_stays_unnamed() {
        let device = Device::from_proto(lab(), &Scope::tenant_of("t"), 1).expect("device");
        let shown = device.to_proto();
        assert_eq!((shown.name.as_str(), shown.origin.as_str()), ("lab", "manual"));
        let fields = fields(None, &shown).expect("mask");
        assert_eq!(device.updated(&shown, &fields, &Scope::tenant_of("t")).expect("same"), device);
    }

    #[test]
    fn a_device_stays_within_the_callers_sites() {
        let narrow = Scope::sites_of("t", vec!["south".into()]);
        assert!(Device::from_proto(lab(), &narrow, 1).is_err());
        let unsaid = proto::Device { site_id: String::new(), ..lab() };
        assert_eq!(Device::from_proto(unsaid, &narrow, 1).expect("device").site, "south");
        let wide = Scope::sites_of("t", vec!["south".into(), "east".into()]);
        assert!(site_for("", &wide, "f").is_err());
        assert_eq!(site_for("", &Scope::tenant_of("t"), "f").expect("whole tenant"), "");
    }

    #[test]
    fn the_id_may_be_named_in_a_mask_and_an_unknown_field_may_not() {
        let mask = |path: &str| prost_types::FieldMask { paths: vec![path.to_owned()] };
        assert!(fields(Some(&mask("device_id")), &lab()).expect("fixed").is_empty());
        assert!(fields(Some(&mask("nmae")), &lab()).is_err());
    }
}
