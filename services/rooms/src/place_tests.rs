//! The rules of the place tree.

use sensormesh_types::Code;

use super::*;

fn draft(id: &str, kind: Kind, parent: &str) -> Place {
    let (name, site) = (id.to_uppercase(), String::new());
    Place { id: id.into(), kind, name, parent: parent.into(), site, created: 1, updated: 1, revision: 1 }
}

fn campus() -> Tree {
    let mut tree = Tree::default();
    for (id, kind, parent) in [
        ("north", Kind::Site, ""),
        ("south", Kind::Site, ""),
        ("main", Kind::Building, "north"),
        ("first", Kind::Floor, "main"),
        ("lab", Kind::Room, "first"),
        ("corner", Kind::Room, "lab"),
        ("shed", Kind::Room, ""),
    ] {
        tree.add(draft(id, kind, parent)).expect(id);
    }
    tree
}

#[test]
fn a_place_belongs_to_the_site_above_it() {
    let tree = campus();
    let sites = ["north", "main", "lab", "corner", "shed"].map(|id| tree.get(id).expect(id).site.clone());
    assert_eq!(sites, ["north", "north", "north", "north", ""]);
}

#[test]
fn a_kind_stands_only_where_it_may() {
    let mut tree = campus();
    let allowed = [(Kind::Room, "north"), (Kind::Room, "lab"), (Kind::Floor, "south"), (Kind::Building, "")];
    for (kind, parent) in allowed {
        tree.add(Place { id: String::new(), ..draft("x", kind, parent) }).expect(parent);
    }
    for (kind, parent) in [
        (Kind::Site, "south"),
        (Kind::Building, "main"),
        (Kind::Building, "lab"),
        (Kind::Floor, ""),
        (Kind::Floor, "first"),
        (Kind::Floor, "lab"),
    ] {
        let error = tree.add(draft("x9", kind, parent)).expect_err(parent);
        assert_eq!(error.reason(), "PLACE_KIND", "{kind:?} in {parent:?}");
    }
    assert_eq!(tree.add(draft("x9", Kind::Room, "nowhere")).expect_err("no parent").code(), Code::NotFound);
}

#[test]
fn a_moved_place_takes_everything_below_it_along() {
    let mut tree = campus();
    let changed = tree.change("main", None, Some("south"), 9).expect("move");
    assert_eq!(changed.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["main", "first", "lab", "corner"]);
    assert!(changed.iter().all(|p| p.site == "south" && p.updated == 9 && p.revision == 2));
    assert!(tree.is_below("corner", "south") && !tree.is_below("corner", "north"));
}

#[test]
fn a_move_within_the_site_changes_the_place_alone() {
    let mut tree = campus();
    let changed = tree.change("corner", None, Some("first"), 9).expect("move");
    assert_eq!(changed.len(), 1);
    assert!(tree.change("corner", Some("CORNER"), Some("first"), 10).expect("nothing new").is_empty());
}

#[test]
fn a_cycle_is_refused() {
    let mut tree = campus();
    for parent in ["lab", "corner"] {
        assert_eq!(tree.change("lab", None, Some(parent), 9).expect_err(parent).reason(), "PLACE_CYCLE");
    }
    assert_eq!(tree, campus());
}

#[test]
fn a_place_with_places_below_it_stays_unless_forced() {
    let mut tree = campus();
    assert_eq!(tree.remove("main", false).expect_err("not empty").reason(), "PLACE_NOT_EMPTY");
    let gone = tree.remove("main", true).expect("forced");
    assert_eq!(gone.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["corner", "lab", "first", "main"]);
    assert!(tree.get("lab").is_none() && tree.get("north").is_some());
    assert_eq!(tree.remove("lab", false).expect_err("gone").code(), Code::NotFound);
}

#[test]
fn an_id_is_made_from_the_name_and_is_free() {
    let mut tree = campus();
    let mut add = |name: &str| {
        let draft = Place { id: String::new(), name: name.into(), ..draft("", Kind::Room, "") };
        tree.add(draft).map(|place| place.id)
    };
    assert_eq!(add("This machine").expect("id"), "this-machine");
    assert_eq!(add("This machine").expect("id"), "this-machine-2");
    assert_eq!(add("  Küche (2. Stock)! ").expect("id"), "kuche-2-stock");
    assert_eq!(add("会議室").expect("id"), "room");
    assert_eq!(add("会議室").expect("id"), "room-2");
    assert_eq!(add(&"x".repeat(100)).expect("id").len(), 64);
    assert!(add(&"x".repeat(100)).expect("id").len() <= 64);
    assert_eq!(add("   ").expect_err("no name").fields()[0].field, "place.name");
}

#[test]
fn a_taken_id_is_refused() {
    assert_eq!(campus().add(draft("lab", Kind::Room, "")).expect_err("taken").code(), Code::Exists);
}

#[test]
fn an_old_etag_is_refused() {
    let mut tree = campus();
    let old = tree.get("lab").expect("lab").etag();
    tree.change("lab", Some("Laboratory"), None, 9).expect("rename");
    let lab = tree.get("lab").expect("lab");
    assert_eq!(lab.check_etag(&old).expect_err("old").code(), Code::Conflict);
    lab.check_etag(&lab.etag()).expect("present");
    lab.check_etag("").expect("no condition");
}
