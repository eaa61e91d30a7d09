//! What other clients of the edge notice of somebody who abuses HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sensormesh_testkit::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, frame, header,
};
use sensormesh_testkit::system::{Shape, System};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::busy;
use super::latency::{Calls, middle, took};
use crate::builder;

/// Abusers at once, and how often each of them begins anew: the edge cuts most of them within that.
const ABUSERS: usize = 2;
const EVERY: Duration = Duration::from_millis(100);
/// What the edge may hold more than before, while and after it was abused, MiB.
const MEMORY: u64 = 64;
/// Frames that each has in stock.
const FRAMES: u32 = 1_000;

/// What an abuser says: the nth frames.
type Says = fn(u32) -> Vec<u8>;

/// The headers of a request for something that needs a token.
fn request() -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/v1/devices"), (":authority", "localhost")];
    fields.map(|(name, value)| header(name, value)).concat()
}

fn opens(n: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, 2 * n + 1, block)
}

/// The first frame begins a request, whose rest are these.
fn then(n: u32, flags: u8, rest: Vec<u8>) -> Vec<u8> {
    if n == 0 { frame(HEADERS, flags, 1, &request()) } else { rest }
}

const ABUSES: [(&str, Says); 10] = [
    ("F50 rapid reset", |n| [opens(n, 0, &request()), frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes())].concat()),
    ("F51 requests that must be reset", |n| opens(n, END_STREAM, &[request(), header("te", "gzip")].concat())),
    ("F52 headers without an end", |n| {
        then(n, 0, frame(CONTINUATION, 0, 1, &header(&format!("x-{n}"), &"v".repeat(100))))
    }),
    ("F52 references to a large header", |n| {
        let mut block = request();
        // 3,900 bytes in the table, then a thousand references of one byte to them
        block.extend([0x40, 1, b'x', 127, 0xbd, 0x1d]);
        block.extend(std::iter::repeat_n(b'v', 3_900));
        block.extend(std::iter::repeat_n(0x80 | 62, 1_000));
        opens(n, END_STREAM, &block)
    }),
    ("F53 SETTINGS", |_| frame(SETTINGS, 0, 0, &[])),
    ("F53 PING", |_| frame(PING, 0, 0, &[0; 8])),
    ("F53 WINDOW_UPDATE", |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
    ("F53 empty DATA", |n| then(n, END_HEADERS, frame(DATA, 0, 1, &[]))),
    ("F54 no window", |n| {
        // nothing of an answer's body fits
        let settings = if n == 0 { frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]) } else { Vec::new() };
        [settings, opens(n, END_STREAM, &request())].concat()
    }),
    ("F55 silence", |_| Vec::new()),
];

/// Abuses the edge until it is told to stop; counts how often it began.
async fn abuse(edge: SocketAddr, stock: Arc<[Vec<u8>]>, stop: Arc<AtomicBool>, begun: Arc<AtomicU64>) {
    let mut pace = interval(EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::SeqCst) {
        pace.tick().await;
        let Ok(stream) = TcpStream::connect(edge).await else { continue };
        begun.fetch_add(1, Ordering::SeqCst);
        if stock[1].is_empty() {
            // held until the edge cuts it, beside the next
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(8)).await;
                drop(stream);
            });
        } else if let Ok(raw) = Raw::begin(stream).await {
            raw.flood(FRAMES, |n| stock[n as usize].clone()).await;
        }
    }
}

/// The most memory that a process has had, MiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the most");
    line.split_whitespace().nth(1).expect("kB").parse::<u64>().expect("a number") / 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: compares times, alone on the machine"]
async fn f50_to_f55_others_are_served_while_somebody_abuses_the_edge() {
    let calls = Calls { number: 400, every: None };
    // of a user, and of a stranger's requests that are refused
    let unlimited = builder(Shape::Split)
        .setting("SENSORMESH_EDGE__USER_RATE__PER_SECOND", "0")
        .setting("SENSORMESH_EDGE__ADDRESS_RATE__PER_SECOND", "0");
    let system: System = unlimited.start().await.expect("starts");
    let admin = system.admin().await.expect("token");
    took(&system, &admin, &calls).await;
    let edge = system.service_pid("edge").expect("pid");
    let memory = peak(edge);
    let (mut table, mut worse) = (String::new(), Vec::new());
    for (what, says) in ABUSES {
        let (mut ratios, mut middles) = (Vec::new(), Vec::new());
        let begun = Arc::<AtomicU64>::default();
        // made before anything is measured, on the same machine
        let stock: Arc<[Vec<u8>]> = (0..FRAMES).map(says).collect();
        for _ in 0..5 {
            let before = took(&system, &admin, &calls).await;
            let stop = Arc::<AtomicBool>::default();
            let abusers = (0..ABUSERS)
                .map(|_| (Arc::clone(&stock), Arc::clone(&stop), Arc::clone(&begun)))
                .map(|(stock, stop, begun)| tokio::spawn(abuse(system.address("edge"), stock, stop, begun)));
            let abusers: Vec<_> = abusers.collect();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (began, from) = (Instant::now(), begun.load(Ordering::SeqCst));
            let beside = took(&system, &admin, &calls).await;
            // at least as many as it takes to matter
            while begun.load(Ordering::SeqCst) == from && began.elapsed() < Duration::from_secs(5) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            stop.store(true, Ordering::SeqCst);
            for one in abusers {
                one.await.expect("abused");
            }
            let ratio = |part: f64| beside.part(part).as_secs_f64() / before.part(part).as_secs_f64();
            ratios.push(ratio(0.99));
            middles.push(ratio(0.5));
        }
        let (p50, p99) = (middle(middles), middle(ratios));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (busy, more) = (busy(edge, Duration::from_secs(1)).await, peak(edge) - memory);
        let row = format!("| {what} | {p50:.2} | {p99:.2} | {} | {busy:.2} | {more} |", begun.load(Ordering::SeqCst));
        table += &format!("{row}\n");
        if p99 > 2.0 || busy > 0.1 || more > MEMORY {
            worse.push(row);
        }
    }
    eprintln!(
        "| abuse | p50 of others, times | p99, times | connections | of a processor after 1 s | MiB more |\n|---|---|---|---|---|---|\n{table}"
    );
    assert!(worse.is_empty(), "too slow for others, too busy afterwards, or too much memory: {worse:#?}");
}
