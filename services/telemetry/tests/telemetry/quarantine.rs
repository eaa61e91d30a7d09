//! Readings of sensors nobody has registered.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::Verdict;
use sensormesh_types::{Code, Role};

use crate::system::{Engine, NOW, System, call, eventually, reading};

pub async fn readings_of_unknown_sensors_wait_until_devices_is_back(engine: Engine) {
    let mut system = System::start(engine).await;
    system.operator().send(vec![reading("lab.a", NOW, 1.0)]).await.expect("taken");
    system.stop_devices().await;
    let user = system.operator();
    let sent = vec![reading("lab.a", NOW + 1, 2.0), reading("lab.new", NOW, -0.0), reading("lab.new", NOW + 1, 4.0)];
    let answer = user.send(sent).await.expect("taken");
    assert_eq!((answer.accepted, answer.refused), (1, 0));
    let verdicts: Vec<_> = answer.results.iter().map(|r| (r.index, r.verdict())).collect();
    assert_eq!(verdicts, [(1, Verdict::Quarantined), (2, Verdict::Quarantined)]);
    let list = call!(user.list_quarantine(pb::ListQuarantineRequest::default())).expect("list");
    assert_eq!(list.sensors.len(), 1);
    let waiting = &list.sensors[0];
    assert_eq!((waiting.sensor_id.as_str(), waiting.readings, waiting.sender.as_str()), ("lab.new", 2, "user:ada"));
    // a stream is told at once
    let announced = user.open().await.announce(&["lab.new"], false).await;
    assert!(matches!(&announced[0].outcome, Some(pb::announced::Outcome::Refusal(_))));
    // nobody else sees it, and it survives a crash
    let other = system.user("other", Role::Operator, &[]);
    assert!(call!(other.list_quarantine(pb::ListQuarantineRequest::default())).expect("list").sensors.is_empty());
    system.crash().await;
    system.start_devices().await;
    let user = system.operator();
    let released = || async {
        let list = pb::ListReadingsRequest { sensor_id: "lab.new".into(), ..Default::default() };
        call!(user.list_readings(list)).is_ok_and(|list| list.readings.len() == 2)
    };
    eventually("what was kept aside is stored", released).await;
    let read = user.readings("lab.new").await;
    assert_eq!(read[0].1.to_bits(), (-0.0f64).to_bits());
    let empty = || async {
        call!(user.list_quarantine(pb::ListQuarantineRequest::default())).expect("list").sensors.is_empty()
    };
    eventually("nothing is kept aside any more", empty).await;
}

pub async fn what_is_kept_aside_is_shown_let_go_and_thrown_away(engine: Engine) {
    let mut system = System::start(engine).await;
    system.operator().send(vec![reading("lab.a", NOW, 1.0)]).await.expect("taken");
    system.stop_devices().await;
    let user = system.operator();
    for id in ["lab.one", "lab.three", "lab.two"] {
        let sent = (0..4).map(|i| reading(id, NOW + i, i as f64)).collect();
        user.send(sent).await.expect("kept aside");
    }
    let list = call!(user.list_quarantine(pb::ListQuarantineRequest::default())).expect("list");
    let first: Vec<_> = list.sensors[0].first_readings.iter().map(|r| (r.value, r.sender.as_str())).collect();
    assert_eq!(first, [(0.0, "user:ada"), (1.0, "user:ada"), (2.0, "user:ada")]);
    assert_eq!(list.sensors[0].first_readings[0].receive_time, Some(sensormesh_types::time::from_nanos(NOW)));

    // one sensor's, then what is not there any more
    let release = |id: &str| pb::ReleaseQuarantineRequest { sensor_id: id.into() };
    let error = call!(user.release_quarantine(release("lab.one"))).expect_err("not registered");
    assert_eq!((error.code(), error.reason()), (Code::Precondition, "SENSOR_NOT_REGISTERED"));
    assert_eq!(call!(user.release_quarantine(release("lab.x"))).expect_err("nothing").code(), Code::NotFound);
    let drop = |id: &str, all| pb::DropQuarantineRequest { sensor_id: id.into(), all };
    assert_eq!(call!(user.drop_quarantine(drop("", false))).expect_err("which").fields()[0].field, "sensor_id");
    let dropped = call!(user.drop_quarantine(drop("lab.three", false))).expect("dropped");
    assert_eq!((dropped.readings, dropped.sensors), (4, 1));
    assert_eq!(call!(user.drop_quarantine(drop("lab.three", false))).expect_err("gone").code(), Code::NotFound);

    // nobody disposes of another tenant's, nor one who sees some sites only, nor a viewer
    let other = system.user("other", Role::Operator, &[]);
    assert_eq!(call!(other.drop_quarantine(drop("", true))).expect("nothing").readings, 0);
    let narrowed = system.user("default", Role::Operator, &["north"]);
    assert_eq!(call!(narrowed.drop_quarantine(drop("", true))).expect_err("narrowed").code(), Code::Forbidden);
    assert_eq!(call!(narrowed.release_quarantine(release(""))).expect_err("narrowed").code(), Code::Forbidden);
    let viewer = system.viewer();
    assert_eq!(call!(viewer.drop_quarantine(drop("", true))).expect_err("viewer").code(), Code::Forbidden);

    // all that is registered is let go, the rest is named
    let all = call!(user.release_quarantine(release(""))).expect("released");
    assert_eq!((all.readings, all.unregistered_sensor_ids.len()), (0, 2));
    system.restart().await;
    let user = system.operator();
    let dropped = call!(user.drop_quarantine(drop("", true))).expect("dropped");
    assert_eq!((dropped.readings, dropped.sensors), (8, 2));
    let empty = call!(user.list_quarantine(pb::ListQuarantineRequest::default())).expect("list");
    assert!(empty.sensors.is_empty());
}
