//! `users`: for who is locked out.

use anyhow::{Result, ensure};
use sensormesh_auth::{MIGRATIONS, locked_out};
use sensormesh_store::Store;
use sensormesh_types::Clock;

use crate::cli::{UserArgs, Users};
use crate::config::Config;
use crate::services;

/// Runs the command.
pub async fn run(command: Users) -> Result<()> {
    let (args, what) = match &command {
        Users::ResetPassword(args) | Users::DisableTotp(args) => (args, &command),
    };
    let (config, store) = open(args).await?;
    match what {
        Users::ResetPassword(args) => {
            let password = locked_out::reset_password(&store, &Clock::system(), &config.auth, &args.name).await?;
            println!("{}", password.reveal());
            eprintln!("this is the new password of {}; all its sessions have ended", args.name);
        }
        Users::DisableTotp(args) => {
            locked_out::disable_totp(&store, &args.name).await?;
            eprintln!("{} needs no code any more", args.name);
        }
    }
    store.close().await;
    Ok(())
}

/// The database of `auth`, which must be there.
async fn open(args: &UserArgs) -> Result<(Config, Store)> {
    let mut config = Config::load(&args.common)?;
    if let Some(url) = &args.database_url {
        config.database.url.clone_from(url);
    }
    if config.database.url.is_empty() {
        let dir = &config.data_dir;
        ensure!(dir.join("auth.db").is_file(), "there are no users in {}", dir.display());
    }
    let store = Store::open("auth", &services::database(&config), MIGRATIONS, Clock::system()).await?;
    Ok((config, store))
}
