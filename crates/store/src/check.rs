//! Whether a database is what was written: everything the store itself can tell of it.

use std::collections::BTreeMap;

use sensormesh_types::{Code, Error, Result, Scope};

use crate::pools::Kind;
use crate::{Store, sums};

/// Something in a database or a backup that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The database, or the file.
    pub database: String,
    /// The table, or what was looked at.
    pub place: String,
    /// What is wrong, in words.
    pub problem: String,
    /// Which: `sensor_id`, `start_ns`, `end_ns`, `seq`, `bytes` …
    pub object: BTreeMap<String, String>,
}

impl Finding {
    /// Something wrong in a place of a database.
    pub fn new(database: impl Into<String>, place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { database: database.into(), place: place.into(), problem: problem.into(), object: BTreeMap::new() }
    }

    /// What an error tells of a place.
    pub fn of(database: &str, place: &str, error: &Error) -> Self {
        let finding = Self::new(database, place, format!("{error:?}"));
        ["seq", "sensor_id", "start_ns"].into_iter().fold(finding, |finding, key| match error.metadata(key) {
            Some(value) => finding.with(key, value),
            None => finding,
        })
    }

    /// Names a part of what it is about.
    #[must_use]
    pub fn with(mut self, key: &str, value: &(impl std::fmt::Display + ?Sized)) -> Self {
        self.object.insert(key.to_owned(), value.to_string());
        self
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.database, self.place, self.problem)?;
        self.object.iter().try_for_each(|(key, value)| write!(f, " {key}={value}"))
    }
}

impl Store {
    /// Looks at everything: on SQLite the bytes of the file as it was closed and the structure of the database, on both engines
    /// the chain of the log. Answers what is wrong; fails only where the database cannot be reached.
    pub async fn check(&self) -> Result<Vec<Finding>> {
        let name = self.service();
        let mut found = Vec::new();
        if let Kind::Sqlite { path, .. } = self.inner.pools.kind() {
            match sums::changed(path) {
                Ok(ranges) => found.extend(ranges.into_iter().map(|range| {
                    Finding::new(name, "file", "it is not what it was when it was closed")
                        .with("bytes", &format!("{}..{}", range.start, range.end))
                })),
                Err(error) => found.push(Finding::of(name, "file", &error)),
            }
            for statement in ["PRAGMA integrity_check", "PRAGMA foreign_key_check"] {
                match self.words(statement).await {
                    Ok(words) => found.extend(words.into_iter().map(|word| Finding::new(name, "structure", word))),
                    Err(error) => found.push(reachable(name, "structure", error)?),
                }
            }
        }
        match self.check_chain().await {
            Ok(()) => {}
            Err(error) => found.push(reachable(name, "log", error)?),
        }
        Ok(found)
    }

    /// What a check of SQLite's own answers, but for `ok`.
    async fn words(&self, statement: &'static str) -> Result<Vec<String>> {
        let mut read = self.read(&Scope::system()).await?;
        let rows = read.query(statement).fetch_all().await?;
        let word = |row: &crate::Row| {
            let columns: Vec<String> = row.columns().iter().map(|column| (*column).to_owned()).collect();
            let text = |column: &String| {
                row.get::<Option<String>>(column)
                    .map(Option::unwrap_or_default)
                    .or_else(|_| row.get::<Option<i64>>(column).map(|n| n.map_or_else(String::new, |n| n.to_string())))
            };
            columns.iter().map(text).collect::<Result<Vec<_>>>().map(|words| words.join(" "))
        };
        let words = rows.iter().map(word).collect::<Result<Vec<_>>>()?;
        Ok(words.into_iter().filter(|word| word != "ok").collect())
    }
}

/// A failure as a finding, but for those that say nothing about the data.
fn reachable(database: &str, place: &str, error: Error) -> Result<Finding> {
    match error.code() {
        Code::Unavailable | Code::Exhausted | Code::Timeout if error.reason() != "DATABASE_DOWN" => Err(error),
        _ => Ok(Finding::of(database, place, &error)),
    }
}

/// A database in a few words: its schema, and where its log ends.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// Whose it is.
    pub service: String,
    /// The last step of the schema of each owner.
    pub schema: BTreeMap<String, i64>,
    /// The last sequence number of its log.
    pub log_seq: u64,
    /// The hash of that entry, in hex.
    pub log_hash: String,
}

impl Store {
    /// What the database is.
    pub async fn summary(&self) -> Result<Summary> {
        let mut read = self.read(&Scope::system()).await?;
        let sql = "SELECT owner, MAX(version) AS version FROM migration GROUP BY owner";
        let rows = read.query(sql).fetch_all().await?;
        let schema = rows.iter().map(|row| Ok((row.get("owner")?, row.get("version")?))).collect::<Result<_>>()?;
        let head = crate::log::head(&mut read).await?;
        let log_hash = blake3::Hash::from_bytes(head.hash).to_hex().to_string();
        Ok(Summary { service: self.service().to_owned(), schema, log_seq: head.seq, log_hash })
    }
}
