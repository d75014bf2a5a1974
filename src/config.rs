//! Settings from flags, environment and file, in this order of precedence; checked once.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use etcetera::BaseStrategy;
use serde::Deserialize;

use crate::{executor::config::ExecutorConfig, model::Limits};

/// Where the database is. Every command has these.
#[derive(Debug, Clone, Default, Args)]
pub struct Place {
    /// The database [default: culm/culm.db in the user's data directory]
    #[arg(long, value_name = "PATH", env = "CULM_DB")]
    pub db: Option<PathBuf>,
    /// A TOML file with these settings, `-` written as `_`; flags and environment go before it [default: none]
    #[arg(long, value_name = "FILE", env = "CULM_CONFIG")]
    pub config: Option<PathBuf>,
}

/// What a server can be told. The names are those of flags, of `CULM_…` variables and of the file's keys.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// The address to listen on [default: 127.0.0.1:9562]
    #[arg(long, value_name = "ADDR", env = "CULM_LISTEN")]
    listen: Option<String>,
    /// Ask for no token; only on a loopback address [default: a token is asked for]
    #[arg(long, env = "CULM_NO_AUTH", num_args = 0..=1, default_missing_value = "true")]
    no_auth: Option<bool>,
    /// Offer POST /api/v1/dev/reset, which deletes everything [default: not offered]
    #[arg(long, env = "CULM_DEV", num_args = 0..=1, default_missing_value = "true")]
    dev: Option<bool>,
    /// One more name that the Host header may have, such as culm.example.com; without a port, at every port. Can be given
    /// several times [default: none]
    #[arg(long, value_name = "HOST[:PORT]", env = "CULM_ALLOW_HOST", value_delimiter = ',')]
    allow_host: Vec<String>,
    /// Bytes of memory for sessions that are read often [default: 67108864]
    #[arg(long, value_name = "BYTES", env = "CULM_CACHE_BYTES")]
    cache_bytes: Option<usize>,
    /// Connections that read the database [default: 4]
    #[arg(long, value_name = "N", env = "CULM_READERS", value_parser = clap::value_parser!(u32).range(1..=64))]
    readers: Option<u32>,
    /// Bytes of a title at most [default: 1024]
    #[arg(long, value_name = "BYTES", env = "CULM_MAX_TITLE_BYTES")]
    max_title_bytes: Option<usize>,
    /// Bytes of a session's metadata at most [default: 65536]
    #[arg(long, value_name = "BYTES", env = "CULM_MAX_METADATA_BYTES")]
    max_metadata_bytes: Option<usize>,
    /// Bytes of a message at most [default: 4194304]
    #[arg(long, value_name = "BYTES", env = "CULM_MAX_MESSAGE_BYTES")]
    max_message_bytes: Option<usize>,
    /// Bytes of a request's body at most [default: 16777216]
    #[arg(long, value_name = "BYTES", env = "CULM_MAX_BODY_BYTES")]
    max_body_bytes: Option<usize>,
    /// Bytes of an attachment at most [default: 104857600]
    #[arg(long, value_name = "BYTES", env = "CULM_MAX_ATTACHMENT_BYTES")]
    max_attachment_bytes: Option<usize>,
    /// Bytes that requests and their answers may hold at one time; further ones wait a moment, then are refused
    /// [default: 268435456]
    #[arg(long, value_name = "BYTES", env = "CULM_MAX_BYTES_IN_FLIGHT")]
    max_bytes_in_flight: Option<usize>,
    /// Runs that are carried out at one time; further ones wait in order [default: 16]
    #[arg(long, value_name = "N", env = "CULM_MAX_CONCURRENT_RUNS", value_parser = clap::value_parser!(u16).range(1..))]
    max_concurrent_runs: Option<u16>,
    /// Seconds that a cancelled run may take to stop by itself; then it is forced [default: 10]
    #[arg(long, value_name = "SECONDS", env = "CULM_GRACE_SECONDS")]
    grace_seconds: Option<u16>,
    /// How deep below its root a session may be created; 1 lets roots alone have children [default: 1]
    #[arg(long, value_name = "N", env = "CULM_MAX_CHILD_DEPTH", value_parser = clap::value_parser!(u16).range(..=1000))]
    max_child_depth: Option<u16>,
    /// Where worktrees are made that nobody names a place for [default: worktrees, beside the database]
    #[arg(long, value_name = "DIR", env = "CULM_WORKTREES")]
    worktrees: Option<PathBuf>,
    /// Log level: error, warn, info, debug (also requests) or trace; or a filter as of tracing's EnvFilter [default: info]
    #[arg(long, value_name = "FILTER", env = "CULM_LOG")]
    log: Option<String>,
    /// Log format on standard error: text, or json with one object on each line [default: text]
    #[arg(long, value_name = "FORMAT", env = "CULM_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// The executor of runs that name none [default: the only one, if there is one]
    #[arg(long, value_name = "NAME", env = "CULM_DEFAULT_EXECUTOR")]
    default_executor: Option<String>,
    /// What carries runs out, by name; too much for flags, so only a table here.
    #[arg(skip)]
    executors: BTreeMap<String, ExecutorConfig>,
    /// The database; a flag of every command, so only a key here.
    #[arg(skip)]
    db: Option<PathBuf>,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object on each line.
    Json,
}

