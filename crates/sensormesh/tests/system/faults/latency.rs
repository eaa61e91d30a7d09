//! What calls through the edge take while something else is broken, or somebody asks for too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use sensormesh_testkit::system::{Shape, System};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use super::abuse::connection;
use super::becomes_healthy;
use crate::builder;

/// Calls of a service, one after the other; one every so often, or as fast as they are answered.
pub struct Calls {
    pub number: usize,
    pub every: Option<Duration>,
}

/// How long calls took, in order of that.
pub struct Took(Vec<Duration>);

impl Took {
    pub fn part(&self, part: f64) -> Duration {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        // some thousands
        let at = (self.0.len() as f64 * part) as usize;
        self.0[at.min(self.0.len() - 1)]
    }
}

pub async fn took(system: &System, token: &str, calls: &Calls) -> Took {
    let mut pace = interval(calls.every.unwrap_or(Duration::from_nanos(1)));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut times = Vec::with_capacity(calls.number);
    for _ in 0..calls.number {
        if calls.every.is_some() {
            pace.tick().await;
        }
        let began = Instant::now();
        let (status, answer) = system.get("/v1/devices?pageSize=1", token).await.expect("an answer");
        times.push(began.elapsed());
        assert_eq!(status, 200, "{answer}");
    }
    times.sort_unstable();
    Took(times)
}

/// The middle one.
pub fn middle(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    eprintln!("{ratios:.2?}");
    ratios[ratios.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: compares times, alone on the machine"]
async fn f34_while_one_service_hangs_calls_of_others_are_as_fast_through_the_edge() {
    const PEOPLE: u32 = 80;
    let calls = Calls { number: 2_000, every: None };
    let unlimited = builder(Shape::Split).setting("SENSORMESH_EDGE__USER_RATE__PER_SECOND", "0");
    let system = Arc::new(unlimited.start().await.expect("starts"));
    let admin = system.admin().await.expect("token");
    took(&system, &admin, &Calls { number: 500, every: None }).await;
    let mut ratios = Vec::new();
    for _ in 0..5 {
        let before = took(&system, &admin, &calls).await.part(0.99);
        system.freeze_service("rooms", true).expect("frozen");
        // people who look at rooms, and look again, each in a rhythm of its own; the edge takes 100 connections of one address
        let stop = Arc::<AtomicBool>::default();
        let waiting = (0..PEOPLE).map(|n| {
            let (system, admin, stop) = (Arc::clone(&system), admin.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(1) * n / PEOPLE).await;
                while !stop.load(Ordering::SeqCst) {
                    let (status, answer) = system.get("/v1/rooms", &admin).await.expect("an answer");
                    assert!(matches!(status, 429 | 503 | 504), "{status}: {answer}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            })
        });
        let waiting: Vec<_> = waiting.collect();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let beside = took(&system, &admin, &calls).await.part(0.99);
        stop.store(true, Ordering::SeqCst);
        for one in waiting {
            one.await.expect("waited");
        }
        system.freeze_service("rooms", false).expect("thawed");
        becomes_healthy(&system).await;
        eprintln!("p99 {before:?} before, {beside:?} beside the one that hangs");
        ratios.push(beside.as_secs_f64() / before.as_secs_f64());
    }
    assert!(middle(ratios) <= 1.25);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fault: compares times, alone on the machine"]
async fn f33_who_asks_for_ten_times_as_much_as_allowed_slows_nobody_down() {
    const RATE: u32 = 50;
    let calls = Calls { number: 400, every: Some(Duration::from_secs(1) / 40) };
    let rate = RATE.to_string();
    let system = builder(Shape::Split).setting("SENSORMESH_EDGE__USER_RATE__PER_SECOND", &rate);
    let system = Arc::new(system.setting("SENSORMESH_EDGE__USER_RATE__BURST", &rate).start().await.expect("starts"));
    let admin = system.admin().await.expect("token");
    let greedy = system.viewer("greedy").await.expect("token");
    took(&system, &admin, &calls).await;
    let (served, refused) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let mut ratios = Vec::new();
    // what it asks with costs little of the processors that are measured
    let connections = join_all((0..10).map(|_| connection(&system, 65_535))).await;
    for _ in 0..5 {
        let before = took(&system, &admin, &calls).await.part(0.99);
        let stop = Arc::<AtomicBool>::default();
        let senders = (0..10).zip(&connections).map(|(n, connection)| {
            let (connection, greedy, stop) = (connection.clone(), greedy.clone(), Arc::clone(&stop));
            let (served, refused) = (Arc::clone(&served), Arc::clone(&refused));
            tokio::spawn(async move {
                let every = Duration::from_secs(1) / RATE;
                // one after the other, not ten at once and then nothing
                let mut pace = interval_at(Instant::now() + every * n / 10, every);
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                while !stop.load(Ordering::SeqCst) {
                    pace.tick().await;
                    let request = http::Request::get("http://localhost/sensors")
                        .header("authorization", format!("Bearer {greedy}"))
                        .body(())
                        .expect("a request");
                    let mut send = connection.clone().ready().await.expect("the connection lives");
                    let (answer, _) = send.send_request(request, true).expect("sent");
                    match answer.await.expect("an answer").status().as_u16() {
                        200 => served.fetch_add(1, Ordering::SeqCst),
                        429 => refused.fetch_add(1, Ordering::SeqCst),
                        status => panic!("{status}"),
                    };
                }
            })
        });
        let senders: Vec<_> = senders.collect();
        let beside = took(&system, &admin, &calls).await.part(0.99);
        stop.store(true, Ordering::SeqCst);
        for one in senders {
            one.await.expect("sent");
        }
        eprintln!("p99 {before:?} before, {beside:?} beside the greedy one");
        ratios.push(beside.as_secs_f64() / before.as_secs_f64());
    }
    let (served, refused) = (served.load(Ordering::SeqCst), refused.load(Ordering::SeqCst));
    eprintln!("the greedy one: {served} served, {refused} refused");
    assert!(refused > 5 * served, "it is refused most of what it asks");
    assert!(middle(ratios) <= 1.25);
}
