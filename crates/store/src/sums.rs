//! Checksums of a SQLite file, written when the program stops and looked at when it starts: SQLite has none of its own, and its
//! integrity check misses most flipped bits.
//!
//! Beside `rooms.db` lies `rooms.db.sums`: a line with the file's size, a line with the BLAKE3 of each 64 KiB of it, and last
//! the BLAKE3 of these lines. It is removed when the database is opened, because it is no longer true then. A power cut in the
//! middle leaves it whole or not there, and never beside a database that has been written to since.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use sensormesh_types::{Code, Error, Result};
use sqlx::Connection as _;

use crate::error::translate;
use crate::snapshot;
use crate::wal::{folder_of, wal_of};

const CHUNK: usize = 64 << 10;
/// A start reads a file up to this size through, within some tenths of a second; of a greater one, [`crate::Store`]'s
/// own checksums of its content hold, and `check` reads all.
const AT_START: u64 = 64 << 20;

fn sums_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sums");
    name.into()
}

/// Moves everything into the file and writes its checksums, when nobody uses the database any more. Nothing is written where
/// somebody does.
pub async fn seal(path: &Path) -> Result<()> {
    let fail = |error: sqlx::Error| translate(error).0;
    let mut connection = snapshot::connect(path).await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await.map_err(fail)?;
    connection.close().await.map_err(fail)?;
    if fs::metadata(wal_of(path)).is_ok_and(|wal| wal.len() > 0) {
        return Ok(());
    }
    let text = lines(path).map_err(Error::internal)?;
    let sealed = format!("{text}{}\n", blake3::hash(text.as_bytes()));
    put(&sums_of(path), sealed.as_bytes()).map_err(Error::internal)
}

/// Writes a file so that it is there with all of it or not at all, whenever the power goes.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let mut file = File::create(&name)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&name, path)?;
    sync_folder(path)
}

/// Makes the names in a file's folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn lines(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut text = format!("{}\n", file.metadata()?.len());
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut filled = 0;
        while filled < CHUNK {
            match file.read(&mut chunk[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        if filled == 0 {
            return Ok(text);
        }
        text.push_str(&blake3::hash(&chunk[..filled]).to_hex());
        text.push('\n');
    }
}

/// The bytes of the file that are not what they were when it was closed; nothing where that is not known.
pub(crate) fn changed(path: &Path) -> Result<Vec<Range<u64>>> {
    let Ok(sealed) = fs::read_to_string(sums_of(path)) else {
        return if sums_of(path).exists() {
            Err(damaged(path, "its file of checksums cannot be read"))
        } else {
            Ok(Vec::new())
        };
    };
    let body = sealed.trim_end_matches('\n').rfind('\n').map_or("", |end| &sealed[..=end]);
    if sealed != format!("{body}{}\n", blake3::hash(body.as_bytes())) {
        return Err(damaged(path, "its file of checksums is damaged"));
    }
    let now = lines(path).map_err(Error::internal)?;
    let (mut before, mut now) = (body.lines(), now.lines());
    if before.next() != now.next() {
        return Err(damaged(path, "it has not the size that it was closed with"));
    }
    let places = before.zip(now).enumerate().filter(|(_, (before, now))| before != now);
    Ok(places.map(|(i, _)| (i * CHUNK) as u64..((i + 1) * CHUNK) as u64).collect())
}

/// Before a database is opened for writing: refuses one that changed since it was closed.
pub(crate) fn unseal(path: &Path) -> Result<()> {
    let sums = sums_of(path);
    if !sums.exists() {
        return Ok(());
    }
    if fs::metadata(path).is_ok_and(|file| file.len() <= AT_START)
        && let Some(range) = changed(path)?.first()
    {
        return Err(damaged(path, &format!("its bytes {} to {} changed", range.start, range.end)));
    }
    fs::remove_file(&sums).and_then(|()| sync_folder(&sums)).map_err(Error::internal)
}

fn damaged(path: &Path, what: &str) -> Error {
    let message = format!(
        "{} is damaged: {what} since it was closed. Restore a backup; if you changed it on purpose, remove {}",
        path.display(),
        sums_of(path).display()
    );
    Error::new(Code::Corrupt, "DATABASE_CORRUPT", message)
}
