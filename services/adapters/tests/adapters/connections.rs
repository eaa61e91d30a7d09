//! Connections, and what becomes of their readings.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sensormesh_adapters::Config;
use sensormesh_proto::adapters::v1::ConnectionState as State;
use sensormesh_types::{Code, Role, time};

use crate::system::{Engine, System, host, until};

pub async fn the_hosts_sensors_are_registered_and_delivered(engine: Engine) {
    let system = System::started(engine, host()).await;
    let user = system.user(Role::Viewer);
    until("two batches", || async { system.telemetry.stored().len() >= 2 }).await;
    until("running", || async { user.host().await.state == State::Running as i32 }).await;
    let registered = system.devices.asked.lock()[0].clone();
    assert_eq!(registered.tenant, "default");
    assert_eq!((&*registered.devices[0].device_id, &*registered.devices[0].origin), ("this-machine", "host"));
    assert!(registered.sensors.iter().all(|sensor| sensor.suggested_room == "This machine"));
    let load = registered.sensors.iter().find(|sensor| sensor.sensor_id == "this-machine.cpu_load").expect("load");
    assert_eq!((load.unit.as_str(), load.profile_id.as_str()), ("%", "ratio"));
    let stored = system.telemetry.stored();
    let value = |id: &str| stored[1].readings.iter().find(|(sensor, _)| sensor == id).map(|(_, value)| *value);
    assert!((0.0..=100.0).contains(&value("this-machine.cpu_load").expect("load")));
    assert!((0.0..=100.0).contains(&value("this-machine.memory_used").expect("memory")));
    let shown = user.host().await;
    assert_eq!((shown.adapter.as_str(), shown.device_ids.as_slice()), ("host", ["this-machine".to_owned()].as_slice()));
    assert!(shown.delivered > 0 && shown.refused == 0 && shown.dropped == 0 && shown.last_time.is_some(), "{shown:?}");
}

pub async fn what_was_set_holds_after_a_restart(engine: Engine) {
    let mut system = System::started(engine, host()).await;
    let user = system.user(Role::Operator);
    until("a batch", || async { !system.telemetry.stored().is_empty() }).await;
    let off = user.set(false, 60, &["*"]).await.expect("set");
    assert_eq!((off.enabled, off.state), (false, State::Off as i32));
    until("nothing waits", || async { user.host().await.waiting == 0 }).await;
    let before = system.telemetry.stored().len();
    system.stop().await;
    system.start().await;
    let user = system.user(Role::Operator);
    let shown = user.host().await;
    assert_eq!((shown.enabled, shown.interval), (false, Some(time::from_duration(Duration::from_secs(60)))));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(system.telemetry.stored().len(), before);
    let on = user.set(true, 1, &[]).await.expect("set");
    assert!(on.enabled);
    until("a batch after that", || async { system.telemetry.stored().len() > before }).await;
    // the batches of another run have other ids
    let stored = system.telemetry.stored();
    assert_eq!(stored.iter().map(|batch| &batch.id).collect::<BTreeSet<_>>().len(), stored.len());
}

pub async fn a_wrong_setting_is_refused_and_a_viewer_may_not_set(engine: Engine) {
    let system = System::started(engine, host()).await;
    let user = system.user(Role::Operator);
    for seconds in [0, 3601] {
        let error = user.set(true, seconds, &["interval"]).await.expect_err("out of bounds");
        assert_eq!(error.fields()[0].field, "connection.interval");
    }
    assert_eq!(user.set(true, 2, &["state"]).await.expect("ignored").interval, user.host().await.interval);
    assert_eq!(user.set(true, 2, &["colour"]).await.expect_err("unknown").fields()[0].field, "update_mask");
    let refused = system.user(Role::Viewer).set(false, 2, &["enabled"]).await.expect_err("a viewer");
    assert_eq!(refused.code(), Code::Forbidden);
}

pub async fn without_the_host_there_is_no_connection(engine: Engine) {
    let system = System::started(engine, Config::default()).await;
    assert!(system.user(Role::Viewer).connections().await.is_empty());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(system.devices.asked.lock().is_empty());
}

