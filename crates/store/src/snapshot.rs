//! A copy of a SQLite database while it is in use: one state of it, page by page as it lies in the file, so that what did not
//! change since the last copy is byte for byte the same.
//!
//! `VACUUM INTO` writes every page anew, in another order. Here a reader's transaction keeps the state from being
//! overwritten: while it lasts, a checkpoint moves no page into the file that is newer than it, and the write-ahead log is not
//! begun anew (<https://www.sqlite.org/wal.html>). So the file, with the pages of the log's committed frames over it, is the
//! state of the last of those commits.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use sensormesh_types::{Code, Error, Result};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use crate::error::translate;
use crate::wal::{Frames, HEADER, MAGIC, header, wal_of};
use crate::{made, unclean};

/// Bytes handed on at once.
const RUN: usize = 1 << 20;
/// The log can be begun anew once under a reader that reads the file alone; then the copy is made again.
const ATTEMPTS: usize = 3;

/// Opens a database file that is there, for reading. Refuses one that lost something.
pub(crate) async fn connect(path: &Path) -> Result<SqliteConnection> {
    made::verify(path)?;
    unclean::verify(path)?;
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(false).pragma("query_only", "ON");
    options.connect().await.map_err(|error| translate(error).0)
}

/// Copies one state of the database at `path` to a new file. Everything committed before the call is in it.
///
/// Nothing is written to the database, but its folder must be writable, as for every reader.
pub async fn copy(path: &Path, to: &Path) -> Result<()> {
    let fail = |error: sqlx::Error| translate(error).0;
    let mut reader = connect(path).await?;
    sqlx::query("BEGIN").execute(&mut reader).await.map_err(fail)?;
    sqlx::query("SELECT COUNT(*) FROM sqlite_schema").fetch_one(&mut reader).await.map_err(fail)?;
    let (from, to) = (path.to_owned(), to.to_owned());
    let copied = tokio::task::spawn_blocking(move || {
        for _ in 0..ATTEMPTS {
            // the files go out with the answer: closing them would take this process's locks on them away
            let (files, whole) = attempt(&from, &to)?;
            if whole {
                return Ok(files);
            }
        }
        Err(io::Error::other("the write-ahead log was begun anew again and again"))
    });
    let copied = copied.await.map_err(Error::internal)?;
    reader.close().await.map_err(fail)?;
    copied.map(drop).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => {
            Error::new(Code::Corrupt, "DATABASE_CORRUPT", format!("{}: {error}", path.display())).caused_by(error)
        }
        _ => Error::internal(error).with("file", path.display().to_string()),
    })
}

type Files = (File, Option<File>);

/// Answers whether the log stayed the same meanwhile.
fn attempt(from: &Path, to: &Path) -> io::Result<(Files, bool)> {
    let database = File::open(from)?;
    let wal = match File::open(wal_of(from)) {
        Ok(wal) => Some(wal),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let mut first = [0; 100];
    database.read_exact_at(&mut first, 0).map_err(|_| damaged("it has no header"))?;
    if !first.starts_with(MAGIC) {
        return Err(damaged("it is no SQLite database"));
    }
    let page = match u16::from_be_bytes([first[16], first[17]]) {
        1 => 65_536,
        page => usize::from(page),
    };
    if !page.is_power_of_two() || page < 512 {
        return Err(damaged("its page size is none"));
    }
    let before = wal.as_ref().map(header).transpose()?.flatten();
    let newer = match (&wal, &before) {
        (Some(wal), Some(header)) => Pages::read(wal, header, page)?,
        _ => Pages::default(),
    };
    let length = database.metadata()?.len();
    let pages = newer.count.unwrap_or(length / page as u64);
    let out = File::create(to)?;
    let mut run = vec![0; RUN.max(page)];
    let per_run = (run.len() / page) as u64;
    let mut at = 0;
    while at < pages {
        let count = per_run.min(pages - at);
        let bytes = &mut run[..usize::try_from(count).map_err(io::Error::other)? * page];
        let offset = at * page as u64;
        let there = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
        let whole = there / page * page;
        database.read_exact_at(&mut bytes[..whole], offset)?;
        for (i, slot) in bytes.chunks_exact_mut(page).enumerate() {
            let number = at + i as u64 + 1;
            match (newer.at.get(&number), &wal) {
                (Some(place), Some(wal)) => wal.read_exact_at(slot, *place)?,
                _ if i * page < whole => {}
                _ => return Err(damaged("a page of it is missing")),
            }
        }
        out.write_all_at(bytes, offset)?;
        at += count;
    }
    out.sync_all()?;
    let after = wal.as_ref().map(header).transpose()?.flatten();
    let same = before == after && (wal.is_some() || !wal_of(from).exists());
    Ok(((database, wal), same))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Where the newest committed copy of each page lies in a log.
#[derive(Default)]
struct Pages {
    at: HashMap<u64, u64>,
    /// Pages of the database after the last commit; `None` where there is none.
    count: Option<u64>,
}

impl Pages {
    fn read(wal: &File, header: &[u8; HEADER], page: usize) -> io::Result<Self> {
        let mut pages = Self::default();
        let Some(mut frames) = Frames::of(wal, header).filter(|frames| frames.page_size() == page) else {
            return Ok(pages);
        };
        let mut open: Vec<(u64, u64)> = Vec::new();
        while let Some(frame) = frames.next()? {
            open.push((frame.page.into(), frame.at));
            if frame.pages > 0 {
                pages.at.extend(open.drain(..));
                pages.count = Some(frame.pages.into());
            }
        }
        Ok(pages)
    }
}
