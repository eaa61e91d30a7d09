//! The configuration: one file, one table for each part, and what goes before it.
//!
//! Precedence: flag, environment, file, default. The defaults stand, explained, in `config.default.toml`; a test keeps that
//! file equal to the code.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::cli::{Common, Settings};

/// Every key with its default and its meaning.
pub const DEFAULTS: &str = include_str!("config.default.toml");
/// The file that is read from the data directory where none is named.
pub const FILE_NAME: &str = "sensormesh.toml";
/// How the variables begin that name a key.
pub const ENV_PREFIX: &str = "SENSORMESH_";
/// Variables with our prefix that are not configuration.
const NOT_KEYS: [&str; 4] =
    ["SENSORMESH_CONFIG", "SENSORMESH_DATA_DIR", "SENSORMESH_TOKEN", "SENSORMESH_TEST_POSTGRES_URL"];

/// The whole configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where databases, certificates and the first password are kept.
    pub data_dir: PathBuf,
    /// The edge's port; every other port is relative to it.
    pub port_base: u16,
    /// The address that the services' own ports listen on. The edge has its own.
    pub bind: std::net::IpAddr,
    /// The databases.
    pub database: Database,
    /// The disk that SQLite files lie on.
    pub disk: sensormesh_store::Budget,
    /// Logs and traces.
    pub log: sensormesh_observability::Config,
    /// The network between services.
    pub mesh: sensormesh_mesh::Config,
    /// The public interface.
    pub edge: sensormesh_edge::Config,
    /// Users and tokens.
    pub auth: sensormesh_auth::Config,
    /// Devices and sensors.
    pub devices: sensormesh_devices::Config,
    /// Readings.
    pub telemetry: sensormesh_telemetry::Config,
    /// Connections to the world.
    pub adapters: sensormesh_adapters::Config,
    /// Tests of sensors.
    pub commissioning: sensormesh_commissioning::Config,
    /// Places.
    pub rooms: sensormesh_rooms::Config,
}

/// The `[database]` table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `postgres://…`; empty = SQLite files in the data directory.
    pub url: String,
    /// A file that holds the URL.
    pub url_file: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("sensormesh-data"),
            port_base: 8000,
            bind: std::net::Ipv4Addr::LOCALHOST.into(),
            database: Database::default(),
            disk: sensormesh_store::Budget::default(),
            log: sensormesh_observability::Config::default(),
            mesh: sensormesh_mesh::Config::default(),
            edge: sensormesh_edge::Config::default(),
            auth: sensormesh_auth::Config::default(),
            devices: sensormesh_devices::Config::default(),
            telemetry: sensormesh_telemetry::Config::default(),
            adapters: sensormesh_adapters::Config::default(),
            commissioning: sensormesh_commissioning::Config::default(),
            rooms: sensormesh_rooms::Config::default(),
        }
    }
}

impl Config {
    /// Reads the configuration: file, environment, then the flags that every command has.
    pub fn load(common: &Common) -> Result<Self> {
        Self::from_parts(common, std::env::vars())
    }

    fn from_parts(common: &Common, env: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let mut table = Table::try_from(Config::default())?;
        if let Some(file) = file(common) {
            let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let read: Table = text.parse().with_context(|| format!("{} is not TOML", file.display()))?;
            // Read alone first, so that a wrong key is named with the place it stands at.
            toml::from_str::<Config>(&text).with_context(|| format!("{} is wrong", file.display()))?;
            merge(&mut table, read);
        }
        for (name, value) in env {
            apply(&mut table, &name, &value)?;
        }
        let mut config: Config = table.try_into().context("the configuration is wrong")?;
        if let Some(dir) = &common.data_dir {
            config.data_dir.clone_from(dir);
        }
        if let Some(port) = common.port_base {
            config.port_base = port;
        }
        config.settle()
    }

