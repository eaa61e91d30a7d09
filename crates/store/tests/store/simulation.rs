//! Following, leases and the spool through random days on real databases: replicas that are killed, streams that end, clocks
//! that differ, answers that are lost. The seed is printed, and `CHANCE_SEED` repeats a day's events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sensormesh_store::spool::{Call, Delivery, Fate, Kept, Spool, SpoolBounds};
use sensormesh_store::{Lease, Store};
use sensormesh_testkit::chance::Chance;
use sensormesh_testkit::system::eventually;
use sensormesh_types::{Clock, Scope};
use tokio::task::JoinHandle;

use super::consumers::{Numbers, applied, letters};
use super::{MIGRATIONS, Place, places};

const LONG: Duration = Duration::from_secs(60);
const LIFE: Duration = Duration::from_secs(10);
/// How far the clocks of replicas differ, less than a lease's life.
const SKEW: i64 = 2_000_000;

async fn open(place: &Place, clock: &Clock) -> Store {
    Store::open("things", &place.config, MIGRATIONS, clock.clone()).await.expect("the store opens")
}

/// One that wants a lease: what it holds, or takes itself to hold.
struct Replica {
    store: Store,
    clock: Clock,
    lease: Option<Lease>,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_under_a_lease_is_its_last_holders_on_every_random_day() {
    let mut chance = Chance::new("lease");
    for place in places() {
        let mut replicas = Vec::new();
        for number in 0..3 {
            let clock = Clock::fixed(1_767_225_600_000_000 + (number - 1) * SKEW);
            replicas.push(Replica { store: open(&place, &clock).await, clock, lease: None });
        }
        // as the database has it: whose turn, since which epoch, until when
        let (mut holder, mut epoch, mut expires) = (None, 0, 0);
        let mut written = 0;
        for step in 0..400 {
            let who = chance.below(replicas.len());
            let until = |clock: &Clock| clock.now_micros() + i64::try_from(LIFE.as_micros()).expect("short");
            match chance.below(6) {
                0 | 1 => {
                    let by = chance.millis(0, 3_000);
                    replicas.iter().for_each(|replica| replica.clock.advance(by));
                }
                2 => {
                    let replica = &mut replicas[who];
                    let free = expires < replica.clock.now_micros();
                    let lease = replica.store.lease("work", LIFE).await.expect("asked");
                    assert_eq!(lease.is_some(), free, "step {step}");
                    if let Some(lease) = lease {
                        assert!(lease.epoch() > epoch, "step {step}: an epoch came twice");
                        (holder, epoch, expires) = (Some(who), lease.epoch(), until(&replica.clock));
                        replica.lease = Some(lease);
                    }
                }
                3 => {
                    let replica = &mut replicas[who];
                    let Some(lease) = &mut replica.lease else { continue };
                    // one that has run out may be renewed until another takes it
                    assert_eq!(lease.renew().await.expect("asked"), holder == Some(who), "step {step}");
                    if holder == Some(who) {
                        expires = until(&replica.clock);
                    }
                }
                4 => {
                    let replica = &replicas[who];
                    let Some(lease) = &replica.lease else { continue };
                    let mut tx = replica.store.tx(&Scope::system()).await.expect("tx");
                    let fenced = tx.fence(lease).await;
                    assert_eq!(fenced.is_ok(), holder == Some(who), "step {step}");
                    if fenced.is_ok() {
                        let write = "INSERT INTO thing (tenant, id, n) VALUES ('default', $1, $2)";
                        let number = i64::try_from(lease.epoch()).expect("small");
                        tx.query(write).bind(step.to_string()).bind(number).execute().await.expect("written");
                        tx.commit().await.expect("committed");
                        written += 1;
                    }
                }
                _ => {
                    let Some(lease) = replicas[who].lease.take() else { continue };
                    lease.release().await.expect("given back");
                    if holder == Some(who) {
                        (holder, expires) = (None, 0);
                    }
                }
            }
        }
        let mut read = replicas[0].store.read(&Scope::system()).await.expect("read");
        let sql = "SELECT n FROM thing ORDER BY CAST(id AS INTEGER)";
        let epochs: Vec<i64> =
            read.query(sql).fetch_all().await.expect("rows").iter().map(|row| row.get("n").expect("n")).collect();
        assert_eq!(epochs.len(), written);
        assert!(epochs.is_sorted(), "a holder wrote after the next one: {epochs:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_effect_is_there_once_after_every_random_day() {
    let mut chance = Chance::new("follow");
    for (place, several) in places().into_iter().zip([false, true]) {
        let numbers = Numbers { cut: 8 + chance.below(20), poison: Some(7), ..Numbers::default() };
        numbers.log.lock().extend(0..3);
        let store = place.open().await;
        let start = |store: Store| {
            let numbers = numbers.clone();
            tokio::spawn(async move { store.follow("numbers", numbers).await })
        };
        let mut running: Vec<JoinHandle<_>> = Vec::new();
        let mut told = 3;
        for _ in 0..60 {
            match chance.below(5) {
                0 | 1 => {
                    let more = 1 + i64::try_from(chance.below(20)).expect("small");
                    numbers.log.lock().extend(told..told + more);
                    told += more;
                }
                2 if running.len() < if several { 3 } else { 1 } => {
                    let store = if several { place.open().await } else { store.clone() };
                    running.push(start(store));
                }
                3 if !running.is_empty() => {
                    let killed = running.swap_remove(chance.below(running.len()));
                    killed.abort();
                    killed.await.expect_err("killed");
                }
                _ => {
                    // who comes from behind this starts again from a snapshot
                    let seen = usize::try_from(told).expect("small");
                    let gone = if chance.below(4) == 0 { chance.below(seen) } else { 0 };
                    numbers.trimmed.store(gone, std::sync::atomic::Ordering::SeqCst);
                }
            }
            tokio::time::sleep(chance.millis(0, 60)).await;
        }
        numbers.log.lock().extend(told..told + 5);
        told += 5;
        if !several {
            // a SQLite file has one process
            for killed in running.drain(..) {
                killed.abort();
                killed.await.expect_err("killed");
            }
        }
        running.push(start(store.clone()));
        let expected: Vec<(i64, i64)> = (0..told).filter(|n| *n != 7).map(|n| (n, 1)).collect();
        let all = || async { (applied(&store).await == expected).then_some(()) };
        if eventually(LONG, all).await.is_none() {
            let found = applied(&store).await;
            let missing: Vec<_> = expected.iter().filter(|one| !found.contains(one)).collect();
            let wrong: Vec<_> = found.iter().filter(|one| !expected.contains(one)).collect();
            panic!("{:?}: missing {missing:?}, wrong {wrong:?}, {:?}", store.engine(), store.consumers());
        }
        assert!(letters(&store).await.iter().all(|n| *n == 7), "nothing else is passed");
        running.iter().for_each(JoinHandle::abort);
    }
}

/// A service that knows calls by their ids. It is away, busy, or takes a call and the answer is lost.
#[derive(Clone)]
struct Target {
    chance: Arc<Mutex<Chance>>,
    /// In the order in which they came, each time.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Target {
    async fn take(self, kept: Arc<Kept>) -> Delivery {
        let (fate, takes) = {
            let mut chance = self.chance.lock();
            (chance.below(12), chance.millis(0, 8))
        };
        if fate == 0 {
            return Delivery::Later;
        }
        self.asked.lock().push(kept.call.receipt_id.clone());
        tokio::time::sleep(takes).await;
        match fate {
            1 => Delivery::Later,
            2 => Delivery::Refused(b"no".to_vec()),
            _ => Delivery::Delivered(b"yes".to_vec()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_delivered_in_order_or_told_to_have_expired_on_every_random_day() {
    const BOUNDS: SpoolBounds = SpoolBounds {
        calls: 12,
        bytes: 1 << 20,
        age: Duration::from_secs(3600),
        receipts: Duration::from_secs(1 << 20),
    };
    let mut chance = Chance::new("spool");
    for (place, several) in places().into_iter().zip([false, true]) {
        let clock = Clock::ahead(0);
        let target = Target { chance: Arc::new(Mutex::new(chance.fork(1))), asked: Arc::default() };
        let mut spools = Vec::new();
        for _ in 0..if several { 2 } else { 1 } {
            spools.push(Spool::open(&open(&place, &clock).await, BOUNDS).await.expect("open"));
        }
        let run = |spool: &Spool| {
            let (spool, target) = (spool.clone(), target.clone());
            tokio::spawn(async move { spool.run(move |kept| target.clone().take(kept)).await.expect("delivers") })
        };
        let mut running: BTreeMap<usize, JoinHandle<()>> = BTreeMap::new();
        let (mut kept, mut refused) = (Vec::new(), 0);
        for number in 0..150 {
            let who = chance.below(spools.len());
            match chance.below(10) {
                0 => {
                    running.entry(who).or_insert_with(|| run(&spools[who]));
                }
                1 => {
                    if let Some(killed) = running.remove(&who) {
                        killed.abort();
                        killed.await.expect_err("killed");
                    }
                }
                2 if chance.below(6) == 0 => clock.advance(BOUNDS.age + Duration::from_secs(1)),
                _ => {
                    let receipt_id = format!("{number:04}");
                    let call = Call {
                        receipt_id: receipt_id.clone(),
                        owner: "user:ada".to_owned(),
                        target: "things".to_owned(),
                        method: "m".to_owned(),
                        call: receipt_id.clone().into_bytes(),
                    };
                    match spools[who].keep(&Scope::tenant_of("acme"), call).await {
                        Ok(_) => kept.push(receipt_id),
                        Err(error) => {
                            assert_eq!(error.reason(), "SPOOL_FULL");
                            refused += 1;
                        }
                    }
                }
            }
            tokio::time::sleep(chance.millis(0, 10)).await;
        }
        eprintln!("{} kept, {refused} refused for want of room", kept.len());
        running.entry(0).or_insert_with(|| run(&spools[0]));
        let empty = || async { (!spools[0].holds("things")).then_some(()) };
        eventually(LONG, empty).await.expect("nothing waits any more");
        let mut fates = BTreeMap::new();
        for receipt_id in &kept {
            let receipt = spools[0].receipt(&Scope::tenant_of("acme"), receipt_id).await.expect("read").expect("kept");
            assert_ne!(receipt.fate, Fate::Waiting, "{receipt_id}");
            fates.insert(receipt_id.clone(), receipt.fate);
        }
        let asked = target.asked.lock().clone();
        assert!(asked.is_sorted(), "a later call overtook an earlier one: {asked:?}");
        let taken = |fate: Fate| matches!(fate, Fate::Delivered | Fate::Refused);
        let missing: Vec<_> = fates.iter().filter(|(id, fate)| taken(**fate) && !asked.contains(id)).collect();
        assert!(missing.is_empty(), "told to be taken, and never asked: {missing:?}");
        assert!(asked.iter().all(|id| fates.contains_key(id)), "asked for what was never accepted");
        running.values().for_each(JoinHandle::abort);
    }
}
