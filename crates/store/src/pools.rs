//! The connections of a database, and the settings each is opened with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sensormesh_types::{Error, Result, Scope};
use sqlx::pool::PoolOptions;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Database};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::{Config, Synchronous};
use crate::disk::Disk;
use crate::tx::{Access, Session};

/// Which database engine a store runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A file of our own.
    Sqlite,
    /// A server.
    Postgres,
}

/// The connections to one database.
pub(crate) struct Pools {
    kind: Kind,
    /// Connections opened before this moment have seen the disk fail and are closed instead of used.
    distrusted: Distrust,
}

type Distrust = Arc<Mutex<Option<Instant>>>;

pub(crate) enum Kind {
    Sqlite { writer: SqlitePool, readers: SqlitePool, path: PathBuf, disk: Disk },
    Postgres(Box<Postgres>),
}

/// The pool of a PostgreSQL database, which can be made anew.
pub(crate) struct Postgres {
    options: PgConnectOptions,
    config: Config,
    distrusted: Distrust,
    pool: Mutex<PgPool>,
}

/// Nobody waits so long for a connection where there are some.
const SOON: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(30);
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// What SQLite holds in this process, bytes: above this, pages that it has read make room for others. Each connection has a
/// cache of its own, and what reads everything once, as a scrub does, would fill that of every reader.
const HEAP: u32 = 8 << 20;

impl Pools {
    pub(crate) fn sqlite(path: &Path, config: &Config) -> Result<Self> {
        let disk = Disk::of(path, &config.disk);
        create_file(path)?;
        let options = sqlite_options(path, config);
        let distrusted = Distrust::default();
        let writer = pool(1, config, &distrusted)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(options.clone().pragma("wal_autocheckpoint", "0"));
        let readers = pool(config.readers.max(1), config, &distrusted)
            .max_lifetime(None)
            .idle_timeout(IDLE)
            .connect_lazy_with(options.pragma("query_only", "ON"));
        Ok(Self { kind: Kind::Sqlite { writer, readers, path: path.to_owned(), disk }, distrusted })
    }

    /// For looking only: nothing is set and nothing written, however wrong what is in the file may be.
    pub(crate) fn to_look_at(path: &Path, config: &Config) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(Duration::from_secs(5))
            .pragma("trusted_schema", "OFF")
            .pragma("cell_size_check", "ON")
            .pragma("mmap_size", "0");
        let distrusted = Distrust::default();
        let readers = pool(1, config, &distrusted).connect_lazy_with(options);
        let disk = Disk::of(path, &config.disk);
        Self { kind: Kind::Sqlite { writer: readers.clone(), readers, path: path.to_owned(), disk }, distrusted }
    }

    pub(crate) fn postgres(options: PgConnectOptions, config: &Config) -> Self {
        let distrusted = Distrust::default();
        let pool = Mutex::new(postgres_pool(options.clone(), config, &distrusted));
        let postgres = Postgres { options, config: config.clone(), distrusted: distrusted.clone(), pool };
        Self { kind: Kind::Postgres(Box::new(postgres)), distrusted }
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }

    pub(crate) fn engine(&self) -> Engine {
        match self.kind {
            Kind::Sqlite { .. } => Engine::Sqlite,
            Kind::Postgres(_) => Engine::Postgres,
        }
    }

    /// After the disk failed, what open connections hold in memory may not be what is on it.
    pub(crate) fn distrust(&self) {
        *self.distrusted.lock() = Some(Instant::now());
    }

    pub(crate) async fn begin(&self, access: Access, scope: &Scope) -> sqlx::Result<Session> {
        match &self.kind {
            Kind::Sqlite { writer, readers, .. } => {
                let (pool, begin) = match access {
                    Access::Write => (writer, "BEGIN IMMEDIATE"),
                    Access::Read => (readers, "BEGIN"),
                };
                let mut begun = pool.begin_with(begin).await;
                // SQLite undoes a transaction by itself when the disk is full or fails; sqlx then believes for ever that the
                // connection is within one, and would never begin another on it
                if matches!(begun, Err(sqlx::Error::InvalidSavePointStatement)) {
                    self.distrust();
                    begun = pool.begin_with(begin).await;
                }
                begun.map(Session::Sqlite)
            }
            Kind::Postgres(postgres) => {
                let begin = match access {
                    Access::Write => "BEGIN",
                    Access::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
                };
                let tenant = if scope.is_system() { EVERY_TENANT } else { scope.tenant() };
                let begin = format!("{begin}; SET LOCAL {TENANT_SETTING} = {}", quoted(tenant));
                let pool = postgres.pool();
                // who stops waiting for a BEGIN that is under way would leave in the pool a connection within a transaction
                // that nobody ends (transact-rs/sqlx#4393); a task waits to the end
                let begun = tokio::spawn(async move { pool.begin_with(AssertSqlSafe(begin)).await });
                tokio::select! {
                    begun = begun => begun.unwrap_or(Err(sqlx::Error::WorkerCrashed)).map(Session::Postgres),
                    error = postgres.refuses() => Err(sqlx::Error::Io(error)),
                }
            }
        }
    }

    pub(crate) async fn close(&self) {
        match &self.kind {
            Kind::Sqlite { writer, readers, .. } => {
                readers.close().await;
                writer.close().await;
            }
            Kind::Postgres(postgres) => postgres.pool().close().await,
        }
    }
}

