//! Places: a site, building, floor or room, and the tree they stand in.

use std::collections::{BTreeMap, BTreeSet};

use sensormesh_types::{Changes, Code, Error, Result};

/// The longest id a place can have.
const MAX_ID: usize = 64;

/// What a place is. The numbers are those of the contract's `PlaceKind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A piece of land or a campus.
    Site = 1,
    /// A building.
    Building = 2,
    /// A floor of a building.
    Floor = 3,
    /// A room, or any spot that sensors are in.
    Room = 4,
}

impl Kind {
    /// The kind with this number.
    pub fn from_i32(value: i32) -> Option<Self> {
        [Kind::Site, Kind::Building, Kind::Floor, Kind::Room].into_iter().find(|kind| *kind as i32 == value)
    }

    /// What people call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Site => "site",
            Kind::Building => "building",
            Kind::Floor => "floor",
            Kind::Room => "room",
        }
    }

    /// Whether a place of this kind may stand in one of kind `parent`, or at the top of the tree.
    fn may_stand_in(self, parent: Option<Kind>) -> bool {
        match self {
            Kind::Site => parent.is_none(),
            Kind::Building => matches!(parent, None | Some(Kind::Site)),
            Kind::Floor => matches!(parent, Some(Kind::Building | Kind::Site)),
            Kind::Room => true,
        }
    }
}

/// A site, building, floor or room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its id; never changes.
    pub id: String,
    /// What it is; never changes.
    pub kind: Kind,
    /// What people call it.
    pub name: String,
    /// The place it is in; empty = none.
    pub parent: String,
    /// The site it belongs to: itself, the site above it, or none.
    pub site: String,
    /// When it was made, microseconds since the Unix epoch.
    pub created: i64,
    /// When it last changed, microseconds since the Unix epoch.
    pub updated: i64,
    /// How often it changed.
    pub revision: i64,
}

impl Place {
    /// What differs in another state of the place, for the audit.
    pub fn changes(&self, after: &Self) -> String {
        Changes::default()
            .field("name", &self.name, &after.name)
            .field("parent_id", &self.parent, &after.parent)
            .field("site_id", &self.site, &after.site)
            .text()
    }

    /// Changes with every change of the place, also from one place to the next of the same id.
    pub fn etag(&self) -> String {
        format!("{:x}-{:x}", self.created, self.revision)
    }

    /// Fails where `etag` is that of an earlier state; an empty one is no condition.
    pub fn check_etag(&self, etag: &str) -> Result<()> {
        if etag.is_empty() || etag == self.etag() {
            return Ok(());
        }
        let message = format!("place {:?} has changed since it was read", self.id);
        Err(Error::new(Code::Conflict, "ETAG_MISMATCH", message).with("etag", self.etag()))
    }
}

/// Every place of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Place>);

impl FromIterator<Place> for Tree {
    fn from_iter<I: IntoIterator<Item = Place>>(places: I) -> Self {
        Self(places.into_iter().map(|place| (place.id.clone(), place)).collect())
    }
}

impl Tree {
    /// The place with this id.
    pub fn get(&self, id: &str) -> Option<&Place> {
        self.0.get(id)
    }

    /// The room with this id; a place of another kind is none.
    pub fn room(&self, id: &str) -> Option<&Place> {
        self.get(id).filter(|place| place.kind == Kind::Room)
    }

