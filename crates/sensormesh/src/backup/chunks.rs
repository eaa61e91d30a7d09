//! The parts that a backup's files are kept in, each under the name of its SHA-256. A part that an earlier backup has is that
//! backup's file under a second name (a hard link), so that each backup is whole and either can be deleted.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use super::manifest::{Entry, digits, hex};

/// Bytes of a part: sixteen of telemetry's pages. A change of a page costs so much in the next backup.
const PART: usize = 256 << 10;

/// The parts of one backup, and of the one before it.
pub struct Chunks {
    folder: PathBuf,
    base: Option<PathBuf>,
    /// Bytes that were written anew.
    pub written: u64,
}

impl Chunks {
    /// Those of `backup`, sharing with those of `base`.
    pub fn of(backup: &Path, base: Option<&Path>) -> Self {
        Self { folder: backup.join("chunks"), base: base.map(|base| base.join("chunks")), written: 0 }
    }

    /// Keeps a file under `path`.
    pub fn put(&mut self, file: &Path, path: &str) -> Result<Entry> {
        let mut from = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        let (mut whole, mut bytes, mut chunks) = (Sha256::new(), 0, Vec::new());
        let mut part = Vec::with_capacity(PART);
        loop {
            part.clear();
            (&mut from).take(PART as u64).read_to_end(&mut part)?;
            if part.is_empty() {
                break;
            }
            whole.update(&part);
            bytes += part.len() as u64;
            let name = hex(&part);
            self.keep(&name, &part)?;
            chunks.push(name);
        }
        let sha256 = digits(&whole.finalize()[..]);
        Ok(Entry { path: path.to_owned(), bytes, sha256, chunks, database: None })
    }

    fn keep(&mut self, name: &str, part: &[u8]) -> Result<()> {
        let file = place(&self.folder, name);
        if file.exists() {
            return Ok(());
        }
        if let Some(folder) = file.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        if let Some(base) = &self.base {
            let before = place(base, name);
            // what is damaged there is not taken over
            if fs::read(&before).is_ok_and(|there| there == part) && fs::hard_link(&before, &file).is_ok() {
                return Ok(());
            }
        }
        self.written += part.len() as u64;
        write_new(&file, part)
    }

    /// Reads a file's parts in order, each verified, into `sink`.
    pub fn get(&self, entry: &Entry, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (mut whole, mut bytes) = (Sha256::new(), 0);
        for name in &entry.chunks {
            ensure!(name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()), "{name:?} is no name of a part");
            let file = place(&self.folder, name);
            let part = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            ensure!(hex(&part) == *name, "{} is damaged", file.display());
            whole.update(&part);
            bytes += part.len() as u64;
            sink(&part)?;
        }
        let sum = digits(&whole.finalize()[..]);
        ensure!((bytes, &sum) == (entry.bytes, &entry.sha256), "its parts are not the whole of {}", entry.path);
        Ok(())
    }
}

fn place(folder: &Path, name: &str) -> PathBuf {
    folder.join(&name[..2]).join(name)
}

/// Writes a file that is not there yet, readable by its owner only, onto the disk.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = open.with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(|| format!("cannot write {}", path.display()))
}
