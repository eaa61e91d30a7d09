//! A whole system in a test: the real program, on ports and in a directory of its own.

mod alone;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Names another build of the program.
pub const PROGRAM: &str = "TEST_PROGRAM";
/// How long a start may take, in a debug build on a busy machine.
const START: Duration = Duration::from_secs(90);

/// The services' ports relative to the base, and how far above it a service has its operations port.
const SERVICES: [(&str, u16); 7] =
    [("edge", 0), ("auth", 1), ("devices", 2), ("telemetry", 3), ("adapters", 4), ("commissioning", 5), ("rooms", 6)];
const OPERATIONS: u16 = 1000;
/// How far apart the port bases of replicas are, so that their ports are free: 3 + 4, 3 + 8.
const REPLICA_STEP: u16 = 4;

/// In how many processes the system runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All services in one.
    OneProcess,
    /// One for each service, over mutual TLS.
    Split,
}

/// How to start a system.
#[derive(Clone, Debug)]
pub struct Builder {
    program: PathBuf,
    shape: Shape,
    args: Vec<String>,
    settings: Vec<(String, String)>,
    parent: Option<PathBuf>,
    replicas: u16,
    endpoints: Vec<(String, SocketAddr)>,
    config: String,
}

/// A running system. Dropped, it is killed.
pub struct System {
    builder: Builder,
    dir: TempDir,
    /// The edge's port.
    pub port_base: u16,
    child: Option<Child>,
    /// Services that run without the supervisor.
    alone: Vec<Child>,
    http: reqwest::Client,
    log: PathBuf,
}

impl Builder {
    /// A system of this program (`env!("CARGO_BIN_EXE_sensormesh")`), without the machine's own sensors; or of the one that
    /// `TEST_PROGRAM` names, for tests that compare times.
    pub fn new(program: impl Into<PathBuf>, shape: Shape) -> Self {
        Self {
            program: std::env::var_os(PROGRAM).map_or_else(|| program.into(), PathBuf::from),
            shape,
            args: vec!["--no-host-sensors".into()],
            settings: Vec::new(),
            parent: None,
            replicas: 1,
            endpoints: Vec::new(),
            config: String::new(),
        }
    }

    /// Adds an argument to `up`.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets a variable of the environment: `SENSORMESH_DISK__BALLAST`.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Keeps its data below this folder instead of where temporary files lie.
    #[must_use]
    pub fn below(mut self, folder: impl Into<PathBuf>) -> Self {
        self.parent = Some(folder.into());
        self
    }

    /// Lets everybody call telemetry at so many places; at all but the first a test starts it
    /// ([`System::start_replica`]). In the split shape, on PostgreSQL.
    #[must_use]
    pub fn replicas(mut self, replicas: u16) -> Self {
        self.replicas = replicas;
        self
    }

    /// Lets everybody call a service at this address, behind which a test has put a [`crate::proxy::Proxy`]. In the split
    /// shape.
    #[must_use]
    pub fn endpoint(mut self, service: impl Into<String>, address: SocketAddr) -> Self {
        self.endpoints.push((service.into(), address));
        self
    }

