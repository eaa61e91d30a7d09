//! Who sees what.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::Verdict;
use sensormesh_types::{Code, Role};

use crate::devices::sensor;
use crate::system::{Engine, NOW, System, User, call, eventually, reading};

async fn known(user: &User, sensor_id: &str) -> bool {
    let list = pb::ListReadingsRequest { sensor_id: sensor_id.to_owned(), ..Default::default() };
    call!(user.list_readings(list)).is_ok()
}

pub async fn tenants_do_not_see_each_other(engine: Engine) {
    let system = System::start(engine).await;
    let (acme, other) = (system.user("acme", Role::Operator, &[]), system.user("other", Role::Operator, &[]));
    acme.send(vec![reading("lab.a", NOW, 1.0), reading("lab.secret", NOW, 7.0)]).await.expect("taken");
    other.send(vec![reading("lab.a", NOW, 2.0)]).await.expect("taken");
    assert_eq!(acme.readings("lab.a").await, [(NOW, 1.0)]);
    assert_eq!(other.readings("lab.a").await, [(NOW, 2.0)]);
    assert_eq!(other.latest().await, [("lab.a".to_owned(), NOW, 2.0)]);
    // what is another tenant's is not there at all: the same words as for what nobody has
    let list = |id: &str| pb::ListReadingsRequest { sensor_id: id.to_owned(), ..Default::default() };
    let hidden = call!(other.list_readings(list("lab.secret"))).expect_err("hidden");
    let absent = call!(other.list_readings(list("lab.absent"))).expect_err("absent");
    assert_eq!(hidden.code(), Code::NotFound);
    assert_eq!(hidden.message().replace("lab.secret", "lab.absent"), absent.message());
    let request = pb::AggregateReadingsRequest { sensor_ids: vec!["lab.secret".into()], ..Default::default() };
    assert_eq!(call!(other.aggregate_readings(request)).expect_err("hidden").code(), Code::NotFound);
    // nor can its series be written by number
    let number = acme.open().await.numbers(&["lab.secret"]).await[0];
    let mut ingest = other.open().await;
    ingest.numbers(&["lab.a"]).await;
    ingest.send(crate::system::batch(1, vec![crate::system::group(number, NOW + 1, 1, &[8.0])])).await;
    assert_eq!(ingest.through(1).await[0].rejections[0].reason, "UNKNOWN_SERIES");
    assert_eq!(acme.readings("lab.secret").await, [(NOW, 7.0)]);
    let mut watch = other.watch(pb::WatchReadingsRequest::default()).await;
    let (snapshot, _) = watch.until_live().await;
    assert_eq!(snapshot.iter().map(|m| m.readings.len()).sum::<usize>(), 1);
    acme.send(vec![reading("lab.secret", NOW + 1, 8.0)]).await.expect("taken");
    other.send(vec![reading("lab.a", NOW + 1, 3.0)]).await.expect("taken");
    let message = watch.next().await;
    assert_eq!((message.tenant.as_str(), message.readings.len()), ("other", 1));
    assert_eq!(message.readings[0].value, Some(3.0));
    // a peer service sees all of them
    let mut rooms = system.client_of("rooms");
    let mut watch = rooms.watch_readings(pb::WatchReadingsRequest::default()).await.expect("watch").into_inner();
    let mut tenants = Vec::new();
    while let Ok(Some(message)) = watch.message().await {
        if message.bookmark.is_some() {
            break;
        }
        tenants.push(message.tenant);
    }
    tenants.sort();
    assert_eq!(tenants, ["acme", "other"]);
}

pub async fn a_user_narrowed_to_a_site_sees_and_sends_that_site_only(engine: Engine) {
    let system = System::start(engine).await;
    for (id, site) in [("n.t", "north"), ("s.t", "south"), ("w.t", "")] {
        system.devices.put("default", sensor(id, site, None));
    }
    let whole = system.operator();
    eventually("the sensors are known", || known(&whole, "w.t")).await;
    let sent = ["n.t", "s.t", "w.t"].map(|id| reading(id, NOW, 1.0)).to_vec();
    assert_eq!(whole.send(sent.clone()).await.expect("taken").accepted, 3);
    let north = system.user("default", Role::Operator, &["north"]);
    assert_eq!(north.latest().await, [("n.t".to_owned(), NOW, 1.0)]);
    assert!(known(&north, "n.t").await && !known(&north, "s.t").await && !known(&north, "w.t").await);
    let mut more = ["n.t", "s.t", "w.t", "new.t"].map(|id| reading(id, NOW + 1, 2.0)).to_vec();
    let answer = north.send(more.clone()).await.expect("one is taken");
    assert_eq!((answer.accepted, answer.refused), (1, 3));
    assert!(answer.results.iter().all(|r| r.verdict() == Verdict::NotPermitted));
    let error = north.send(more.split_off(1)).await.expect_err("none is taken");
    assert_eq!(error.code(), Code::Forbidden);
    // a sensor that moves goes out of sight
    system.devices.put("default", sensor("n.t", "south", None));
    eventually("the sensor has moved", || async { !known(&north, "n.t").await }).await;
    assert!(north.latest().await.is_empty());
}

pub async fn a_deleted_sensors_readings_stay(engine: Engine) {
    let mut system = System::start(engine).await;
    system.operator().send(vec![reading("lab.a", NOW, 1.0)]).await.expect("taken");
    system.devices.delete("default", "lab.a");
    system.restart().await;
    let user = system.operator();
    assert_eq!(user.readings("lab.a").await, [(NOW, 1.0)]);
    // once its end is known, its next reading brings it back, under the same number
    let brought_back = || async {
        user.send(vec![reading("lab.a", NOW + 1, 2.0)]).await.expect("taken");
        system.devices.sensors().len() == 1
    };
    eventually("the sensor is registered again", brought_back).await;
    assert_eq!(user.readings("lab.a").await.len(), 2);
}
