//! More calls than a service has time for: fewer are let in, and those are served soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use sensormesh_proto::devices::v1::DeleteDeviceRequest;
use sensormesh_proto::mesh::v1::GetStatusRequest;
use sensormesh_proto::mesh::v1::mesh_service_client::MeshServiceClient;
use tokio::time::Instant;
use tonic_types::StatusExt as _;

use crate::server::world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_calls_that_slow_each_other_down_are_let_in_as_few_as_do_not() {
    const SENDERS: u32 = 128;
    // up to 1.1 s for a place, and what it takes with those that run
    const LONGEST: Duration = Duration::from_secs(4);
    let world = World::with(|config| {
        config.limits.calls = SENDERS;
        config.limits.calls_per_method = SENDERS;
        config.limits.calls_floor = 4;
    })
    .await;
    let client = world.devices("adapters");
    for _ in 0..20 {
        client.clone().get_device(device("crowded")).await.expect("an answer");
    }
    // all of them at once take 1.3 s each
    let stop = Arc::<AtomicBool>::default();
    let senders = (0..SENDERS).map(|_| {
        let (mut client, stop) = (client.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let (mut answered, mut refused) = (Vec::new(), 0_u32);
            while !stop.load(Ordering::SeqCst) {
                let began = Instant::now();
                match client.get_device(device("crowded")).await {
                    Ok(answer) => {
                        let device = answer.into_inner().device.expect("a device");
                        let beside: u32 = device.model.parse().expect("how many ran");
                        answered.push((Instant::now(), Duration::from_millis(10) * beside));
                        assert!(began.elapsed() < LONGEST, "{:?}", began.elapsed());
                    }
                    Err(status) => {
                        assert!(status.get_error_details().retry_info().is_some(), "{status}");
                        refused += 1;
                    }
                }
            }
            (answered, refused)
        })
    });
    let senders: Vec<_> = senders.collect();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let settled = Instant::now();
    for _ in 0..5 {
        // who has a place is told that it may not, and who has none that there is none
        let refused = client.clone().delete_device(DeleteDeviceRequest::default()).await.expect_err("no user");
        assert_eq!(refused.code(), tonic::Code::PermissionDenied, "other methods find a place");
        let status = MeshServiceClient::new(world.channel("operator")).get_status(GetStatusRequest {}).await;
        status.expect("administration does");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::SeqCst);
    let (mut times, mut refused) = (Vec::new(), 0);
    for sender in senders {
        let (answered, no) = sender.await.expect("sent");
        times.extend(answered.into_iter().filter(|(at, _)| *at > settled).map(|(_, took)| took));
        refused += no;
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    eprintln!(
        "{} answered since it had settled, half of them ran for up to {median:?}; {refused} refused",
        times.len()
    );
    assert!(refused > 0);
    assert!(median < Duration::from_millis(300), "{median:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let all = join_all((0..SENDERS).map(|_| {
        let mut client = client.clone();
        async move { client.get_device(device("ok")).await }
    }));
    assert!(all.await.iter().all(Result::is_ok), "all find a place again");
}
