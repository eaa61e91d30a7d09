//! The first answers to batches that carry an id.

use sensormesh_store::{Read, Row, Tx};
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

impl Name {
    /// Its id among those of all senders; no sender has a `/`.
    fn key(&self) -> String {
        format!("{}/{}", self.sender, self.batch_id)
    }
}

/// The BLAKE3 hash of what a batch holds, its first 16 bytes.
pub type Digest = [u8; 16];

/// The digest of what was hashed.
pub fn digest(hash: &blake3::Hasher) -> Digest {
    let mut digest = Digest::default();
    hash.finalize_xof().fill(&mut digest);
    digest
}

/// The first batch of its name was another one: this one's readings are not stored, and must not look as if they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misused;

impl From<Misused> for Error {
    fn from(_: Misused) -> Self {
        Error::invalid("batch_id", "was used for another batch")
    }
}

/// The first batch of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct First {
    /// What it held; `None` where that was not noted, before there were digests.
    digest: Option<Vec<u8>>,
    answer: Vec<u8>,
}

impl First {
    /// The answer to a batch of the same name that holds `digest`.
    pub fn repeat(self, digest: &Digest) -> Result<Vec<u8>, Misused> {
        match self.digest {
            Some(first) if first != digest => Err(Misused),
            _ => Ok(self.answer),
        }
    }

    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self { digest: row.get("digest")?, answer: row.get("answer")? })
    }
}

/// The first batch of this name, where there was one. One from before there were digests is known by its sender's id alone.
pub async fn find(read: &mut Read, name: &Name) -> Result<Option<First>> {
    let row = read
        .query(
            "SELECT digest, answer FROM batch WHERE tenant = $1 AND door = $2 \
             AND ((batch_id = $3 AND digest IS NOT NULL) OR (batch_id = $4 AND digest IS NULL))",
        )
        .bind(&name.tenant)
        .bind(name.door as i32)
        .bind(name.key())
        .bind(&name.batch_id)
        .fetch_optional()
        .await?;
    row.as_ref().map(First::from_row).transpose()
}

/// Keeps the first answer to a batch.
pub async fn insert(tx: &mut Tx, name: &Name, digest: &Digest, answer: &[u8]) -> Result<()> {
    let now = tx.store().clock().now_micros();
    tx.query("INSERT INTO batch (tenant, batch_id, door, time, digest, answer) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(&name.tenant)
        .bind(name.key())
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
             (SELECT time FROM batch WHERE time < $1 ORDER BY time LIMIT $2) AS oldest",
        )
        .bind(time)
        .bind(answers)
        .fetch_one()
        .await?;
    let Some(upto) = last.get::<Option<i64>>("time")? else { return Ok(false) };
    tx.query("DELETE FROM batch WHERE time <= $1").bind(upto).execute().await?;
    Ok(last.get::<i64>("n")? == i64::from(answers))
}

#[cfg(test)]
mod tests {
    use sensormesh_types::{Code, Scope};

    use super::*;
    use crate::Config;
    use crate::rig::Rig;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_name_is_its_senders_and_stands_for_one_batch_unless_that_was_not_noted() {
        for rig in Rig::on_both(Config::default()).await {
            let log = &rig.engine.databases.log;
            let name = |sender: &str, batch_id: &str| Name {
                tenant: "default".into(),
                sender: sender.into(),
                batch_id: batch_id.into(),
                door: Door::Rows,
            };
            let mut tx = log.tx(&Scope::system()).await.expect("tx");
            insert(&mut tx, &name("user:ada", "b1"), &[1; 16], b"new").await.expect("kept");
            let old = "INSERT INTO batch (tenant, batch_id, door, time, answer) VALUES ($1, $2, 0, 1, $3)";
            let query = tx.query(old).bind("default").bind("b2").bind(b"old".as_slice());
            query.execute().await.expect("a row of an earlier version");
            tx.commit().await.expect("commit");

            let mut read = log.read(&Scope::system()).await.expect("read");
            let first = find(&mut read, &name("user:ada", "b1")).await.expect("found").expect("a row");
            assert_eq!(first.clone().repeat(&[1; 16]), Ok(b"new".to_vec()));
            assert_eq!(first.repeat(&[2; 16]), Err(Misused));
            let error = Error::from(Misused);
            assert_eq!((error.code(), error.fields()[0].field.as_str()), (Code::Invalid, "batch_id"));
            for stranger in [name("user:bob", "b1"), name("user", "ada/b1"), name("", "user:ada/b1")] {
                assert_eq!(find(&mut read, &stranger).await.expect("looked up"), None);
            }
            for sender in ["user:ada", "user:bob"] {
                let first = find(&mut read, &name(sender, "b2")).await.expect("found").expect("a row");
                assert_eq!(first.repeat(&[2; 16]), Ok(b"old".to_vec()));
            }
        }
    }
}
