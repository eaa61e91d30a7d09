//! Readings of sensors nobody has registered.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::Verdict;
use sensormesh_types::Role;

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