pub async fn nothing_is_lost_or_doubled_while_telemetry_comes_and_goes(engine: Engine) {
    let mut system = System::started(engine, host()).await;
    let user = system.user(Role::Viewer);
    until("a batch", || async { !system.telemetry.stored().is_empty() }).await;
    // stores a batch and dies before it says so
    system.telemetry.cut_after.store(2, Ordering::SeqCst);
    until("it was sent again", || async { system.telemetry.repeated.load(Ordering::SeqCst) > 0 }).await;
    system.telemetry.cut_after.store(0, Ordering::SeqCst);
    system.telemetry.dead.store(true, Ordering::SeqCst);
    until("readings wait", || async { user.host().await.state == State::Waiting as i32 }).await;
    assert!(!user.host().await.error.is_empty());
    let waiting = user.host().await.waiting;
    until("more wait", || async { user.host().await.waiting > waiting }).await;
    system.telemetry.dead.store(false, Ordering::SeqCst);
    until("running", || async { user.host().await.state == State::Running as i32 }).await;
    system.stop().await;
    let stored = system.telemetry.stored();
    let numbers: Vec<u64> = stored.iter().map(|batch| batch.number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "every batch, once, in order");
    assert!(stored.windows(2).all(|pair| pair[0].time < pair[1].time));
}

pub async fn readings_wait_until_the_registry_answers(engine: Engine) {
    let mut system = System::new(engine, host()).await;
    system.devices.dead.store(true, Ordering::SeqCst);
    system.start().await;
    let user = system.user(Role::Viewer);
    until("readings wait", || async { user.host().await.waiting > 0 }).await;
    assert_eq!(user.host().await.state, State::Waiting as i32);
    assert!(system.telemetry.stored().is_empty());
    system.devices.dead.store(false, Ordering::SeqCst);
    until("the first", || async { system.telemetry.stored().first().is_some_and(|batch| batch.number == 1) }).await;
    // what is registered is delivered without the registry, also after a restart
    system.stop().await;
    system.devices.dead.store(true, Ordering::SeqCst);
    let before = system.telemetry.stored().len();
    system.start().await;
    until("more", || async { system.telemetry.stored().len() > before }).await;
}

pub async fn what_waits_is_on_the_disk_over_a_restart_and_delivered_in_order(engine: Engine) {
    let mut system = System::started(engine, host()).await;
    until("a batch", || async { !system.telemetry.stored().is_empty() }).await;
    system.telemetry.dead.store(true, Ordering::SeqCst);
    let user = system.user(Role::Viewer);
    until("readings wait", || async { user.host().await.waiting > 0 }).await;
    let waited = system.telemetry.stored().len();
    system.stop().await;
    system.start().await;
    let user = system.user(Role::Viewer);
    until("they are still there", || async { user.host().await.spooled > 0 }).await;
    let shown = user.host().await;
    assert_eq!((shown.state, shown.dropped, shown.delivered), (State::Waiting as i32, 0, 0));
    until("why", || async { !user.host().await.error.is_empty() }).await;
    system.telemetry.dead.store(false, Ordering::SeqCst);
    until("running", || async { user.host().await.state == State::Running as i32 }).await;
    until("more", || async { system.telemetry.stored().last().is_some_and(|batch| batch.number > 0) }).await;
    let shown = user.host().await;
    assert_eq!((shown.spooled, shown.refused, shown.dropped), (0, 0, 0));
    assert!(shown.delivered > 0);
    let stored = system.telemetry.stored();
    assert!(stored[waited..].iter().any(|batch| batch.number == 0), "from the disk");
    assert!(stored.windows(2).all(|pair| pair[0].time < pair[1].time), "in order, once: {stored:?}");
}

pub async fn readings_that_wait_for_long_go_to_the_disk_and_the_oldest_are_given_up_for_want_of_room(engine: Engine) {
    let mut system = System::started(engine, Config { spool_bytes: 4_000, ..host() }).await;
    until("a batch", || async { !system.telemetry.stored().is_empty() }).await;
    system.telemetry.dead.store(true, Ordering::SeqCst);
    let user = system.user(Role::Viewer);
    while user.host().await.dropped == 0 {
        until("readings wait", || async { user.host().await.waiting > 0 }).await;
        system.ahead(Duration::from_secs(11));
        until("they go to the disk", || async { user.host().await.waiting == 0 }).await;
    }
    assert!(user.host().await.spooled > 0, "{:?}", user.host().await);
    system.telemetry.dead.store(false, Ordering::SeqCst);
    until("the rest is delivered", || async { user.host().await.spooled == 0 }).await;
    system.stop().await;
}
