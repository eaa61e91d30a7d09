//! What RFC 9113 asks of a server, asked of a port between services.

use sensormesh_testkit::http2::cases;
use tokio::net::TcpStream;

use super::raw::{open_world, secure};
use crate::server::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f49_a_port_between_services_keeps_to_the_rules_of_http2() {
    let (open, closed) = (open_world().await, World::start().await);
    let mut wrong = Vec::new();
    for case in cases::all() {
        let plain = TcpStream::connect(open.address()).await.expect("connected");
        let played = [case.play(plain).await, case.play(secure(&closed).await).await];
        for (played, port) in played.into_iter().zip(["plaintext", "TLS"]) {
            let (right, heard) = played.expect("begun");
            if !right {
                wrong.push(format!("{port}, {} {}: {:?}, and heard {heard:?}", case.section, case.what, case.right));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
