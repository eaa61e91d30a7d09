//! The data directory: made private, and used by one system at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Holds the directory until it is dropped, or the process ends.
pub struct Lock(#[allow(dead_code)] File); // the lock lives as long as the open file

/// Makes the directory where it is missing, readable by its owner only.
pub fn create(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make the data directory {}", dir.display()))
}

/// Takes the directory for `what`; says who has it where somebody does.
///
/// A process that was told to stop may need a moment to let go, so the lock is tried for `patience`.
pub fn lock(dir: &Path, what: &str, patience: Duration) -> Result<Lock> {
    let path = dir.join(format!("{what}.lock"));
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = open.with_context(|| format!("cannot open {}", path.display()))?;
    let step = Duration::from_millis(50);
    let mut left = patience;
    while file.try_lock().is_err() {
        if left == patience && patience >= step {
            tracing::warn!(directory = %dir.display(), ?patience, "is in use; waits for it to be let go");
        }
        if left < step {
            let mut holder = String::new();
            file.read_to_string(&mut holder).ok();
            bail!(
                "{} is in use by another sensormesh (process {}); stop that one, or give --data-dir another directory",
                dir.display(),
                holder.trim()
            );
        }
        left -= step;
        std::thread::sleep(step);
    }
    file.set_len(0)?;
    write!(file, "{}", std::process::id())?;
    Ok(Lock(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_user_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().expect("dir");
        let held = lock(dir.path(), "up", Duration::ZERO).expect("first");
        let error = lock(dir.path(), "up", Duration::ZERO).err().expect("refused").to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(held);
        assert!(lock(dir.path(), "up", Duration::ZERO).is_ok());
    }

    #[test]
    fn the_directory_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let parent = tempfile::tempdir().expect("dir");
        let dir = parent.path().join("a/b");
        create(&dir).expect("made");
        assert_eq!(fs::metadata(&dir).expect("metadata").permissions().mode() & 0o777, 0o700);
    }
}
