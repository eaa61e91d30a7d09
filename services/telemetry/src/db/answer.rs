//! The first answers to batches that carry an id.

use sensormesh_store::{Read, Tx};
use sensormesh_types::{Error, Result};

/// The door a batch came by, which decides what its answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Door {
    /// `IngestReadings`; the answer is its response.
    Rows = 0,
    /// `IngestStream`; the answer is its response.
    Stream = 1,
}

/// What a batch is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// The tenant.
    pub tenant: String,
    /// Who sends it, as in the audit: `user:ada`. Senders need not know of each other's ids.
    pub sender: String,
    /// The sender's id of it.
    pub batch_id: String,
    /// The door it came by.
    pub door: Door,
}

/// The BLAKE3 hash of what a batch holds, its first 16 bytes.
pub type Digest = [u8; 16];

/// The digest of what was hashed.
pub fn digest(hash: &blake3::Hasher) -> Digest {
    let mut digest = Digest::default();
    hash.finalize_xof().fill(&mut digest);
    digest
}

/// The failure of a batch under the id of another one: its readings are not stored, and it must not look as if they were.
pub fn misused() -> Error {
    Error::invalid("batch_id", "was used for another batch")
}

/// The first answer to a batch. Fails as [`misused`] where that was one with other contents.
pub async fn find(read: &mut Read, name: &Name, digest: &Digest) -> Result<Option<Vec<u8>>> {
    let row = read
        .query("SELECT digest, answer FROM answer WHERE tenant = $1 AND sender = $2 AND batch_id = $3 AND door = $4")
        .bind(&name.tenant)
        .bind(&name.sender)
        .bind(&name.batch_id)
        .bind(name.door as i32)
        .fetch_optional()
        .await?;
    let Some(row) = row else { return Ok(None) };
    if row.get::<Vec<u8>>("digest")? != digest {
        return Err(misused());
    }
    row.get("answer").map(Some)
}

/// Keeps the first answer to a batch.
pub async fn insert(tx: &mut Tx, name: &Name, digest: &Digest, answer: &[u8]) -> Result<()> {
    let now = tx.store().clock().now_micros();
    tx.query(
        "INSERT INTO answer (tenant, sender, batch_id, door, time, digest, answer) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&name.tenant)
    .bind(&name.sender)
    .bind(&name.batch_id)
    .bind(name.door as i32)
    .bind(now)
    .bind(&digest[..])
    .bind(answer)
    .execute()
    .await?;
    Ok(())
}

/// Forgets answers from before `time`, microseconds since the Unix epoch, some at a time; answers whether more are left.
pub async fn expire(tx: &mut Tx, time: i64, answers: u32) -> Result<bool> {
    let last = tx
        .query(
            "SELECT MAX(time) AS time, COUNT(*) AS n FROM \
             (SELECT time FROM answer WHERE time < $1 ORDER BY time LIMIT $2) AS oldest",
        )
        .bind(time)
        .bind(answers)
        .fetch_one()
        .await?;
    let Some(upto) = last.get::<Option<i64>>("time")? else { return Ok(false) };
    tx.query("DELETE FROM answer WHERE time <= $1").bind(upto).execute().await?;
    Ok(last.get::<i64>("n")? == i64::from(answers))
}
