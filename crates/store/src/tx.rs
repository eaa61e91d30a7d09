//! Transactions: the only way to the data, always for a scope.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use sensormesh_types::{Error, Result, Scope};
use sqlx::{Postgres, Sqlite, Transaction};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::breaker::Leave;
use crate::disk;
use crate::error::{Severity, translate};
use crate::log::{self, Entry};
use crate::pools::Kind;
use crate::query::{Query, placeholders};
use crate::{Engine, State, Store};

/// An open transaction on either engine.
pub(crate) enum Session {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// A consistent view of the data: nothing that commits later is seen. Dropping it ends it.
///
/// A function that only reads takes `&mut Read`; a `&mut Tx` passes for one.
/// After a failed statement the transaction is of no further use, on both engines.
pub struct Read {
    session: Session,
    store: Store,
    scope: Scope,
    access: Access,
    failed: bool,
    _leave: Leave,
}

/// Whether a transaction may write: the two have breakers of their own where they have connections of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

impl Read {
    pub(crate) fn new(session: Session, store: Store, scope: Scope, access: Access, leave: Leave) -> Self {
        Self { session, store, scope, access, failed: false, _leave: leave }
    }

    /// A statement with `$1`, `$2`… for its parameters. One text for both engines.
    pub fn query(&mut self, sql: &'static str) -> Query<'_> {
        Query::new(self, Cow::Borrowed(sql))
    }

    /// A statement put together at run time, from our own words only: what a caller sent is always a parameter.
    pub fn query_built(&mut self, sql: String) -> Query<'_> {
        Query::new(self, Cow::Owned(sql))
    }

    /// `INSERT INTO … VALUES` of so many rows, whose parameters are bound row by row. On SQLite without their numbers: it looks
    /// each one up in a list of all.
    pub fn query_rows(&mut self, insert: &str, columns: usize, rows: usize) -> Query<'_> {
        let row = |row: usize| match self.store.engine() {
            Engine::Sqlite => format!("({})", vec!["?"; columns].join(", ")),
            Engine::Postgres => format!("({})", placeholders(row * columns + 1, columns)),
        };
        let sql = format!("{insert} VALUES {}", (0..rows).map(row).collect::<Vec<_>>().join(", "));
        self.query_built(sql)
    }

    /// What this transaction may touch.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The tenant of the scope, for the `tenant` column.
    pub fn tenant(&self) -> String {
        self.scope.tenant().to_owned()
    }

    /// Which engine it runs on, for the rare statement that must differ.
    pub fn engine(&self) -> Engine {
        match self.session {
            Session::Sqlite(_) => Engine::Sqlite,
            Session::Postgres(_) => Engine::Postgres,
        }
    }

    /// The store this transaction belongs to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn session(&mut self) -> Result<&mut Session> {
        if self.failed {
            return Err(Error::internal("a statement was run in a transaction that has already failed"));
        }
        Ok(&mut self.session)
    }

    /// Notes that a statement failed, tells the breaker, and says what it means.
    pub(crate) fn fail(&mut self, error: sqlx::Error) -> Error {
        self.failed = true;
        self.store.note(self.access, error)
    }
}

/// A transaction that may write. What is not committed is undone, also when it is dropped anywhere.
pub struct Tx {
    read: Read,
    entries: Vec<log::Pending>,
}

impl Deref for Tx {
    type Target = Read;

    fn deref(&self) -> &Read {
        &self.read
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Read {
        &mut self.read
    }
}

impl Tx {
    pub(crate) fn new(read: Read) -> Self {
        Self { read, entries: Vec::new() }
    }

    /// Adds an entry to the service's log for the scope's tenant. It is written at commit, after everything else,
    /// so that sequence numbers follow the order of commits and a transaction that is undone leaves no gap.
    pub fn append(&mut self, entry: Entry) {
        let tenant = self.read.tenant();
        self.append_for(tenant, entry);
    }

