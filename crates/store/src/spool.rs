//! The spool: calls that were accepted for a service that could not be reached, kept on the disk and delivered later.
//!
//! It is bounded in calls, bytes and age. Each service's calls are delivered one after the other in the order in which they
//! were accepted, and a call that is not answered for certain is sent again: it must carry an id by which its service knows it.
//! What became of a call stands in its receipt. Several replicas share a spool on PostgreSQL, and one of them delivers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use sensormesh_types::{Code, Error, Result, Scope};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::lead::{Lead, Standing};
use crate::{Engine, Read, Row, Store};

/// How often a replica looks for what others put in.
const POLL: Duration = Duration::from_secs(1);
/// After a call could not be delivered, the pause until the next attempt: doubled with each, up to the longest.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a commit takes.
const MOMENT: Duration = Duration::from_millis(5);
/// Calls that are read at once.
const READ: i64 = 32;

/// What a spool may hold.
#[derive(Clone, Copy, Debug)]
pub struct SpoolBounds {
    /// Calls that wait.
    pub calls: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long a call may wait; then it is given up.
    pub age: Duration,
    /// How long a receipt is kept after its call is settled.
    pub receipts: Duration,
}

/// A call that is to be kept.
#[derive(Clone, Debug)]
pub struct Call {
    /// The name of its receipt.
    pub receipt_id: String,
    /// Who made it, as the receipt's reader is named: `user:ada`.
    pub owner: String,
    /// The service that it is for.
    pub target: String,
    /// Its method.
    pub method: String,
    /// The call, as its deliverer writes it.
    pub call: Vec<u8>,
}

/// A call that waits.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its place in the order of acceptance.
    pub number: u64,
    /// When it was accepted, microseconds since the Unix epoch.
    pub accepted: i64,
    /// The call.
    pub call: Call,
}

/// What came of an attempt to deliver a call.
#[derive(Debug)]
pub enum Delivery {
    /// The service took it; its encoded answer.
    Delivered(Vec<u8>),
    /// The service refused it for good; the encoded refusal.
    Refused(Vec<u8>),
    /// Not now: the service cannot be reached, or nobody knows what became of it.
    Later,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits.
    Waiting,
    /// It was taken.
    Delivered,
    /// It was refused.
    Refused,
    /// It waited too long.
    Expired,
}

/// A call's receipt.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Who made the call.
    pub owner: String,
    /// Its service.
    pub target: String,
    /// Its method.
    pub method: String,
    /// When it was accepted, microseconds since the Unix epoch.
    pub accepted: i64,
    /// What became of it.
    pub fate: Fate,
    /// When that was; `None` while it waits.
    pub settled: Option<i64>,
    /// The encoded answer or refusal.
    pub answer: Vec<u8>,
}

/// What waits for one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many calls.
    pub calls: u64,
    /// When the oldest was accepted, microseconds since the Unix epoch.
    pub oldest: i64,
}

/// What is known of a service's calls without a look into the database.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    backlog: Backlog,
    /// Calls that are being written down: who comes now comes behind them.
    coming: u64,
    /// How many have come: what was read before one of them came is old.
    came: u64,
}

/// A service's spool. Clones share it.
#[derive(Clone)]
pub struct Spool {
    store: Store,
    bounds: SpoolBounds,
    lines: Arc<Mutex<BTreeMap<String, Line>>>,
    put: Arc<Notify>,
}

impl Spool {
    /// The spool in a service's database. Whoever delivers must [`run`](Spool::run) it.
    pub async fn open(store: &Store, bounds: SpoolBounds) -> Result<Self> {
        let spool = Self { store: store.clone(), bounds, lines: Arc::default(), put: Arc::default() };
        spool.survey().await?;
        Ok(spool)
    }

    /// What waits, by service.
    pub fn waiting(&self) -> BTreeMap<String, Backlog> {
        self.lines.lock().iter().map(|(target, line)| (target.clone(), line.backlog)).collect()
    }

