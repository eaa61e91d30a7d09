//! Calls that wait: in order, once, within bounds, over restarts, for several services and by several replicas.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sensormesh_store::Store;
use sensormesh_store::spool::{Call, Delivery, Fate, Kept, Spool, SpoolBounds};
use sensormesh_types::{Clock, Scope};

use super::{MIGRATIONS, Place, places};

const BOUNDS: SpoolBounds =
    SpoolBounds { calls: 5, bytes: 1000, age: Duration::from_secs(3600), receipts: Duration::from_secs(7200) };

fn call(target: &str, name: &str) -> Call {
    Call {
        receipt_id: name.to_owned(),
        owner: "user:ada".to_owned(),
        target: target.to_owned(),
        method: "m".to_owned(),
        call: name.as_bytes().to_vec(),
    }
}

fn acme() -> Scope {
    Scope::tenant_of("acme")
}

/// A service that notes what it is asked, and is away for some of the first attempts.
#[derive(Clone, Default)]
struct Target {
    asked: Arc<Mutex<Vec<String>>>,
    away_for: Arc<Mutex<usize>>,
}

impl Target {
    async fn take(self, kept: Arc<Kept>) -> Delivery {
        let name = String::from_utf8(kept.call.call.clone()).expect("text");
        if kept.call.target == "hangs" {
            std::future::pending::<()>().await;
        }
        {
            let mut away = self.away_for.lock();
            if *away > 0 {
                *away -= 1;
                return Delivery::Later;
            }
        }
        self.asked.lock().push(name.clone());
        if name.starts_with("bad") { Delivery::Refused(b"no".to_vec()) } else { Delivery::Delivered(name.into_bytes()) }
    }

    fn run(&self, spool: &Spool) -> tokio::task::JoinHandle<()> {
        let (spool, target) = (spool.clone(), self.clone());
        tokio::spawn(async move { spool.run(move |kept| target.clone().take(kept)).await.expect("delivers") })
    }