    /// Adds an entry for a named tenant; for transactions of `Scope::system()`. With an empty one it is what a service's replicas
    /// tell each other, of which the audit shows nothing.
    pub fn append_for(&mut self, tenant: impl Into<String>, entry: Entry) {
        self.entries.push(log::Pending { tenant: tenant.into(), entry });
    }

    /// Makes everything durable and visible, and returns the sequence number of the last log entry it wrote
    /// (0 if it wrote none).
    pub async fn commit(self) -> Result<u64> {
        self.commit_and(|| ()).await
    }

    /// Commits, and then does `then` with what is in memory. A commit that has begun is ended in a task of its own: who gives
    /// up meanwhile leaves neither watchers that were not told nor memory that does not know. `then` is not done where the
    /// commit fails, or nobody knows whether it did (the connection is lost).
    pub async fn commit_and(mut self, then: impl FnOnce() + Send + 'static) -> Result<u64> {
        let pending = std::mem::take(&mut self.entries);
        let entries = if pending.is_empty() { Vec::new() } else { log::write(&mut self.read, pending).await? };
        if self.read.failed {
            return Err(Error::internal("a transaction with a failed statement was committed"));
        }
        let ended = tokio::spawn(Self::finish(self.read, entries, then).in_current_span()).await;
        ended.unwrap_or_else(|error| Err(Error::internal("a commit did not end").caused_by(error)))
    }

    async fn finish(read: Read, entries: Vec<log::LogEntry>, then: impl FnOnce()) -> Result<u64> {
        let Read { session, store, .. } = read;
        let done = match session {
            Session::Sqlite(tx) => tx.commit().await,
            Session::Postgres(tx) => tx.commit().await,
        };
        done.map_err(|error| store.note(Access::Write, error))?;
        store.breaker(Access::Write).succeeded();
        if store.engine() == Engine::Postgres {
            *store.inner.without_room.lock() = None;
        }
        store.inner.commits.fetch_add(1, Ordering::Relaxed);
        let last = entries.last().map_or(0, |entry| entry.seq);
        store.inner.tail.committed(entries);
        if catch_unwind(AssertUnwindSafe(then)).is_err() {
            tracing::error!("what follows a commit panicked");
        }
        Ok(last)
    }

    /// Undoes everything now; dropping does the same a little later.
    pub async fn rollback(self) -> Result<()> {
        let Read { session, store, .. } = self.read;
        let done = match session {
            Session::Sqlite(tx) => tx.rollback().await,
            Session::Postgres(tx) => tx.rollback().await,
        };
        done.map_err(|error| store.note(Access::Write, error))
    }
}

impl Store {
    /// Translates a failure of the database and tells the breaker.
    pub(crate) fn note(&self, access: Access, error: sqlx::Error) -> Error {
        let starved = matches!(error, sqlx::Error::PoolTimedOut);
        let (mut error, mut severity) = translate(error);
        let breaker = self.breaker(access);
        if let Kind::Sqlite { disk, .. } = self.inner.pools.kind()
            && severity != Severity::Statement
            && !starved
            && (severity == Severity::Full || disk.is_at_its_end())
        {
            // whatever SQLite could not do, it could not for want of room: that no connection is lost, and is over when
            // there is room, so it is not the breaker's
            if severity != Severity::Full {
                self.inner.pools.distrust();
                error = disk::full("the disk is full").caused_by(error);
                severity = Severity::Full;
            }
            disk.let_go();
            self.inner.look_at_disk();
        }
        match (severity, self.inner.pools.kind()) {
            (Severity::Full, Kind::Postgres(_)) => *self.inner.without_room.lock() = Some(Instant::now()),
            (Severity::Statement | Severity::Full, _) => {}
            // a file has no connection to lose: others were using theirs for long
            (Severity::Connection, Kind::Sqlite { .. }) if starved => {}
            (Severity::Connection, kind) => {
                breaker.failed(&error);
                if let (true, State::Open, Kind::Postgres(postgres)) = (starved, breaker.state(), kind) {
                    postgres.renew();
                }
            }
            (Severity::Disk, _) => {
                breaker.failed(&error);
                self.inner.pools.distrust();
            }
        }
        error
    }
}
