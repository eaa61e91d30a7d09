//! All SQL of this service.

pub mod bridge;
pub mod credential;
pub mod device;
pub mod profile;
pub mod sensor;

use std::collections::BTreeMap;

use sensormesh_store::{Row, placeholders};
use sensormesh_types::{Code, Error, Result, Scope};

use crate::rules::Stamp;

/// How many ids one `IN (…)` names.
const CHUNK: usize = 250;

fn labels_text(labels: &BTreeMap<String, String>) -> Result<String> {
    serde_json::to_string(labels).map_err(Error::internal)
}

fn labels_of(text: &str) -> Result<BTreeMap<String, String>> {
    serde_json::from_str(text).map_err(Error::internal)
}

fn stamp_of(row: &Row) -> Result<Stamp> {
    Ok(Stamp {
        create_time: row.get("create_time")?,
        update_time: row.get("update_time")?,
        version: row.get("version")?,
    })
}

/// A condition that admits the rows of the scope's sites, with its parameters from number `first` on.
fn within_sites(scope: &Scope, first: usize) -> String {
    match scope.sites() {
        [] => String::new(),
        sites => format!(" AND site IN ({})", placeholders(first, sites.len())),
    }
}

/// The row that an update was made for has changed in the meantime.
fn written(rows: u64, what: &str, id: &str) -> Result<()> {
    if rows == 1 {
        return Ok(());
    }
    let message = format!("{what} {id:?} was changed at the same moment; read it again");
    Err(Error::new(Code::Conflict, "CONCURRENT_CHANGE", message))
}
