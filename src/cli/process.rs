//! The process that serves: its log, its limits, its signals, what it says when it is ready.

use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use culm::{
    config::{LogFormat, Settings},
    storage::sqlite,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, ParseError, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::Failure;

/// How long it is waited for who has an address already.
const LOOK: Duration = Duration::from_secs(2);

/// Starts the log on standard error.
///
/// **Never what people wrote, at any level.** Culm's own lines keep to ids, numbers and reasons. Libraries do not know
/// that rule (a statement, a line of a protocol), so they are shown from `warn` on, and the one for SQL not at all.
pub(crate) fn log(settings: &Settings) -> Result<(), Failure> {
    let wrong = |error: ParseError| Failure::new(2, format!("--log: {error}"));
    let level = EnvFilter::try_new(&settings.log).map_err(wrong)?;
    let is_ours = |target: &str| target == "culm" || target.starts_with("culm::");
    let is_sql = |target: &str| target.starts_with(sqlite::LOG_TARGET);
    let shown = filter_fn(move |about| {
        is_ours(about.target()) || *about.level() <= tracing::Level::WARN && !is_sql(about.target())
    });
    let shown = level.and(shown);
    // A log that cannot be written, on the disk that is full, must cost the line alone: told of it, the library panics.
    let lines = tracing_subscriber::fmt::layer().log_internal_errors(false).with_writer(std::io::stderr);
    let lines = match settings.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(shown)).init();
    // A panic on a connection's own thread would look like a row that is not there.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        if std::thread::current().name().is_some_and(|name| name.starts_with(sqlite::THREADS)) {
            std::process::abort();
        }
    }));
    Ok(())
}

/// A subscriber is a connection, and a connection is a file: as many as the system allows.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Signals that end a process unless it listens to them. With SIGXFSZ, a write beyond the file-size limit (`ulimit -f`) is
/// an error of that write. SIGHUP comes when a terminal closes, and asks some servers to read their configuration again;
/// this one goes on as it is. Programs that are started from here have both signals as usual.
pub(crate) fn ignore_signals() -> std::io::Result<()> {
    use rustix::process::Signal;
    for ignored in [Signal::XFSZ, Signal::HUP] {
        // The handler stays when what would hear of it is dropped.
        drop(signal(SignalKind::from_raw(ignored.as_raw()))?);
    }
    Ok(())
}

/// Cancelled by SIGINT or SIGTERM. A second SIGINT ends the process at once.
pub(crate) fn stop_signal() -> std::io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let asked = stop.clone();
    culm::tasks::owned(async move {
        let signal = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        tracing::info!(signal, "stopping");
        asked.cancel();
        interrupt.recv().await;
        std::process::exit(130);
    });
    Ok(stop)
}

/// The names under which a server on this address is asked for.
pub(crate) fn names(address: SocketAddr) -> Vec<String> {
    let port = address.port();
    let mut names = vec![address.to_string()];
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        names.extend(["localhost", "127.0.0.1", "[::1]"].map(|name| format!("{name}:{port}")));
    }
    if port == 80 {
        names.extend(names.clone().iter().filter_map(|name| name.strip_suffix(":80")).map(String::from));
    }
    names
}

/// Why a server cannot have an address: another Culm that has it is named.
pub(crate) async fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Failure {
    let is_taken = error.kind() == std::io::ErrorKind::AddrInUse;
    let reason = match is_taken && is_culm(address).await {
        true => "another culm serves there; use it, stop it, or choose another address with --listen".to_owned(),
        false if is_taken => format!("{error}; choose another address with --listen"),
        false => error.to_string(),
    };
    Failure::new(8, format!("cannot listen on {address}: {reason}"))
}

/// Whether a Culm answers there: its documentation begins with its name.
async fn is_culm(address: SocketAddr) -> bool {
    let look = async {
        let mut stream = TcpStream::connect(address).await?;
        let host = match address.ip().is_loopback() || address.ip().is_unspecified() {
            true => format!("localhost:{}", address.port()),
            false => address.to_string(),
        };
        let request = format!("GET /docs HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).contains("<title>Culm</title>"))
    };
    matches!(tokio::time::timeout(LOOK, look).await, Ok(Ok(true)))
}

/// A path as a shell reads it, wherever it is pasted.
fn quoted(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

pub(crate) fn greet(settings: &Settings, address: SocketAddr, executors: &[String]) {
    let token = if settings.auth {
        format!("-H \"Authorization: Bearer $(cat {})\" ", quoted(&sqlite::beside(&settings.db, ".token")))
    } else {
        String::new()
    };
    let executors = executors.iter().map(|name| {
        let default = if settings.default_executor.as_ref() == Some(name) { ", the default" } else { "" };
        let kind = settings.executors.get(name).map(ToString::to_string).unwrap_or_default();
        format!("  executor  {name} ({kind}{default})\n")
    });
    let executors: String = executors.collect();
    let greeting = format!(
        "culm {version} is ready\n  database  {db}\n  address   http://{address}  (documentation: http://{address}/docs)\n\
         \x20 try       curl {token}http://{address}/api/v1/sessions\n{executors}",
        version = env!("CARGO_PKG_VERSION"),
        db = settings.db.display(),
    );
    // It serves all the same when nobody reads this.
    let _ = std::io::stdout().write_all(greeting.as_bytes());
}
