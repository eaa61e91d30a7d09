//! Bringing a database to the newest schema: the store's own tables, then the service's.

use sensormesh_types::{Clock, Error, Result, Scope, random};
use sqlx::{AssertSqlSafe, Executor as _};

use crate::error::translate;
use crate::pools::Pools;
use crate::tx::{Access, Session};
use crate::{Engine, postgres};

/// A step of a schema. The text is for both engines; `$int`, `$real`, `$bytes`, `$text` and `$strict` stand for what each
/// calls them. A step that has run anywhere is never changed: another one is added.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Counts from 1 in each service.
    pub version: i64,
    /// What it does, in words.
    pub name: &'static str,
    /// The statements, each ended by a semicolon.
    pub sql: &'static str,
}

/// The store's own tables.
const OWN: &[Migration] = &[
    Migration { version: 1, name: "store", sql: include_str!("../migrations/0001_store.sql") },
    Migration { version: 2, name: "spool", sql: include_str!("../migrations/0002_spool.sql") },
    Migration { version: 3, name: "exchange", sql: include_str!("../migrations/0003_exchange.sql") },
    Migration { version: 4, name: "audit", sql: include_str!("../migrations/0004_audit.sql") },
];

/// What a database is known by.
pub(crate) struct Identity {
    pub(crate) incarnation: u64,
    pub(crate) key: [u8; 32],
    pub(crate) head: u64,
}

impl Identity {
    fn of((incarnation, key, head): (i64, Vec<u8>, i64)) -> Result<Self> {
        Ok(Self {
            incarnation: incarnation.unsigned_abs(),
            key: key.try_into().map_err(|_| Error::internal("the cursor key is not 32 bytes long"))?,
            head: head.unsigned_abs(),
        })
    }
}

/// One pass in one transaction: an error or a crash leaves the schema as it was, and of two programs one waits.
pub(crate) async fn run(
    pools: &Pools,
    service: &'static str,
    migrations: &[Migration],
    clock: &Clock,
) -> Result<Identity> {
    let fail = |error: sqlx::Error| translate(error).0;
    let mut session = pools.begin(Access::Write, &Scope::system()).await.map_err(fail)?;
    let engine = pools.engine();
    if engine == Engine::Postgres {
        execute(&mut session, "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'".to_owned()).await?;
        execute(&mut session, "SELECT pg_advisory_xact_lock(7351001, hashtext(current_schema()))".to_owned()).await?;
    }
    execute(&mut session, words(include_str!("../migrations/0000_migrations.sql"), engine)?).await?;
    for (owner, steps) in [("store", OWN), (service, migrations)] {
        let applied = applied(&mut session, owner).await?;
        if let Some((version, name, _)) = applied.iter().find(|(v, _, _)| steps.iter().all(|step| step.version != *v)) {
            let message = format!(
                "the database of {service} has step {version} ({name}) of {owner}, which this program does not know; \
                 run the newer program, or restore a backup"
            );
            return Err(Error::precondition("SCHEMA_TOO_NEW", message));
        }
        for step in steps {
            let checksum = blake3::hash(step.sql.as_bytes()).to_hex().to_string();
            match applied.iter().find(|(version, _, _)| *version == step.version) {
                Some((_, _, before)) if *before == checksum => {}
                Some(_) => {
                    let message = format!("step {} ({}) of {owner} was changed after it ran", step.version, step.name);
                    return Err(Error::precondition("MIGRATION_CHANGED", message));
                }
                None => {
                    execute(&mut session, words(step.sql, engine)?).await?;
                    note(&mut session, owner, step, &checksum, clock.now_micros()).await?;
                }
            }
        }
    }
    if let Session::Postgres(tx) = &mut session {
        postgres::protect_tenants(tx).await.map_err(fail)?;
    }
    let identity = identity(&mut session).await?;
    match session {
        Session::Sqlite(tx) => tx.commit().await.map_err(fail)?,
        Session::Postgres(tx) => tx.commit().await.map_err(fail)?,
    }
    Ok(identity)
}

/// Replaces the words by what the engine calls them. A word that is none is a mistake in the step.
fn words(sql: &str, engine: Engine) -> Result<String> {
    let mut parts = sql.split('$');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(part.len());
        let (word, rest) = part.split_at(end);
        text.push_str(&meaning(word, engine).ok_or_else(|| {
            Error::precondition("MIGRATION_WORD", format!("${word} is none of $int $real $bytes $text $strict"))
        })?);
        text.push_str(rest);
    }
    Ok(text)
}

