//! The command line, and the only wiring: the only place that names concrete types.

mod cli;

use std::{
    fmt::Display,
    io::{IsTerminal, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::{Parser, Subcommand};
use culm::{
    config::{Place, Server, Settings},
    demo_agent, demo_model,
    executor::{
        config::{Executors, Surroundings},
        process::{self, Launch},
    },
    feed::Feed,
    http::{Access, App, router, serve},
    import, lifecycle,
    repository::SessionRepository,
    runs::{self, Runs},
    storage::{
        Storage,
        sqlite::{self, OpenError, SqliteStorage},
    },
    tasks::Tasks,
    worktree::{Git, Worktrees},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

const EXIT_CODES: &str = "Exit codes:
  0  all is well
  1  a check found something, or the command failed
  2  a flag, a variable or the configuration file is wrong
  3  the database is from a newer version of culm
  4  the database belongs to another application
  5  the database is damaged
  6  the database cannot be written
  7  another culm has the database open
  8  the address is in use or cannot be listened on";

/// How long the end of an agent may take: longer than it takes to be asked, terminated and killed.
const DISPOSE: Duration = Duration::from_secs(20);

/// The session server for AI agents: one binary, one SQLite file, one REST API.
///
/// Without a command it serves.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the database over HTTP
    #[command(after_help = EXIT_CODES)]
    Serve {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        server: Box<Server>,
    },
    /// Import the sessions of another system; run again, it adds only what is new
    Import {
        #[command(subcommand)]
        source: Source,
    },
    /// Print the token that clients send, made if there is none yet
    Token {
        #[command(flatten)]
        place: Place,
    },
    /// Make the search index anew from what is stored; stop the server first
    Reindex {
        #[command(flatten)]
        place: Place,
    },
    /// Check a database on a private snapshot, also beside a running server: a line for each finding
    Check {
        #[command(flatten)]
        place: Place,
    },
    /// A model to try things with, without a network or a key: it speaks an OpenAI-compatible API and does as it is told
    #[command(after_help = demo_model::DIRECTIVES)]
    DemoModel {
        /// The address to listen on
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9563")]
        listen: String,
    },
    /// List the executors that are configured, and whether they start: a line each
    Agents {
        #[command(flatten)]
        place: Place,
        /// Also have each carry out one short prompt
        #[arg(long)]
        check: bool,
    },
    /// An agent to try things with, without a model: it speaks ACP, and does as it is told
    #[command(after_help = demo_agent::DIRECTIVES)]
    DemoAgent {
        #[command(flatten)]
        manner: demo_agent::Manner,
    },
    /// Start an agent, and end it with the server that asked for it
    #[command(hide = true)]
    LaunchAgent {
        /// The server's process
        server: i32,
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum Source {
    /// A Bamboo home of 2026.5, 2026.6 or 2026.11; it is only read
    Bamboo {
        /// The home: the directory with `sessions.json` and `sessions`
        dir: PathBuf,
        #[command(flatten)]
        place: Place,
        /// Only say what would be imported
        #[arg(long)]
        dry_run: bool,
    },
}

/// A command that failed: what to say, and the exit code.
struct Failure(u8, String);

impl Failure {
    fn new(code: u8, reason: impl Display) -> Self {
        Self(code, reason.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let code = match &error {
            OpenError::Missing(_) => 1,
            OpenError::Newer { .. } => 3,
            OpenError::OtherApplication(_) => 4,
            OpenError::Damaged { .. } | OpenError::OldSqlite(_) => 5,
            OpenError::ReadOnly { .. } => 6,
            OpenError::Locked(_) => 7,
        };
        Self::new(code, error)
    }
}

impl From<culm::config::ConfigError> for Failure {
    fn from(error: culm::config::ConfigError) -> Self {
        Self::new(2, error)
    }
}

fn main() -> ExitCode {
    // What is made here is for its owner's eyes: the database, its log, its lock, the token, snapshots.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let cli = Cli::parse();
    let command = cli.command.unwrap_or(Command::Serve { place: cli.place, server: Box::new(cli.server) });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(command)),
        Err(error) => Err(Failure::new(1, error)),
    };
    match outcome {
        Ok(code) => code,
        Err(Failure(code, reason)) => {
            eprintln!("culm: {reason}");
            ExitCode::from(code)
        }
    }
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve { place, server } => run_server(place.settings(*server)?).await,
        Command::Import { source: Source::Bamboo { dir, place, dry_run } } => {
            import_bamboo(&dir, &place.database()?, dry_run).await
        }
        Command::Token { place } => {
            println!("{}", token(&place.database()?)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Reindex { place } => {
            // Drawn only where standard error is a terminal.
            let bar = indicatif::ProgressBar::new(0);
            let mut progress = |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            };
            let outcome = sqlite::reindex(&place.database()?, &mut progress).await;
            bar.finish_and_clear();
            Ok(outcome.map(|()| ExitCode::SUCCESS)?)
        }
        Command::Check { place } => {
            let findings = sqlite::check(&place.database()?).await?;
            findings.iter().for_each(|finding| println!("{finding}"));
            Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Agents { place, check } => cli::agents::list(&place.settings(Server::default())?, check).await,
        Command::DemoModel { listen } => run_demo_model(&listen).await,
        Command::DemoAgent { manner } => match demo_agent::serve(manner).await {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => Err(Failure::new(1, error)),
        },
        Command::LaunchAgent { server, command } => {
            let launched = process::launch(server, &command).await;
            launched.map_err(|error| Failure::new(1, format!("{}: {error}", command[0].display())))
        }
    }
}

async fn import_bamboo(home: &Path, db: &Path, dry_run: bool) -> Result<ExitCode, Failure> {
    import::bamboo::check(home).map_err(|error| Failure::new(1, error))?;
    // A dry run makes no database, not even an empty one.
    let storage = match dry_run && !db.exists() {
        true => None,
        false => {
            make_folder(db)?;
            Some(SqliteStorage::open(&sqlite::Options::new(db)).await?)
        }
    };
    // Drawn only where standard error is a terminal.
    let bar = indicatif::ProgressBar::new(0);
    let mut progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let borrowed = storage.as_ref().map(|storage| storage as &dyn Storage);
    let report = import::bamboo::import(home, borrowed, import::Options { dry_run }, &mut progress).await;
    bar.finish_and_clear();
    if let Some(storage) = &storage {
        if !dry_run && report.as_ref().is_ok_and(|report| report.messages.added > 0) {
            storage.merge_index().await.map_err(|error| Failure::new(1, error))?;
        }
        storage.close().await;
    }
    let report = report.map_err(|error| Failure::new(1, error))?;
    print!("{report}");
    Ok(ExitCode::SUCCESS)
}

async fn run_server(settings: Settings) -> Result<ExitCode, Failure> {
    log(&settings.log)?;
    raise_file_limit();
    let executors = Executors::check(&settings.executors).map_err(|error| Failure::new(2, error))?;
    make_folder(&settings.db)?;
    let in_use = |error: std::io::Error| Failure::new(8, format!("cannot listen on {}: {error}", settings.listen));
    let listener = TcpListener::bind(settings.listen).await.map_err(in_use)?;
    let address = listener.local_addr().map_err(in_use)?;
    let left_open = sqlite::was_left_open(&settings.db);
    let options = sqlite::Options { readers: settings.readers, ..sqlite::Options::new(&settings.db) };
    let storage = SqliteStorage::open(&options).await?;
    let token = settings.auth.then(|| token(&settings.db)).transpose()?;
    let tasks = Tasks::default();
    let repository = SessionRepository::new(Arc::new(storage), settings.cache_bytes, tasks.clone());
    if left_open {
        check_beside(&tasks, settings.db.clone());
    }
    let access = Access::new(token.as_deref(), names(address).into_iter().chain(settings.allow_host.iter().cloned()));
    // Who reads that it is ready may send a signal at once.
    let stop = stop_signal().map_err(|error| Failure::new(1, error))?;
    let feed = Feed::start(repository.clone(), &tasks, stop.clone());
    let options = runs::Options {
        max_concurrent: settings.max_concurrent_runs,
        grace: settings.grace,
        dispose: DISPOSE,
        message: settings.limits.message,
        default_executor: settings.default_executor.clone(),
        max_child_depth: settings.max_child_depth.into(),
    };
    let executors = executors.start(&surroundings(&settings, &repository, &tasks)?);
    let names: Vec<String> = executors.keys().cloned().collect();
    let runs = Runs::start(repository.clone(), feed, executors, options).await;
    let runs = runs.map_err(|error| Failure::new(1, error))?;
    let worktrees = Worktrees::new(Git::default(), settings.worktrees.clone());
    lifecycle::start(&runs, &worktrees);
    let routes = router(App::new(runs.clone(), worktrees, settings.limits), access, settings.dev);
    let writer = stop_with_writer(&repository, &stop);
    greet(&settings, address, &names);
    let stopped = async {
        stop.cancelled().await;
        runs.shut_down().await;
    };
    tokio::join!(serve(listener, routes, &tasks, stop.clone()), stopped);
    let ended = writer.is_finished();
    repository.close().await;
    tasks.finish().await;
    match ended {
        true => Err(Failure::new(1, "the writer of the database has ended; the log says why. Start the server again")),
        false => Ok(ExitCode::SUCCESS),
    }
}

/// What executors are made with.
fn surroundings(settings: &Settings, repository: &SessionRepository, tasks: &Tasks) -> Result<Surroundings, Failure> {
    let folder = std::path::absolute(sqlite::beside(&settings.db, ".agents"));
    let homes = folder.map_err(|error| Failure::new(6, error))?;
    let launcher = cli::agents::launcher();
    let (attachments, rows) = (Arc::new(repository.clone()), Arc::new(repository.clone()));
    let launch = Launch { launcher, homes, tasks: tasks.clone() };
    Ok(Surroundings { attachments, rows, launch, limits: settings.limits })
}

/// Stops a server that can only read any more: whoever watches over it starts it again. The task ends with the writer.
fn stop_with_writer(repository: &SessionRepository, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
    let (mut commits, stop) = (repository.foreign_commits(), stop.clone());
    culm::tasks::owned(async move {
        while commits.changed().await.is_ok() {}
        stop.cancel();
    })
}

async fn run_demo_model(listen: &str) -> Result<ExitCode, Failure> {
    let in_use = |error: std::io::Error| Failure::new(8, format!("cannot listen on {listen}: {error}"));
    let listener = TcpListener::bind(listen).await.map_err(in_use)?;
    let address = listener.local_addr().map_err(in_use)?;
    let stop = stop_signal().map_err(|error| Failure::new(1, error))?;
    println!("the demo model is ready");
    println!("  base_url  http://{address}/v1");
    println!("  try       curl http://{address}  (what it can be told to do)");
    tokio::select! {
        served = demo_model::serve(listener) => served.map_err(|error| Failure::new(1, error))?,
        () = stop.cancelled() => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn log(filter: &str) -> Result<(), Failure> {
    let filter =
        tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| Failure::new(2, format!("--log: {error}")))?;
    let ansi = std::io::stderr().is_terminal();
    // A log that cannot be written, on the disk that is full, must cost the line alone: told of it, the library panics.
    let log = tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter);
    log.with_writer(std::io::stderr).with_ansi(ansi).init();
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
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

fn make_folder(db: &Path) -> Result<(), Failure> {
    let Some(folder) = db.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| Failure::new(6, format!("cannot make the directory {}: {error}", folder.display())))
}

/// The names under which a server on this address is asked for.
fn names(address: SocketAddr) -> Vec<String> {
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

/// The token beside the database: 32 random bytes, made once, for its owner's eyes.
fn token(db: &Path) -> Result<String, Failure> {
    let path = sqlite::beside(db, ".token");
    let failed =
        |error: std::io::Error| Failure::new(6, format!("the token {} cannot be used: {error}", path.display()));
    make_folder(db)?;
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(mut file) => {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|error| Failure::new(1, error))?;
            writeln!(file, "{}", URL_SAFE_NO_PAD.encode(bytes)).map_err(failed)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let token = std::fs::read_to_string(&path).map_err(failed)?.trim().to_owned();
    match token.is_empty() {
        true => {
            Err(Failure::new(6, format!("the token {} is empty: remove it, and a new one is made", path.display())))
        }
        false => Ok(token),
    }
}

/// The last server was killed: looks deeper, beside the serving.
fn check_beside(tasks: &Tasks, db: PathBuf) {
    tasks.spawn(async move {
        match sqlite::check(&db).await {
            Ok(findings) if findings.is_empty() => tracing::info!("the database is sound after an unclean stop"),
            Ok(findings) => findings.iter().for_each(|finding| tracing::error!(%finding, "the database is damaged")),
            Err(error) => tracing::error!(%error, "the database could not be checked"),
        }
    });
}

/// Cancelled by SIGINT or SIGTERM. A second SIGINT ends the process at once.
fn stop_signal() -> std::io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let asked = stop.clone();
    culm::tasks::owned(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        asked.cancel();
        interrupt.recv().await;
        std::process::exit(130);
    });
    Ok(stop)
}

fn greet(settings: &Settings, address: SocketAddr, executors: &[String]) {
    let token = if settings.auth {
        format!("-H \"Authorization: Bearer $(culm token --db '{}')\" ", settings.db.display())
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
