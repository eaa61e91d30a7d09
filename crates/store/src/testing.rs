//! A store for one test.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use sensormesh_types::{Clock, Result};

use crate::{Config, Migration, Store};

/// A SQLite database in a folder of its own, removed with this.
pub struct Temporary {
    /// The store.
    pub store: Store,
    folder: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

impl Store {
    /// A new database that lives as long as what is returned.
    pub async fn open_temp(service: &'static str, migrations: &'static [Migration], clock: Clock) -> Result<Temporary> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("sensormesh-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        let url = format!("sqlite:{}", folder.join("{service}.db").display());
        Ok(Temporary { store: Store::open(service, &Config::at(url), migrations, clock).await?, folder })
    }
}
