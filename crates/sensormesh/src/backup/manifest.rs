//! What a backup says of itself: `manifest.json`, and beside it `manifest.json.sha256`, which `sha256sum -c` reads.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The file that makes a folder a backup; written last.
pub const FILE: &str = "manifest.json";
const SUM_FILE: &str = "manifest.json.sha256";
/// The one format there is.
const FORMAT: u32 = 1;

/// A backup's table of contents.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this format.
    pub format: u32,
    /// The version of the program that made it.
    pub program: String,
    /// When it was begun, RFC 3339.
    pub time: String,
    /// The files of the data directory.
    pub files: Vec<Entry>,
}

/// A file of the data directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the data directory.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of all of it.
    pub sha256: String,
    /// SHA-256 of each part, which is the name of the file below `chunks` that holds it.
    pub chunks: Vec<String>,
    /// What is known of it where it is a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<sensormesh_store::Summary>,
}

impl Manifest {
    /// A manifest of no files yet.
    pub fn new(time: String) -> Self {
        Self { format: FORMAT, program: env!("CARGO_PKG_VERSION").to_owned(), time, files: Vec::new() }
    }

    /// Reads and verifies the manifest of a backup.
    pub fn read(backup: &Path) -> Result<Self> {
        let text = fs::read(backup.join(FILE)).with_context(|| {
            format!("{} is no backup, or one that was not finished: it has no {FILE}", backup.display())
        })?;
        let sum = fs::read_to_string(backup.join(SUM_FILE)).with_context(|| format!("cannot read {SUM_FILE}"))?;
        ensure!(sum == sum_line(&text), "{FILE} or {SUM_FILE} is damaged");
        let manifest: Self = serde_json::from_slice(&text).with_context(|| format!("{FILE} cannot be read"))?;
        if manifest.format != FORMAT {
            bail!("the backup has format {}, which this program does not know; run a newer one", manifest.format);
        }
        for entry in &manifest.files {
            let path = Path::new(&entry.path);
            let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
            ensure!(plain && !entry.path.is_empty(), "{FILE} names {:?}, which lies outside", entry.path);
        }
        Ok(manifest)
    }

    /// Writes it: the last file of a backup.
    pub fn write(&self, backup: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        super::chunks::write_new(&backup.join(SUM_FILE), sum_line(&text).as_bytes())?;
        super::chunks::write_new(&backup.join(FILE), &text)
    }
}

fn sum_line(text: &[u8]) -> String {
    format!("{}  {FILE}\n", hex(text))
}

/// SHA-256 in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    digits(&Sha256::digest(bytes)[..])
}

/// Bytes in lower-case hex.
pub fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