fn meaning(word: &str, engine: Engine) -> Option<String> {
    let sqlite = engine == Engine::Sqlite;
    let meaning = match word {
        "int" if sqlite => "INTEGER",
        "int" => "BIGINT",
        "real" if sqlite => "REAL",
        "real" => "DOUBLE PRECISION",
        "bytes" if sqlite => "BLOB",
        "bytes" => "BYTEA",
        "text" => "TEXT",
        "strict" if sqlite => "STRICT",
        "strict" => "",
        "zero32" if sqlite => return Some(format!("x'{}'", "00".repeat(32))),
        "zero32" => return Some(format!("'\\x{}'", "00".repeat(32))),
        _ => return None,
    };
    Some(meaning.to_owned())
}

/// Runs a script of several statements.
async fn execute(session: &mut Session, sql: String) -> Result<()> {
    let done = match session {
        Session::Sqlite(tx) => (&mut **tx).execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.map(|_| ()),
        Session::Postgres(tx) => (&mut **tx).execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.map(|_| ()),
    };
    done.map_err(|error| translate(error).0)
}

type Step = (i64, String, String);

async fn applied(session: &mut Session, owner: &str) -> Result<Vec<Step>> {
    const SQL: &str = "SELECT version, name, checksum FROM migration WHERE owner = $1 ORDER BY version";
    let rows = match session {
        Session::Sqlite(tx) => sqlx::query_as::<_, Step>(SQL).bind(owner).fetch_all(&mut **tx).await,
        Session::Postgres(tx) => sqlx::query_as::<_, Step>(SQL).bind(owner).fetch_all(&mut **tx).await,
    };
    rows.map_err(|error| translate(error).0)
}

async fn note(session: &mut Session, owner: &str, step: &Migration, checksum: &str, time: i64) -> Result<()> {
    const SQL: &str = "INSERT INTO migration (owner, version, name, checksum, time) VALUES ($1, $2, $3, $4, $5)";
    macro_rules! insert {
        ($tx:expr) => {
            sqlx::query(SQL)
                .bind(owner)
                .bind(step.version)
                .bind(step.name)
                .bind(checksum)
                .bind(time)
                .execute(&mut **$tx)
                .await
                .map(|_| ())
        };
    }
    let done = match session {
        Session::Sqlite(tx) => insert!(tx),
        Session::Postgres(tx) => insert!(tx),
    };
    done.map_err(|error| translate(error).0)
}

/// Reads what a database is known by that is there already.
pub(crate) async fn identity_of(pools: &Pools) -> Result<Identity> {
    const SELECT: &str = "SELECT incarnation, cursor_key, seq FROM identity, log_head WHERE id = 1 AND shard = 0";
    let fail = |error: sqlx::Error| translate(error).0;
    let mut session = pools.begin(Access::Read, &Scope::system()).await.map_err(fail)?;
    let row = match &mut session {
        Session::Sqlite(tx) => sqlx::query_as::<_, (i64, Vec<u8>, i64)>(SELECT).fetch_one(&mut **tx).await,
        Session::Postgres(tx) => sqlx::query_as::<_, (i64, Vec<u8>, i64)>(SELECT).fetch_one(&mut **tx).await,
    };
    Identity::of(row.map_err(fail)?)
}

/// Reads what the database is known by; a new one draws it.
async fn identity(session: &mut Session) -> Result<Identity> {
    const INSERT: &str =
        "INSERT INTO identity (id, incarnation, cursor_key) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING";
    const SELECT: &str = "SELECT incarnation, cursor_key, seq FROM identity, log_head WHERE id = 1 AND shard = 0";
    // Positive, because both engines count with a sign.
    let incarnation = i64::from_le_bytes(random::bytes()) & i64::MAX;
    let key = random::bytes::<32>().to_vec();
    macro_rules! identity {
        ($tx:expr) => {{
            let drawn = sqlx::query(INSERT).bind(incarnation).bind(key).execute(&mut **$tx).await;
            drawn.map_err(|error| translate(error).0)?;
            sqlx::query_as::<_, (i64, Vec<u8>, i64)>(SELECT).fetch_one(&mut **$tx).await
        }};
    }
    let row = match session {
        Session::Sqlite(tx) => identity!(tx),
        Session::Postgres(tx) => identity!(tx),
    };
    Identity::of(row.map_err(|error| translate(error).0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_replaced_whole_and_others_refused() {
        let sql = "CREATE TABLE t (a $int, b $bytes) $strict;";
        assert_eq!(words(sql, Engine::Sqlite).expect("words"), "CREATE TABLE t (a INTEGER, b BLOB) STRICT;");
        assert_eq!(words(sql, Engine::Postgres).expect("words"), "CREATE TABLE t (a BIGINT, b BYTEA) ;");
        let error = words("CREATE TABLE t (a $integer);", Engine::Sqlite).expect_err("no word");
        assert!(error.message().contains("$integer"), "{error}");
    }
}
