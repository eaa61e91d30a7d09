//! What is where, in memory: the places, present placements and sensors of every tenant, as the database has them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use sensormesh_types::{Scope, quantity};

use crate::metrics::Traits;
use crate::place::Tree;
use crate::placement::Placement;

/// A sensor as `devices` describes it.
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
    /// The room it says it is in; empty = none.
    pub suggested_room: String,
    /// The metric it would be there; empty = the default.
    pub suggested_metric: String,
}

/// What is where in one tenant.
#[derive(Clone, Debug, Default)]
pub struct Tenant {
    /// The places.
    pub tree: Tree,
    /// The present placements, by sensor.
    pub placements: BTreeMap<Arc<str>, Placement>,
    /// The traits of every placed sensor, completed.
    pub traits: HashMap<Arc<str>, Arc<Traits>>,
}

impl Sensor {
    /// Its traits, completed from its profile: one of the tenant's own, or a built-in one of the quantity's name.
    pub fn completed(&self, profiles: &HashMap<String, Traits>) -> Traits {
        let builtin = || quantity::by_name(&self.profile).map(Traits::usual);
        match profiles.get(&self.profile) {
            Some(profile) => self.traits.completed(Some(profile)),
            None => self.traits.completed(builtin().as_ref()),
        }
    }
}

impl Tenant {
    /// Puts together what the database says.
    pub fn new(
        tree: Tree,
        placements: Vec<Placement>,
        sensors: &HashMap<String, Sensor>,
        profiles: &HashMap<String, Traits>,
    ) -> Self {
        let mut tenant = Self { tree, ..Self::default() };
        for placement in placements {
            let id: Arc<str> = placement.sensor.as_str().into();
            if let Some(sensor) = sensors.get(&placement.sensor) {
                tenant.traits.insert(Arc::clone(&id), Arc::new(sensor.completed(profiles)));
            }
            tenant.placements.insert(id, placement);
        }
        tenant
    }

    /// The traits of a sensor; those of an unknown one are all open.
    pub fn traits(&self, sensor: &str) -> Arc<Traits> {
        self.traits.get(sensor).cloned().unwrap_or_default()
    }
}

/// What is where in every tenant. Changes by replacing a tenant's whole.
#[derive(Clone, Debug, Default)]
pub struct Model {
    tenants: HashMap<String, Arc<Tenant>>,
    /// Grows with every change.
    pub version: u64,
}

impl Model {
    /// What is where in a tenant.
    pub fn tenant(&self, tenant: &str) -> Arc<Tenant> {
        self.tenants.get(tenant).cloned().unwrap_or_default()
    }

    /// Takes over what is where in a tenant now.
    pub fn replace(&mut self, name: &str, tenant: Tenant) {
        self.tenants.insert(name.to_owned(), Arc::new(tenant));
        self.version += 1;
    }

    /// Takes over everything.
    pub fn reset(&mut self, tenants: HashMap<String, Tenant>) {
        self.tenants = tenants.into_iter().map(|(name, tenant)| (name, Arc::new(tenant))).collect();
        self.version += 1;
    }
}

/// Which rooms somebody watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these; empty = all.
    pub rooms: HashSet<String>,
    /// Only those below this place; empty = all.
    pub ancestor: String,
}

impl Filter {
    /// The present placements that somebody with this scope sees through the filter, in the rooms that exist.
    pub fn placements<'t>(&'t self, tenant: &'t Tenant, scope: &'t Scope) -> impl Iterator<Item = &'t Placement> {
        let rooms = tenant.tree.rooms_below(&self.ancestor);
        tenant.placements.values().filter(move |placement| {
            let room = placement.room.as_str();
            rooms.contains(room)
                && (self.rooms.is_empty() || self.rooms.contains(room))
                && tenant.tree.get(room).is_some_and(|room| scope.admits(scope.tenant(), &room.site))
                && scope.admits(scope.tenant(), &placement.site)
        })
    }
}
