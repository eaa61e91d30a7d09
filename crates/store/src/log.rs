//! The service's log: what changed, in the order of commits, chained by hashes so that it is also the audit.

use sensormesh_types::{AuditQuery, AuditRecord, Author, Code, Error, Result, Scope};

use crate::value::Row;
use crate::{Engine, Read, Store};

/// The one shard of a service's own log.
pub(crate) const SHARD: i64 = 0;
/// How many rows one INSERT writes, largest first: few texts, so that each is prepared once.
const CHUNKS: [usize; 3] = [64, 8, 1];
const COLUMNS: usize = 14;
/// Rows that one page has at most.
const PAGE: i64 = 1000;

/// Something that happened, to be appended to the log in the transaction in which it happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The site it belongs to; empty = the whole tenant.
    pub site: String,
    /// What happened: `room.updated`. Stable, lower case.
    pub kind: String,
    /// The id of what it happened to.
    pub subject: String,
    /// Who did it, and from where.
    pub author: Author,
    /// What of it changed, in words ([`sensormesh_types::Changes`]); empty where something was made or deleted.
    pub changes: String,
    /// The encoded message that tells watchers about it.
    pub payload: Vec<u8>,
}

/// An entry as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place: strictly increasing in a log, without gaps, never used again.
    pub seq: u64,
    /// When it was committed, in microseconds since the Unix epoch.
    pub time: i64,
    /// The tenant it belongs to.
    pub tenant: String,
    /// The site it belongs to; empty = the whole tenant.
    pub site: String,
    /// What happened.
    pub kind: String,
    /// The id of what it happened to.
    pub subject: String,
    /// Who did it, and from where.
    pub author: Author,
    /// What of it changed, in words; empty where something was made or deleted.
    pub changes: String,
    /// The encoded message.
    pub payload: Vec<u8>,
    /// BLAKE3 of the previous entry's hash and this entry.
    pub hash: [u8; 32],
}

pub(crate) struct Pending {
    pub(crate) tenant: String,
    pub(crate) entry: Entry,
}

impl LogEntry {
    /// Bytes it counts for where memory or disk is bounded.
    pub fn size(&self) -> usize {
        128 + self.tenant.len()
            + self.site.len()
            + self.kind.len()
            + self.subject.len()
            + self.author.actor.len()
            + self.author.address.len()
            + self.author.request_id.len()
            + self.author.traceparent.len()
            + self.changes.len()
            + self.payload.len()
    }

    fn into_audit(self) -> AuditRecord {
        AuditRecord {
            seq: self.seq,
            time: self.time,
            kind: self.kind,
            subject: self.subject,
            actor: self.author.actor,
            site: self.site,
            traceparent: self.author.traceparent,
            address: self.author.address,
            request_id: self.author.request_id,
            changes: self.changes,
        }
    }

    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            seq: row.get("seq")?,
            time: row.get("time")?,
            tenant: row.get("tenant")?,
            site: row.get("site")?,
            kind: row.get("kind")?,
            subject: row.get("subject")?,
            author: Author {
                actor: row.get("actor")?,
                address: row.get("address")?,
                request_id: row.get("request_id")?,
                traceparent: row.get("traceparent")?,
            },
            changes: row.get("changes")?,
            payload: row.get("payload")?,
            hash: hash_of(row.get("hash")?)?,
        })
    }

    /// What its hash must be after `previous`. Every field is preceded by its length, so that none can move
    /// into its neighbour. Fields that came later are a part of it where one of them says something, so that the hash of an entry
    /// from before is what it was.
    pub(crate) fn chained(&self, previous: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(previous);
        hasher.update(&self.seq.to_le_bytes());
        hasher.update(&self.time.to_le_bytes());
        let Author { actor, address, request_id, traceparent } = &self.author;
        let words = [&self.tenant, &self.site, &self.kind, &self.subject, actor, traceparent];
        let later = [address, request_id, &self.changes];
        let later = later.iter().any(|field| !field.is_empty()).then_some(later).into_iter().flatten();
        let fields = words.map(String::as_bytes).into_iter().chain([self.payload.as_slice()]);
        for field in fields.chain(later.map(String::as_bytes)) {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
        *hasher.finalize().as_bytes()
    }
}