    /// Puts the flags of `up` and `serve` before everything else.
    pub fn with(mut self, settings: &Settings) -> Result<Self> {
        if let Some(address) = settings.listen {
            self.edge.listen = Some(address);
        }
        if let Some(cert) = &settings.tls_cert {
            self.edge.tls_cert.clone_from(cert);
        }
        if let Some(key) = &settings.tls_key {
            self.edge.tls_key.clone_from(key);
        }
        if !settings.behind_proxy.is_empty() {
            self.edge.behind_proxy = settings.behind_proxy.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
        }
        if !settings.cors_origin.is_empty() {
            self.edge.cors_origins.clone_from(&settings.cors_origin);
        }
        if let Some(url) = &settings.database_url {
            self.database = Database { url: url.clone(), ..Database::default() };
        }
        if let Some(file) = &settings.database_url_file {
            self.database = Database { url_file: file.clone(), ..Database::default() };
        }
        let settled = self.settle()?;
        settled.check()?;
        Ok(settled)
    }

    /// Refuses what nothing could be started with, naming it, before anything is.
    pub fn check(&self) -> Result<()> {
        self.log.check()?;
        self.mesh.check()?;
        self.edge.check_numbers()?;
        self.auth.check()?;
        self.telemetry.check()?;
        Ok(())
    }

    /// Fills what follows from something else, and reads the files that secrets are named by.
    fn settle(mut self) -> Result<Self> {
        if self.port_base > u16::MAX - 2000 || self.port_base == 0 {
            bail!("port_base must lie between 1 and {}", u16::MAX - 2000);
        }
        if !self.database.url_file.as_os_str().is_empty() {
            let file = &self.database.url_file;
            let url = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            url.trim().clone_into(&mut self.database.url);
            self.database.url_file = PathBuf::new();
        }
        let url = &self.database.url;
        if !url.is_empty() && !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            bail!("database.url must start with postgres://; leave it empty for SQLite");
        }
        Ok(self)
    }
}