    async fn has_been_asked(&self, count: usize) -> Vec<String> {
        let began = tokio::time::Instant::now();
        while self.asked.lock().len() < count {
            assert!(began.elapsed() < Duration::from_secs(30), "not delivered: {:?}", self.asked.lock());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.asked.lock().clone()
    }
}

async fn fate(spool: &Spool, receipt_id: &str) -> Fate {
    spool.receipt(&acme(), receipt_id).await.expect("read").expect("a receipt").fate
}

async fn settled(spool: &Spool, receipt_id: &str) -> Fate {
    let began = tokio::time::Instant::now();
    loop {
        match fate(spool, receipt_id).await {
            Fate::Waiting => assert!(began.elapsed() < Duration::from_secs(30), "{receipt_id} is not settled"),
            fate => return fate,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_delivered_in_order_once_their_service_is_back_and_receipts_tell() {
    for place in places() {
        let store = place.open().await;
        let spool = Spool::open(&store, BOUNDS).await.expect("open");
        for name in ["a", "bad", "c"] {
            spool.keep(&acme(), call("things", name)).await.expect("kept");
        }
        assert!(spool.holds("things") && !spool.holds("others"));
        assert_eq!(spool.waiting()["things"].calls, 3);
        assert_eq!(fate(&spool, "a").await, Fate::Waiting);
        // what is kept outlives the process
        drop((spool, store));
        let store = place.open().await;
        let spool = Spool::open(&store, BOUNDS).await.expect("open");
        assert_eq!(spool.waiting()["things"].calls, 3);
        let target = Target::default();
        *target.away_for.lock() = 3;
        let running = target.run(&spool);
        assert_eq!(target.has_been_asked(3).await, ["a", "bad", "c"]);
        assert_eq!(settled(&spool, "c").await, Fate::Delivered);
        assert_eq!(fate(&spool, "bad").await, Fate::Refused);
        let receipt = spool.receipt(&acme(), "a").await.expect("read").expect("a receipt");
        assert_eq!((receipt.answer, receipt.owner.as_str()), (b"a".to_vec(), "user:ada"));
        assert!(receipt.settled.is_some_and(|settled| settled >= receipt.accepted));
        assert!(spool.receipt(&Scope::tenant_of("other"), "a").await.expect("read").is_none(), "of another tenant");
        let empty = async {
            while spool.holds("things") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), empty).await.expect("nothing waits any more");
        spool.keep(&acme(), call("things", "d")).await.expect("kept");
        assert_eq!(target.has_been_asked(4).await, ["a", "bad", "c", "d"]);
        running.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_is_refused_and_room_comes_back() {
    for place in places() {
        let store = place.open().await;
        let spool = Spool::open(&store, BOUNDS).await.expect("open");
        for name in ["a", "b", "c", "d", "e"] {
            spool.keep(&acme(), call("things", name)).await.expect("kept");
        }
        let refused = spool.keep(&acme(), call("things", "f")).await.expect_err("full");
        assert_eq!((refused.reason(), refused.retry_after().is_some()), ("SPOOL_FULL", true));
        let target = Target::default();
        let running = target.run(&spool);
        target.has_been_asked(5).await;
        settled(&spool, "e").await;
        let long = Call { call: vec![1; 1001], ..call("things", "long") };
        assert_eq!(spool.keep(&acme(), long).await.expect_err("too long").reason(), "SPOOL_FULL");
        spool.keep(&acme(), call("things", "f")).await.expect("there is room again");
        target.has_been_asked(6).await;
        running.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hangs_does_not_hold_up_another() {
    for place in places() {
        let store = place.open().await;
        let spool = Spool::open(&store, BOUNDS).await.expect("open");
        let target = Target::default();
        let running = target.run(&spool);
        spool.keep(&acme(), call("hangs", "x")).await.expect("kept");
        spool.keep(&acme(), call("things", "a")).await.expect("kept");
        spool.keep(&acme(), call("things", "b")).await.expect("kept");
        assert_eq!(target.has_been_asked(2).await, ["a", "b"]);
        assert_eq!(fate(&spool, "x").await, Fate::Waiting);
        running.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_too_long_is_given_up_and_old_receipts_go() {
    for place in places() {
        let clock = Clock::fixed(1_767_225_600_000_000);
        let store = Store::open("things", &place.config, MIGRATIONS, clock.clone()).await.expect("open");
        let spool = Spool::open(&store, BOUNDS).await.expect("open");
        spool.keep(&acme(), call("things", "old")).await.expect("kept");
        clock.advance(BOUNDS.age + Duration::from_secs(1));
        spool.keep(&acme(), call("things", "new")).await.expect("kept");
        let target = Target::default();
        let running = target.run(&spool);
        assert_eq!(target.has_been_asked(1).await, ["new"]);
        assert_eq!((settled(&spool, "old").await, settled(&spool, "new").await), (Fate::Expired, Fate::Delivered));
        clock.advance(BOUNDS.receipts + Duration::from_secs(1));
        let began = tokio::time::Instant::now();
        while spool.receipt(&acme(), "old").await.expect("read").is_some() {
            assert!(began.elapsed() < Duration::from_secs(30), "the receipt stays");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        running.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_one_delivers_what_either_accepted() {
    let Some(place) = places().into_iter().find(|place| !place.config.url.starts_with("sqlite")) else {
        sensormesh_testkit::skip("two replicas of a spool need PostgreSQL");
        return;
    };
    let place: Place = place;
    let (one, two) = (place.open().await, place.open().await);
    let one = Spool::open(&one, BOUNDS).await.expect("open");
    let two = Spool::open(&two, BOUNDS).await.expect("open");
    let target = Target::default();
    let running = [target.run(&one), target.run(&two)];
    one.keep(&acme(), call("things", "a")).await.expect("kept");
    target.has_been_asked(1).await;
    two.keep(&acme(), call("things", "b")).await.expect("kept");
    assert_eq!(target.has_been_asked(2).await, ["a", "b"]);
    assert_eq!(settled(&one, "b").await, Fate::Delivered, "a receipt is readable at every replica");
    assert_eq!(settled(&two, "a").await, Fate::Delivered);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(target.asked.lock().len(), 2, "each once");
    running.iter().for_each(tokio::task::JoinHandle::abort);
}
