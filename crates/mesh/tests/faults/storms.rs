//! Everybody at once: cancelling, and coming back.

use std::time::Duration;

use sensormesh_mesh::client::Resilience;
use sensormesh_mesh::{Config, Mesh};
use sensormesh_testkit::proxy::{Faults, Proxy};
use sensormesh_types::Clock;
use tokio::time::Instant;

use crate::client::fake::*;
use crate::server::world::{World, device, until, watch, whole};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "fault: 20,000 streams"]
async fn f56_twenty_thousand_streams_given_up_leave_bystanders_alone() {
    const ROUNDS: usize = 400;
    const MESSAGES: usize = 400;
    let fake = Fake::new(|_| async { flowing(MESSAGES) });
    let running = fake.listen().await;
    // as it is shipped, and all on one connection
    for streams_per_connection in [64, 200] {
        let mesh = edge(&[("devices", vec![running.address])], Resilience { streams_per_connection, ..plain() });
        let mut bystanders = Vec::new();
        for _ in 0..8 {
            let mut bystander = watch_devices(&mesh).await.expect("a stream");
            bystander.message().await.expect("a message").expect("the first");
            bystanders.push(bystander);
        }
        for round in 0..ROUNDS {
            let opened = futures::future::join_all((0..50).map(|_| watch_devices(&mesh))).await;
            for (n, stream) in opened.into_iter().enumerate() {
                drop(stream.unwrap_or_else(|e| panic!("stream {n} of round {round}: {e}")));
            }
        }
        for mut bystander in bystanders {
            let mut left = 0;
            while bystander.message().await.expect("the bystander lives").is_some() {
                left += 1;
            }
            assert_eq!(left, MESSAGES - 1);
        }
    }
}

/// So many services, each with a connection of its own to the same server through the same proxy.
async fn crowd(world: &World, proxy: &Proxy, count: usize) -> Vec<Mesh> {
    let config = Config {
        pki_dir: world.config.pki_dir.clone(),
        endpoints: [("devices".to_owned(), vec![proxy.address.to_string()])].into(),
        resilience: Resilience { connect_timeout: Duration::from_secs(10), ..Resilience::default() },
        ..Config::default()
    };
    let meshes: Vec<Mesh> =
        (0..count).map(|_| Mesh::new(config.clone(), "adapters", Clock::system()).expect("a mesh")).collect();
    for part in meshes.chunks(50) {
        for answer in futures::future::join_all(part.iter().map(get_device)).await {
            answer.expect("an answer");
        }
    }
    meshes
}

async fn all_come_back(count: usize) {
    let world = World::with(|config| config.limits.connection_age = Duration::from_secs(3600)).await;
    let proxy = Proxy::to(world.address()).await.expect("a proxy");
    let meshes = crowd(&world, &proxy, count).await;
    let before = proxy.accepted();
    proxy.set(Faults::refusing());
    proxy.reset();
    // everybody notices, and everybody wants something at once
    let tries = futures::future::join_all(meshes.iter().map(get_device)).await;
    assert!(tries.iter().all(Result::is_err));
    let refused = proxy.accepted() - before;
    assert!(refused <= count * 8, "{refused} connections for {count} clients while nobody was there");
    proxy.heal();
    let began = Instant::now();
    let back = meshes.iter().map(|mesh| async move {
        let mut tries = 0_usize;
        while get_device(mesh).await.is_err() {
            tries += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tries
    });
    let back = futures::future::join_all(back);
    tokio::time::timeout(Duration::from_secs(30), back).await.expect("everybody is back within 30 s");
    eprintln!("{count} clients are back after {:?}, {} connections", began.elapsed(), proxy.accepted() - before);
    // and it stays so
    for answer in futures::future::join_all(meshes.iter().map(get_device)).await {
        answer.expect("no second collapse");
    }
    assert_eq!(proxy.open(), count, "one connection each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f28_everybody_who_lost_the_server_comes_back() {
    all_come_back(60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "fault: 2,000 clients"]
async fn f28_two_thousand_who_lost_the_server_come_back() {
    all_come_back(1_990).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f75_a_stop_with_a_thousand_streams_tells_each_of_them() {
    let world = World::start().await;
    let limit = world.config.limits.drain() + Duration::from_secs(2);
    let mut streams = Vec::new();
    for _ in 0..5 {
        let client = world.devices("adapters");
        for _ in 0..200 {
            let stream = client.clone().watch_devices(watch("calm")).await.expect("a stream").into_inner();
            streams.push(tokio::spawn(whole(stream)));
        }
    }
    let _silent = tokio::net::TcpStream::connect(world.address()).await.expect("connected");
    let stuck = {
        let mut client = world.devices("adapters");
        tokio::spawn(async move { client.get_device(device("slow")).await })
    };
    until("the stuck call", || async { world.seen.calls.load(std::sync::atomic::Ordering::SeqCst) > 0 }).await;
    let began = Instant::now();
    world.shutdown.request();
    for (n, stream) in streams.into_iter().enumerate() {
        let (_, ended) = stream.await.expect("read to its end");
        let status = ended.expect_err("told to go elsewhere");
        let resume = status.code() == tonic::Code::Unavailable && status.message().contains("resume");
        assert!(resume, "stream {n}: {status}");
    }
    world.running.stopped().await;
    assert!(began.elapsed() < limit, "it took {:?}", began.elapsed());
    assert!(stuck.await.expect("an outcome").is_err());
}
