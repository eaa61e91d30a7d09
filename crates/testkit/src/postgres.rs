//! A PostgreSQL server for tests: the one `SENSORMESH_TEST_POSTGRES_URL` names, else one of the process's own.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Names the server that the whole test run shares.
pub const VARIABLE: &str = "SENSORMESH_TEST_POSTGRES_URL";

/// The URL of a new, empty database, or `None` (and a line that says why) where there is no PostgreSQL.
pub fn url_for_new_database() -> Option<String> {
    static SERVER: OnceLock<Option<String>> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let server = SERVER.get_or_init(|| match std::env::var(VARIABLE) {
        Ok(url) => Some(url),
        Err(_) => match Server::start(None) {
            Ok(server) => {
                let url = server.url.clone();
                // Kept until the process ends; a watchdog ends the server with it.
                std::mem::forget(server);
                Some(url)
            }
            Err(error) => {
                crate::skip(format_args!("tests on PostgreSQL: {error:#}"));
                None
            }
        },
    });
    let url = server.as_deref()?;
    let random = u64::from_le_bytes(sensormesh_types::random::bytes());
    let name = format!("test_{}_{random:x}", COUNT.fetch_add(1, Ordering::Relaxed));
    let created = Command::new(programs()?.join("psql"))
        .args([url, "-q", "-c", &format!("CREATE DATABASE {name}")])
        .stdout(Stdio::null())
        .status();
    if !created.is_ok_and(|status| status.success()) {
        crate::skip(format_args!("tests on PostgreSQL: {url} refuses a new database"));
        return None;
    }
    let (base, _) = url.rsplit_once('/')?;
    Some(format!("{base}/{name}"))
}

/// Runs these statements in a database.
pub fn run(url: &str, sql: &str) -> Result<()> {
    let psql = programs().context("no psql is installed (Debian: postgresql)")?.join("psql");
    let done =
        Command::new(psql).args([url, "-q", "-v", "ON_ERROR_STOP=1", "-c", sql]).stdout(Stdio::null()).status()?;
    if done.success() { Ok(()) } else { bail!("refused: {sql}") }
}

/// A server of a test's own; it ends with this.
pub struct Server {
    /// Its first database.
    pub url: String,
    /// For `sh`: stops it, until it is started again.
    pub stop: String,
    /// For `sh`: starts it again, a moment later.
    pub start: String,
    child: Child,
}

impl Server {
    /// Starts a server whose tables lie in this folder, which it gets for itself, and its write-ahead log where temporary files
    /// lie; without a folder, the tables lie there too.
    pub fn start(tables: Option<&Path>) -> Result<Self> {
        let programs = programs().context("no initdb is installed (Debian: postgresql)")?;
        let home = tempfile::Builder::new().prefix("sensormesh-postgres-").tempdir()?.keep();
        let root = fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0).unwrap_or(false);
        if root {
            let (user, group) =
                unprivileged().context("PostgreSQL refuses to run as root, and there is no other user")?;
            for folder in [Some(home.as_path()), tables].into_iter().flatten() {
                chown(folder, Some(user), Some(group))?;
            }
        }
        let data = tables.unwrap_or(&home).join("data");
        let initdb = command(root, &programs.join("initdb"), &home)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data)
            .arg("--waldir")
            .arg(home.join("wal"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        anyhow::ensure!(initdb.success(), "initdb failed");
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        // `sh` ends the server and removes its folder when this process, which holds its standard input, ends. It starts one that
        // has ended again unless there is a file `stopped`.
        let script = "postgres=$1; home=$2; port=$3; data=$4; \
            (while :; do \
            \"$postgres\" -D \"$data\" -p \"$port\" -c listen_addresses=127.0.0.1 -c max_connections=300 \
            -c fsync=off -c unix_socket_directories=\"$home\" >>\"$home/log\" 2>&1 & \
            server=$!; trap 'kill -INT $server; wait $server; exit' TERM; wait $server; \
            while [ -e \"$home/stopped\" ]; do sleep 0.1; done; done) & \
            keeper=$!; cat >/dev/null; kill -TERM $keeper; wait $keeper; rm -rf \"$home\"";
        let child = command(root, Path::new("sh"), &home)
            .args(["-c", script, "sh"])
            .arg(programs.join("postgres"))
            .arg(&home)
            .arg(port.to_string())
            .arg(&data)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        for _ in 0..400 {
            let mut ready = Command::new(programs.join("pg_isready"));
            ready.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
            if ready.status().is_ok_and(|status| status.success()) {
                let (home, data) = (home.display(), data.display());
                let stop = format!("touch {home}/stopped; kill -INT $(head -1 {data}/postmaster.pid)");
                return Ok(Self { url, stop, start: format!("rm {home}/stopped"), child });
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        bail!("the server did not become ready")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().ok();
    }
}

/// A command that runs as an unprivileged user where this process is root.
fn command(root: bool, program: &Path, home: &Path) -> Command {
    let mut command = if root {
        let mut wrapped = Command::new("setpriv");
        let (user, group) = unprivileged().unwrap_or((65534, 65534));
        wrapped.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).arg("--clear-groups").arg(program);
        wrapped
    } else {
        Command::new(program)
    };
    command.current_dir(home);
    command
}

/// The user and group of `postgres`, else of `nobody`.
fn unprivileged() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    ["postgres", "nobody"].iter().find_map(|name| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// The folder with the server's programs, wherever it was installed.
fn programs() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .ok()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    versions.sort();
    versions.pop().or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|dir| dir.join("initdb").exists())
    })
}
