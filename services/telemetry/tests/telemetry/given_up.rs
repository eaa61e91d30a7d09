//! Calls that are given up while they wait.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::calibration::Function;
use sensormesh_testkit::given_up::{happened_once, or_done};
use sensormesh_types::{AuditQuery, Code, Role, Scope, time};

use crate::system::{Engine, NOW, SECOND, System, call, reading};

/// More than any call waits.
const MANY: usize = 60;

pub async fn f05_a_change_given_up_at_any_wait_is_whole_or_not_at_all(engine: Engine) {
    let mut system = System::start(engine).await;
    let (user, admin) = (system.operator(), system.user("default", Role::Admin, &[]));
    let given_up = system.given_up.clone();
    let id = |n: usize| format!("lab.s{n}");

    let ingest = async |n: usize| {
        let readings = vec![reading(&id(n), NOW, 1.0), reading(&id(n), NOW + SECOND, 2.0)];
        call!(user.ingest_readings(pb::IngestReadingsRequest {
            readings,
            batch_id: format!("batch-{n}"),
            ..Default::default()
        }))
    };
    let ingested = given_up.at_every_wait("IngestReadings", ingest).await;
    for n in 1..=MANY {
        let answer = ingest(n).await.expect("taken");
        assert_eq!((answer.accepted, answer.refused), (2, 0), "{n}");
        assert_eq!(user.readings(&id(n)).await, [(NOW, 1.0), (NOW + SECOND, 2.0)], "{n}");
    }

    let calibrate = async |n: usize| {
        let function = Function::Linear(pb::LinearCalibration { gain: Some(2.0), offset: 0.0 });
        let calibration = Some(pb::Calibration { function: Some(function), ..Default::default() });
        let request_id = format!("calibration-{n}");
        call!(user.create_calibration(pb::CreateCalibrationRequest { sensor_id: id(n), calibration, request_id }))
    };
    let calibrated = given_up.at_every_wait("CreateCalibration", calibrate).await;
    let mut versions = Vec::new();
    for n in 1..=MANY {
        versions.push(calibrate(n).await.expect("made").calibration.expect("a calibration").version);
        assert_eq!(user.readings(&id(n)).await, [(NOW, 2.0), (NOW + SECOND, 4.0)], "{n}");
    }
    let uncalibrate = async |n: usize| {
        let request = pb::DeleteCalibrationRequest { sensor_id: id(n), version: versions[n - 1] };
        or_done(call!(user.delete_calibration(request)), Code::NotFound)
    };
    let uncalibrated = given_up.at_every_wait("DeleteCalibration", uncalibrate).await;

    let delete = async |n: usize| {
        let request = pb::DeleteReadingsRequest {
            sensor_id: id(n),
            start_time: None,
            end_time: Some(time::from_nanos(NOW + SECOND)),
            all: false,
        };
        call!(admin.delete_readings(request))
    };
    let deleted = given_up.at_every_wait("DeleteReadings", delete).await;
    for n in 1..=deleted {
        let left = user.readings(&id(n)).await;
        assert_eq!(left.iter().map(|(time, _)| *time).collect::<Vec<_>>(), [NOW + SECOND], "{n}");
    }

    // nobody registers them until they are let go
    system.stop_devices().await;
    let aside = |n: usize| format!("aside.s{n}");
    for n in 1..=MANY {
        user.send(vec![reading(&aside(n), NOW, 1.0)]).await.expect("kept aside");
    }
    let drop_one = async |n: usize| {
        let request = pb::DropQuarantineRequest { sensor_id: aside(MANY - n), all: false };
        or_done(call!(user.drop_quarantine(request)), Code::NotFound)
    };
    let dropped = given_up.at_every_wait("DropQuarantine", drop_one).await;
    let waits = [ingested, calibrated, uncalibrated, deleted, dropped];
    eprintln!("waits: {waits:?}");
    assert!(waits.iter().all(|waits| *waits < MANY), "{waits:?}");

    let databases = system.databases().await;
    let default = Scope::tenant_of("default");
    let main = databases
        .main
        .list_audit(&default, &AuditQuery { limit: 10_000, ..Default::default() })
        .await
        .expect("the log");
    happened_once(&main, "calibration.created", (1..=MANY).map(|n| format!("{}/1", id(n))));
    happened_once(&main, "calibration.deleted", (1..=uncalibrated).map(|n| format!("{}/1", id(n))));
    happened_once(&main, "readings.deleted", (1..=deleted).map(id));
    let log =
        databases.log.list_audit(&default, &AuditQuery { limit: 10_000, ..Default::default() }).await.expect("the log");
    happened_once(&log, "quarantine.dropped", (1..=dropped).map(|n| aside(MANY - n)));
    let list = pb::ListQuarantineRequest { page_size: 1000, ..Default::default() };
    let kept = call!(user.list_quarantine(list)).expect("list").sensors.len();
    assert_eq!(kept, MANY - dropped);
}
