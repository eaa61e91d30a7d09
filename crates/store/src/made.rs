//! Which SQLite files a directory has: one that is gone is not taken for one that was never there.
//!
//! [`FILE`] lies beside them and has a line for each that was made there, by its name. A line is written and synced once the
//! database is whole. A file that has a line and is gone is not made anew: all that was acknowledged would be lost without a
//! word.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use sensormesh_types::{Code, Error, Result};

use crate::sums::sync_folder;
use crate::wal::{folder_of, wal_of};

/// The name of the list, beside the databases.
pub const FILE: &str = "databases";

/// Whether there is, or was, a database of this name: its file, something in its log, or its line.
pub fn is_known(database: &Path) -> Result<bool> {
    let logged = fs::metadata(wal_of(database)).is_ok_and(|log| log.len() > 0);
    Ok(database.exists() || logged || was_made(database)?)
}

/// Whether this database was made, and so has to be there.
fn was_made(database: &Path) -> Result<bool> {
    match fs::read_to_string(list(database)) {
        Ok(text) => Ok(text.lines().any(|line| database.file_name().is_some_and(|name| name == line))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::internal(error).with("file", list(database).display().to_string())),
    }
}

/// DATABASE_GONE where this database was made, and is not there any more, or is empty.
pub(crate) fn verify(database: &Path) -> Result<()> {
    // the list first: one that is being made has its line last
    if !was_made(database)? || fs::metadata(database).is_ok_and(|file| file.len() > 0) {
        return Ok(());
    }
    let what = if database.exists() { "is empty" } else { "is gone" };
    let message = format!(
        "{} {what}, and it was not. Restore a backup; or, to begin without all that was in it, move what is left of it away (-wal, \
         -shm) and take its line out of {}",
        database.display(),
        list(database).display()
    );
    Err(Error::new(Code::Corrupt, "DATABASE_GONE", message).with("file", database.display().to_string()))
}

/// Notes that this database is there.
pub(crate) fn note(database: &Path) -> Result<()> {
    let add = || -> io::Result<()> {
        let mut line = database.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
        line.push(b'\n');
        // several processes add to it at once, each its line
        let mut file = OpenOptions::new().create(true).append(true).open(list(database))?;
        file.write_all(&line)?;
        file.sync_all()?;
        sync_folder(database)
    };
    if was_made(database)? { Ok(()) } else { add().map_err(Error::internal) }
}

fn list(database: &Path) -> PathBuf {
    folder_of(database).join(FILE)
}

/// The file that a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// `None` where there is no file of this name.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).ok().map(|file| Self { device: file.dev(), inode: file.ino() })
    }
}
