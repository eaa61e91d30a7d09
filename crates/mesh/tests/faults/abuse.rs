//! HTTP/2 as an attacker speaks it. In each case the connection is cut, or what it costs is bounded, and somebody else is
//! served meanwhile.

use sensormesh_testkit::http2::*;

use super::raw::{ask, call, connect, open_world};
use crate::server::world::World;

/// Somebody else, on a connection of its own, who is served before, meanwhile and after.
struct Bystander {
    world: World,
}

impl Bystander {
    async fn new() -> Self {
        let bystander = Self { world: open_world().await };
        bystander.is_served().await;
        bystander
    }

    /// A whole call and its answer; that it is refused for want of an identity is an answer.
    async fn is_served(&self) {
        let call = frame(HEADERS, END_HEADERS | END_STREAM, 1, &call());
        let heard = ask(connect(&self.world).await, &call, HEADERS).await;
        assert!(heard.count(HEADERS) >= 1, "{heard:?}");
        assert!(heard.goaway.is_none_or(|code| code == 0), "{heard:?}");
    }
}

/// It did not take all of it, or said why it took no more: what the kernel holds is sent as well. A connection that is closed while
/// more arrives is reset, and what it said last may be lost.
fn assert_cut(sent: u32, most: u32, heard: &Heard) {
    let told = heard.goaway.is_some_and(|code| code != 0);
    assert!(heard.closed && (told || (sent < most && heard.goaway.is_none())), "{sent} were taken: {heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f50_a_rapid_reset_is_cut() {
    let beside = Bystander::new().await;
    let reset = |n: u32| {
        let stream = 2 * n + 1;
        [frame(HEADERS, END_HEADERS, stream, &call()), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    let (sent, heard) = connect(&beside.world).await.flood(100_000, reset).await;
    assert_cut(sent, 100_000, &heard);
    assert_eq!(beside.world.seen.calls.load(std::sync::atomic::Ordering::SeqCst), 0, "none of them was worked on");
    beside.is_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f51_a_peer_that_makes_the_server_reset_is_cut() {
    let beside = Bystander::new().await;
    // `te` may say `trailers` only: an error of the stream, which the server must reset
    let block = [call(), header("te", "gzip")].concat();
    let wrong = |n: u32| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block);
    let (sent, heard) = connect(&beside.world).await.flood(20_000, wrong).await;
    assert_cut(sent, 20_000, &heard);
    assert!(heard.count(RST_STREAM) <= 1024, "{heard:?}");
    beside.is_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f52_headers_without_an_end_are_cut() {
    let beside = Bystander::new().await;
    let more = |n: u32| match n {
        0 => frame(HEADERS, 0, 1, &call()),
        _ => frame(CONTINUATION, 0, 1, &header(&format!("x-{n}"), &"v".repeat(100))),
    };
    let (sent, heard) = connect(&beside.world).await.flood(50_000, more).await;
    assert_cut(sent, 50_000, &heard);
    let (sent, heard) = connect(&beside.world)
        .await
        .flood(50_000, |n| if n == 0 { frame(HEADERS, 0, 1, &call()) } else { frame(CONTINUATION, 0, 1, &[]) })
        .await;
    assert_cut(sent, 50_000, &heard);
    beside.is_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f52_a_bomb_of_references_is_refused() {
    let beside = Bystander::new().await;
    // one entry of 4,000 bytes in the table, then a thousand references of one byte to it: 4 MB of headers
    let mut block = call();
    block.push(0x40);
    block.extend([1, b'x']);
    // the length 3,900 of a string: seven bits, then the rest in groups of seven
    block.extend([127, 0xbd, 0x1d]);
    block.extend(std::iter::repeat_n(b'v', 3_900));
    block.extend(std::iter::repeat_n(0x80 | 62, 1_000));
    let (_, heard) =
        connect(&beside.world).await.flood(1, |_| frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    let answered = heard.count(HEADERS) + heard.count(RST_STREAM);
    assert!(answered > 0 || heard.goaway.is_some_and(|code| code != 0), "{heard:?}");
    assert_eq!(beside.world.seen.calls.load(std::sync::atomic::Ordering::SeqCst), 0, "it was not worked on");
    // the size of the table up and down with each request
    let churn = |n: u32| {
        let block = [vec![0x3f, 0xe1, 0x1f, 0x20, 0x3f, 0xe1, 0x1f], call()].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block)
    };
    connect(&beside.world).await.flood(2_000, churn).await;
    beside.is_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f53_who_asks_and_does_not_listen_is_not_listened_to() {
    let beside = Bystander::new().await;
    let most = 64 << 20;
    for (what, asked) in [("SETTINGS", frame(SETTINGS, 0, 0, &[])), ("PING", frame(PING, 0, 0, &[0; 8]))] {
        // each asks for an answer; answers that nobody reads are not piled up: the server stops reading, or cuts
        let taken = connect(&beside.world).await.flood_deaf(most, &asked).await;
        assert!(taken < most, "{taken} bytes of {what} were taken");
        beside.is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f53_floods_of_frames_that_carry_nothing_are_cut_although_their_answers_are_read() {
    let beside = Bystander::new().await;
    let floods: [(&str, Vec<u8>); 6] = [
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("the answer to a PING", frame(PING, ACK, 0, &[0; 8])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        ("a frame nobody knows", frame(0x42, 0, 0, &[0; 8])),
    ];
    for (what, flood) in floods {
        let raw = connect(&beside.world).await;
        let flooding = tokio::spawn(async move { raw.flood(1_000_000, move |_| flood.clone()).await });
        for _ in 0..5 {
            beside.is_served().await;
        }
        let (sent, heard) = flooding.await.expect("flooded");
        eprintln!("{what}: {sent} sent, {heard:?}");
        assert_cut(sent, 1_000_000, &heard);
        beside.is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f53_data_that_is_empty_or_tiny_is_cut() {
    let beside = Bystander::new().await;
    let empty = |n: u32| match n {
        0 => frame(HEADERS, END_HEADERS, 1, &call()),
        _ => frame(DATA, 0, 1, &[]),
    };
    let (sent, heard) = connect(&beside.world).await.flood(100_000, empty).await;
    assert_cut(sent, 100_000, &heard);
    let tiny = |n: u32| match n {
        0 => frame(HEADERS, END_HEADERS, 1, &call()),
        _ => frame(DATA, 0, 1, &[0]),
    };
    let (sent, heard) = connect(&beside.world).await.flood(1_000_000, tiny).await;
    assert_cut(sent, 1_000_000, &heard);
    beside.is_served().await;
}