    /// Every place, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Place> {
        self.0.values()
    }

    /// How many places stand above this one.
    pub fn depth(&self, id: &str) -> usize {
        self.ancestors(id).count()
    }

    /// Whether a place stands somewhere below another.
    pub fn is_below(&self, id: &str, ancestor: &str) -> bool {
        self.ancestors(id).any(|place| place.id == ancestor)
    }

    /// The places above this one, the nearest first. Ends even in a tree with a cycle.
    fn ancestors<'t>(&'t self, id: &str) -> impl Iterator<Item = &'t Place> + use<'t> {
        let parent_of = |id: &str| self.get(id).and_then(|place| self.get(&place.parent));
        std::iter::successors(parent_of(id), move |place| self.get(&place.parent)).take(self.0.len())
    }

    /// The places below this one, parents before their children.
    pub fn below(&self, id: &str) -> Vec<&Place> {
        let mut found: Vec<&Place> = self.iter().filter(|place| self.is_below(&place.id, id)).collect();
        found.sort_by_key(|place| self.depth(&place.id));
        found
    }

    /// The ids of the rooms below a place; of all rooms where it is empty.
    pub fn rooms_below(&self, ancestor: &str) -> BTreeSet<&str> {
        self.iter()
            .filter(|place| place.kind == Kind::Room && (ancestor.is_empty() || self.is_below(&place.id, ancestor)))
            .map(|place| place.id.as_str())
            .collect()
    }

    /// Adds a place, with an id made from its name where it has none, and returns it as it stands.
    pub fn add(&mut self, draft: Place) -> Result<Place> {
        let name = checked_name(&draft.name, &draft.id)?;
        let parent = self.parent_for(draft.kind, &draft.parent)?.map(|parent| parent.site.clone());
        let id = if draft.id.is_empty() { self.free_id(draft.kind, &name) } else { draft.id };
        if self.0.contains_key(&id) {
            return Err(Error::exists("place", &id));
        }
        let site = if draft.kind == Kind::Site { id.clone() } else { parent.unwrap_or_default() };
        let place = Place { id, name, site, ..draft };
        self.0.insert(place.id.clone(), place.clone());
        Ok(place)
    }

    /// Renames a place or moves it, with everything below it, and returns every place that changed, itself first.
    /// `None` leaves as it is.
    pub fn change(&mut self, id: &str, name: Option<&str>, parent: Option<&str>, now: i64) -> Result<Vec<Place>> {
        let mut place = self.get(id).cloned().ok_or_else(|| Error::not_found("place", id))?;
        let mut changed = Vec::new();
        if let Some(name) = name {
            place.name = checked_name(name, "")?;
        }
        if let Some(parent) = parent.filter(|parent| *parent != place.parent) {
            if parent == id || self.is_below(parent, id) {
                let message = format!("place {id:?} cannot stand in itself or in a place below it");
                return Err(Error::precondition("PLACE_CYCLE", message).with("place", id).with("parent", parent));
            }
            let site = self.parent_for(place.kind, parent)?.map(|parent| parent.site.clone()).unwrap_or_default();
            place.parent = parent.to_owned();
            if place.kind != Kind::Site && site != place.site {
                place.site.clone_from(&site);
                changed = self.below(id).into_iter().cloned().collect();
                changed.iter_mut().for_each(|below| below.site.clone_from(&site));
            }
        }
        if self.get(id) == Some(&place) {
            return Ok(Vec::new());
        }
        changed.insert(0, place);
        for place in &mut changed {
            place.updated = now;
            place.revision += 1;
            self.0.insert(place.id.clone(), place.clone());
        }
        Ok(changed)
    }

    /// Takes a place out, with everything below it if `force`, and returns what went, children before their parents.
    pub fn remove(&mut self, id: &str, force: bool) -> Result<Vec<Place>> {
        let place = self.get(id).cloned().ok_or_else(|| Error::not_found("place", id))?;
        let mut gone: Vec<Place> = self.below(id).into_iter().rev().cloned().collect();
        if !gone.is_empty() && !force {
            let message = format!("place {id:?} has {} places below it; delete them first or use force", gone.len());
            return Err(Error::precondition("PLACE_NOT_EMPTY", message).with("place", id));
        }
        gone.push(place);
        for place in &gone {
            self.0.remove(&place.id);
        }
        Ok(gone)
    }

    /// The place that a place of `kind` would stand in; `None` at the top.
    fn parent_for(&self, kind: Kind, parent: &str) -> Result<Option<&Place>> {
        let found = if parent.is_empty() {
            None
        } else {
            Some(self.get(parent).ok_or_else(|| Error::not_found("place", parent))?)
        };
        if kind.may_stand_in(found.map(|place| place.kind)) {
            return Ok(found);
        }
        let there = found.map_or_else(|| "at the top".to_owned(), |place| format!("in a {}", place.kind.as_str()));
        let message = format!("a {} cannot stand {there}", kind.as_str());
        Err(Error::precondition("PLACE_KIND", message).with("kind", kind.as_str()).with("parent", parent))
    }

    fn free_id(&self, kind: Kind, name: &str) -> String {
        let slug = slug(name);
        let slug = if slug.is_empty() { kind.as_str().to_owned() } else { slug };
        if !self.0.contains_key(&slug) {
            return slug;
        }
        let head = slug[..slug.len().min(MAX_ID - 8)].trim_end_matches('-');
        (2u32..).map(|n| format!("{head}-{n}")).find(|id| !self.0.contains_key(id)).unwrap_or(slug)
    }
}

fn checked_name(name: &str, id: &str) -> Result<String> {
    match (name.trim(), id) {
        ("", "") => Err(Error::invalid("place.name", "must not be empty")),
        ("", id) => Ok(id.to_owned()),
        (name, _) => Ok(name.to_owned()),
    }
}

/// An id made from a name: `This machine` is `this-machine`. Empty where no letter or digit of ours is in it.
pub fn slug(name: &str) -> String {
    let mut slug = String::with_capacity(name.len());
    for c in name.chars().flat_map(char::to_lowercase) {
        if slug.len() >= MAX_ID {
            break;
        }
        match c {
            'a'..='z' | '0'..='9' | '_' if !(slug.is_empty() && c == '_') => slug.push(c),
            'ä' | 'à' | 'á' | 'â' | 'å' | 'ã' => slug.push('a'),
            'ö' | 'ò' | 'ó' | 'ô' | 'ø' | 'õ' => slug.push('o'),
            'ü' | 'ù' | 'ú' | 'û' => slug.push('u'),
            'é' | 'è' | 'ê' | 'ë' => slug.push('e'),
            'ï' | 'î' | 'í' => slug.push('i'),
            'ç' => slug.push('c'),
            'ñ' => slug.push('n'),
            'ß' => slug.push('s'),
            _ if slug.is_empty() || slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
    }
    slug.truncate(slug.trim_end_matches('-').len());
    slug
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
