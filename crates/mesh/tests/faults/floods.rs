//! Connections by the hundred that say nothing, or stop in the middle of a handshake.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::server::world::*;

/// The first part of a handshake: a whole greeting, as a client sends it, and nothing behind it.
async fn greeting(world: &World) -> Vec<u8> {
    let config = client_config(&world.config.pki_dir, "adapters");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let mut client = rustls::ClientConnection::new(config, name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a greeting");
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f55_half_a_handshake_keeps_nobody_out() {
    const PLACES: u32 = 4;
    let world = World::with(|config| {
        config.limits.handshakes = PLACES;
        config.limits.handshake_timeout = Duration::from_secs(5);
    })
    .await;
    let greeting = greeting(&world).await;
    // more than there are places: those that say nothing, those that say half, those that say all and then nothing
    let mut held = Vec::new();
    for part in [0, greeting.len() / 2, greeting.len()] {
        for _ in 0..PLACES + 1 {
            let mut stream = TcpStream::connect(world.address()).await.expect("connected");
            stream.write_all(&greeting[..part]).await.expect("sent");
            held.push(stream);
        }
    }
    let call = async { world.devices("adapters").get_device(device("ok")).await };
    timeout(Duration::from_secs(4), call).await.expect("before theirs are over").expect("others are served");
    for mut stream in held {
        let mut rest = Vec::new();
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.expect("cut in time");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "fault: thousands of connections"]
async fn f55_thousands_of_silent_connections_are_cut_and_keep_nobody_out() {
    const SILENT: usize = 1_900;
    let world = World::start().await;
    let greeting = greeting(&world).await;
    let mut held = Vec::new();
    for n in 0..SILENT {
        let mut stream = TcpStream::connect(world.address()).await.expect("connected");
        if n % 2 == 0 {
            stream.write_all(&greeting[..greeting.len() / 2]).await.expect("sent");
        }
        held.push(stream);
    }
    let last = Instant::now();
    for _ in 0..20 {
        let call = async { world.devices("adapters").get_device(device("ok")).await };
        timeout(Duration::from_secs(4), call).await.expect("in time").expect("others are served");
    }
    for mut stream in held {
        let mut rest = Vec::new();
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.expect("cut within 5 s");
    }
    assert!(last.elapsed() < Duration::from_secs(6), "{:?} after the last of them came", last.elapsed());
}
