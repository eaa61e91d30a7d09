//! Calls that are given up while they wait.

use sensormesh_proto::rooms::v1 as proto;
use sensormesh_proto::rooms::v1::PlaceKind;
use sensormesh_testkit::given_up::{happened_once, or_done};
use sensormesh_types::Code;

use crate::fakes::sensor;
use crate::system::{Engine, System, call, mask, place, until};

/// More than any call waits.
const MANY: usize = 60;

pub async fn f05_a_change_given_up_at_any_wait_is_whole_or_not_at_all(engine: Engine) {
    let system = System::start(engine).await;
    let (user, given_up) = (system.operator(), &system.given_up);
    for n in 1..=MANY {
        system.devices.sensor(sensor(&format!("s{n}.t"), "Cel"));
    }
    until("the registry", || async { user.unplaced().await.len() == MANY }).await;
    user.create_room("b").await;

    let create = async |n: usize| {
        let place = Some(proto::Place { name: "A".into(), ..place(PlaceKind::Room, &format!("a{n}"), "") });
        call!(user.create_place(proto::CreatePlaceRequest { place, request_id: format!("place-{n}") }))
    };
    let put = async |n: usize| user.place(&format!("s{n}.t"), "b", &format!("t{n}")).await;
    let rounds =
        [given_up.at_every_wait("CreatePlace", create).await, given_up.at_every_wait("CreatePlacement", put).await];
    for n in 1..=MANY {
        create(n).await.expect("made");
        put(n).await.expect("placed");
    }
    let update = async |n: usize| {
        let place = Some(proto::Place { name: "B".into(), ..place(PlaceKind::Room, &format!("a{n}"), "") });
        call!(user.update_place(proto::UpdatePlaceRequest { place, update_mask: mask(&["name"]) }))
    };
    let updated = given_up.at_every_wait("UpdatePlace", update).await;
    let take_out = async |n: usize| {
        or_done(
            call!(user.delete_placement(proto::DeletePlacementRequest { sensor_id: format!("s{n}.t") })),
            Code::NotFound,
        )
    };
    let taken = given_up.at_every_wait("DeletePlacement", take_out).await;
    let delete = async |n: usize| {
        or_done(
            call!(user.delete_place(proto::DeletePlaceRequest { place_id: format!("a{n}"), force: true })),
            Code::NotFound,
        )
    };
    let deleted = given_up.at_every_wait("DeletePlace", delete).await;
    eprintln!("waits: {rounds:?}, {updated}, {taken}, {deleted}");
    assert!([rounds[0], rounds[1], updated, taken, deleted].iter().all(|waits| *waits < MANY));

    let log = system.log().await;
    let each =
        |prefix: &'static str, to: usize, rest: &'static str| (1..=to).map(move |n| format!("{prefix}{n}{rest}"));
    happened_once(&log, "place.created", each("a", MANY, "").chain(["b".to_owned()]));
    happened_once(&log, "place.updated", each("a", updated, ""));
    happened_once(&log, "place.deleted", each("a", deleted, ""));
    happened_once(&log, "placement.created", each("s", MANY, ".t"));
    assert_eq!(user.unplaced().await.len(), taken);
    let rooms = call!(user.list_rooms(proto::ListRoomsRequest { page_size: 1000, ..Default::default() }));
    assert_eq!(rooms.expect("list").rooms.len(), 1 + MANY - deleted);
}
