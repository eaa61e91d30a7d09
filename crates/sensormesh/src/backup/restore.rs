//! `restore`: a data directory out of a backup, for a new life of the system.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sensormesh_types::Clock;

use super::chunks::Chunks;
use super::manifest::Manifest;
use crate::cli::RestoreArgs;
use crate::config::Config;
use crate::{check, services};

/// Runs the command: verifies all before it writes anything, and puts the directory in its place when it is whole.
pub async fn run(args: RestoreArgs) -> Result<()> {
    let config = Config::load(&args.common)?;
    let data = &config.data_dir;
    ensure!(
        !data.exists() || fs::read_dir(data)?.next().is_none(),
        "{} is there already and is not overwritten; give --data-dir another directory, or move it away",
        data.display()
    );
    let manifest = verified(&args.backup)?;
    let partial = beside(data);
    ensure!(!partial.exists(), "{} was left by a restore that did not finish; remove it", partial.display());
    unpack(&args.backup, &manifest, &partial)?;
    for name in services::DATABASES {
        let file = partial.join(format!("{name}.db"));
        if file.exists() {
            let renewed = sensormesh_store::renew_database(&file).await;
            renewed.map_err(|error| anyhow::anyhow!("{name} cannot be given a new life: {error:?}"))?;
        }
    }
    if partial.join("telemetry.db").exists() {
        let store = services::database_in(&partial);
        let databases = sensormesh_telemetry::Databases::open(&store, Clock::system()).await?;
        databases.restored().await?;
        databases.main.close().await;
        databases.log.close().await;
    }
    let found = check::directory(&partial).await?;
    if data.exists() {
        fs::remove_dir(data)?;
    }
    fs::rename(&partial, data).with_context(|| format!("cannot move {} to its place", partial.display()))?;
    println!("{}: restored as of {}", data.display(), manifest.time);
    check::report(&found, false)
}

/// The manifest of a backup, every byte of which is what was written.
pub fn verified(backup: &Path) -> Result<Manifest> {
    let manifest = Manifest::read(backup)?;
    let chunks = Chunks::of(backup, None);
    for entry in &manifest.files {
        chunks.get(entry, |_| Ok(())).with_context(|| format!("the backup of {} cannot be used", entry.path))?;
    }
    Ok(manifest)
}

/// Puts the files of a backup into a new folder.
pub fn unpack(backup: &Path, manifest: &Manifest, folder: &Path) -> Result<()> {
    let chunks = Chunks::of(backup, None);
    let make = |folder: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    make(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for entry in &manifest.files {
        let path = folder.join(&entry.path);
        if let Some(parent) = path.parent() {
            make(parent)?;
        }
        let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = open.with_context(|| format!("cannot make {}", path.display()))?;
        chunks.get(entry, |part| Ok(file.write_all(part)?))?;
        file.sync_all()?;
    }
    Ok(())
}

/// Where a directory is put together, on the same disk.
fn beside(data: &Path) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push(".restoring");
    name.into()
}
