//! Room on the disk that a SQLite database lies on: a budget, and a ballast that is let go when the disk is full.
//!
//! A full disk refuses a DELETE too, because SQLite writes what it deletes into its log first. So a file without content
//! lies beside the databases; it is removed when nothing else is left, and made again when there is room.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sensormesh_types::{Error, Result, text};
use serde::{Deserialize, Serialize};

use crate::wal::folder_of;

/// The name of the ballast, beside the databases.
pub const BALLAST_FILE: &str = "ballast";
/// With less than this free a write may fail at any moment: the ballast is let go.
const LAST: u64 = 1 << 20;
/// How long a caller is told to wait.
const RETRY: Duration = Duration::from_secs(5);

/// How much of the disk may be used. Sizes are in bytes; 0 turns each of them off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// The size of the ballast: what is left for deleting when the disk is full.
    #[serde(with = "text::size")]
    pub ballast: u64,
    /// New readings are refused when less than this is free beside the ballast.
    #[serde(with = "text::size")]
    pub least_free: u64,
    /// The health says so when less than this is free beside the ballast.
    #[serde(with = "text::size")]
    pub warn_free: u64,
    /// New readings are refused when the directory of the databases holds more than this; from nine tenths of it on the
    /// health says so.
    #[serde(with = "text::size")]
    pub most_used: u64,
}

impl Budget {
    /// No ballast and no limit: for a database on its own.
    pub const NONE: Self = Self { ballast: 0, least_free: 0, warn_free: 0, most_used: 0 };
}

impl Default for Budget {
    fn default() -> Self {
        Self { ballast: 16 << 20, least_free: 32 << 20, warn_free: 256 << 20, most_used: 0 }
    }
}

/// How much room there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes free beside the ballast, whether that is there or has been let go.
    pub free: u64,
    /// Bytes that the directory of the databases holds, without the ballast.
    pub used: u64,
    /// What that means.
    pub state: RoomState,
}

/// What the room on the disk means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoomState {
    /// There is enough.
    #[default]
    Enough,
    /// It gets scarce: everything works.
    Scarce,
    /// New readings are refused. Reads, deletions and changes of the configuration go on.
    Full,
}

impl Room {
    /// STORAGE_FULL where nothing that grows without end may be written.
    pub fn admit(&self) -> Result<()> {
        match self.state {
            RoomState::Full => Err(full(self.in_words())),
            _ => Ok(()),
        }
    }

    /// For operators: how much is free and used.
    pub fn in_words(&self) -> String {
        let mib = |bytes: u64| bytes / (1 << 20);
        let what = if self.state == RoomState::Full { "the disk is full" } else { "the disk is nearly full" };
        format!("{what}: {} MiB are free, the databases hold {} MiB", mib(self.free), mib(self.used))
    }
}

/// What a caller is told where there is no room.
pub(crate) fn full(message: impl Into<String>) -> Error {
    Error::exhausted("STORAGE_FULL", message, RETRY)
}

/// Looks after the room of one directory. Several may look after the same one, in one process or in many.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    directory: PathBuf,
    budget: Budget,
}

impl Disk {
    pub(crate) fn of(database: &Path, budget: &Budget) -> Self {
        Self { directory: folder_of(database).to_owned(), budget: budget.clone() }
    }

    /// Whether a write may fail for want of room. For telling why one failed.
    pub(crate) fn is_at_its_end(&self) -> bool {
        available(&self.directory).is_ok_and(|available| available < LAST)
    }

    /// Removes the ballast; the next look makes it again where there is room.
    pub(crate) fn let_go(&self) {
        let ballast = self.directory.join(BALLAST_FILE);
        match fs::remove_file(&ballast) {
            Ok(()) => tracing::warn!(file = %ballast.display(), "the disk is full: the ballast was let go"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(file = %ballast.display(), %error, "the ballast could not be let go"),
        }
    }

    /// Measures the room, and lets the ballast go or makes it again.
    pub(crate) fn look(&self) -> Room {
        let Ok(mut available) = available(&self.directory) else { return Room::default() };
        let budget = &self.budget;
        if budget.ballast > 0 {
            let held = fs::metadata(self.directory.join(BALLAST_FILE)).map_or(0, |ballast| ballast.len());
            if held > 0 && available < LAST {
                self.let_go();
            } else if held != budget.ballast
                && available + held > budget.ballast.saturating_add(budget.least_free).saturating_add(2 * LAST)
                && let Err(error) = self.make()
            {
                tracing::warn!(%error, "the ballast could not be made");
            }
        }
        let ballast = fs::metadata(self.directory.join(BALLAST_FILE)).map_or(0, |ballast| ballast.len());
        available = self::available(&self.directory).unwrap_or(available);
        let free = (available + ballast).saturating_sub(budget.ballast);
        let used = used(&self.directory).saturating_sub(ballast);
        Room { free, used, state: state(budget, free, used) }
    }

    /// The ballast takes real blocks: a file with holes would free nothing.
    fn make(&self) -> std::io::Result<()> {
        let path = self.directory.join(BALLAST_FILE);
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        if file.try_lock().is_err() {
            return Ok(()); // another process is at it
        }
        file.set_len(0)?;
        let made = allocate(&file, self.budget.ballast);
        if made.is_err() {
            fs::remove_file(&path)?;
        }
        made
    }
}

fn allocate(mut file: &File, bytes: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => return file.sync_all(),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    let chunk = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        file.write_all(&chunk[..now])?;
        left -= now as u64;
    }
    file.sync_all()
}

fn state(budget: &Budget, free: u64, used: u64) -> RoomState {
    let over = |limit: u64| budget.most_used > 0 && used >= limit;
    if (budget.least_free > 0 && free < budget.least_free) || over(budget.most_used) {
        RoomState::Full
    } else if free < budget.warn_free || over(budget.most_used / 10 * 9) {
        RoomState::Scarce
    } else {
        RoomState::Enough
    }
}

/// Bytes that can still be written by anybody but root.
fn available(directory: &Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(directory)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Bytes of the files of a directory, not of what lies in folders below it.
fn used(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file).map(|file| file.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_scarce_before_it_is_full() {
        let budget = Budget { ballast: 0, least_free: 10, warn_free: 100, most_used: 1000 };
        assert_eq!(state(&budget, 100, 899), RoomState::Enough);
        assert_eq!(state(&budget, 99, 0), RoomState::Scarce);
        assert_eq!(state(&budget, 9, 0), RoomState::Full);
        assert_eq!(state(&budget, 100, 900), RoomState::Scarce);
        assert_eq!(state(&budget, 100, 1000), RoomState::Full);
        assert_eq!(state(&Budget::NONE, 0, u64::MAX), RoomState::Enough);
    }

    #[test]
    fn the_ballast_is_real_and_is_made_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let budget = Budget { ballast: 3 << 20, ..Budget::NONE };
        let disk = Disk::of(&folder.path().join("a.db"), &budget);
        let file = folder.path().join(BALLAST_FILE);
        assert_eq!(disk.look().state, RoomState::Enough);
        let made = fs::metadata(&file).expect("made");
        assert_eq!(made.len(), 3 << 20);
        #[cfg(unix)]
        assert!(std::os::unix::fs::MetadataExt::blocks(&made) * 512 >= 3 << 20, "it takes real blocks");
        disk.let_go();
        disk.let_go();
        assert!(!file.exists());
        assert_eq!(disk.look().used, 0, "the ballast is not counted");
        assert!(file.exists());
    }
}