    /// Whether calls wait for a service: one that came now would overtake them.
    pub fn holds(&self, target: &str) -> bool {
        self.lines.lock().contains_key(target)
    }

    /// Keeps a call; it is on the disk when this returns. UNAVAILABLE with the reason `SPOOL_FULL` where there is no room.
    pub async fn keep(&self, scope: &Scope, call: Call) -> Result<Receipt> {
        self.lines.lock().entry(call.target.clone()).or_default().coming += 1;
        let kept = self.write(scope, &call).await;
        {
            let mut lines = self.lines.lock();
            let line = lines.entry(call.target.clone()).or_default();
            line.coming = line.coming.saturating_sub(1);
            if let Ok(accepted) = kept {
                line.came += 1;
                if line.backlog.calls == 0 {
                    line.backlog.oldest = accepted;
                }
                line.backlog.calls += 1;
            }
        }
        self.put.notify_one();
        let Call { owner, target, method, .. } = call;
        Ok(Receipt { owner, target, method, accepted: kept?, fate: Fate::Waiting, settled: None, answer: Vec::new() })
    }

    /// Writes a call down; when it was accepted.
    async fn write(&self, scope: &Scope, call: &Call) -> Result<i64> {
        let accepted = self.store.clock().now_micros();
        let size = whole(call.call.len() as u64);
        let mut tx = self.store.tx(scope).await?;
        let head = tx
            .query(
                "UPDATE spool_head SET number = number + 1, calls = calls + 1, bytes = bytes + $1 \
                 WHERE id = 1 AND calls < $2 AND bytes + $1 <= $3 RETURNING number",
            )
            .bind(size)
            .bind(whole(self.bounds.calls))
            .bind(whole(self.bounds.bytes))
            .fetch_optional()
            .await?;
        let Some(head) = head else {
            let message = format!("{} cannot be reached, and no more calls can be kept for it", call.target);
            return Err(Error::unavailable("SPOOL_FULL", message, LONGEST_PAUSE).with("upstream", &*call.target));
        };
        let tenant = tx.tenant();
        tx.query(
            "INSERT INTO spool (number, tenant, receipt_id, owner, target, method, accepted, state, settled, call, answer) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(head.get::<i64>("number")?)
        .bind(tenant)
        .bind(&*call.receipt_id)
        .bind(&*call.owner)
        .bind(&*call.target)
        .bind(&*call.method)
        .bind(accepted)
        .bind(Fate::Waiting.code())
        .bind(0i64)
        .bind(&call.call)
        .bind(Vec::<u8>::new())
        .execute()
        .await?;
        tx.commit().await?;
        Ok(accepted)
    }

    /// Gives up the oldest call that waits for a service, to make room; `None` = none waits.
    pub async fn give_up(&self, target: &str) -> Result<Option<Kept>> {
        let Some(oldest) = self.first(target).await?.into_iter().next() else { return Ok(None) };
        self.settle(&oldest, Fate::Expired, Vec::new()).await?;
        Ok(Some(oldest))
    }

    /// The receipt of a call of this tenant.
    pub async fn receipt(&self, scope: &Scope, receipt_id: &str) -> Result<Option<Receipt>> {
        let mut read = self.store.read(scope).await?;
        let tenant = scope.tenant().to_owned();
        let row = read
            .query(
                "SELECT owner, target, method, accepted, state, settled, answer FROM spool \
                 WHERE tenant = $1 AND receipt_id = $2",
            )
            .bind(tenant)
            .bind(receipt_id)
            .fetch_optional()
            .await?;
        row.as_ref().map(Receipt::of).transpose()
    }

    /// Delivers until this is dropped. Each service's calls go one after the other, and services do not wait for each other.
    pub async fn run<F, D>(&self, deliver: F) -> Result<()>
    where
        F: Fn(Arc<Kept>) -> D + Sync,
        D: Future<Output = Delivery> + Send,
    {
        let mut lead = Lead::new(&self.store, "spool");
        let mut under_way = FuturesUnordered::new();
        let mut busy: Vec<String> = Vec::new();
        loop {
            if lead.stand().await? == Standing::Follows {
                busy.clear();
                under_way.clear();
            } else {
                for target in self.waiting().into_keys() {
                    if !busy.contains(&target) {
                        busy.push(target.clone());
                        under_way.push(self.deliver_to(target, &deliver));
                    }
                }
            }
            tokio::select! {
                Some(done) = under_way.next() => {
                    let (target, ended): (String, Result<()>) = done;
                    busy.retain(|name| *name != target);
                    ended?;
                }
                () = self.put.notified() => {}
                () = sleep(POLL) => {
                    if self.store.engine() == Engine::Postgres {
                        self.survey().await?;
                    }
                    self.forget().await?;
                }
            }
        }
    }

    /// Delivers what waits for a service until nothing does.
    async fn deliver_to<F, D>(&self, target: String, deliver: &F) -> (String, Result<()>)
    where
        F: Fn(Arc<Kept>) -> D + Sync,
        D: Future<Output = Delivery> + Send,
    {
        let ended = async {
            let mut pause = PAUSE;
            loop {
                let came = self.lines.lock().get(&target).map(|line| line.came);
                let kept = self.first(&target).await?;
                if kept.is_empty() {
                    let over = {
                        let mut lines = self.lines.lock();
                        let over = lines.get(&target).is_none_or(|l| l.coming == 0 && Some(l.came) == came);
                        if over {
                            lines.remove(&target);
                        }
                        over
                    };
                    if over {
                        return Ok(());
                    }
                    // one is being written down
                    sleep(MOMENT).await;
                }
                for kept in kept.into_iter().map(Arc::new) {
                    let old = self.store.clock().now_micros().saturating_sub(kept.accepted);
                    let fate = if u128::try_from(old).unwrap_or_default() > self.bounds.age.as_micros() {
                        Some((Fate::Expired, Vec::new()))
                    } else {
                        match deliver(Arc::clone(&kept)).await {
                            Delivery::Delivered(answer) => Some((Fate::Delivered, answer)),
                            Delivery::Refused(refusal) => Some((Fate::Refused, refusal)),
                            Delivery::Later => None,
                        }
                    };
                    let Some((fate, answer)) = fate else {
                        sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                        break;
                    };
                    pause = PAUSE;
                    self.settle(&kept, fate, answer).await?;
                }
            }
        };
        let ended = ended.await;
        (target, ended)
    }

    /// The oldest calls that wait for a service.
    async fn first(&self, target: &str) -> Result<Vec<Kept>> {
        let mut read = self.store.read(&Scope::system()).await?;
        let rows = read
            .query(
                "SELECT number, receipt_id, owner, target, method, accepted, call FROM spool \
                 WHERE state = $1 AND target = $2 ORDER BY number LIMIT $3",
            )
            .bind(Fate::Waiting.code())
            .bind(target)
            .bind(READ)
            .fetch_all()
            .await?;
        rows.iter().map(Kept::of).collect()
    }

    async fn settle(&self, kept: &Kept, fate: Fate, answer: Vec<u8>) -> Result<()> {
        let mut tx = self.store.tx(&Scope::system()).await?;
        let now = self.store.clock().now_micros();
        let settled = tx
            .query("UPDATE spool SET state = $1, settled = $2, call = $3, answer = $4 WHERE number = $5 AND state = $6")
            .bind(fate.code())
            .bind(now)
            .bind(Vec::<u8>::new())
            .bind(answer)
            .bind(whole(kept.number))
            .bind(Fate::Waiting.code())
            .execute()
            .await?;
        if settled == 1 {
            tx.query("UPDATE spool_head SET calls = calls - 1, bytes = bytes - $1 WHERE id = 1")
                .bind(whole(kept.call.call.len() as u64))
                .execute()
                .await?;
        }
        tx.commit().await?;
        // given up meanwhile: it is counted already
        if settled == 1
            && let Some(line) = self.lines.lock().get_mut(&kept.call.target)
        {
            line.backlog = Backlog { calls: line.backlog.calls.saturating_sub(1), oldest: kept.accepted };
        }
        Ok(())
    }

    /// Looks what waits: at the start, and for what other replicas did.
    async fn survey(&self) -> Result<()> {
        let before = self.lines.lock().clone();
        let mut read = self.store.read(&Scope::system()).await?;
        let mut found = survey(&mut read).await?;
        let mut lines = self.lines.lock();
        lines.retain(|target, line| {
            let came_since = before.get(target).is_none_or(|then| then.came != line.came);
            match found.remove(target) {
                // what came since is not in what was read
                _ if line.coming > 0 || came_since => true,
                Some(backlog) => {
                    line.backlog = backlog;
                    true
                }
                None => false,
            }
        });
        lines.extend(found.into_iter().map(|(target, backlog)| (target, Line { backlog, ..Line::default() })));
        Ok(())
    }

    /// Removes receipts that are old.
    async fn forget(&self) -> Result<()> {
        let life = i64::try_from(self.bounds.receipts.as_micros()).unwrap_or(i64::MAX);
        let before = self.store.clock().now_micros().saturating_sub(life);
        let mut read = self.store.read(&Scope::system()).await?;
        let old = read
            .query("SELECT number FROM spool WHERE state > $1 AND settled < $2 LIMIT 1")
            .bind(Fate::Waiting.code())
            .bind(before)
            .fetch_optional()
            .await?;
        drop(read);
        if old.is_some() {
            let mut tx = self.store.tx(&Scope::system()).await?;
            let delete = tx.query("DELETE FROM spool WHERE state > $1 AND settled < $2");
            delete.bind(Fate::Waiting.code()).bind(before).execute().await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

async fn survey(read: &mut Read) -> Result<BTreeMap<String, Backlog>> {
    let rows = read
        .query("SELECT target, COUNT(*) AS calls, MIN(accepted) AS oldest FROM spool WHERE state = $1 GROUP BY target")
        .bind(Fate::Waiting.code())
        .fetch_all()
        .await?;
    let backlog =
        |row: &Row| Ok((row.get("target")?, Backlog { calls: row.get::<u64>("calls")?, oldest: row.get("oldest")? }));
    rows.iter().map(backlog).collect()
}

/// Whether a call that failed so is worth another attempt: its service is away or busy, or nobody knows what became of it.
pub fn passes(error: &Error) -> bool {
    match error.code() {
        Code::Unavailable | Code::Timeout | Code::Conflict => true,
        Code::Exhausted => error.retry_after().is_some(),
        _ => false,
    }
}

impl Kept {
    fn of(row: &Row) -> Result<Self> {
        let call = Call {
            receipt_id: row.get("receipt_id")?,
            owner: row.get("owner")?,
            target: row.get("target")?,
            method: row.get("method")?,
            call: row.get("call")?,
        };
        Ok(Self { number: row.get("number")?, accepted: row.get("accepted")?, call })
    }
}

impl Receipt {
    fn of(row: &Row) -> Result<Self> {
        let fate = Fate::of(row.get("state")?)?;
        Ok(Self {
            owner: row.get("owner")?,
            target: row.get("target")?,
            method: row.get("method")?,
            accepted: row.get("accepted")?,
            fate,
            settled: if fate == Fate::Waiting { None } else { Some(row.get("settled")?) },
            answer: row.get("answer")?,
        })
    }
}

impl Fate {
    fn code(self) -> i64 {
        match self {
            Fate::Waiting => 0,
            Fate::Delivered => 1,
            Fate::Refused => 2,
            Fate::Expired => 3,
        }
    }

    fn of(code: i64) -> Result<Self> {
        let fates = [Fate::Waiting, Fate::Delivered, Fate::Refused, Fate::Expired];
        let unknown =
            || Error::new(Code::Corrupt, "SPOOL_CORRUPT", format!("a kept call has the unknown state {code}"));
        fates.into_iter().find(|fate| fate.code() == code).ok_or_else(unknown)
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
