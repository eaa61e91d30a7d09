//! `up`: the whole system on this machine. `serve`: some services in this process.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{ServeArgs, UpArgs};
use crate::config::Config;
use crate::server::ADMIN_PASSWORD_FILE;
use crate::services::{self, Entry};
use crate::{certs, data_dir, running, split};

/// Runs the whole system until it is told to stop.
pub async fn run(args: UpArgs) -> Result<()> {
    let mut config = Config::load(&args.common)?.with(&args.settings)?;
    config.edge.check()?;
    config.adapters.host = !args.settings.no_host_sensors;
    // On one machine nobody has to notice before a port closes.
    config.mesh.limits = config.mesh.limits.prompt();
    config.mesh.operations_limits = config.mesh.operations_limits.prompt();
    config.edge.limits = config.edge.limits.prompt();
    data_dir::create(&config.data_dir)?;
    config.data_dir = config.data_dir.canonicalize()?;
    let _lock = data_dir::lock(&config.data_dir, "up", Duration::from_millis(500))?;
    let log = sensormesh_observability::init(&config.log)?;
    let pki = certs::ensure(&config, &[])?;
    let renewal = tokio::spawn(pki.keep(sensormesh_mesh::Shutdown::new()));
    if args.split {
        let supervisor = split::start(&config).await?;
        let stop = told_to_stop()?;
        welcome(&config)?;
        stop.await?;
        supervisor.stop().await;
    } else {
        let entries: Vec<&Entry> = services::ALL.iter().collect();
        let _locks = lock(&config, &entries)?;
        let running = running::start(&config, &entries).await?;
        let stop = told_to_stop()?;
        welcome(&config)?;
        stop.await?;
        if running.stop().await {
            seal(&config, &entries).await;
        }
    }
    renewal.abort();
    log.shutdown();
    Ok(())
}

/// Runs the named services until told to stop.
pub async fn serve(args: ServeArgs) -> Result<()> {
    let config = Config::load(&args.common)?.with(&args.settings)?;
    let entries: Vec<&Entry> = args.services.iter().map(|name| entry(name)).collect::<Result<_>>()?;
    data_dir::create(&config.data_dir)?;
    let mut log = config.log.clone();
    if let [entry] = entries.as_slice() {
        entry.name.clone_into(&mut log.service_name);
    }
    let log = sensormesh_observability::init(&log)?;
    let locks = lock(&config, &entries)?;
    let running = running::start(&config, &entries).await?;
    let stop = told_to_stop()?;
    tracing::info!(services = args.services.join(","), "ready");
    if args.supervised {
        tokio::select! {
            stop = stop => stop?,
            () = supervisor_gone() => {}
        }
    } else {
        stop.await?;
    }
    if running.stop().await {
        seal(&config, &entries).await;
    }
    log.shutdown();
    drop(locks);
    Ok(())
}

/// Writes checksums beside the databases that are closed, which the next start and `check` look at.
async fn seal(config: &Config, entries: &[&Entry]) {
    if !config.database.url.is_empty() {
        return;
    }
    let owned = |database: &str| entries.iter().any(|entry| database.split('-').next() == Some(entry.name));
    for name in services::DATABASES.iter().filter(|name| owned(name)) {
        let file = config.data_dir.join(format!("{name}.db"));
        if file.exists()
            && let Err(error) = sensormesh_store::seal_database(&file).await
        {
            tracing::warn!(database = name, %error, "the checksums of the database were not written");
        }
    }
}

/// Takes the services' files for this process. A predecessor that was told to stop drains first.
fn lock(config: &Config, entries: &[&Entry]) -> Result<Vec<data_dir::Lock>> {
    let lock = |entry: &&Entry| data_dir::lock(&config.data_dir, entry.name, Duration::from_secs(30));
    entries.iter().map(lock).collect()
}

fn entry(name: &str) -> Result<&'static Entry> {
    services::find(name).with_context(|| {
        let known: Vec<&str> = services::ALL.iter().map(|entry| entry.name).collect();
        format!("there is no service {name:?}; there are {}", known.join(", "))
    })
}

/// Says where to look and how to log in.
fn welcome(config: &Config) -> Result<()> {
    let secure = !config.edge.tls_cert.as_os_str().is_empty();
    let scheme = if secure { "https" } else { "http" };
    let listen = services::edge_address(config);
    let base = format!("{scheme}://{listen}");
    let password = config.data_dir.join(ADMIN_PASSWORD_FILE);
    let log_in = match std::fs::read_to_string(&password) {
        Ok(text) => format!("admin / {}   (until it is changed; also in {})", text.trim(), password.display()),
        Err(_) => "with your own name and password".to_owned(),
    };
    let dir = config.data_dir.join("pki");
    let mut out = std::io::stdout().lock();
    writeln!(out, "dashboard   {base}/")?;
    writeln!(out, "log in      {log_in}")?;
    writeln!(out, "interface   {base}/docs   (OpenAPI: {base}/openapi.json)")?;
    writeln!(out, "health      {base}/health")?;
    writeln!(
        out,
        "gRPC        buf curl --protocol grpc --cacert {0}/ca.pem --cert {0}/operator.pem --key {0}/operator-key.pem --list-methods https://localhost:{1}",
        dir.display(),
        config.port_base + 6
    )?;
    writeln!(out, "data        {}", config.data_dir.display())?;
    writeln!(out, "ready")?;
    out.flush()?;
    Ok(())
}

/// Waits for a signal to stop. From this call on none ends the process by itself.
pub fn told_to_stop() -> Result<impl Future<Output = Result<()>>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        let received = tokio::select! {
            received = terminate.recv() => received,
            received = interrupt.recv() => received,
        };
        if received.is_none() {
            bail!("signals cannot be received");
        }
        Ok(())
    })
}

/// The supervisor holds the other end of standard input; it ends with the supervisor, however that ended.
async fn supervisor_gone() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 64];
    while stdin.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}
