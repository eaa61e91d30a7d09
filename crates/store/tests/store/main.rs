//! The store from outside, on SQLite and on PostgreSQL.

#![allow(missing_docs)]

mod consumers;
mod exchange;
mod faults;
mod gone;
mod keeping;
mod log;
mod schema;
mod simulation;
mod spool;
mod tenants;
mod unclean;

use std::path::PathBuf;

use sensormesh_store::{Config, Migration, Store};
use sensormesh_testkit::postgres;
use sensormesh_types::Clock;

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "things",
    sql: "CREATE TABLE thing (tenant $text NOT NULL, id $text NOT NULL, n $int NOT NULL, x $real, b $bytes, \
          PRIMARY KEY (tenant, id)) $strict;",
}];

/// Where a test's database is, so that it can be opened again.
struct Place {
    config: Config,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("{service}.db").display());
        Self { config: Config::at(url), _folder: Some(folder) }
    }

    fn file(&self) -> PathBuf {
        PathBuf::from(self.config.url.trim_start_matches("sqlite:").replace("{service}", "things"))
    }

    async fn open(&self) -> Store {
        Store::open("things", &self.config, MIGRATIONS, Clock::system()).await.expect("the store opens")
    }
}

/// Every engine there is.
fn places() -> Vec<Place> {
    let mut places = vec![Place::sqlite()];
    if let Some(url) = postgres::url_for_new_database() {
        places.push(Place { config: Config::at(url), _folder: None });
    }
    places
}