impl Postgres {
    pub(crate) fn pool(&self) -> PgPool {
        self.pool.lock().clone()
    }

    /// Ends once it is known that nobody listens where the server was: the pool itself would try again for as long as anybody may
    /// wait for a connection.
    async fn refuses(&self) -> std::io::Error {
        tokio::time::sleep(SOON).await;
        if self.options.get_socket().is_none() {
            let place = (self.options.get_host(), self.options.get_port());
            if let Err(error) = TcpStream::connect(place).await
                && error.kind() == std::io::ErrorKind::ConnectionRefused
            {
                return error;
            }
        }
        std::future::pending().await
    }

    /// Starts over with a new pool. A connection that died silently while it was dropped keeps its place in the old one
    /// for ever (transact-rs/sqlx#4349), until no place is left.
    pub(crate) fn renew(&self) {
        *self.pool.lock() = postgres_pool(self.options.clone(), &self.config, &self.distrusted);
    }
}

/// The PostgreSQL setting that row-level security compares the `tenant` column with.
pub(crate) const TENANT_SETTING: &str = "sensormesh.tenant";
/// Its value in transactions of the service itself.
pub(crate) const EVERY_TENANT: &str = "*";

/// A text literal; `standard_conforming_strings` is on, so only quotes are special.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\0', "").replace('\'', "''"))
}

fn pool<DB: Database>(connections: u32, config: &Config, distrusted: &Distrust) -> PoolOptions<DB> {
    let distrusted = distrusted.clone();
    PoolOptions::<DB>::new()
        .max_connections(connections)
        .min_connections(0)
        .acquire_timeout(config.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(move |_, connection| {
            let opened = Instant::now().checked_sub(connection.age);
            let trusted = distrusted.lock().is_none_or(|failed| opened.is_some_and(|opened| opened > failed));
            Box::pin(async move { Ok(trusted) })
        })
}

fn postgres_pool(options: PgConnectOptions, config: &Config, distrusted: &Distrust) -> PgPool {
    pool(config.connections.max(1), config, distrusted)
        .max_lifetime(LIFETIME)
        .idle_timeout(IDLE)
        .test_before_acquire(true)
        .connect_lazy_with(options)
}

fn sqlite_options(path: &Path, config: &Config) -> SqliteConnectOptions {
    let synchronous = match config.synchronous {
        Synchronous::Full => SqliteSynchronous::Full,
        Synchronous::Normal => SqliteSynchronous::Normal,
    };
    // sqlx sends page_size, auto_vacuum, journal_mode in this order, which is the order they must come in
    SqliteConnectOptions::new()
        .filename(path)
        .page_size(config.page_size)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        .pragma("mmap_size", "0")
        .pragma("temp_store", "MEMORY")
        .pragma("journal_size_limit", (64 << 20).to_string())
        .pragma("cache_size", format!("-{}", config.cache_kib.max(64)))
        .pragma("soft_heap_limit", HEAP.to_string())
}

/// Makes the file, readable by its owner only, before SQLite would make it readable by everybody.
/// SQLite gives the write-ahead log and the index beside it the same mode.
fn create_file(path: &Path) -> Result<()> {
    let describe = |error: std::io::Error| {
        Error::precondition("DATABASE_FILE", format!("the database file {} could not be opened", path.display()))
            .caused_by(error)
    };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(describe)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(describe)?;
    Ok(())
}
