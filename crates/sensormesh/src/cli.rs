//! What can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// A sensor platform: from a sensor to a live dashboard, in one program.
#[derive(Debug, Parser)]
#[command(name = "sensormesh", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Starts the whole system on this machine, and creates what is missing
    Up(UpArgs),
    /// Runs the named services in this process
    Serve(ServeArgs),
    /// Makes or renews the certificates of this machine's services and of its operator
    Certs(CertsArgs),
    /// Prints what is derived from the contracts
    #[command(subcommand)]
    Contract(Contract),
    /// Shows or checks the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Shows how a running system does
    Status(StatusArgs),
    /// Copies the data directory of a running or stopped system into a backup
    Backup(BackupArgs),
    /// Makes a data directory out of a backup
    Restore(RestoreArgs),
    /// Verifies every checksum in a data directory, a backup or a PostgreSQL database, and names what is bad
    Check(CheckArgs),
    /// Helps users who are locked out, on the database itself; the system may run meanwhile
    #[command(subcommand)]
    Users(Users),
    /// Sends recorded data from a CSV file through the public interface
    Replay(ReplayArgs),
    /// Sends readings as fast as they are taken, and says whether each that was acknowledged is there
    Load(LoadArgs),
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, Args)]
pub struct Common {
    /// The configuration file [default: sensormesh.toml in the data directory, if it is there]
    #[arg(long, value_name = "FILE", env = "SENSORMESH_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where databases, certificates and the first password are kept [default: sensormesh-data]
    #[arg(long, value_name = "DIR", env = "SENSORMESH_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// The edge's port; every other port is relative to it [default: 8000]
    #[arg(long, value_name = "PORT")]
    pub port_base: Option<u16>,
}

/// Settings of `up` and `serve` that go before the file.
#[derive(Clone, Debug, Default, Args)]
pub struct Settings {
    /// The address of the edge [default: 127.0.0.1:<port-base>]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// The edge's certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The edge's private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// A network whose X-Forwarded-For the edge believes; lets it listen without TLS
    #[arg(long, value_name = "CIDR")]
    pub behind_proxy: Vec<String>,
    /// An origin whose pages may call the edge: https://dash.example.org
    #[arg(long, value_name = "ORIGIN")]
    pub cors_origin: Vec<String>,
    /// postgres://… (one schema a service, or `{service}` in the URL) [default: SQLite in the data directory]
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// A file that holds the database URL
    #[arg(long, value_name = "FILE", env = "DATABASE_URL_FILE", conflicts_with = "database_url")]
    pub database_url_file: Option<PathBuf>,
    /// Leaves the sensors of this machine alone
    #[arg(long)]
    pub no_host_sensors: bool,
}

/// `sensormesh up`.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub common: Common,
    /// Settings that go before the file.
    #[command(flatten)]
    pub settings: Settings,
    /// One process for each service, restarted when it ends
    #[arg(long)]
    pub split: bool,
}

/// `sensormesh serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// The services to run
    #[arg(required = true, value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub common: Common,
    /// Settings that go before the file.
    #[command(flatten)]
    pub settings: Settings,
    /// Drains and ends when standard input ends: for a supervisor
    #[arg(long, hide = true)]
    pub supervised: bool,
}

/// `sensormesh certs`.
#[derive(Clone, Debug, Args)]
pub struct CertsArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub common: Common,
    /// A further name or address that the services are reached by
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Makes new certificates even where the old ones are good for long
    #[arg(long)]
    pub renew: bool,
}

/// `sensormesh contract`.
#[derive(Clone, Debug, Subcommand)]
pub enum Contract {
    /// Every REST route and the method behind it
    Routes,
    /// Who may call each method, for how long, at what cost
    Policy,
    /// The OpenAPI 3.1 description of the REST interface
    Openapi,
    /// Who calls whom
    Graph,
    /// The reference of every service, method and message, as Markdown
    Docs,
    /// The descriptors that later contracts are compared with, written to FILE
    Release {
        /// Where to write them
        file: PathBuf,
        /// Writes them even where callers of the last release would break
        #[arg(long)]
        accept_breaking: bool,
    },
}

/// `sensormesh config`.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Prints every key with its meaning and its value in effect
    Show {
        /// Where the configuration comes from.
        #[command(flatten)]
        common: Common,
        /// As environment variables
        #[arg(long)]
        env: bool,
    },
    /// Says whether the configuration is right
    Check {
        /// Where the configuration comes from.
        #[command(flatten)]
        common: Common,
    },
}

/// `sensormesh status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub common: Common,
    /// How to reach the system.
    #[command(flatten)]
    pub server: Server,
}

