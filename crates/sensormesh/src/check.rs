//! `check`: whether everything in a data directory, a backup or a PostgreSQL database is what was written.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use sensormesh_store::{Config as Database, Finding, Store, Summary};
use sensormesh_types::Clock;

use crate::backup::{manifest, unpack, verified};
use crate::cli::CheckArgs;
use crate::config::Config;
use crate::services;

/// Runs the command; fails where something is found.
pub async fn run(args: CheckArgs) -> Result<()> {
    let mut config = Config::load(&args.common)?;
    if let Some(url) = &args.database_url {
        config.database.url.clone_from(url);
    }
    let found = match &args.backup {
        Some(backup) => {
            ensure!(backup.is_dir(), "there is no {}", backup.display());
            self::backup(backup).await?
        }
        None if config.database.url.is_empty() => {
            ensure!(config.data_dir.is_dir(), "there is no data directory {}", config.data_dir.display());
            directory(&config.data_dir).await?
        }
        None => databases(&services::database(&config), |_| true).await?,
    };
    report(&found, args.json)
}

/// Prints what was found, for people or for programs; fails where it is anything.
pub fn report(found: &[Finding], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({"ok": found.is_empty(), "findings": found}))?);
    } else if found.is_empty() {
        println!("everything is as it was written");
    } else {
        found.iter().for_each(|finding| println!("{finding}"));
    }
    if !found.is_empty() {
        bail!("{} damaged or missing", found.len());
    }
    Ok(())
}

/// Looks at a backup: every byte of it, then the databases in it.
pub async fn backup(backup: &Path) -> Result<Vec<Finding>> {
    let manifest = match verified(backup) {
        Ok(manifest) => manifest,
        Err(error) => {
            return Ok(vec![Finding::new(backup.display().to_string(), manifest::FILE, format!("{error:#}"))]);
        }
    };
    let folder = std::env::temp_dir().join(format!("sensormesh-check-{}", sensormesh_types::random::secret()));
    let unpacked = unpack(backup, &manifest, &folder);
    let found = match unpacked {
        Ok(()) => directory(&folder).await,
        Err(error) => Err(error),
    };
    std::fs::remove_dir_all(&folder).ok();
    found
}

/// Looks at the databases in a directory.
pub async fn directory(folder: &Path) -> Result<Vec<Finding>> {
    databases(&services::database_in(folder), |name| services::has_database(folder, name)).await
}

async fn databases(config: &Database, is_there: impl Fn(&str) -> bool) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let clock = Clock::system();
    let both = [sensormesh_telemetry::NAME, "telemetry-log"];
    for name in services::DATABASES.iter().filter(|name| is_there(name) && !both.contains(name)) {
        match Store::inspect(name, config, clock.clone()).await {
            Ok(store) => {
                found.extend(store.check().await?);
                store.close().await;
            }
            Err(error) => found.push(Finding::of(name, "database", &error)),
        }
    }
    if both.iter().any(|name| is_there(name)) {
        match sensormesh_telemetry::Databases::inspect(config, clock).await {
            Ok(databases) => {
                found.extend(sensormesh_telemetry::check(&databases).await?);
                databases.main.close().await;
                databases.log.close().await;
            }
            Err(error) => {
                let name = error.metadata("database").unwrap_or(sensormesh_telemetry::NAME);
                found.push(Finding::of(name, "database", &error));
            }
        }
    }
    Ok(found)
}

/// What is known of a database in a directory.
pub async fn summary(folder: &Path, name: &'static str) -> Result<Summary> {
    let store = Store::inspect(name, &services::database_in(folder), Clock::system()).await?;
    let summary = store.summary().await?;
    store.close().await;
    Ok(summary)
}
