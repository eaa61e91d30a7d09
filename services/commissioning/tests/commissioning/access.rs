//! Who may do and see what.

use sensormesh_proto::commissioning::v1 as proto;
use sensormesh_proto::commissioning::v1::{TestResult, TestState};
use sensormesh_proto::devices::v1 as devices;
use sensormesh_types::{Code, Role};

use crate::fakes::sensor;
use crate::system::{Engine, System, of_type};

pub async fn a_viewer_reads_and_may_not_start(engine: Engine) {
    let system = System::start(engine).await;
    let (user, viewer) = (system.operator(), system.user("default", Role::Viewer, &[]));
    system.register("default", sensor("a.t")).await;
    let id = user.start_type("temperature").await;
    viewer.test(&id).await.expect("may read");
    assert!(viewer.tests(proto::ListTestsRequest::default()).await.contains(&id));
    assert_eq!(viewer.start(of_type("temperature")).await.expect_err("may not").code(), Code::Forbidden);
    assert_eq!(viewer.cancel(&id).await.expect_err("may not").code(), Code::Forbidden);
}

pub async fn tests_and_readings_of_another_tenant_are_not_seen(engine: Engine) {
    let system = System::start(engine).await;
    let (user, other) = (system.operator(), system.user("acme", Role::Admin, &[]));
    // the same id in both
    system.register("default", sensor("a.t")).await;
    system.register("acme", sensor("a.t")).await;
    let id = user.start_type("temperature").await;
    user.reaches(&id, TestState::Running).await;
    system.telemetry.add("acme", "a.t", system.clock.now_nanos() + 1, 99.0);
    system.feed(&user, &id, "a.t", 30).await;
    let test = user.reaches(&id, TestState::Done).await;
    assert_eq!((test.result(), test.sensors[0].readings), (TestResult::Passed, 30), "{test:?}");
    assert_eq!(other.test(&id).await.expect_err("hidden").code(), Code::NotFound);
    assert_eq!(other.cancel(&id).await.expect_err("hidden").code(), Code::NotFound);
    let of = proto::ListTestsRequest { sensor_id: "a.t".into(), ..Default::default() };
    assert!(other.tests(of).await.is_empty());
}

pub async fn a_user_narrowed_to_a_site_sees_that_site_only(engine: Engine) {
    let system = System::start(engine).await;
    let (user, north) = (system.operator(), system.user("default", Role::Operator, &["north"]));
    let at = |id: &str, site: &str| devices::Sensor { site_id: site.into(), ..sensor(id) };
    system.register("default", at("n.t", "north")).await;
    system.register("default", at("s.t", "south")).await;
    let ids = |test: &proto::Test| test.sensors.iter().map(|s| s.sensor_id.clone()).collect::<Vec<_>>();

    let own = north.start(of_type("temperature")).await.expect("started");
    assert_eq!((ids(&own), own.site_id.as_str()), (vec!["n.t".to_owned()], "north"));
    let named = proto::StartTestRequest { sensor_ids: vec!["s.t".into()], ..Default::default() };
    assert_eq!(north.start(named).await.expect_err("hidden").code(), Code::NotFound);

    let both = user.start(of_type("temperature")).await.expect("started");
    user.reaches(&both.test_id, TestState::Running).await;
    system.clock.advance(std::time::Duration::from_secs(1));
    system.read("s.t", 99.0);
    system.read("n.t", 20.0);
    let test = loop {
        let test = user.test(&both.test_id).await.expect("test");
        if test.result() == TestResult::Failed && test.sensors[0].readings > 0 {
            break test;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(ids(&test), ["n.t", "s.t"]);
    let part = north.test(&both.test_id).await.expect("its part");
    assert_eq!((ids(&part), part.result()), (vec!["n.t".to_owned()], TestResult::Unspecified), "{}", part.summary);
    assert!(!part.summary.contains("s.t"), "{}", part.summary);
    assert_eq!(north.cancel(&both.test_id).await.expect_err("not all its own").code(), Code::Forbidden);

    let site = proto::StartTestRequest { site_id: "south".into(), ..of_type("temperature") };
    let south = user.start(site).await.expect("started");
    assert_eq!(ids(&south), ["s.t"]);
    assert_eq!(north.test(&south.test_id).await.expect_err("hidden").code(), Code::NotFound);
    let hidden = proto::ListTestsRequest { sensor_id: "s.t".into(), ..Default::default() };
    assert!(north.tests(hidden).await.is_empty());
    let nothing = north.start(of_type("co2")).await.expect("an answer");
    assert_eq!(north.test(&nothing.test_id).await.expect("its own").result(), TestResult::NoSensor);
    assert_eq!(nothing.site_id, "north");
}

pub async fn tests_are_listed_the_newest_first_in_pages(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    system.register("default", sensor("a.t")).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        system.clock.advance(std::time::Duration::from_secs(1));
        ids.push(user.start_type("temperature").await);
    }
    ids.reverse();
    let mut request = proto::ListTestsRequest { sensor_type: "temperature".into(), page_size: 2, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = crate::system::call!(user.list_tests(request.clone())).expect("a page");
        assert!(page.tests.iter().all(|test| test.sensors.is_empty()));
        seen.extend(page.tests.into_iter().map(|test| test.test_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, ids);
    user.cancel(&ids[1]).await.expect("cancelled");
    let cancelled = proto::ListTestsRequest { state: TestState::Cancelled.into(), ..Default::default() };
    assert_eq!(user.tests(cancelled).await, [ids[1].clone()]);
    let device = proto::ListTestsRequest { device_id: "a".into(), ..Default::default() };
    assert_eq!(user.tests(device).await, ids);
}