/// How a command reaches a running system.
#[derive(Clone, Debug, Default, Args)]
pub struct Server {
    /// The edge's address [default: http://127.0.0.1:<port-base>]
    #[arg(long = "server", value_name = "URL")]
    pub url: Option<String>,
    /// A file that holds an access token [default: SENSORMESH_TOKEN, or a log-in as admin with the data directory's password]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The certificate authority to trust for https, PEM
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// `sensormesh backup`.
#[derive(Clone, Debug, Args)]
pub struct BackupArgs {
    /// The folder to put the backup into; it must be empty or not be there
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
    /// An earlier backup: what did not change since is shared with it, and either can be deleted
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Refused: PostgreSQL has backups of its own
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide = true, hide_env_values = true)]
    pub database_url: Option<String>,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub common: Common,
}

/// `sensormesh restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "BACKUP")]
    pub backup: PathBuf,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub common: Common,
}

/// `sensormesh check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// A backup to look at [default: the data directory]
    #[arg(value_name = "BACKUP")]
    pub backup: Option<PathBuf>,
    /// Prints what is found as JSON
    #[arg(long)]
    pub json: bool,
    /// postgres://… to look at
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true, conflicts_with = "backup")]
    pub database_url: Option<String>,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub common: Common,
}

/// `sensormesh users`.
#[derive(Clone, Debug, Subcommand)]
pub enum Users {
    /// Gives a user a new password, prints it, and ends the user's sessions
    ResetPassword(UserArgs),
    /// Forgets a user's authenticator app and recovery codes
    DisableTotp(UserArgs),
}

/// Which user, and where.
#[derive(Clone, Debug, Args)]
pub struct UserArgs {
    /// What the user logs in with
    #[arg(value_name = "NAME")]
    pub name: String,
    /// postgres://… [default: SQLite in the data directory]
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub common: Common,
}

/// `sensormesh replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The recording: CSV with a header row, plain or gzip
    #[arg(value_name = "FILE.csv[.gz]")]
    pub file: PathBuf,
    /// The column that holds the time; repeated, the parts of it [default: found by its name]
    #[arg(long = "time-column", value_name = "C")]
    pub time_columns: Vec<String>,
    /// The offset of times that name none: +08:00 [default: UTC]
    #[arg(long, value_name = "OFFSET", allow_hyphen_values = true)]
    pub utc_offset: Option<String>,
    /// Texts that stand for a missing value, beside the empty one: NA,-200
    #[arg(long, value_name = "TEXT", value_delimiter = ',', allow_hyphen_values = true)]
    pub missing: Vec<String>,
    /// The device that the sensors belong to
    #[arg(long, value_name = "ID")]
    pub device: String,
    /// The room to place the sensors in; made if need be
    #[arg(long, value_name = "ID")]
    pub room: Option<String>,
    /// What to call a column, and its unit: 'indoor_co2 [ppm]=co2:ppm'
    #[arg(long = "column", value_name = "HEADER=NAME[:UNIT]")]
    pub columns: Vec<String>,
    /// How fast: `max`, `real`, or so many times as fast as it was recorded
    #[arg(long, default_value = "max", value_name = "max|real|N")]
    pub speed: String,
    /// Sends the readings as live ones instead of as backfill
    #[arg(long)]
    pub live: bool,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub common: Common,
    /// How to reach the system.
    #[command(flatten)]
    pub server: Server,
}

/// `sensormesh load`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LoadArgs {
    /// Something else than to send.
    #[command(subcommand)]
    pub command: Option<LoadCommand>,
    /// What is sent.
    #[command(flatten)]
    pub sent: LoadSent,
    /// Where it is sent.
    #[command(flatten)]
    pub to: LoadTo,
}

/// What `sensormesh load` does beside sending.
#[derive(Clone, Debug, Subcommand)]
pub enum LoadCommand {
    /// Verifies a history against what can be read: after a crash, a restore, a migration
    Check {
        /// The history of a load
        #[arg(long, value_name = "FILE")]
        history: PathBuf,
        /// Where it is read.
        #[command(flatten)]
        to: LoadTo,
    },
}

/// What `sensormesh load` sends.
#[derive(Clone, Debug, Args)]
pub struct LoadSent {
    /// How long to send
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = sensormesh_types::text::parse_duration)]
    pub duration: Duration,
    /// Sensors, divided among the lanes
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub sensors: u32,
    /// Senders at once; each keeps the order of what it sends
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub lanes: u32,
    /// Readings of a batch
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub batch: u32,
    /// Readings a second of all lanes [default: as fast as they are taken]
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// Sends rows in calls, one at a time in each lane, instead of columns in streams
    #[arg(long)]
    pub calls: bool,
    /// Does not send again what is refused because of too much load
    #[arg(long, requires = "calls")]
    pub give_up: bool,
    /// Does not watch the live stream meanwhile
    #[arg(long)]
    pub no_watch: bool,
    /// Does not read back what was acknowledged
    #[arg(long)]
    pub no_check: bool,
    /// The file that the history is written to; one that is there is gone on with [default: none is kept]
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
}

/// Where `sensormesh load` sends and reads.
#[derive(Clone, Debug, Args)]
pub struct LoadTo {
    /// Prints one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub common: Common,
    /// How to reach the edge; without --server telemetry is reached directly, with the operator's certificate of the data
    /// directory.
    #[command(flatten)]
    pub server: Server,
}
