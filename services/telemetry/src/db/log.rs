//! The log of readings.

use prost::bytes::Bytes;
use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Error, Result};

use crate::tail::Mark;

/// The one shard of the log: all of it is in one order, whichever replica writes it.
pub const SHARD: i64 = 0;

/// How long the database waits for a writer that has its turn and says nothing, before it takes the turn away.
const SILENCE: &str = "3s";

/// How many rows one INSERT writes, largest first: few texts, so that each is prepared once; not many rows, because SQLite
/// looks for each parameter among all of them.
const CHUNKS: [usize; 3] = [16, 4, 1];
const COLUMNS: usize = 9;

/// Where a shard of the log stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its end.
    pub mark: Mark,
    /// Up to here every reading is in a block.
    pub sealed: u64,
    /// Up to here it is cut.
    pub trimmed: u64,
}

/// A batch to be logged, or as it stands in the log.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The tenant it belongs to.
    pub tenant: String,
    /// Its place, and the totals after it.
    pub mark: Mark,
    /// When it was received, microseconds since the Unix epoch.
    pub time: i64,
    /// It was sent as backfill.
    pub backfill: bool,
    /// Its groups, encoded.
    pub body: Bytes,
    /// The checksum that it was written with: [`Batch::sealed`].
    pub checksum: u64,
}

/// Marks a checksum that covers the whole row; those of an earlier version cover the body alone.
const WHOLE_ROW: u64 = 1 << 32;

impl Batch {
    /// With the checksum of everything that its row has.
    pub fn sealed(mut self) -> Self {
        self.checksum = self.sum();
        self
    }

    fn sum(&self) -> u64 {
        let Mark { seq, bytes, readings } = self.mark;
        let mut sum = sensormesh_series::checksum(&self.body);
        for number in [seq, bytes, readings, self.time as u64, self.backfill.into()] {
            sum = sensormesh_series::checksum_on(sum, &number.to_le_bytes());
        }
        u64::from(sensormesh_series::checksum_on(sum, self.tenant.as_bytes())) | WHOLE_ROW
    }

    /// Whether it is what was written.
    pub fn is_intact(&self) -> bool {
        if self.checksum & WHOLE_ROW == 0 {
            return u64::from(sensormesh_series::checksum(&self.body)) == self.checksum;
        }
        self.sum() == self.checksum
    }

    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            tenant: row.get("tenant")?,
            mark: Mark { seq: row.get("seq")?, bytes: row.get("bytes")?, readings: row.get("readings")? },
            time: row.get("time")?,
            backfill: row.get("backfill")?,
            body: row.get("body")?,
            checksum: row.get("checksum")?,
        })
    }
}

fn number(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(Error::internal)
}

/// The head of the shard.
pub async fn head(read: &mut Read) -> Result<Head> {
    let row = read
        .query("SELECT seq, bytes, readings, sealed, trimmed FROM shard WHERE tenant = '' AND shard = $1")
        .bind(SHARD)
        .fetch_one()
        .await?;
    head_of(&row)
}

fn head_of(row: &Row) -> Result<Head> {
    Ok(Head {
        mark: Mark { seq: row.get("seq")?, bytes: row.get("bytes")?, readings: row.get("readings")? },
        sealed: row.get("sealed")?,
        trimmed: row.get("trimmed")?,
    })
}

/// Waits until no other replica writes and keeps all of them from writing until the transaction ends; answers where the log
/// stands. PostgreSQL only: a SQLite file has one writer by nature. A holder that is paused loses its turn after 3 s.
///
/// UNAVAILABLE where another replica's turn takes longer than a statement may wait for a lock.
pub async fn take_turn(tx: &mut Tx) -> Result<Head> {
    let row = tx
        .query(
            "SELECT seq, bytes, readings, sealed, trimmed, \
             set_config('idle_in_transaction_session_timeout', $1, true) AS silence \
             FROM shard WHERE tenant = '' AND shard = $2 FOR UPDATE",
        )
        .bind(SILENCE)
        .bind(SHARD)
        .fetch_one()
        .await?;
    head_of(&row)
}

/// Takes `batches` places at the end and returns the head as it was before.
pub async fn advance(tx: &mut Tx, batches: u64, bytes: u64, readings: u64) -> Result<Mark> {
    let row = tx
        .query(
            "UPDATE shard SET seq = seq + $1, bytes = bytes + $2, readings = readings + $3 \
             WHERE tenant = '' AND shard = $4 RETURNING seq, bytes, readings",
        )
        .bind(number(batches)?)
        .bind(number(bytes)?)
        .bind(number(readings)?)
        .bind(SHARD)
        .fetch_one()
        .await?;
    Ok(Mark {
        seq: row.get::<u64>("seq")? - batches,
        bytes: row.get::<u64>("bytes")? - bytes,
        readings: row.get::<u64>("readings")? - readings,
    })
}

