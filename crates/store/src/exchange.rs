//! Questions and replies over the log: one side asks in a transaction of its own and waits; the other follows the log, does what
//! is asked, and replies. Either may be away or restarted in between, and what became of a question is never unknown for
//! longer than it waits.
//!
//! A question is the entry `<kind>.asked`, its subject the request id; what ends it is `<kind>.replied`, `<kind>.refused` or
//! `<kind>.timed_out`. It ends once, whoever comes first.

use std::time::Duration;

use sensormesh_types::{Author, Error, Result, Scope};
use tokio::time::timeout;

use crate::{Entry, Read, Row, Store, Tx};

/// The pause between two looks while others write: a reply is seen this late at most.
const PAUSE: Duration = Duration::from_millis(5);
/// Questions that one transaction ends at most.
const AT_ONCE: i64 = 500;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// What kind: `command`. Names its entries in the log.
    pub kind: String,
    /// The asker's id of it, unique among those of its tenant and kind.
    pub request_id: String,
    /// What is asked, as whoever replies reads it.
    pub payload: Vec<u8>,
    /// How long the reply is waited for.
    pub patience: Duration,
    /// The site it belongs to; empty = the whole tenant.
    pub site: String,
    /// Who asks.
    pub author: Author,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet.
    Waiting,
    /// It was done; what came back.
    Replied(Vec<u8>),
    /// It was refused; the encoded refusal.
    Refused(Vec<u8>),
    /// Nobody replied in time. Whether it was done is not known.
    TimedOut,
}

impl Answer {
    fn parts(&self) -> (i64, &'static str, &[u8]) {
        match self {
            Answer::Waiting => (0, "asked", &[]),
            Answer::Replied(reply) => (1, "replied", reply),
            Answer::Refused(refusal) => (2, "refused", refusal),
            Answer::TimedOut => (3, "timed_out", &[]),
        }
    }

    fn of(row: &Row) -> Result<Self> {
        Ok(match row.get::<i64>("state")? {
            0 => Answer::Waiting,
            1 => Answer::Replied(row.get("reply")?),
            2 => Answer::Refused(row.get("reply")?),
            _ => Answer::TimedOut,
        })
    }
}

impl Tx {
    /// Asks, once this is committed. False where the same was asked before under that id; INVALID, naming `request_id`, where
    /// that was something else.
    pub async fn ask(&mut self, question: Question) -> Result<bool> {
        let Question { kind, request_id, payload, patience, site, author } = question;
        let (tenant, now) = (self.tenant(), self.store().clock().now_micros());
        let digest = *blake3::hash(&payload).as_bytes();
        let asked = self
            .query(
                "INSERT INTO exchange (tenant, kind, request_id, digest, until, state, settled, reply) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant, kind, request_id) DO NOTHING",
            )
            .bind(&tenant)
            .bind(&kind)
            .bind(&request_id)
            .bind(digest)
            .bind(now.saturating_add(i64::try_from(patience.as_micros()).unwrap_or(i64::MAX)))
            .bind(Answer::Waiting.parts().0)
            .bind(0i64)
            .bind(Vec::<u8>::new())
            .execute()
            .await?;
        if asked == 0 {
            let query = self.query("SELECT digest FROM exchange WHERE tenant = $1 AND kind = $2 AND request_id = $3");
            let before = query.bind(&tenant).bind(&kind).bind(&request_id).fetch_one().await?;
            if before.get::<Vec<u8>>("digest")? != digest {
                return Err(Error::invalid("request_id", "was used for another request"));
            }
            return Ok(false);
        }
        let kind = format!("{kind}.{}", Answer::Waiting.parts().1);
        self.append(Entry { site, kind, subject: request_id, author, payload, ..Entry::default() });
        Ok(true)
    }

    /// Ends a question, once this is committed. False where it had ended: the first answer stands. NOT_FOUND where nobody asked.
    /// `actor` is who replies, as in the log.
    pub async fn reply(&mut self, kind: &str, request_id: &str, actor: &str, answer: &Answer) -> Result<bool> {
        let tenant = self.tenant();
        if !self.end(&tenant, kind, request_id, actor, answer).await? {
            find(self, kind, request_id).await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Ends a question of a tenant; false where it had ended, or nobody asked.
    async fn end(&mut self, tenant: &str, kind: &str, request_id: &str, actor: &str, answer: &Answer) -> Result<bool> {
        let now = self.store().clock().now_micros();
        let (state, word, payload) = answer.parts();
        let settled = self
            .query(
                "UPDATE exchange SET state = $1, settled = $2, reply = $3 \
                 WHERE tenant = $4 AND kind = $5 AND request_id = $6 AND state = 0",
            )
            .bind(state)
            .bind(now)
            .bind(payload)
            .bind(tenant)
            .bind(kind)
            .bind(request_id)
            .execute()
            .await?;
        if settled == 1 {
            let kind = format!("{kind}.{word}");
            let (subject, author, payload) = (request_id.to_owned(), Author::named(actor), payload.to_vec());
            self.append_for(tenant, Entry { kind, subject, author, payload, ..Entry::default() });
        }
        Ok(settled == 1)
    }
}

impl Store {
    /// Waits for the answer to a question of this tenant, as long as that waits itself; also to one that was asked in an earlier
    /// life. NOT_FOUND where nobody asked, or more than a day ago.
    pub async fn answer(&self, scope: &Scope, kind: &str, request_id: &str) -> Result<Answer> {
        let mut head = self.inner.tail.subscribe();
        loop {
            head.borrow_and_update();
            let (answer, until) = find(&mut self.read(scope).await?, kind, request_id).await?;
            if answer != Answer::Waiting {
                return Ok(answer);
            }
            let left = until.saturating_sub(self.clock().now_micros());
            let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else {
                let mut tx = self.tx(scope).await?;
                tx.reply(kind, request_id, &self.actor(), &Answer::TimedOut).await?;
                tx.commit().await?;
                continue; // a reply may have been faster
            };
            let _ = timeout(Duration::from_micros(left), head.changed()).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn actor(&self) -> String {
        format!("service:{}", self.inner.service)
    }

    /// Ends the questions of all tenants whose time is over, for those who no longer wait; answers how many.
    pub async fn end_overdue(&self) -> Result<u64> {
        let actor = self.actor();
        let mut ended = 0;
        loop {
            let mut tx = self.tx(&Scope::system()).await?;
            let now = tx.store().clock().now_micros();
            let rows = tx
                .query("SELECT tenant, kind, request_id FROM exchange WHERE state = 0 AND until <= $1 ORDER BY until LIMIT $2")
                .bind(now)
                .bind(AT_ONCE)
                .fetch_all()
                .await?;
            for row in &rows {
                let (tenant, kind): (String, String) = (row.get("tenant")?, row.get("kind")?);
                let request_id: String = row.get("request_id")?;
                ended += u64::from(tx.end(&tenant, &kind, &request_id, &actor, &Answer::TimedOut).await?);
            }
            tx.commit().await?;
            if rows.is_empty() {
                return Ok(ended);
            }
        }
    }
}

/// What became of a question, and until when it waits, microseconds since the Unix epoch.
async fn find(read: &mut Read, kind: &str, request_id: &str) -> Result<(Answer, i64)> {
    let tenant = read.tenant();
    let query =
        read.query("SELECT state, reply, until FROM exchange WHERE tenant = $1 AND kind = $2 AND request_id = $3");
    let row = query.bind(tenant).bind(kind).bind(request_id).fetch_optional().await?;
    let row = row.ok_or_else(|| Error::not_found(kind, request_id))?;
    Ok((Answer::of(&row)?, row.get("until")?))
}
