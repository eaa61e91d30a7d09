//! The store itself: one database, opened by URL.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sensormesh_types::{Clock, Error, Result, Scope, random};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::breaker::Breaker;
use crate::disk::Room;
use crate::follow::Consumers;
use crate::made::{self, FileId};
use crate::migrate::{self, Migration};
use crate::pools::{Kind, Pools};
use crate::tail::Tail;
use crate::tx::Access;
use crate::{Config, Cursors, Engine, Health, Read, State, Synchronous, Tx, postgres, sums, unclean, upkeep};

/// For how long a write that a server had no room for says that it is full.
const LATELY: Duration = Duration::from_secs(60);
/// How long a caller is told to wait while the file is not the one that was opened.
const GONE_RETRY: Duration = Duration::from_secs(5);

/// A service's database. Cheap to clone; closed when the last clone is dropped.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    /// Ends the upkeep with the last clone of the store. The upkeep itself holds `inner` only.
    _upkeep: Option<Arc<tokio_util::sync::DropGuard>>,
}

pub(crate) struct Inner {
    pub(crate) service: &'static str,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) pools: Pools,
    pub(crate) tail: Tail,
    pub(crate) consumers: Mutex<Consumers>,
    /// Transactions committed since the start.
    pub(crate) commits: AtomicU64,
    readers: Breaker,
    writers: Breaker,
    cursors: Cursors,
    room: Mutex<Room>,
    /// The file that was opened, and whether its name leads elsewhere now.
    file: Option<FileId>,
    pub(crate) gone: AtomicBool,
    /// When a PostgreSQL server last had no room for a write, unless one was taken since.
    pub(crate) without_room: Mutex<Option<Instant>>,
}

impl Inner {
    /// Measures the room on the disk, and looks whether the file is still there. Quick, but no work for every call.
    pub(crate) fn look_at_disk(&self) {
        if let Kind::Sqlite { disk, path, .. } = self.pools.kind() {
            *self.room.lock() = disk.look();
            let gone = self.file != FileId::of(path);
            if self.gone.swap(gone, Ordering::Relaxed) != gone {
                let (file, service) = (path.display(), self.service);
                if gone {
                    tracing::error!(service, %file, "the database's file was removed or replaced while it is in use");
                } else {
                    tracing::info!(service, %file, "the database's file is back");
                }
            }
        }
    }
}

impl Store {
    /// Opens the database of `service`, makes it where it is missing, and brings it to the newest of `migrations`.
    ///
    /// Fails with a precondition that says what to do where the database is newer than the program, a migration was changed
    /// after it ran, or the URL is of no known kind.
    pub async fn open(
        service: &'static str,
        config: &Config,
        migrations: &'static [Migration],
        clock: Clock,
    ) -> Result<Self> {
        let url = config.url.replace("{service}", service);
        let pools = if let Some(path) = sqlite_path(&url) {
            made::verify(&path)?;
            sums::unseal(&path)?;
            verify(&path, config)?;
            Pools::sqlite(&path, config)?
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let separate = config.url.contains("{service}");
            Pools::postgres(postgres::prepare(&url, service, separate).await?, config)
        } else {
            let message = "the database URL must start with sqlite: or postgres://";
            return Err(Error::precondition("DATABASE_URL", message));
        };
        if let Kind::Sqlite { disk, .. } = pools.kind() {
            disk.look();
        }
        let identity = migrate::run(&pools, service, migrations, &clock).await?;
        if let Kind::Sqlite { path, .. } = pools.kind() {
            made::note(path)?;
        }
        let inner = Self::assemble(service, config, clock, pools, &identity);
        inner.look_at_disk();
        let stop = CancellationToken::new();
        upkeep::start(&inner, &stop);
        Ok(Self { inner, _upkeep: Some(Arc::new(stop.drop_guard())) })
    }

    /// Opens a database that is there, as it is, to look at it: nothing is brought up to date or written.
    pub async fn inspect(service: &'static str, config: &Config, clock: Clock) -> Result<Self> {
        let url = config.url.replace("{service}", service);
        let pools = match sqlite_path(&url) {
            Some(path) => {
                made::verify(&path)?;
                verify(&path, config)?;
                if !path.exists() {
                    return Err(Error::precondition("DATABASE_FILE", format!("there is no {}", path.display())));
                }
                Pools::to_look_at(&path, config)
            }
            None => {
                let separate = config.url.contains("{service}");
                Pools::postgres(postgres::prepare(&url, service, separate).await?, config)
            }
        };
        let identity = migrate::identity_of(&pools).await?;
        Ok(Self { inner: Self::assemble(service, config, clock, pools, &identity), _upkeep: None })
    }

