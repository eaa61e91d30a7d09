//! The program: every service, and the commands to run and reach them.

mod backup;
mod certs;
mod check;
mod cli;
mod config;
mod contract;
mod data_dir;
mod load;
mod replay;
mod running;
mod server;
mod services;
mod split;
mod status;
mod up;
mod users;

use anyhow::Result;
use clap::Parser as _;

use cli::{Cli, Command, ConfigCommand};
use config::Config;

/// A call makes and frees some hundred small pieces of memory; this allocator takes a tenth off what a call costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    sensormesh_mesh::install_crypto_provider();
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sensormesh: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(args) => block_on(up::run(args)),
        Command::Serve(args) => block_on(up::serve(args)),
        Command::Certs(args) => certs::run(&args),
        Command::Contract(command) => contract::run(&command),
        Command::Config(ConfigCommand::Show { common, env }) => {
            let config = Config::load(&common)?;
            print!("{}", if env { config::show_env(&config)? } else { config::show(&config)? });
            Ok(())
        }
        Command::Config(ConfigCommand::Check { common }) => {
            Config::load(&common)?.check()?;
            println!("the configuration is right");
            Ok(())
        }
        Command::Status(args) => {
            let config = Config::load(&args.common)?;
            block_on(status::run(args, config.port_base))
        }
        Command::Backup(args) => block_on(backup::run(args)),
        Command::Restore(args) => block_on(backup::restore(args)),
        Command::Check(args) => block_on(check::run(args)),
        Command::Users(command) => block_on(users::run(command)),
        Command::Replay(args) => {
            let config = Config::load(&args.common)?;
            block_on(replay::run(args, config.port_base, &config.data_dir))
        }
        Command::Load(args) => block_on(load::run(args)),
    }
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}
