//! Services in processes of their own that a test starts itself: replicas, and everything in an order of its choice.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::process::{Child, Command};

use super::{OPERATIONS, REPLICA_STEP, SERVICES, START, System, eventually, port_of, signal};

/// Where the supervisor's settings name places of services.
const ENDPOINTS: &str = "[mesh.endpoints]\n";

impl System {
    /// Where a service listens for the others.
    pub fn address(&self, service: &str) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port_base + port_of(service)))
    }

    /// Whether a service says that it takes calls.
    pub async fn is_ready(&self, service: &str) -> bool {
        self.says_ready(self.address(service).port()).await
    }

    async fn says_ready(&self, port: u16) -> bool {
        let answer = self.http.get(format!("http://127.0.0.1:{}/ready", port + OPERATIONS)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Starts a further replica of telemetry and waits until it serves; dropped, it is killed. The first one, which the
    /// supervisor keeps, has the number 0.
    pub async fn start_replica(&self, number: u16) -> Result<Child> {
        Ok(self.start_beside("telemetry", number, &self.data_dir().join("split.toml")).await?.0)
    }

    /// Starts a second edge and waits until it serves; answers where as well. Dropped, it is killed.
    pub async fn start_edge(&self) -> Result<(Child, SocketAddr)> {
        let split = std::fs::read_to_string(self.data_dir().join("split.toml"))?;
        anyhow::ensure!(split.contains(ENDPOINTS), "the supervisor's settings have no places of services");
        let places = SERVICES.map(|(service, _)| format!("{service} = [\"{}\"]\n", self.address(service))).concat();
        let config = self.dir.path().join("edge.toml");
        std::fs::write(&config, split.replacen(ENDPOINTS, &format!("{ENDPOINTS}{places}"), 1))?;
        // eight above the base, where no service is
        self.start_beside("edge", 2, &config).await
    }

    async fn start_beside(&self, service: &str, number: u16, config: &Path) -> Result<(Child, SocketAddr)> {
        let mut command = self.serving(service, config)?;
        command.arg("--data-dir").arg(self.dir.path().join(format!("replica-{number}")));
        command.env("SENSORMESH_MESH__PKI_DIR", self.data_dir().join("pki"));
        command.arg("--port-base").arg(self.replica_base(number).to_string());
        let child = command.spawn()?;
        let port = self.replica_base(number) + port_of(service);
        let ready = eventually(START, || async { self.says_ready(port).await.then_some(()) });
        ready.await.with_context(|| format!("replica {number} is not ready; {}", self.log_tail()))?;
        Ok((child, SocketAddr::from(([127, 0, 0, 1], port))))
    }

    /// Tells a service's process to stop and waits until it has; one that a test started.
    pub async fn stop_alone(&mut self, service: &str) -> Result<()> {
        let pid = self.service_pid(service)?;
        let found = self.alone.iter().position(|child| child.id() == Some(pid)).context("no test started it")?;
        let mut child = self.alone.swap_remove(found);
        signal("TERM", pid)?;
        tokio::time::timeout(START, child.wait()).await.context("it does not stop")??;
        Ok(())
    }

    /// Starts one service of a system in the split shape that was started once and killed, without a supervisor and without
    /// waiting. Variables are added to its environment. [`System::kill`], [`System::kill_service`] and
    /// [`System::freeze_service`] find it as they find others.
    pub fn start_alone(&mut self, service: &str, variables: &[(String, String)]) -> Result<()> {
        let mut command = self.serving(service, &self.data_dir().join("split.toml"))?;
        command.arg("--data-dir").arg(self.data_dir());
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let child = command.spawn()?;
        let pid = child.id().context("ended already")?;
        std::fs::write(self.data_dir().join(format!("{service}.pid")), format!("{pid}\n"))?;
        self.alone.push(child);
        Ok(())
    }

    /// `serve` with these settings.
    fn serving(&self, service: &str, config: &Path) -> Result<Command> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.builder.program);
        command.args(["serve", service, "--config"]).arg(config);
        for name in ["DATABASE_URL", "DATABASE_URL_FILE", "SENSORMESH_CONFIG", "SENSORMESH_DATA_DIR"] {
            command.env_remove(name);
        }
        let output = log.try_clone()?;
        command.stdin(Stdio::null()).stdout(output).stderr(log).kill_on_drop(true);
        Ok(command)
    }

    /// The port base of a replica: within the range that the system holds, between its services' ports.
    fn replica_base(&self, number: u16) -> u16 {
        self.port_base + REPLICA_STEP * number
    }

    /// Every place where telemetry is to be called, what a test put before a service, and all else where it is by itself.
    pub(super) fn write_endpoints(&self) -> Result<()> {
        let mut text = format!("{}\n[mesh.endpoints]\n", self.builder.config);
        for (service, offset) in SERVICES {
            let number = if service == "telemetry" { self.builder.replicas } else { 1 };
            let before: Vec<SocketAddr> = self
                .builder
                .endpoints
                .iter()
                .filter(|(name, _)| name == service)
                .map(|(_, address)| *address)
                .collect();
            let own = (0..number).map(|n| SocketAddr::from(([127, 0, 0, 1], self.replica_base(n) + offset)));
            let all = if before.is_empty() { own.collect() } else { before };
            let all: Vec<String> = all.iter().map(|address| format!("\"{address}\"")).collect();
            text.push_str(&format!("{service} = [{}]\n", all.join(", ")));
        }
        std::fs::create_dir_all(self.data_dir())?;
        Ok(std::fs::write(self.data_dir().join("sensormesh.toml"), text)?)
    }
}
