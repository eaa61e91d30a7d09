//! Calls that are given up while they wait.

use sensormesh_commissioning::Config;
use sensormesh_proto::commissioning::v1 as proto;
use sensormesh_testkit::given_up::happened_once;

use crate::fakes::sensor;
use crate::system::{Engine, System, of_type};

/// More than any call waits.
const MANY: usize = 60;

pub async fn f05_a_change_given_up_at_any_wait_is_whole_or_not_at_all(engine: Engine) {
    let system = System::with(engine, Config { unfinished_tests: 1_000, ..Config::default() }).await;
    system.register("default", sensor("a.t")).await;
    let (user, given_up) = (system.operator(), &system.given_up);
    let start = async |n: usize| {
        let request_id = format!("test-{n}");
        user.start(proto::StartTestRequest { request_id, ..of_type("Temperature") }).await.map(|test| test.test_id)
    };
    let started = given_up.at_every_wait("StartTest", start).await;
    let mut ids = Vec::new();
    for n in 1..=MANY {
        ids.push(start(n).await.expect("started"));
    }
    // the last ones, which still wait
    let cancel = async |n: usize| user.cancel(&ids[MANY - n]).await;
    let cancelled = given_up.at_every_wait("CancelTest", cancel).await;
    eprintln!("waits: {started}, {cancelled}");
    assert!([started, cancelled].iter().all(|waits| *waits < MANY));

    let log = system.log().await;
    let mut listed = user.tests(proto::ListTestsRequest { page_size: 1_000, ..Default::default() }).await;
    listed.retain(|id| ids.contains(id));
    assert_eq!(listed.len(), MANY);
    happened_once(&log, "test.cancelled", ids[MANY - cancelled..].iter().cloned());
    let ours: Vec<_> = log.into_iter().filter(|one| ids.contains(&one.subject)).collect();
    happened_once(&ours, "test.created", ids);
}
