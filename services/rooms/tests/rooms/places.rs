//! The place tree through the contract.

use sensormesh_proto::rooms::v1 as proto;
use sensormesh_proto::rooms::v1::PlaceKind::{Building, Floor, Room, Site};
use sensormesh_types::{Code, Role};

use crate::fakes::sensor;
use crate::system::{Engine, System, User, call, mask, place};

async fn campus(user: &User) {
    for (kind, id, parent) in [
        (Site, "north", ""),
        (Site, "south", ""),
        (Building, "main", "north"),
        (Floor, "first", "main"),
        (Room, "lab", "first"),
        (Room, "shed", ""),
    ] {
        user.create_place(kind, id, parent).await.expect(id);
    }
}

async fn ids(user: &User, ancestor: &str, size: i32) -> Vec<String> {
    let mut request = proto::ListPlacesRequest { ancestor_id: ancestor.into(), page_size: size, ..Default::default() };
    let mut ids = Vec::new();
    loop {
        let page = call!(user.list_places(request.clone())).expect("list");
        assert!(page.places.len() <= 100 && (size == 0 || page.places.len() <= size as usize));
        ids.extend(page.places.into_iter().map(|place| place.place_id));
        if page.next_page_token.is_empty() {
            return ids;
        }
        request.page_token = page.next_page_token;
    }
}

async fn update(user: &User, wanted: proto::Place, paths: &[&str]) -> sensormesh_types::Result<proto::Place> {
    let request = proto::UpdatePlaceRequest { place: Some(wanted), update_mask: mask(paths) };
    call!(user.update_place(request)).map(|response| response.place.expect("place"))
}

async fn get(user: &User, id: &str) -> sensormesh_types::Result<proto::Place> {
    call!(user.get_place(proto::GetPlaceRequest { place_id: id.into() })).map(|response| response.place.expect("place"))
}

pub async fn a_tree_of_places_is_made_listed_moved_and_deleted(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    campus(&user).await;
    assert_eq!(get(&user, "lab").await.expect("lab").site_id, "north");
    for size in [0, 1, 4] {
        assert_eq!(ids(&user, "", size).await, ["north", "shed", "south", "main", "first", "lab"]);
    }
    assert_eq!(ids(&user, "main", 0).await, ["first", "lab"]);

    let named = proto::Place { name: "This machine".into(), ..place(Room, "", "") };
    let request = proto::CreatePlaceRequest { place: Some(named), request_id: String::new() };
    let made = call!(user.create_place(request.clone())).expect("made").place.expect("place");
    let again = call!(user.create_place(request)).expect("made").place.expect("place");
    assert_eq!((made.place_id.as_str(), again.place_id.as_str()), ("this-machine", "this-machine-2"));

    let moved = update(&user, place(Building, "main", "south"), &["parent_id"]).await.expect("moved");
    assert_eq!((moved.parent_id.as_str(), moved.name.as_str()), ("south", "MAIN"));
    assert_eq!(get(&user, "lab").await.expect("lab").site_id, "south");
    assert_eq!(ids(&user, "north", 0).await, [""; 0]);

    let delete = |force| proto::DeletePlaceRequest { place_id: "main".into(), force };
    let refused = call!(user.delete_place(delete(false))).expect_err("not empty");
    assert_eq!((refused.code(), refused.reason()), (Code::Precondition, "PLACE_NOT_EMPTY"));
    call!(user.delete_place(delete(true))).expect("forced");
    assert_eq!(get(&user, "lab").await.expect_err("gone").code(), Code::NotFound);
    assert_eq!(call!(user.delete_place(delete(true))).expect_err("gone").code(), Code::NotFound);
}

pub async fn changes_at_once_neither_undo_each_other_nor_outlive_their_place(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    for site in ["north", "south"] {
        user.create_place(Site, site, "").await.expect("a site");
    }
    for n in 0..20 {
        let (lab, hall) = (format!("lab{n}"), format!("hall{n}"));
        user.create_place(Building, &hall, "north").await.expect("a building");
        user.create_place(Room, &lab, "north").await.expect("a room");
        let name = update(&user, proto::Place { name: "New".into(), ..place(Room, &lab, "") }, &["name"]);
        let parent = update(&user, place(Room, &lab, "south"), &["parent_id"]);
        let (named, moved) = tokio::join!(name, parent);
        assert!(named.is_ok() && moved.is_ok(), "{named:?} {moved:?}");
        let now = get(&user, &lab).await.expect("a room");
        assert_eq!((now.name.as_str(), now.parent_id.as_str()), ("New", "south"), "{n}");
        // a room in a building that goes away: one of the two is refused
        let into = update(&user, place(Room, &lab, &hall), &["parent_id"]);
        let gone =
            async { call!(user.delete_place(proto::DeletePlaceRequest { place_id: hall.clone(), force: false })) };
        let (into, gone) = tokio::join!(into, gone);
        assert!(into.is_ok() != gone.is_ok(), "{into:?} {gone:?}");
        let parent = get(&user, &lab).await.expect("a room").parent_id;
        assert!(get(&user, &parent).await.is_ok(), "{n}: {parent} is not there");
    }
}

