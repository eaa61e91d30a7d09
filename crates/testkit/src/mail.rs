//! A mail server that keeps what it is given: aiosmtpd, which `tools/test.py` installs.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::system::eventually;

/// Where `tools/test.py` puts it.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/venv/bin/python");

/// A server; it ends with this.
pub struct Sink {
    /// Where it listens, on loopback.
    pub port: u16,
    kept: TempDir,
    _server: Child,
}

impl Sink {
    /// Starts a server, or says why there is none.
    pub async fn start() -> Option<Self> {
        if !Path::new(PYTHON).exists() {
            eprintln!("skipped: tests with mail: aiosmtpd is not installed; tools/test.py does it");
            return None;
        }
        Self::run().await.inspect_err(|error| eprintln!("skipped: tests with mail: {error:#}")).ok()
    }

    async fn run() -> Result<Self> {
        let kept = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(PYTHON);
        command.args(["-m", "aiosmtpd", "-n", "-l"]).arg(format!("127.0.0.1:{port}"));
        command.args(["-c", "aiosmtpd.handlers.Mailbox"]).arg(kept.path().join("mail"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let server = command.spawn()?;
        let listens = || async { TcpStream::connect(("127.0.0.1", port)).await.ok() };
        eventually(Duration::from_secs(20), listens).await.context("aiosmtpd does not listen")?;
        Ok(Self { port, kept, _server: server })
    }

    /// Every mail so far, as it came, in no order.
    pub fn mails(&self) -> Vec<String> {
        let Ok(files) = std::fs::read_dir(self.kept.path().join("mail/new")) else { return Vec::new() };
        files.flatten().filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect()
    }
}
