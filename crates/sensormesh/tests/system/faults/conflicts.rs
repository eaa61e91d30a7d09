//! A database that takes transactions back because they met others.

use std::time::Duration;

use sensormesh_testkit::postgres;
use sensormesh_testkit::system::{Shape, eventually};
use serde_json::json;

use super::{acknowledged, becomes_healthy, stored};
use crate::builder;

/// Devices that are created.
const DEVICES: usize = 90;

/// From now on one commit of six that inserts anything into a table of these services fails, as a deadlock or as a
/// serialization failure.
const STORM: &str = "
CREATE SEQUENCE public.storms;
GRANT USAGE ON SEQUENCE public.storms TO PUBLIC;
CREATE FUNCTION public.storm() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF random() < 1.0 / 6 THEN
    RAISE EXCEPTION 'storm %', nextval('public.storms') USING ERRCODE = (ARRAY['40001', '40P01'])[1 + random()::int];
  END IF;
  RETURN NULL;
END $$;
DO $$ DECLARE name record; BEGIN
  FOR name IN SELECT schemaname s, tablename t FROM pg_tables
    WHERE tablename IN ('device', 'batch') LOOP
    EXECUTE format('CREATE CONSTRAINT TRIGGER storm AFTER INSERT ON %I.%I DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW EXECUTE FUNCTION public.storm()', name.s, name.t);
  END LOOP;
END $$;";

/// Refused where there were at most three; a sequence is not taken back.
const OVER: &str = "DO $$ BEGIN ASSERT (SELECT last_value FROM public.storms) > 3; END $$;
DROP FUNCTION public.storm CASCADE;";

#[tokio::test(flavor = "multi_thread")]
async fn f19_what_the_database_takes_back_is_done_again_and_nothing_is_there_twice() {
    let Some(url) = postgres::url_for_new_database() else { return };
    let system = builder(Shape::Split).arg("--database-url").arg(&url).start().await.expect("starts");
    becomes_healthy(&system).await;
    let admin = system.admin().await.expect("token");
    postgres::run(&url, STORM).expect("a storm");
    let mut at_once = 0;
    for number in 0..DEVICES {
        let device = json!({"deviceId": format!("storm-{number}"), "name": "A device"});
        let mut tries = 0;
        let created = eventually(Duration::from_secs(20), || {
            tries += 1;
            let request = system.http().post(system.url(&format!("/v1/devices?requestId=device-{number}")));
            let request = request.bearer_auth(&admin).json(&device);
            async move {
                let answer = request.send().await.expect("answered");
                let status = answer.status().as_u16();
                assert!(matches!(status, 200 | 409 | 503), "{status} {:?}", answer.text().await);
                (status == 200).then_some(())
            }
        });
        assert!(created.await.is_some(), "device {number}");
        at_once += usize::from(tries == 1);
        assert!(acknowledged(&system, &admin, i64::try_from(number).expect("small")).await);
    }
    // three times the same one commit of six: one of two hundred
    assert!(at_once >= DEVICES - 5, "only {at_once} callers of {DEVICES} noticed nothing");
    postgres::run(&url, OVER).expect("there was one, and it is over");
    let (_, list) = system.get("/v1/devices?pageSize=1000", &admin).await.expect("devices");
    let ids = list["devices"].as_array().into_iter().flatten().filter_map(|device| device["deviceId"].as_str());
    assert_eq!(ids.filter(|id| id.starts_with("storm-")).count(), DEVICES, "each once: {list}");
    let values: Vec<i64> = (0..i64::try_from(DEVICES).expect("small")).collect();
    assert_eq!(stored(&system, &admin).await, values);
}
