//! One process for each service, restarted when it ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{Config, ENV_PREFIX};
use crate::services::{self, Entry};

/// The first pause before a restart; doubled each time, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A process that ran this long ended for a new reason: the pause starts small again.
const SETTLED: Duration = Duration::from_secs(30);
/// A process that was told to stop is given this long.
const STOP: Duration = Duration::from_secs(27);
/// How long the services may take to find each other before `up` says that it is ready all the same.
const HEALTHY: Duration = Duration::from_secs(10);
/// How long the first start of everything may take.
const START: Duration = Duration::from_secs(60);

/// The processes, until they are stopped.
pub struct Supervisor {
    shutdown: sensormesh_mesh::Shutdown,
    watchers: JoinSet<()>,
}

/// Starts a process for each service and waits until all are ready.
pub async fn start(config: &Config) -> Result<Supervisor> {
    let file = write_config(config)?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let shutdown = sensormesh_mesh::Shutdown::new();
    let mut watchers = JoinSet::new();
    // The edge comes last: whoever reaches it reaches everything.
    let (edge, others): (Vec<_>, Vec<_>) = services::ALL.iter().partition(|entry| entry.name == services::EDGE);
    let started = async {
        for group in [others, edge] {
            for entry in &group {
                let (program, file) = (program.clone(), file.clone());
                let watch = Watch { entry, program, file, data_dir: config.data_dir.clone() };
                watchers.spawn(watch.keep(shutdown.clone()));
            }
            ready(config, &group).await;
            if timeout(HEALTHY, healthy(config, &group)).await.is_err() {
                tracing::warn!("ready, but not healthy yet");
            }
        }
    };
    let in_time = timeout(START, started).await.is_ok();
    let supervisor = Supervisor { shutdown, watchers };
    if !in_time {
        supervisor.stop().await;
        bail!("not every service became ready within {} s; the log says why", START.as_secs());
    }
    Ok(supervisor)
}

impl Supervisor {
    /// Tells every process to stop and waits for it.
    pub async fn stop(mut self) {
        self.shutdown.request();
        while self.watchers.join_next().await.is_some() {}
    }
}

/// The processes read their settings from a file of their own: no secret stands in an argument or an environment.
fn write_config(config: &Config) -> Result<PathBuf> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = config.data_dir.join("split.toml");
    let text = toml::to_string(config)?;
    let mut options = std::fs::OpenOptions::new();
    let mut open = options.write(true).create(true).truncate(true).mode(0o600).open(&file)?;
    std::io::Write::write_all(&mut open, text.as_bytes())?;
    Ok(file)
}

struct Watch {
    entry: &'static Entry,
    program: PathBuf,
    file: PathBuf,
    data_dir: PathBuf,
}

impl Watch {
    /// Runs the process again whenever it ends, until `shutdown`.
    async fn keep(self, shutdown: sensormesh_mesh::Shutdown) {
        let mut pause = FIRST_PAUSE;
        while !shutdown.is_requested() {
            let started = Instant::now();
            match self.spawn() {
                Ok(mut child) => {
                    note_pid(&self.data_dir, self.entry.name, &child);
                    // Taken out, because waiting for a child closes its standard input, which would stop it.
                    let stdin = child.stdin.take();
                    match shutdown.cut(child.wait()).await {
                        Some(ended) => tracing::warn!(service = self.entry.name, ?ended, "process ended"),
                        None => {
                            stop(child, stdin).await;
                            std::fs::remove_file(pid_file(&self.data_dir, self.entry.name)).ok();
                            return;
                        }
                    }
                }
                Err(error) => tracing::error!(service = self.entry.name, %error, "process cannot be started"),
            }
            if started.elapsed() > SETTLED {
                pause = FIRST_PAUSE;
            }
            shutdown.cut(sleep(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .args(["serve", self.entry.name, "--supervised", "--config"])
            .arg(&self.file)
            .arg("--data-dir")
            .arg(&self.data_dir);
        // they are in the file already, behind the flags; here they would go before it
        for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|name| is_setting(name))
        {
            command.env_remove(name);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::inherit()).kill_on_drop(true).spawn()
    }
}

/// Whether a variable of the environment says something about the configuration.
fn is_setting(name: &str) -> bool {
    name.starts_with(ENV_PREFIX) || matches!(name, "DATABASE_URL" | "DATABASE_URL_FILE" | "LOG_LEVEL")
}

/// Closing its standard input tells the process to drain.
async fn stop(mut child: Child, stdin: Option<ChildStdin>) {
    drop(stdin);
    if timeout(STOP, child.wait()).await.is_err() {
        child.kill().await.ok();
    }
}

/// `<data-dir>/<service>.pid`: for an operator who wants to look at one process.
fn note_pid(data_dir: &Path, service: &str, child: &Child) {
    if let Some(pid) = child.id() {
        std::fs::write(pid_file(data_dir, service), format!("{pid}\n")).ok();
    }
}

fn pid_file(data_dir: &Path, service: &str) -> PathBuf {
    data_dir.join(format!("{service}.pid"))
}

/// Waits until each of them takes calls.
async fn ready(config: &Config, entries: &[&Entry]) {
    let client = reqwest::Client::new();
    for entry in entries {
        let url = format!("http://{}:{}/ready", config.bind, entry.operations_port(config));
        loop {
            let answer = client.get(&url).timeout(Duration::from_secs(2)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                break;
            }
            sleep(Duration::from_millis(25)).await;
        }
    }
}

/// Waits until each of them says that all of it is well: that it has reached those that it follows.
async fn healthy(config: &Config, entries: &[&Entry]) {
    let client = reqwest::Client::new();
    for entry in entries {
        let url = format!("http://{}:{}/health", config.bind, entry.operations_port(config));
        loop {
            let answer = client.get(&url).timeout(Duration::from_secs(2)).send().await;
            if let Ok(answer) = answer
                && let Ok(health) = answer.json::<serde_json::Value>().await
                && health["status"] == "healthy"
            {
                break;
            }
            sleep(Duration::from_millis(25)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_environment_says_of_the_configuration_is_not_said_twice() {
        for name in ["SENSORMESH_PORT_BASE", "SENSORMESH_EDGE__LISTEN", "DATABASE_URL", "LOG_LEVEL"] {
            assert!(is_setting(name), "{name}");
        }
        for name in ["PATH", "HOME", "TZ", "SSL_CERT_FILE"] {
            assert!(!is_setting(name), "{name}");
        }
    }
}