fn file(common: &Common) -> Option<PathBuf> {
    if common.config.is_some() {
        return common.config.clone();
    }
    let dir = common.data_dir.clone().unwrap_or_else(|| Config::default().data_dir);
    let usual = dir.join(FILE_NAME);
    usual.exists().then_some(usual)
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Sets the key that a variable names: `SENSORMESH_ROOMS__RETENTION` is `rooms.retention`. Besides, `LOG_LEVEL` and the
/// usual `OTEL_` variables are honoured.
fn apply(table: &mut Table, name: &str, value: &str) -> Result<()> {
    let path: Vec<String> = match name {
        "LOG_LEVEL" => vec!["log".into(), "level".into()],
        "OTEL_EXPORTER_OTLP_ENDPOINT" => vec!["log".into(), "otlp_endpoint".into()],
        "OTEL_SERVICE_NAME" => vec!["log".into(), "service_name".into()],
        "OTEL_TRACES_SAMPLER_ARG" => vec!["log".into(), "trace_ratio".into()],
        _ if NOT_KEYS.contains(&name) => return Ok(()),
        _ => match name.strip_prefix(ENV_PREFIX) {
            Some(rest) => rest.split("__").map(str::to_lowercase).collect(),
            None => return Ok(()),
        },
    };
    let (key, tables) = path.split_last().context("an empty variable name")?;
    let mut at = &mut *table;
    for part in tables {
        at = match at.get_mut(part) {
            Some(Value::Table(next)) => next,
            _ => bail!("{name}: there is no table {part:?} in the configuration"),
        };
    }
    let old = at.get(key);
    let new = match old {
        Some(Value::Integer(_)) => {
            Value::Integer(value.parse().with_context(|| format!("{name} must be a whole number"))?)
        }
        Some(Value::Float(_)) => Value::Float(value.parse().with_context(|| format!("{name} must be a number"))?),
        Some(Value::Boolean(_)) => {
            Value::Boolean(value.parse().with_context(|| format!("{name} must be true or false"))?)
        }
        Some(Value::Array(_)) => {
            Value::Array(value.split(',').map(str::trim).filter(|v| !v.is_empty()).map(Value::from).collect())
        }
        Some(Value::Table(_)) => bail!("{name} names a table; name one of its keys"),
        Some(_) => Value::from(value),
        None if DEFAULTS.lines().any(|line| line.starts_with(&format!("# {key} = "))) => Value::from(value),
        None => bail!("{name}: there is no key {key:?} in the configuration"),
    };
    at.insert(key.clone(), new);
    Ok(())
}

/// Every key with its meaning and the value in effect, in the form of the file.
pub fn show(config: &Config) -> Result<String> {
    let table = Table::try_from(config)?;
    Ok(annotate(&table, |_, key, value| format!("{key} = {value}")))
}

/// Every setting in effect on one line, for the log at start, but where the databases are: that may name a password.
pub fn line(config: &Config) -> Result<String> {
    let mut settings = Table::try_from(config)?;
    settings.remove("database");
    let mut words = Vec::new();
    flatten(&settings, "", &mut words);
    Ok(words.join(" "))
}

/// An address without what may be a secret in it: user and password, and what follows the path.
fn public(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let plain = rest.split(['?', '#']).next().unwrap_or_default();
    let plain = plain.rsplit_once('@').map_or(plain, |(_, host)| host);
    format!("{scheme}://{plain}")
}

fn flatten(table: &Table, path: &str, words: &mut Vec<String>) {
    for (key, value) in table {
        match value {
            Value::Table(inner) => flatten(inner, &format!("{path}{key}."), words),
            Value::String(text) => words.push(format!("{path}{key}={:?}", public(text))),
            value => words.push(format!("{path}{key}={value}")),
        }
    }
}

/// The same as environment variables, commented out.
pub fn show_env(config: &Config) -> Result<String> {
    let table = Table::try_from(config)?;
    let head =
        "# Made by `sensormesh config show --env`: every setting as an environment variable, with its default.\n#\n";
    let text = annotate(&table, |path, key, value| {
        let name: Vec<String> = path.iter().map(|p| (*p).to_uppercase()).chain([key.to_uppercase()]).collect();
        let plain = value.trim_matches('"').replace(['[', ']', '"'], "");
        format!("# {ENV_PREFIX}{}={plain}", name.join("__"))
    });
    // Tables have no meaning here.
    let text: Vec<String> = text.lines().filter(|line| !line.starts_with('[')).map(str::to_owned).collect();
    Ok(format!("{head}{}\n", text.join("\n")))
}

/// Walks the file of defaults and writes each key's line anew.
fn annotate(table: &Table, write: impl Fn(&[&str], &str, &str) -> String) -> String {
    let mut path: Vec<&str> = Vec::new();
    let mut text = String::new();
    for line in DEFAULTS.lines() {
        if let Some(header) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            path = header.split('.').collect();
        }
        let key = line.strip_prefix("# ").unwrap_or(line).split_once(" = ").map(|(key, _)| key);
        let key = key
            .filter(|k| !k.is_empty() && k.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
        match key {
            Some(key) => match lookup(table, &path, key) {
                Some(value) => text.push_str(&write(&path, key, &value.to_string())),
                None => text.push_str(&if line.starts_with('#') { line.to_owned() } else { format!("# {line}") }),
            },
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

fn lookup<'t>(table: &'t Table, path: &[&str], key: &str) -> Option<&'t Value> {
    let mut at = table;
    for part in path {
        at = at.get(*part)?.as_table()?;
    }
    at.get(key).filter(|value| !value.is_table())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(env: &[(&str, &str)]) -> Result<Config> {
        let common = Common { data_dir: Some("/nowhere".into()), ..Common::default() };
        Config::from_parts(&common, env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    fn keys(table: &Table, path: &str, all: &mut Vec<String>) {
        for (key, value) in table {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match value {
                Value::Table(inner) if !inner.is_empty() => keys(inner, &path, all),
                _ => all.push(path),
            }
        }
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let documented: Config = toml::from_str(DEFAULTS).expect("the file of defaults");
        let (mut in_file, mut in_code) = (Vec::new(), Vec::new());
        keys(&DEFAULTS.parse().expect("table"), "", &mut in_file);
        keys(&Table::try_from(Config::default()).expect("table"), "", &mut in_code);
        in_file.sort();
        in_code.sort();
        assert_eq!(in_file, in_code, "every key stands in config.default.toml, and no other");
        let value = |config: &Config| Value::try_from(config).expect("value");
        assert_eq!(value(&documented), value(&Config::default()));
    }

    #[test]
    fn the_environment_goes_before_the_default() {
        let config =
            load(&[("SENSORMESH_PORT_BASE", "9100"), ("SENSORMESH_MESH__NAMESPACE", "plant")]).expect("config");
        assert_eq!(config.port_base, 9100);
        assert_eq!(config.mesh.namespace, "plant");
    }

    #[test]
    fn a_misspelt_key_is_refused_in_words() {
        let error = load(&[("SENSORMESH_MESH__NAMESPAC", "x")]).expect_err("refused").to_string();
        assert!(error.contains("NAMESPAC"), "{error}");
        assert!(load(&[("SENSORMESH_PORT_BASE", "many")]).is_err());
        assert!(load(&[("SENSORMESH_DATABASE__URL", "mysql://x")]).is_err());
    }

    #[test]
    fn the_file_goes_before_the_default_and_after_the_flag() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join(FILE_NAME), "port_base = 8100\n[mesh]\nnamespace = \"a\"\n").expect("write");
        let mut common = Common { data_dir: Some(dir.path().to_owned()), ..Common::default() };
        assert_eq!(Config::from_parts(&common, std::iter::empty()).expect("config").port_base, 8100);
        common.port_base = Some(8200);
        assert_eq!(Config::from_parts(&common, std::iter::empty()).expect("config").port_base, 8200);
        std::fs::write(dir.path().join(FILE_NAME), "port_bas = 8100\n").expect("write");
        let error = format!("{:#}", Config::from_parts(&common, std::iter::empty()).expect_err("refused"));
        assert!(error.contains("port_bas"), "{error}");
    }

    #[test]
    fn every_setting_is_in_the_log_and_no_password_of_a_database() {
        let config = load(&[
            ("SENSORMESH_DATABASE__URL", "postgres://a:secret@b/c"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://me:secret@collector:4317/v1?key=secret"),
        ]);
        let config = config.expect("config");
        let line = line(&config).expect("a line");
        assert!(line.contains(" mesh.resilience.retries=2 ") && line.contains(" port_base=8000 "), "{line}");
        assert!(!line.contains("secret") && line.contains("\"https://collector:4317/v1\""), "{line}");
    }

    #[test]
    fn what_nothing_could_be_started_with_is_refused_by_name() {
        Config::default().check().expect("the defaults are right");
        for (key, value) in [
            ("AUTH__ACCESS_TOKEN_LIFE", "11m"),
            ("AUTH__PASSWORD__MEMORY_KIB", "4294967295"),
            ("AUTH__THROTTLE__FORGET_AFTER", "1000d"),
            ("EDGE__SPOOL_AGE", "48h"),
            ("EDGE__HEALTH_INTERVAL", "0s"),
            ("TELEMETRY__MERGE_EVERY", "0s"),
            ("MESH__LIMITS__EMPTY_FRAMES", "0"),
            ("EDGE__LIMITS__CONNECTIONS", "0"),
            ("MESH__LIMITS__HANDSHAKE_TIMEOUT", "0s"),
            ("MESH__RESILIENCE__BREAKER_SHARE", "7.0"),
            ("MESH__RESILIENCE__RETRY_SHARE", "nan"),
            ("LOG__TRACE_RATIO", "2.0"),
            ("LOG__OTLP_ENDPOINT", "notaurl"),
        ] {
            let error = load(&[(&format!("{ENV_PREFIX}{key}"), value)]).expect(key).check().expect_err(key).to_string();
            assert!(error.contains(&key.to_lowercase().replace("__", ".")), "{key}: {error}");
        }
        assert!(load(&[("SENSORMESH_AUTH__THROTTLE__FORGET_AFTER", "200000000d")]).is_err(), "longer than clocks go");
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let shown = show(&Config::default()).expect("shown");
        let read: Config = toml::from_str(&shown).expect("read back");
        assert_eq!(Value::try_from(&read).expect("value"), Value::try_from(Config::default()).expect("value"));
    }
}
