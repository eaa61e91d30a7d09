//! What a failure of the database means to a caller.

use std::time::Duration;

use sensormesh_types::{Code, Error, random};

use crate::disk;

/// How a failure concerns the database as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The statement's own matter.
    Statement,
    /// There is no room on the disk: the connections are good.
    Full,
    /// The connection or the server: the breaker counts it.
    Connection,
    /// The disk: besides, what the open connections believe may be wrong, and they are closed.
    Disk,
}

/// Classifies and translates a failure of sqlx.
pub(crate) fn translate(error: sqlx::Error) -> (Error, Severity) {
    match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().map(std::borrow::Cow::into_owned).unwrap_or_default();
            let sqlite = database.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some();
            let constraint = database.constraint().unwrap_or_default().to_owned();
            let message = database.message().to_owned();
            if sqlite {
                sqlite_error(code.parse::<u32>().unwrap_or(1), &message, error)
            } else {
                postgres_error(&code, &constraint, error)
            }
        }
        sqlx::Error::PoolTimedOut => (
            Error::unavailable("DATABASE_BUSY", "every connection to the database is busy", Duration::from_secs(1))
                .caused_by(error),
            Severity::Connection,
        ),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => (unreachable(error), Severity::Connection),
        _ => (Error::internal(error), Severity::Statement),
    }
}

fn unreachable(error: sqlx::Error) -> Error {
    Error::unavailable("DATABASE_DOWN", "the database could not be reached", Duration::from_secs(1)).caused_by(error)
}

fn full(error: sqlx::Error) -> Error {
    disk::full("the disk is full").caused_by(error)
}

fn taken(error: sqlx::Error, constraint: &str) -> Error {
    Error::new(Code::Exists, "ALREADY_EXISTS", "it exists already").with("constraint", constraint).caused_by(error)
}

fn referenced(error: sqlx::Error) -> Error {
    Error::precondition("REFERENCED", "something else refers to it, or what it refers to is missing").caused_by(error)
}

fn busy(error: sqlx::Error) -> Error {
    Error::unavailable("DATABASE_BUSY", "the database is busy", Duration::from_millis(200)).caused_by(error)
}

/// <https://www.sqlite.org/rescode.html>: the low byte is the primary code, the whole the extended one.
fn sqlite_error(code: u32, message: &str, error: sqlx::Error) -> (Error, Severity) {
    match (code & 0xff, code) {
        (5 | 6, _) => (busy(error), Severity::Statement),
        (8, _) => (
            Error::unavailable("READ_ONLY", "the database cannot be written", Duration::from_secs(5)).caused_by(error),
            Severity::Connection,
        ),
        // SQLITE_IOERR_SHMSIZE: the index of the write-ahead log could not grow
        (10, 4874) => (full(error), Severity::Full),
        (10, _) => (unreachable(error), Severity::Disk),
        (11 | 26, _) => (
            Error::new(Code::Corrupt, "DATABASE_CORRUPT", "the database file is damaged").caused_by(error),
            Severity::Disk,
        ),
        (13, _) => (full(error), Severity::Full),
        (14, _) => (unreachable(error), Severity::Connection),
        (19, 787 | 1811) => (referenced(error), Severity::Statement),
        (19, 1555 | 2067 | 2579) => {
            let constraint = message.rsplit(": ").next().unwrap_or_default().to_owned();
            (taken(error, &constraint), Severity::Statement)
        }
        _ => (Error::internal(error), Severity::Statement),
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn postgres_error(code: &str, constraint: &str, error: sqlx::Error) -> (Error, Severity) {
    match code {
        "23505" => (taken(error, constraint), Severity::Statement),
        "23503" => (referenced(error), Severity::Statement),
        "40001" | "40P01" => (
            Error::new(Code::Conflict, "CONCURRENT_CHANGE", "another transaction changed the same rows")
                // those that met should not meet again
                .after(Duration::from_millis(20).mul_f64(1.0 + 4.0 * random::fraction()))
                .caused_by(error),
            Severity::Statement,
        ),
        // PostgreSQL keeps no text with a zero in it; SQLite does
        "22021" => (
            Error::new(Code::Invalid, "TEXT_NOT_STORABLE", "a text holds a character that cannot be stored")
                .caused_by(error),
            Severity::Statement,
        ),
        "55P03" => (busy(error), Severity::Statement),
        "57014" => (
            Error::unavailable("STATEMENT_TIMEOUT", "the database took too long", Duration::from_secs(1))
                .caused_by(error),
            Severity::Statement,
        ),
        // the process was paused, or the machine was: the server has undone the transaction
        "25P03" => (
            Error::unavailable("TRANSACTION_IDLE", "the transaction took too long", Duration::from_millis(200))
                .caused_by(error),
            Severity::Statement,
        ),
        "53100" => (full(error), Severity::Full),
        // io_error: the server answers, and what is in its memory can be read
        "58030" => (unreachable(error), Severity::Statement),
        "25006" => (
            Error::unavailable("READ_ONLY", "the database cannot be written", Duration::from_secs(5)).caused_by(error),
            Severity::Connection,
        ),
        "XX001" | "XX002" => (
            Error::new(Code::Corrupt, "DATABASE_CORRUPT", "the database reports damaged data").caused_by(error),
            Severity::Statement,
        ),
        // the server lets nobody in: the role, its password, the database is not there, or takes no connections
        "28000" | "28P01" | "3D000" | "55000" => (unreachable(error), Severity::Connection),
        _ if code.starts_with("08") || code.starts_with("53") || code.starts_with("57P") => {
            (unreachable(error), Severity::Connection)
        }
        _ => (Error::internal(error), Severity::Statement),
    }
}
