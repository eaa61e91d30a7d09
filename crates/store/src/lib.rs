//! The disk: a service's database, its log, and the streams that others read from it.
//!
//! A [`Store`] is one database on SQLite or PostgreSQL, chosen by URL at run time, with one SQL text for both.
//! Every transaction is for a `Scope`. What others must know is appended to the log in the transaction that changes it
//! ([`Tx::append`]); [`Store::watch`] serves the log from any cursor; [`Store::follow`] consumes another service's watch
//! stream, each effect in one transaction with the cursor behind it, so effects happen once.
//! No queue in memory to lose, and no broker to run.

mod breaker;
mod check;
mod config;
mod consume;
mod cursor;
mod disk;
mod error;
pub mod exchange;
mod follow;
mod lead;
mod lease;
mod log;
mod made;
mod migrate;
mod open;
mod pools;
mod postgres;
mod query;
mod renew;
mod request;
mod retention;
mod snapshot;
pub mod spool;
mod sums;
mod tail;
pub mod testing;
mod tx;
mod unclean;
mod upkeep;
mod value;
mod wal;
mod watch;

pub use breaker::{Health, State};
pub use check::{Finding, Summary};
pub use config::{Config, Synchronous};
pub use cursor::{Cursors, Position};
pub use disk::{BALLAST_FILE, Budget, Room, RoomState};
pub use follow::{ConsumerState, Incoming, Projection};
pub use lease::Lease;
pub use log::{Entry, LogEntry};
pub use made::{FILE as LIST_FILE, is_known as is_known_database};
pub use migrate::Migration;
pub use open::Store;
pub use pools::Engine;
pub use query::{Query, placeholders};
pub use renew::database as renew_database;
pub use snapshot::copy as copy_database;
pub use sums::seal as seal_database;
pub use tx::{Read, Tx};
pub use value::{Bind, FromColumn, Kind, Row, Value};
pub use watch::{Event, EventKind, Snapshot, WatchRequest};

pub(crate) use tx::Session;