/// Every shard and its head.
pub async fn heads(read: &mut Read) -> Result<Vec<(i64, Head)>> {
    let rows =
        read.query("SELECT shard, seq, bytes, readings, sealed, trimmed FROM shard ORDER BY shard").fetch_all().await?;
    let head = |row: &Row| {
        let mark = Mark { seq: row.get("seq")?, bytes: row.get("bytes")?, readings: row.get("readings")? };
        Ok((row.get("shard")?, Head { mark, sealed: row.get("sealed")?, trimmed: row.get("trimmed")? }))
    };
    rows.iter().map(head).collect()
}

/// Moves the end of a shard to `seq` and `gap` numbers on, after a restore: numbers that were given in the other life of the log
/// are not given again. What is not sealed stays to be.
pub async fn continue_behind(tx: &mut Tx, shard: i64, seq: u64, gap: u64) -> Result<()> {
    tx.query("UPDATE shard SET seq = CASE WHEN seq < $1 THEN $1 ELSE seq END + $2 WHERE shard = $3")
        .bind(number(seq)?)
        .bind(number(gap)?)
        .bind(shard)
        .execute()
        .await?;
    Ok(())
}

/// Writes batches at their places.
pub async fn insert(tx: &mut Tx, batches: &[Batch]) -> Result<()> {
    let mut rest = batches;
    for size in CHUNKS {
        while rest.len() >= size {
            let (chunk, after) = rest.split_at(size);
            insert_chunk(tx, chunk).await?;
            rest = after;
        }
    }
    Ok(())
}

async fn insert_chunk(tx: &mut Tx, batches: &[Batch]) -> Result<()> {
    const INSERT: &str =
        "INSERT INTO reading_log (tenant, shard, seq, time, backfill, bytes, readings, checksum, body)";
    let mut query = tx.query_rows(INSERT, COLUMNS, batches.len());
    for batch in batches {
        query = query
            .bind(&batch.tenant)
            .bind(SHARD)
            .bind(number(batch.mark.seq)?)
            .bind(batch.time)
            .bind(batch.backfill)
            .bind(number(batch.mark.bytes)?)
            .bind(number(batch.mark.readings)?)
            .bind(number(batch.checksum)?)
            .bind(&batch.body);
    }
    query.execute().await?;
    Ok(())
}

/// Up to `limit` batches behind `after`, in order.
pub async fn page(read: &mut Read, after: u64, limit: u32) -> Result<Vec<Batch>> {
    let rows = read
        .query(
            "SELECT tenant, seq, time, backfill, bytes, readings, checksum, body FROM reading_log \
             WHERE shard = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        )
        .bind(SHARD)
        .bind(number(after)?)
        .bind(limit)
        .fetch_all()
        .await?;
    rows.iter().map(Batch::from_row).collect()
}

/// Notes up to where every reading is in a block.
pub async fn note_sealed(tx: &mut Tx, seq: u64) -> Result<()> {
    tx.query("UPDATE shard SET sealed = $1 WHERE tenant = '' AND shard = $2 AND sealed < $1")
        .bind(number(seq)?)
        .bind(SHARD)
        .execute()
        .await?;
    Ok(())
}

/// The first batch that is to stay: not older than `time`, and with at most `bytes` behind it of the `total`.
pub async fn first_to_keep(read: &mut Read, time: i64, total: u64, bytes: u64) -> Result<Option<u64>> {
    let row = read
        .query("SELECT seq FROM reading_log WHERE shard = $1 AND time >= $2 AND bytes >= $3 ORDER BY seq LIMIT 1")
        .bind(SHARD)
        .bind(time)
        .bind(number(total.saturating_sub(bytes))?)
        .fetch_optional()
        .await?;
    row.map(|row| row.get("seq")).transpose()
}

/// Cuts the log up to a place, some batches at a time; answers whether more are left.
pub async fn trim(tx: &mut Tx, upto: u64, batches: u64) -> Result<bool> {
    let oldest = tx
        .query("SELECT MIN(seq) AS seq FROM reading_log WHERE shard = $1")
        .bind(SHARD)
        .fetch_one()
        .await?
        .get::<Option<u64>>("seq")?;
    let Some(oldest) = oldest.filter(|oldest| *oldest <= upto) else { return Ok(false) };
    let end = upto.min(oldest.saturating_add(batches));
    tx.query("DELETE FROM reading_log WHERE shard = $1 AND seq <= $2").bind(SHARD).bind(number(end)?).execute().await?;
    tx.query("UPDATE shard SET trimmed = $1 WHERE tenant = '' AND shard = $2 AND trimmed < $1")
        .bind(number(end)?)
        .bind(SHARD)
        .execute()
        .await?;
    Ok(end < upto)
}