    fn assemble(
        service: &'static str,
        config: &Config,
        clock: Clock,
        pools: Pools,
        identity: &migrate::Identity,
    ) -> Arc<Inner> {
        let readers = Breaker::new();
        let file = match pools.kind() {
            Kind::Sqlite { path, .. } => FileId::of(path),
            Kind::Postgres(_) => None,
        };
        // On PostgreSQL readers and writers share their connections, and so their luck.
        let writers = if pools.engine() == Engine::Sqlite { Breaker::new() } else { readers.clone() };
        Arc::new(Inner {
            service,
            config: config.clone(),
            clock,
            pools,
            tail: Tail::new(identity.head),
            consumers: Mutex::default(),
            commits: AtomicU64::new(1),
            readers,
            writers,
            cursors: Cursors::new(service, identity.incarnation, identity.key),
            room: Mutex::default(),
            file,
            gone: AtomicBool::new(false),
            without_room: Mutex::default(),
        })
    }

    /// The same store for its own upkeep, which does not keep itself alive.
    pub(crate) fn beside(inner: &Arc<Inner>) -> Self {
        Self { inner: Arc::clone(inner), _upkeep: None }
    }

    /// A transaction that may write. On SQLite there is one at a time.
    pub async fn tx(&self, scope: &Scope) -> Result<Tx> {
        Ok(Tx::new(self.begin(scope, Access::Write).await?))
    }

    /// A transaction that only reads, and sees one state of the data however long it takes.
    pub async fn read(&self, scope: &Scope) -> Result<Read> {
        self.begin(scope, Access::Read).await
    }

    async fn begin(&self, scope: &Scope, access: Access) -> Result<Read> {
        if self.is_gone() {
            let message = "the database's file was removed or replaced while it was in use; put it back";
            return Err(Error::unavailable("DATABASE_GONE", message, GONE_RETRY));
        }
        let leave = self.breaker(access).admit()?;
        match self.inner.pools.begin(access, scope).await {
            Ok(session) => {
                // that a write transaction begins says nothing about the disk: its commit does
                if access == Access::Read {
                    self.breaker(access).succeeded();
                }
                Ok(Read::new(session, self.clone(), scope.clone(), access, leave))
            }
            Err(error) => Err(self.note(access, error)),
        }
    }

    /// The name of the service whose database it is.
    pub fn service(&self) -> &'static str {
        self.inner.service
    }

    /// The time of day.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Which engine it runs on.
    pub fn engine(&self) -> Engine {
        self.inner.pools.engine()
    }

    /// Writes and reads the cursors of this database's log; for a service with a log of its own kind, too.
    pub fn cursors(&self) -> Cursors {
        self.inner.cursors.clone()
    }

    /// The same for another log in this database, under a name of its own: the cursors of one are foreign to the other.
    pub fn cursors_of(&self, log: &str) -> Cursors {
        self.inner.cursors.of(&format!("{}/{log}", self.inner.service))
    }

    /// How the database does: the worse of reading and writing.
    pub fn health(&self) -> Health {
        let (read, write) = (self.inner.readers.health(self.clock()), self.inner.writers.health(self.clock()));
        if write.state == State::Closed && write.failures <= read.failures { read } else { write }
    }

    /// The room on the disk, as it was a moment ago. A PostgreSQL server minds its own.
    pub fn room(&self) -> Room {
        *self.inner.room.lock()
    }

    /// Whether a PostgreSQL server had no room for a write within the last minute, and took none since.
    pub fn server_is_full(&self) -> bool {
        self.inner.without_room.lock().is_some_and(|at| at.elapsed() < LATELY)
    }

    /// Whether the file was removed or replaced under this process: what is written there is lost with it.
    pub fn is_gone(&self) -> bool {
        self.inner.gone.load(Ordering::Relaxed)
    }

    /// Lets the next call through to the database, whatever happened before.
    pub fn reset_breaker(&self) {
        self.inner.readers.reset();
        self.inner.writers.reset();
    }

    /// Draws a new incarnation, as after a restore: every cursor given out before is refused, and its readers start again.
    /// Open the store anew afterwards.
    pub async fn renew_incarnation(self) -> Result<()> {
        let mut tx = self.tx(&Scope::system()).await?;
        let incarnation = i64::from_le_bytes(random::bytes()) & i64::MAX;
        tx.query("UPDATE identity SET incarnation = $1 WHERE id = 1").bind(incarnation).execute().await?;
        tx.commit().await?;
        self.close().await;
        Ok(())
    }

    /// Closes every connection; what is open is finished first.
    pub async fn close(&self) {
        self.inner.pools.close().await;
    }

    pub(crate) fn breaker(&self, access: Access) -> &Breaker {
        match access {
            Access::Read => &self.inner.readers,
            Access::Write => &self.inner.writers,
        }
    }

    /// The PostgreSQL channel on which commits are announced.
    pub(crate) fn channel(&self) -> String {
        upkeep::channel(self.inner.service)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({}, {:?})", self.inner.service, self.engine())
    }
}

/// Refuses a file that lost commits since it was last written: any, where each was synced, else all.
fn verify(path: &Path, config: &Config) -> Result<()> {
    match config.synchronous {
        Synchronous::Full => unclean::verify(path),
        Synchronous::Normal => unclean::verify_file(path),
    }
}

fn sqlite_path(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("sqlite:")?;
    Some(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
}
