//! A clock that is wrong.

use std::time::Duration;

use sensormesh_mesh::client::Resilience;
use sensormesh_mesh::{Config, LocalRegistry, Mesh, Transport};
use sensormesh_types::Clock;

use crate::client::fake::*;
use crate::server::world::*;

const HOUR: i64 = 3_600_000_000;
const YEAR: i64 = 366 * 24 * HOUR;

/// What a clock does that is set by hand: an hour, ten years, back to 1970, and right again.
const JUMPS: [i64; 5] = [HOUR, -2 * HOUR, 10 * YEAR, -70 * YEAR, 60 * YEAR + HOUR];

#[tokio::test]
async fn f38_calls_deadlines_and_breakers_do_not_care_what_time_of_day_it_is() {
    let clock = Clock::ahead(0);
    let world = World::at(&LocalRegistry::new(), clock.clone(), |_| {}).await;
    world.mesh.verifier().feeds_itself();
    let mut open = world.devices("adapters").watch_devices(watch("")).await.expect("a stream").into_inner();
    for jump in JUMPS {
        clock.shift(jump);
        world.devices("adapters").get_device(device("ok")).await.expect("an answer");
        for _ in 0..5 {
            open.message().await.expect("a message").expect("the stream goes on");
        }
        let mut late = tonic::Request::new(device("slow"));
        late.set_timeout(Duration::from_millis(100));
        let late = world.devices_here("adapters").get_device(late).await.expect_err("late");
        assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
    }
}

#[tokio::test]
async fn f38_an_open_breaker_closes_after_its_pause_whatever_the_clock_says() {
    let fake = Fake::well();
    let address = refusing().await;
    let clock = Clock::ahead(0);
    let config = Config {
        transport: Transport::Plaintext,
        dev: true,
        endpoints: [("devices".to_owned(), vec![address.to_string()])].into(),
        resilience: Resilience { breaker_pause_max: Duration::from_millis(200), ..quick() },
        ..Config::default()
    };
    let mesh = Mesh::new(config, "edge", clock.clone()).expect("a mesh");
    for _ in 0..10 {
        let _ = get_device(&mesh).await;
    }
    clock.shift(-10 * YEAR);
    let _running = fake.listen_on(address).await;
    eventually("a trial closes the breaker", || async { get_device(&mesh).await.is_ok() }).await;
}