    /// Adds to the configuration file: a table and its keys. For systems with replicas or endpoints.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self
    }

    /// Lets the machine's own sensors run.
    #[must_use]
    pub fn with_host_sensors(mut self) -> Self {
        self.args.retain(|arg| arg != "--no-host-sensors");
        self
    }

    /// Starts it and waits until it says that it is ready.
    pub async fn start(self) -> Result<System> {
        self.start_with(|_| {}).await
    }

    /// Starts it as [`Builder::start`] does, and says its base port before ([`port_of`]).
    pub async fn start_with(self, known: impl Fn(u16)) -> Result<System> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
        let mut attempts = 3;
        loop {
            let dir = match &self.parent {
                Some(folder) => tempfile::tempdir_in(folder)?,
                None => tempfile::tempdir()?,
            };
            let log = dir.path().join("log.txt");
            let port_base = free_ports()?;
            known(port_base);
            let mut system = System {
                builder: self.clone(),
                dir,
                port_base,
                child: None,
                alone: Vec::new(),
                http: http.clone(),
                log,
            };
            attempts -= 1;
            match system.up().await {
                Ok(()) => return Ok(system),
                // Another test was faster with the same ports.
                Err(_) if attempts > 0 && system.log().contains("cannot listen") => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// How far above the base a service's port is.
pub fn port_of(service: &str) -> u16 {
    SERVICES.iter().find(|(name, _)| *name == service).map_or(0, |(_, offset)| *offset)
}

/// A base with every port free that a system uses. Operations ports are 1,000 above the others, so bases lie in the lower
/// half of blocks of 2,000; all lie below the ports that outgoing connections take.
fn free_ports() -> Result<u16> {
    for _ in 0..200 {
        let random = u16::from_le_bytes(sensormesh_types::random::bytes());
        let base = 10_000 + random % 10 * 2_000 + random / 10 % 49 * 20;
        let ports = (0..14).flat_map(|offset| [base + offset, base + 1000 + offset]);
        let held: Result<Vec<TcpListener>, _> = ports.map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
        if held.is_ok() {
            return Ok(base);
        }
    }
    bail!("no range of free ports was found")
}

impl System {
    /// Starts the program on the same directory and ports: the first time, or after it ended.
    pub async fn up(&mut self) -> Result<()> {
        if self.builder.replicas > 1 || !self.builder.endpoints.is_empty() {
            self.write_endpoints()?;
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.builder.program);
        command.arg("up").arg("--data-dir").arg(self.data_dir()).arg("--port-base").arg(self.port_base.to_string());
        if self.builder.shape == Shape::Split {
            command.arg("--split");
        }
        command.args(&self.builder.args);
        for name in
            ["DATABASE_URL", "DATABASE_URL_FILE", "SENSORMESH_CONFIG", "SENSORMESH_DATA_DIR", "SENSORMESH_TOKEN"]
        {
            command.env_remove(name);
        }
        command.envs(self.builder.settings.iter().map(|(name, value)| (name, value)));
        command.env("LOG_LEVEL", std::env::var("LOG_LEVEL").unwrap_or_else(|_| "info".to_owned()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().context("the program cannot be started")?;
        let stdout = child.stdout.take().context("no output")?;
        self.child = Some(child);
        let mut lines = BufReader::new(stdout).lines();
        let ready = timeout(START, async {
            while let Some(line) = lines.next_line().await? {
                if line == "ready" {
                    return Ok(());
                }
            }
            bail!("the program ended")
        });
        match ready.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.context(self.log_tail())),
            Err(_) => bail!("not ready after {START:?}; {}", self.log_tail()),
        }
        tokio::spawn(async move {
            let mut rest = Vec::new();
            lines.into_inner().read_to_end(&mut rest).await.ok();
        });
        Ok(())
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Sets a variable of the environment for the starts that follow.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.builder.settings.push((name.into(), value.into()));
    }

    /// The directory with databases, certificates and the first password.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Everything that was logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process that `up` runs in.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// The process of a service, in the split shape.
    pub fn service_pid(&self, service: &str) -> Result<u32> {
        let file = self.data_dir().join(format!("{service}.pid"));
        Ok(std::fs::read_to_string(file)?.trim().parse()?)
    }

    /// Kills a service's process (-9), in the split shape.
    pub fn kill_service(&self, service: &str) -> Result<()> {
        signal("KILL", self.service_pid(service)?)
    }

    /// Stops or continues a process.
    pub fn freeze(&self, pid: u32, frozen: bool) -> Result<()> {
        signal(if frozen { "STOP" } else { "CONT" }, pid)
    }

    /// Stops or continues a service's process, in the split shape.
    pub fn freeze_service(&self, service: &str, frozen: bool) -> Result<()> {
        self.freeze(self.service_pid(service)?, frozen)
    }

    /// Waits until the program has ended by itself.
    pub async fn ended(&mut self) {
        if let Some(child) = &mut self.child {
            child.wait().await.ok();
        }
    }

    /// Kills the whole system (-9) and waits until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        for mut child in self.alone.drain(..) {
            child.kill().await?;
        }
        for (path, pid) in self.pids() {
            // One that was just ended by itself is no failure.
            signal("KILL", pid).ok();
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    /// The files that say which processes there are, in the split shape, and what they say.
    fn pids(&self) -> Vec<(PathBuf, u32)> {
        let entries = std::fs::read_dir(self.data_dir()).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|of| of == "pid"));
        paths
            .filter_map(|path| Some((path.clone(), std::fs::read_to_string(&path).ok()?.trim().parse().ok()?)))
            .collect()
    }

    /// Tells the system to stop and waits until it has; returns how long that took.
    pub async fn stop(&mut self) -> Result<Duration> {
        let start = tokio::time::Instant::now();
        if let Some(mut child) = self.child.take() {
            signal("TERM", child.id().context("ended already")?)?;
            let status = timeout(Duration::from_secs(30), child.wait()).await.context("did not stop")??;
            anyhow::ensure!(status.success(), "ended with {status}; {}", self.log_tail());
        }
        Ok(start.elapsed())
    }

    /// An address at the edge.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port_base)
    }

    /// The first password.
    pub fn admin_password(&self) -> Result<String> {
        let file = self.data_dir().join("admin-password");
        Ok(std::fs::read_to_string(&file).with_context(|| file.display().to_string())?.trim().to_owned())
    }

    /// An access token for a user.
    pub async fn token(&self, username: &str, password: &str) -> Result<String> {
        let answer =
            self.send("POST", "/token", None, Some(&json!({"username": username, "password": password}))).await?;
        let token =
            answer.1["access_token"].as_str().with_context(|| format!("no token: {} {}", answer.0, answer.1))?;
        Ok(token.to_owned())
    }

    /// An access token of `admin`.
    pub async fn admin(&self) -> Result<String> {
        self.token("admin", &self.admin_password()?).await
    }

    /// Registers a viewer and returns its access token.
    pub async fn viewer(&self, name: &str) -> Result<String> {
        let body = json!({"username": name, "password": "correct horse battery staple"});
        let (status, answer) = self.send("POST", "/register", None, Some(&body)).await?;
        anyhow::ensure!(status == 200, "{status} {answer}");
        self.token(name, "correct horse battery staple").await
    }

    /// Sends a request; returns the status and the JSON body (`null` where it is none).
    pub async fn send(
        &self,
        verb: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let mut request = self.http.request(verb.parse()?, self.url(path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    /// GET with a token.
    pub async fn get(&self, path: &str, token: &str) -> Result<(u16, Value)> {
        self.send("GET", path, Some(token), None).await
    }

    /// POST with a token.
    pub async fn post(&self, path: &str, token: &str, body: &Value) -> Result<(u16, Value)> {
        self.send("POST", path, Some(token), Some(body)).await
    }

    /// The client that requests are sent with.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Runs another command of the program against this system; returns its standard output.
    pub async fn command(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.builder.program)
            .args(args)
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--port-base")
            .arg(self.port_base.to_string())
            .env_remove("SENSORMESH_TOKEN")
            .output()
            .await?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(output.status.success(), "{args:?} ended with {}: {out}{err}", output.status);
        Ok(out.into_owned())
    }
}

impl Drop for System {
    /// A process that a failed test left frozen could not see that its supervisor has gone.
    fn drop(&mut self) {
        for (_, pid) in self.pids() {
            signal("CONT", pid).ok();
        }
    }
}

fn signal(name: &str, pid: u32) -> Result<()> {
    let status = std::process::Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status()?;
    anyhow::ensure!(status.success(), "cannot send {name} to {pid}");
    Ok(())
}

/// Waits until `check` returns something, at most `patience`.
pub async fn eventually<T, F, Fut>(patience: Duration, mut check: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        if let Some(found) = check().await {
            return Some(found);
        }
        if tokio::time::Instant::now() > deadline {
            return None;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// A file of the recorded data that tests read where it is there; says so where it is not.
pub fn recorded(path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let file = root.join(path);
    if file.exists() {
        return Some(file);
    }
    crate::skip(format_args!("{} is not there", file.display()));
    None
}