/// Settings that were checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The database.
    pub db: PathBuf,
    /// The address.
    pub listen: SocketAddr,
    /// Whether a token is asked for.
    pub auth: bool,
    /// Whether calls for development are offered.
    pub dev: bool,
    /// Further names for the Host header.
    pub allow_host: Vec<String>,
    /// Bytes of the cache.
    pub cache_bytes: usize,
    /// Connections that read.
    pub readers: u32,
    /// How large things may be.
    pub limits: Limits,
    /// Runs at one time.
    pub max_concurrent_runs: usize,
    /// How long a cancelled run may take to stop by itself.
    pub grace: Duration,
    /// How deep below its root a session may be created.
    pub max_child_depth: u16,
    /// Where worktrees are made that nobody names a place for.
    pub worktrees: PathBuf,
    /// What to log.
    pub log: String,
    /// How.
    pub log_format: LogFormat,
    /// What carries runs out, by name.
    pub executors: BTreeMap<String, ExecutorConfig>,
    /// Which of them carries out runs that name none.
    pub default_executor: Option<String>,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Place {
    /// The database that a command works on.
    pub fn database(&self) -> Result<PathBuf, ConfigError> {
        Ok(self.settings(Server::default())?.db)
    }

    /// Settings from flags and environment, then the file, then the defaults.
    pub fn settings(&self, given: Server) -> Result<Settings, ConfigError> {
        let file = self.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let db = real_path(self.db.clone().or(file.db).map_or_else(default_database, Ok)?);
        let listen = given.listen.or(file.listen).unwrap_or_else(|| "127.0.0.1:9562".into());
        let resolved = listen.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
        let listen =
            resolved.ok_or_else(|| ConfigError(format!("--listen {listen}: not an address such as 127.0.0.1:9562")))?;
        let auth = !given.no_auth.or(file.no_auth).unwrap_or(false);
        if !auth && !listen.ip().is_loopback() {
            return Err(ConfigError(format!("--no-auth is for loopback addresses only, and {listen} is none")));
        }
        let defaults = Limits::default();
        let limits = Limits {
            title: given.max_title_bytes.or(file.max_title_bytes).unwrap_or(defaults.title),
            metadata: given.max_metadata_bytes.or(file.max_metadata_bytes).unwrap_or(defaults.metadata),
            message: given.max_message_bytes.or(file.max_message_bytes).unwrap_or(defaults.message),
            body: given.max_body_bytes.or(file.max_body_bytes).unwrap_or(defaults.body),
            attachment: given.max_attachment_bytes.or(file.max_attachment_bytes).unwrap_or(defaults.attachment),
            in_flight: given.max_bytes_in_flight.or(file.max_bytes_in_flight).unwrap_or(defaults.in_flight),
        };
        let default_executor = default_executor(given.default_executor.or(file.default_executor), &file.executors)?;
        let worktrees = given.worktrees.or(file.worktrees).unwrap_or_else(|| db.with_file_name("worktrees"));
        Ok(Settings {
            db,
            worktrees,
            listen,
            auth,
            dev: given.dev.or(file.dev).unwrap_or(false),
            allow_host: [given.allow_host, file.allow_host].concat(),
            cache_bytes: given.cache_bytes.or(file.cache_bytes).unwrap_or(64 << 20),
            readers: given.readers.or(file.readers).unwrap_or(4).clamp(1, 64),
            limits,
            max_concurrent_runs: given.max_concurrent_runs.or(file.max_concurrent_runs).unwrap_or(16).max(1).into(),
            grace: Duration::from_secs(given.grace_seconds.or(file.grace_seconds).unwrap_or(10).into()),
            max_child_depth: given.max_child_depth.or(file.max_child_depth).unwrap_or(1).min(1000),
            log: given.log.or(file.log).unwrap_or_else(|| "info".into()),
            log_format: given.log_format.or(file.log_format).unwrap_or_default(),
            executors: file.executors,
            default_executor,
        })
    }
}

fn read(path: &Path) -> Result<Server, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError(format!("{}: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| ConfigError(format!("{}: {}", path.display(), error.to_string().trim_end())))
}

fn default_executor(
    named: Option<String>,
    executors: &BTreeMap<String, ExecutorConfig>,
) -> Result<Option<String>, ConfigError> {
    match named {
        Some(name) if !executors.contains_key(&name) => {
            Err(ConfigError(format!("default_executor {name}: there is no [executors.{name}]")))
        }
        None if executors.len() == 1 => Ok(executors.keys().next().cloned()),
        named => Ok(named),
    }
}

/// The one name of a database's file, whatever links lead there: what stands beside it is found by it.
fn real_path(path: PathBuf) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = || Some(folder.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(new).unwrap_or(path)
}

fn default_database() -> Result<PathBuf, ConfigError> {
    let folders = etcetera::choose_base_strategy()
        .map_err(|_| ConfigError("there is no home directory: name the database with --db".into()))?;
    Ok(folders.data_dir().join("culm").join("culm.db"))
}