pub async fn a_stale_etag_an_unknown_field_and_a_cycle_are_refused(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    campus(&user).await;
    let before = get(&user, "lab").await.expect("lab");
    let named = update(&user, proto::Place { name: "Lab 1".into(), ..before.clone() }, &["name"]).await.expect("named");
    assert_ne!(named.etag, before.etag);
    let stale = update(&user, proto::Place { name: "Lab 2".into(), ..before }, &["name"]).await.expect_err("stale");
    assert_eq!(stale.code(), Code::Conflict);
    let unknown = update(&user, place(Room, "lab", ""), &["colour"]).await.expect_err("unknown");
    assert_eq!(unknown.fields()[0].field, "update_mask");
    for (id, parent, reason) in
        [("first", "lab", "PLACE_CYCLE"), ("first", "", "PLACE_KIND"), ("main", "shed", "PLACE_KIND")]
    {
        let error = update(&user, place(Room, id, parent), &["parent_id"]).await.expect_err(id);
        assert_eq!(error.reason(), reason, "{id}");
    }
    // without a mask, what is set is taken
    let moved = update(&user, place(Room, "lab", "shed"), &[]).await.expect("moved");
    assert_eq!((moved.parent_id.as_str(), moved.name.as_str(), moved.site_id.as_str()), ("shed", "Lab 1", ""));
    let taken = user.create_place(Room, "lab", "").await.expect_err("taken");
    assert_eq!(taken.code(), Code::Exists);
}

pub async fn the_same_request_id_gives_the_same_answer(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let named = |name: &str| proto::CreatePlaceRequest {
        place: Some(proto::Place { name: name.into(), ..place(Room, "", "") }),
        request_id: "r1".into(),
    };
    let first = call!(user.create_place(named("Lab"))).expect("made");
    assert_eq!(call!(user.create_place(named("Lab"))).expect("the same"), first);
    assert_eq!(call!(user.create_place(named("Hall"))).expect_err("another").fields()[0].field, "request_id");
    assert_eq!(ids(&user, "", 0).await, ["lab"]);
}

pub async fn rooms_are_listed_by_name_in_pages_with_their_sensors(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    campus(&user).await;
    user.create_room("attic").await;
    for id in ["a.t", "a.h"] {
        system.devices.know_silently(sensor(id, "Cel"));
        user.place(id, "lab", "").await.expect("placed");
    }
    let mut request = proto::ListRoomsRequest { page_size: 2, ..Default::default() };
    let first = call!(user.list_rooms(request.clone())).expect("list");
    request.page_token = first.next_page_token;
    let second = call!(user.list_rooms(request.clone())).expect("list");
    let rooms: Vec<_> = first.rooms.iter().chain(&second.rooms).map(|room| (&*room.room_id, room.sensors)).collect();
    assert_eq!(rooms, [("attic", 0), ("lab", 2), ("shed", 0)]);
    assert!(second.next_page_token.is_empty());
    request.ancestor_id = "north".into();
    assert_eq!(call!(user.list_rooms(request)).expect_err("another list's token").fields()[0].field, "page_token");
    let below = proto::ListRoomsRequest { ancestor_id: "north".into(), ..Default::default() };
    assert_eq!(call!(user.list_rooms(below)).expect("list").rooms.len(), 1);
}

pub async fn a_viewer_may_not_write_and_another_tenant_sees_nothing(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    campus(&user).await;
    let viewer = system.user("default", Role::Viewer, &[]);
    assert_eq!(ids(&viewer, "", 0).await.len(), 6);
    assert_eq!(viewer.create_place(Room, "x", "").await.expect_err("refused").code(), Code::Forbidden);
    let other = system.user("acme", Role::Admin, &[]);
    assert!(ids(&other, "", 0).await.is_empty());
    assert_eq!(get(&other, "lab").await.expect_err("hidden").code(), Code::NotFound);
    assert_eq!(other.metrics("lab").await.expect_err("hidden").code(), Code::NotFound);
    other.create_place(Room, "lab", "").await.expect("the id is free there");
    assert_eq!(get(&user, "lab").await.expect("lab").parent_id, "first");
    assert_eq!(other.create_place(Floor, "f", "main").await.expect_err("hidden").code(), Code::NotFound);
}

pub async fn a_user_narrowed_to_a_site_sees_and_touches_that_site_only(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    campus(&user).await;
    let north = system.user("default", Role::Operator, &["north"]);
    assert_eq!(ids(&north, "", 0).await, ["north", "main", "first", "lab"]);
    assert_eq!(get(&north, "shed").await.expect_err("hidden").code(), Code::NotFound);
    assert_eq!(north.create_place(Room, "x", "south").await.expect_err("hidden").code(), Code::NotFound);
    assert_eq!(north.create_place(Room, "x", "").await.expect_err("outside").code(), Code::Forbidden);
    north.create_place(Room, "x", "first").await.expect("inside");
    let moved = update(&north, place(Building, "main", ""), &["parent_id"]).await.expect_err("would leave");
    assert_eq!(moved.code(), Code::Forbidden);
    assert_eq!(get(&user, "main").await.expect("main").parent_id, "north");
}
