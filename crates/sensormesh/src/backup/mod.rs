//! `backup`: the data directory of a system as it is at one moment of each database, while the system runs.
//!
//! The log of readings is copied before the blocks. A reading is acknowledged when it is in the log, goes from there into a
//! block, and leaves the log later: copied in this order it is in one of the two, or in both, where it counts once.

pub mod chunks;
pub mod manifest;
mod restore;

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use sensormesh_types::Clock;

use crate::cli::BackupArgs;
use crate::config::Config;
use crate::{check, services};
use chunks::Chunks;
use manifest::Manifest;

pub use restore::{run as restore, unpack, verified};

/// Where copies lie until they are taken apart.
const PARTIAL: &str = "partial";

/// What PostgreSQL has of its own.
const POSTGRES: &str = "the databases are in PostgreSQL, which has backups of its own: \
    `pg_dump --format=custom --file=sensormesh.dump \"$DATABASE_URL\"` for one state of all schemas, or pg_basebackup with \
    archived WAL; `sensormesh check --database-url …` verifies what was restored. See docs/OPERATIONS.md";

/// Runs the command.
pub async fn run(args: BackupArgs) -> Result<()> {
    let config = Config::load(&args.common)?;
    if !config.database.url.is_empty() || args.database_url.is_some() {
        bail!(POSTGRES);
    }
    let (data, output) = (&config.data_dir, &args.output);
    ensure!(data.is_dir(), "there is no data directory {}", data.display());
    if let Some(base) = &args.base {
        Manifest::read(base).context("the backup to build on cannot be used")?;
    }
    ensure!(!output.exists() || fs::read_dir(output)?.next().is_none(), "{} is not empty", output.display());
    ensure!(
        !lies_in(output, data)?,
        "{} is in the data directory, which would be copied into itself",
        output.display()
    );
    let partial = output.join(PARTIAL);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&partial)?;
    let time = jiff::Timestamp::from_microsecond(Clock::system().now_micros())?.to_string();
    let mut manifest = Manifest::new(time);
    let mut chunks = Chunks::of(output, args.base.as_deref());
    let mut databases = Vec::new();
    for name in services::DATABASES {
        let file = format!("{name}.db");
        if services::has_database(data, name) {
            sensormesh_store::copy_database(&data.join(&file), &partial.join(&file))
                .await
                .map_err(|error| anyhow::anyhow!("{name} cannot be copied: {error:?}"))?;
            databases.push((*name, file));
        }
    }
    ensure!(!databases.is_empty(), "{} holds no databases", data.display());
    let found = check::directory(&partial).await?;
    for (name, file) in databases {
        let database = check::summary(&partial, name).await?;
        let mut entry = chunks.put(&partial.join(&file), &file)?;
        entry.database = Some(database);
        manifest.files.push(entry);
    }
    for path in others(data)? {
        let name = path.to_str().context("a file in the data directory has a name that is no text")?;
        manifest.files.push(chunks.put(&data.join(&path), name)?);
    }
    fs::remove_dir_all(&partial)?;
    manifest.write(output)?;
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    println!("{}: {} files, {bytes} bytes, {} of them new", output.display(), manifest.files.len(), chunks.written);
    check::report(&found, false)
}

/// Whether a path, of which not everything needs to be there yet, leads into a folder.
fn lies_in(path: &Path, folder: &Path) -> Result<bool> {
    let there = std::path::absolute(path)?.ancestors().find_map(|part| part.canonicalize().ok());
    Ok(there.is_some_and(|there| folder.canonicalize().is_ok_and(|folder| there.starts_with(folder))))
}

/// What else there is: certificates, keys, the configuration. Not what belongs to a running process, or can be made again.
fn others(data: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(data.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let name = entry.file_name().to_string_lossy().into_owned();
            let own = [sensormesh_store::BALLAST_FILE, sensormesh_store::LIST_FILE];
            let passing = ["lock", "pid", "db-wal", "db-shm", "sums", "sums.new", "db"]
                .iter()
                .any(|end| name.ends_with(&format!(".{end}")));
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if entry.file_type()?.is_file() && !passing && !own.contains(&name.as_str()) {
                all.push(path);
            }
        }
    }
    all.sort();
    Ok(all)
}
