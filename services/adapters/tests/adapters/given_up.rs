//! Calls that are given up while they wait.

use sensormesh_types::Role;

use crate::system::{Engine, System, host};

pub async fn f05_a_change_given_up_at_any_wait_is_whole_or_not_at_all(engine: Engine) {
    let system = System::started(engine, host()).await;
    let user = system.user(Role::Operator);
    let given_up = &system.given_up;
    let set = async |n: usize| user.set(n.is_multiple_of(2), 60 + n as u64, &["enabled", "interval"]).await;
    let waits = given_up.at_every_wait("UpdateConnection", set).await;
    eprintln!("waits: {waits}");
    assert!(waits > 2);
    let log = system.log().await;
    assert_eq!(log.iter().filter(|one| one.kind == "connection.updated").count(), waits);
    assert_eq!(user.host().await.enabled, waits.is_multiple_of(2));
}