fn hash_of(bytes: Vec<u8>) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|_| Error::internal("a hash in the log is not 32 bytes long"))
}

/// Where the log ends and begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The last sequence number; 0 in an empty log.
    pub(crate) seq: u64,
    pub(crate) hash: [u8; 32],
    /// The last sequence number that was removed; the next one is the earliest there is.
    pub(crate) trimmed: u64,
    pub(crate) trimmed_hash: [u8; 32],
}

pub(crate) async fn head(read: &mut Read) -> Result<Head> {
    let row = read
        .query("SELECT seq, hash, trimmed, trimmed_hash FROM log_head WHERE shard = $1")
        .bind(SHARD)
        .fetch_one()
        .await?;
    Ok(Head {
        seq: row.get("seq")?,
        hash: hash_of(row.get("hash")?)?,
        trimmed: row.get("trimmed")?,
        trimmed_hash: hash_of(row.get("trimmed_hash")?)?,
    })
}

/// Writes what a transaction appended, as its last statements. Returns the entries as they now stand.
pub(crate) async fn write(read: &mut Read, pending: Vec<Pending>) -> Result<Vec<LogEntry>> {
    let count = i64::try_from(pending.len()).map_err(Error::internal)?;
    let row = read
        .query("UPDATE log_head SET seq = seq + $1 WHERE shard = $2 RETURNING seq, hash")
        .bind(count)
        .bind(SHARD)
        .fetch_one()
        .await?;
    let mut seq = row.get::<u64>("seq")? - pending.len() as u64;
    let mut hash = hash_of(row.get("hash")?)?;
    let time = read.store().clock().now_micros();
    let mut entries = Vec::with_capacity(pending.len());
    for Pending { tenant, entry } in pending {
        seq += 1;
        let Entry { site, kind, subject, author, changes, payload } = entry;
        let mut entry = LogEntry { seq, time, tenant, site, kind, subject, author, changes, payload, hash: [0; 32] };
        hash = entry.chained(&hash);
        entry.hash = hash;
        entries.push(entry);
    }
    let mut rest = entries.as_slice();
    for size in CHUNKS {
        while rest.len() >= size {
            let (chunk, after) = rest.split_at(size);
            insert(read, chunk).await?;
            rest = after;
        }
    }
    read.query("UPDATE log_head SET hash = $1 WHERE shard = $2").bind(hash).bind(SHARD).execute().await?;
    if read.engine() == Engine::Postgres {
        let channel = read.store().channel();
        read.query("SELECT pg_notify($1, $2)").bind(channel).bind(seq.to_string()).fetch_one().await?;
    }
    Ok(entries)
}

async fn insert(read: &mut Read, entries: &[LogEntry]) -> Result<()> {
    const INSERT: &str = "INSERT INTO log (shard, seq, time, tenant, site, kind, subject, actor, traceparent, address, request_id, \
                          changes, payload, hash)";
    let mut query = read.query_rows(INSERT, COLUMNS, entries.len());
    for entry in entries {
        query = query
            .bind(SHARD)
            .bind(i64::try_from(entry.seq).map_err(Error::internal)?)
            .bind(entry.time)
            .bind(&entry.tenant)
            .bind(&entry.site)
            .bind(&entry.kind)
            .bind(&entry.subject)
            .bind(&entry.author.actor)
            .bind(&entry.author.traceparent)
            .bind(&entry.author.address)
            .bind(&entry.author.request_id)
            .bind(&entry.changes)
            .bind(&entry.payload)
            .bind(entry.hash);
    }
    query.execute().await?;
    Ok(())
}

