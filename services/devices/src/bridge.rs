//! Bridges: gateways that send readings for many devices.

use sensormesh_proto::devices::v1 as proto;
use sensormesh_types::mask::{self, Fields};
use sensormesh_types::{Changes, Error, Result, Scope, time};

use crate::credential::{Holder, Subject};
use crate::device::site_for;
use crate::rules::{self, Stamp};

/// Fields of a bridge that an update may take.
const FIELDS: &[&str] = &["name", "site_id", "prefixes", "max_devices"];
/// Fields that an update may name and that never change.
const FIXED: &[&str] = &["bridge_id", "create_time", "update_time", "etag"];

/// A gateway that sends readings for many devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// The id, chosen by whoever connects it.
    pub bridge_id: String,
    /// The site of its devices; empty = the whole tenant.
    pub site: String,
    /// What people call it; the id where empty.
    pub name: String,
    /// What the ids of its devices begin with; none = all of its site.
    pub prefixes: Vec<String>,
    /// How many devices it may bring into being.
    pub max_devices: u32,
    /// When it was made and changed.
    pub stamp: Stamp,
}

impl Bridge {
    /// The bridge a caller wants to make.
    pub fn from_proto(brought: proto::Bridge, scope: &Scope, now: i64) -> Result<Self> {
        rules::device_id(&brought.bridge_id, "bridge.bridge_id")?;
        Ok(Self {
            site: site_for(&brought.site_id, scope, "bridge.site_id")?,
            prefixes: prefixes(brought.prefixes)?,
            bridge_id: brought.bridge_id,
            name: brought.name,
            max_devices: brought.max_devices,
            stamp: Stamp::new(now),
        })
    }

    /// The bridge as the contract has it.
    pub fn to_proto(&self) -> proto::Bridge {
        let name = if self.name.is_empty() { &self.bridge_id } else { &self.name };
        proto::Bridge {
            bridge_id: self.bridge_id.clone(),
            name: name.clone(),
            site_id: self.site.clone(),
            prefixes: self.prefixes.clone(),
            max_devices: self.max_devices,
            create_time: Some(time::from_micros(self.stamp.create_time)),
            update_time: Some(time::from_micros(self.stamp.update_time)),
            etag: self.stamp.etag(),
        }
    }

    /// What differs in another state of the bridge, for the audit.
    pub fn changes(&self, after: &Self) -> String {
        Changes::default()
            .field("name", &self.name, &after.name)
            .field("site_id", &self.site, &after.site)
            .field("prefixes", &self.prefixes, &after.prefixes)
            .field("max_devices", &self.max_devices, &after.max_devices)
            .text()
    }

    /// The bridge after an update, without its new stamp.
    pub fn updated(&self, brought: &proto::Bridge, fields: &Fields, scope: &Scope) -> Result<Self> {
        let mut changed = self.clone();
        // a name equal to the id is what an unnamed bridge shows, and not a name somebody gave it
        if fields.takes("name") && (fields.names("name") || brought.name != self.bridge_id) {
            brought.name.clone_into(&mut changed.name);
        }
        if fields.takes("site_id") {
            changed.site = site_for(&brought.site_id, scope, "bridge.site_id")?;
        }
        if fields.takes("prefixes") {
            changed.prefixes = prefixes(brought.prefixes.clone())?;
        }
        if fields.takes("max_devices") {
            changed.max_devices = brought.max_devices;
        }
        Ok(changed)
    }

    /// What its credentials allow.
    pub fn holder(&self) -> Holder {
        Holder {
            subject: Subject::Bridge(self.bridge_id.clone()),
            site: self.site.clone(),
            prefixes: self.prefixes.clone(),
            may_register: self.max_devices > 0,
        }
    }

    /// Whether it speaks for a device with this id.
    pub fn speaks_for(&self, device_id: &str) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| device_id.starts_with(prefix))
    }

    /// What its devices' origin is.
    pub fn origin(&self) -> String {
        format!("bridge:{}", self.bridge_id)
    }
}

/// Reads which fields an update takes from `brought`.
pub fn fields(update_mask: Option<&prost_types::FieldMask>, brought: &proto::Bridge) -> Result<Fields> {
    mask::fields(update_mask, FIELDS, FIXED, |field| match field {
        "name" => !brought.name.is_empty(),
        "site_id" => !brought.site_id.is_empty(),
        "prefixes" => !brought.prefixes.is_empty(),
        _ => brought.max_devices > 0,
    })
}

fn prefixes(prefixes: Vec<String>) -> Result<Vec<String>> {
    let mut each = prefixes.iter().enumerate();
    each.try_for_each(|(i, prefix)| rules::device_id(prefix, &format!("bridge.prefixes[{i}]")))?;
    Ok(prefixes)
}

/// A bridge with this id that the caller may see.
pub fn visible(scope: &Scope, found: Option<Bridge>, bridge_id: &str) -> Result<Bridge> {
    found
        .filter(|bridge| scope.admits(scope.tenant(), &bridge.site))
        .ok_or_else(|| Error::not_found("bridge", bridge_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(prefixes: &[&str]) -> proto::Bridge {
        let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        proto::Bridge { bridge_id: "gw1".into(), prefixes, ..Default::default() }
    }

    #[test]
    fn a_bridge_speaks_for_what_begins_with_its_prefixes() {
        let scope = Scope::tenant_of("t");
        let bridge = Bridge::from_proto(gateway(&["gw1-", "roof"]), &scope, 1).expect("bridge");
        assert!(bridge.speaks_for("gw1-kitchen") && bridge.speaks_for("roof") && !bridge.speaks_for("gw2-kitchen"));
        assert!(Bridge::from_proto(gateway(&[]), &scope, 1).expect("bridge").speaks_for("anything"));
        let refused = Bridge::from_proto(gateway(&["a", "b.c"]), &scope, 1).expect_err("a dot");
        assert_eq!(refused.fields()[0].field, "bridge.prefixes[1]");
    }

    #[test]
    fn a_mask_can_take_everything_away() {
        let scope = Scope::tenant_of("t");
        let bridge = Bridge::from_proto(gateway(&["gw1-"]), &scope, 1).expect("bridge");
        let all = prost_types::FieldMask { paths: vec!["*".to_owned()] };
        let brought = gateway(&[]);
        let changed = bridge.updated(&brought, &fields(Some(&all), &brought).expect("mask"), &scope).expect("changed");
        assert!(changed.prefixes.is_empty());
        let none = fields(None, &brought).expect("nothing is set");
        assert_eq!(bridge.updated(&brought, &none, &scope).expect("same"), bridge);
    }
}
