//! Each fault, seen from both sides.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::*;

/// Answers every byte with the same, and says how a connection ended.
async fn echo() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (ended, ends) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let ended = ended.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 4096];
                let end = loop {
                    match stream.read(&mut bytes).await {
                        Ok(0) => break Ok(()),
                        Ok(count) => {
                            if stream.write_all(&bytes[..count]).await.is_err() {
                                break Ok(());
                            }
                        }
                        Err(error) => break Err(error),
                    }
                };
                let _ = ended.send(end);
            });
        }
    });
    (address, ends)
}

async fn say(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes()).await?;
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn connected(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address).await.expect("connected")
}

const SILENCE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn without_a_fault_it_is_not_there() {
    let (upstream, mut ends) = echo().await;
    let proxy = Proxy::to(upstream).await.expect("a proxy");
    let mut stream = connected(&proxy).await;
    assert_eq!(say(&mut stream, "hello").await.expect("an answer"), "hello");
    stream.shutdown().await.expect("half closed");
    assert_eq!(stream.read(&mut [0; 8]).await.expect("a polite end"), 0);
    assert!(ends.recv().await.expect("an end").is_ok());
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
async fn a_delay_delays_and_does_not_narrow() {
    let (upstream, _ends) = echo().await;
    let proxy = Proxy::to(upstream).await.expect("a proxy");
    let mut stream = connected(&proxy).await;
    proxy.set(Faults::slow(Duration::from_millis(100), Duration::from_millis(20)));
    let began = Instant::now();
    let mut sent = 0_usize;
    // one answer for ten sends: they travel together
    for part in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
        stream.write_all(part.as_bytes()).await.expect("sent");
        sent += part.len();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut bytes = vec![0; sent];
    stream.read_exact(&mut bytes).await.expect("answers");
    assert_eq!(bytes, b"abcdefghij");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(200), "{took:?} there and back");
    assert!(took < Duration::from_millis(1500), "{took:?}: one after the other they would take two seconds");
}

#[tokio::test]
async fn a_rate_is_kept_and_slices_arrive_whole() {
    let (upstream, _ends) = echo().await;
    let proxy = Proxy::to(upstream).await.expect("a proxy");
    let mut stream = connected(&proxy).await;
    proxy.set(Faults { up: Line { rate: Some(10_000), ..Line::default() }, ..Faults::default() });
    let text = "x".repeat(4_000);
    let began = Instant::now();
    assert_eq!(say(&mut stream, &text).await.expect("an answer"), text);
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    proxy.set(Faults::sliced(1));
    let text: String = ('a'..='z').cycle().take(2_000).collect();
    assert_eq!(say(&mut stream, &text).await.expect("an answer"), text);
}

#[tokio::test]
async fn a_reset_is_a_reset_on_both_sides() {
    let (upstream, mut ends) = echo().await;
    let proxy = Proxy::to(upstream).await.expect("a proxy");
    let mut stream = connected(&proxy).await;
    say(&mut stream, "hello").await.expect("an answer");
    proxy.reset();
    let error = stream.read(&mut [0; 8]).await.expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let end = ends.recv().await.expect("an end");
    assert_eq!(end.expect_err("reset, too").kind(), ErrorKind::ConnectionReset);
    say(&mut connected(&proxy).await, "again").await.expect("new connections pass");
    proxy.set(Faults::reset_after(6));
    let mut stream = connected(&proxy).await;
    stream.write_all(b"0123456789").await.expect("sent");
    let mut got = Vec::new();
    let error = stream.read_to_end(&mut got).await.expect_err("reset in the middle");
    assert_eq!((error.kind(), &got[..]), (ErrorKind::ConnectionReset, &b"012345"[..]));
    proxy.set(Faults::refusing());
    let mut stream = connected(&proxy).await;
    assert!(say(&mut stream, "x").await.is_err(), "reset when it is made");
}

#[tokio::test]
async fn a_lost_connection_is_silent_for_ever_and_new_ones_pass() {
    let (upstream, mut ends) = echo().await;
    let proxy = Proxy::to(upstream).await.expect("a proxy");
    let mut stream = connected(&proxy).await;
    say(&mut stream, "hello").await.expect("an answer");
    proxy.lose();
    assert!(timeout(SILENCE, say(&mut stream, "hello?")).await.is_err(), "nobody is told");
    drop(stream);
    assert!(timeout(SILENCE, ends.recv()).await.is_err(), "not even of the end");
    say(&mut connected(&proxy).await, "again").await.expect("new connections pass");
}

#[tokio::test]
async fn a_black_hole_takes_everything_until_it_is_healed() {
    let (upstream, _ends) = echo().await;
    let proxy = Proxy::to(upstream).await.expect("a proxy");
    let mut old = connected(&proxy).await;
    say(&mut old, "hello").await.expect("an answer");
    proxy.set(Faults::blackhole());
    let mut new = connected(&proxy).await;
    assert!(timeout(SILENCE, say(&mut old, "a")).await.is_err());
    assert!(timeout(SILENCE, say(&mut new, "b")).await.is_err());
    proxy.heal();
    assert_eq!(say(&mut old, "c").await.expect("an answer"), "c", "what was swallowed stays lost");
    assert!(timeout(SILENCE, say(&mut new, "d")).await.is_err(), "a handshake that nobody answered");
}

#[tokio::test]
async fn answers_alone_can_be_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = Proxy::to(listener.local_addr().expect("its address")).await.expect("a proxy");
    let mut near = connected(&proxy).await;
    let (mut far, _) = listener.accept().await.expect("led on");
    proxy.set(Faults::answers_lost());
    near.write_all(b"question").await.expect("sent");
    let mut bytes = [0; 8];
    far.read_exact(&mut bytes).await.expect("requests pass");
    far.write_all(b"answer").await.expect("sent");
    assert!(timeout(SILENCE, near.read(&mut bytes)).await.is_err());
}