/// The entries after `seq`, in order, up to about `bytes` and at least one if there is one.
pub(crate) async fn page(read: &mut Read, after: u64, bytes: u64) -> Result<Vec<LogEntry>> {
    let rows = read
        .query(
            "SELECT seq, time, tenant, site, kind, subject, actor, traceparent, address, request_id, changes, payload, hash FROM (\
             SELECT next.*, SUM(LENGTH(payload) + 128) OVER (ORDER BY seq) - LENGTH(payload) - 128 AS before FROM (\
             SELECT * FROM log WHERE shard = $1 AND seq > $2 ORDER BY seq LIMIT $3) AS next) AS sized \
             WHERE before < $4 ORDER BY seq",
        )
        .bind(SHARD)
        .bind(i64::try_from(after).map_err(Error::internal)?)
        .bind(PAGE)
        .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
        .fetch_all()
        .await?;
    rows.iter().map(LogEntry::from_row).collect()
}

/// Bytes of the entries after `seq`.
pub(crate) async fn bytes_after(read: &mut Read, seq: u64) -> Result<u64> {
    read.query("SELECT CAST(COALESCE(SUM(LENGTH(payload) + 128), 0) AS BIGINT) AS bytes FROM log WHERE shard = $1 AND seq > $2")
        .bind(SHARD)
        .bind(i64::try_from(seq).map_err(Error::internal)?)
        .fetch_one()
        .await?
        .get("bytes")
}

impl Store {
    /// What changed within `scope`, the newest first, without what replicas tell each other.
    pub async fn list_audit(&self, scope: &Scope, query: &AuditQuery) -> Result<Vec<AuditRecord>> {
        const ASKED: usize = 10;
        let before = query.before.and_then(|seq| i64::try_from(seq).ok()).unwrap_or(i64::MAX);
        let mut read = self.read(scope).await?;
        let tenant = read.tenant();
        let every = scope.is_system();
        let sites = scope.sites();
        let in_sites = if sites.is_empty() {
            String::new()
        } else {
            format!("AND site IN ({})", crate::placeholders(ASKED + 1, sites.len()))
        };
        let rows = read
            .query_built(format!(
                "SELECT seq, time, tenant, site, kind, subject, actor, traceparent, address, request_id, changes, payload, hash \
                 FROM log WHERE shard = $1 AND seq < $2 AND tenant <> '' AND ($3 = 1 OR tenant = $4) \
                 AND ($6 = '' OR actor = $6) AND ($7 = '' OR SUBSTR(kind, 1, LENGTH($7)) = $7) \
                 AND ($8 = '' OR subject = $8) AND time >= $9 AND time < $10 {in_sites} ORDER BY seq DESC LIMIT $5"
            ))
            .bind(SHARD)
            .bind(before)
            .bind(every)
            .bind(tenant)
            .bind(query.limit)
            .bind(&query.actor)
            .bind(&query.kind)
            .bind(&query.subject)
            .bind(query.start.unwrap_or(i64::MIN))
            .bind(query.end.unwrap_or(i64::MAX))
            .bind_all(sites)
            .fetch_all()
            .await?;
        let entries = rows.iter().map(LogEntry::from_row).collect::<Result<Vec<_>>>()?;
        Ok(entries.into_iter().filter(|e| scope.admits(&e.tenant, &e.site)).map(LogEntry::into_audit).collect())
    }

    /// Walks the whole log and names the first entry whose hash is not what its content and its predecessor make it.
    pub async fn check_chain(&self) -> Result<()> {
        let mut read = self.read(&Scope::system()).await?;
        let head = head(&mut read).await?;
        let (mut seq, mut hash) = (head.trimmed, head.trimmed_hash);
        while seq < head.seq {
            let entries = page(&mut read, seq, 1 << 20).await?;
            if entries.is_empty() {
                return Err(broken(seq + 1, "is missing"));
            }
            for entry in entries {
                if entry.seq != seq + 1 {
                    return Err(broken(seq + 1, "is missing"));
                }
                hash = entry.chained(&hash);
                if hash != entry.hash {
                    return Err(broken(entry.seq, "was changed"));
                }
                seq = entry.seq;
            }
        }
        if hash == head.hash { Ok(()) } else { Err(broken(seq, "is not the one that was written last")) }
    }
}

fn broken(seq: u64, what: &str) -> Error {
    Error::new(Code::Corrupt, "LOG_CHAIN_BROKEN", format!("entry {seq} of the log {what}")).with("seq", seq.to_string())
}
