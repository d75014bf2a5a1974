//! The command line, and the only wiring: the only place that names concrete types.

mod cli;

use std::{io::Write, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{Parser, Subcommand};
use cli::{
    EXIT_CODES, Failure, OTHER_FILE, exit_after_failed_sync,
    place::{make_folder, token, token_of, watch_token},
    process::{cannot_listen, greet, ignore_signals, log, names, raise_file_limit, stop_signal},
};
use culm::{
    config::{Place, Server, Settings},
    demo_agent, demo_model, demo_opencode,
    executor::{
        config::{Executors, Surroundings},
        process::{self, Launch},
    },
    feed::Feed,
    http::{Access, App, api, serve},
    lifecycle,
    model::Timestamp,
    repository::SessionRepository,
    runs::{self, Runs},
    storage::{
        self, Storage,
        sqlite::{self, SqliteStorage},
    },
    tasks::Tasks,
    worktree::{Git, Worktrees},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long the end of an agent may take: longer than it takes to be asked, terminated and killed.
const DISPOSE: Duration = Duration::from_secs(20);

/// How long a stop may wait for the work that is under way, and then for the database: less than 30 s together.
const STOPPING: Duration = Duration::from_secs(24);
const CLOSING: Duration = Duration::from_secs(3);

/// A request makes and drops a few dozen small things, in threads that hand them to one another. The system's allocator
/// takes longer for them; this one takes 18 MiB of memory more as the server starts.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Make a new, empty database although one was here before and is missing; a log that it left is moved aside
    #[arg(long)]
    create: bool,
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
        /// Make a new, empty database although one was here before and is missing; a log that it left is moved aside
        #[arg(long)]
        create: bool,
    },
    /// Import the sessions of another system; run again, it adds only what is new
    Import {
        #[command(subcommand)]
        source: Source,
    },
    /// Delete many sessions: those that the mode and the filters name, with everything below them
    ///
    /// Beside a running server it asks that server to. Otherwise it deletes by itself; what is left to end outside of the
    /// database, such as agent processes and worktrees, is then ended by the next server that starts.
    Cleanup {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        what: Box<cli::cleanup::What>,
    },
    /// Print the token of a database, made if it has none yet
    Token {
        #[command(flatten)]
        place: Place,
    },
    /// Make the search index anew from what is stored; stop the server first
    Reindex {
        #[command(flatten)]
        place: Place,
    },
    /// Check a database, also beside a running server: a line for each finding
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
    /// A server to try things with, without a model: it speaks as `opencode serve` does, and does as it is told
    #[command(name = "demo-opencode", after_help = demo_opencode::DIRECTIVES)]
    DemoOpenCode {
        #[command(flatten)]
        manner: demo_opencode::Manner,
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

fn main() -> ExitCode {
    // What is made here is for its owner's eyes: the database, its log, its lock, the token, snapshots.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let cli = Cli::parse();
    let command =
        cli.command.unwrap_or(Command::Serve { place: cli.place, server: Box::new(cli.server), create: cli.create });
    // A launcher only waits, and there are many of them.
    let mut runtime = match command {
        Command::LaunchAgent { .. } => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let outcome = match runtime.worker_threads(workers()).enable_all().build() {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(command));
            // A thread that deletes or reads files cannot be stopped, and what it does can be done again.
            runtime.shutdown_timeout(Duration::from_secs(1));
            outcome
        }
        Err(error) => Err(Failure::new(1, error)),
    };
    match outcome {
        Ok(code) => code,
        Err(Failure(code, reason)) => {
            // Where nobody can read it, the exit code must do.
            let _ = writeln!(std::io::stderr(), "culm: {reason}");
            ExitCode::from(code)
        }
    }
}

/// One core is left to SQLite's threads, for whose writes and reads the workers wait. Never fewer than two: what takes
/// one of them longer than it should must not hold up everybody.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().saturating_sub(1).max(2))
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    Timestamp::checked_now().map_err(|error| Failure::new(1, error))?;
    ignore_signals().map_err(|error| Failure::new(1, error))?;
    match command {
        Command::Serve { place, server, create } => run_server(place.settings(*server)?, create).await,
        Command::Import { source: Source::Bamboo { dir, place, dry_run } } => {
            cli::import::bamboo(&dir, &place.database()?, dry_run).await
        }
        Command::Token { place } => {
            println!("{}", token_of(&place.database()?)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Cleanup { place, what } => {
            let stop = stop_signal().map_err(|error| Failure::new(1, error))?;
            cli::cleanup::run(&what, &place.settings(Server::default())?, stop).await
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
            // Drawn only where standard error is a terminal.
            let bar = indicatif::ProgressBar::new(0);
            let mut progress = |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            };
            let findings = sqlite::check(&place.database()?, CancellationToken::new(), &mut progress).await;
            bar.finish_and_clear();
            let findings = findings?;
            findings.iter().for_each(|finding| println!("{finding}"));
            Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Agents { place, check } => cli::agents::list(&place.settings(Server::default())?, check).await,
        Command::DemoModel { listen } => cli::demo_model::serve(&listen).await,
        Command::DemoAgent { manner } => match demo_agent::serve(manner).await {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => Err(Failure::new(1, error)),
        },
        Command::DemoOpenCode { manner } => match demo_opencode::serve(manner).await {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => Err(Failure::new(1, error)),
        },
        Command::LaunchAgent { server, command } => {
            let launched = process::launch(server, &command).await;
            launched.map_err(|error| Failure::new(1, format!("{}: {error}", command[0].display())))
        }
    }
}

async fn run_server(settings: Settings, create: bool) -> Result<ExitCode, Failure> {
    log(&settings)?;
    raise_file_limit();
    let executors = Executors::check(&settings.executors).map_err(|error| Failure::new(2, error))?;
    make_folder(&settings.db)?;
    let listener = match TcpListener::bind(settings.listen).await {
        Ok(listener) => listener,
        Err(error) => return Err(cannot_listen(settings.listen, &error).await),
    };
    let address = listener.local_addr().map_err(|error| Failure::new(8, error))?;
    let left_open = sqlite::was_left_open(&settings.db);
    let options = sqlite::Options {
        readers: settings.readers,
        on_failed_sync: exit_after_failed_sync,
        create,
        ..sqlite::Options::new(&settings.db)
    };
    let storage = SqliteStorage::open(&options).await?;
    let token = settings.auth.then(|| token(&settings.db)).transpose()?;
    let tasks = Tasks::default();
    let repository = SessionRepository::new(Arc::new(storage), settings.cache_bytes, tasks.clone());
    let access = Access::new(token.as_deref(), names(address).into_iter().chain(settings.allow_host.iter().cloned()));
    // Who reads that it is ready may send a signal at once.
    let stop = stop_signal().map_err(|error| Failure::new(1, error))?;
    if left_open {
        tracing::warn!(
            "the last server was killed: what it had committed was recovered, and the database is checked now"
        );
        check_beside(&tasks, settings.db.clone(), stop.clone());
    }
    if let Some(token) = token {
        watch_token(&tasks, &settings.db, token, stop.clone());
    }
    let feed = Feed::start(repository.clone(), &tasks, stop.clone());
    let surroundings = surroundings(&settings, &repository, &tasks)?;
    let options = runs::Options {
        max_concurrent: settings.max_concurrent_runs,
        grace: settings.grace,
        dispose: DISPOSE,
        message: settings.limits.message,
        homes: surroundings.launch.homes.clone(),
        default_executor: settings.default_executor.clone(),
        max_child_depth: settings.max_child_depth.into(),
    };
    for missing in settings.executors.iter().filter_map(|(name, executor)| executor.missing(name)) {
        tracing::warn!("{missing}");
    }
    let executors = executors.start(&surroundings);
    let names: Vec<String> = executors.keys().cloned().collect();
    let runs = Runs::start(repository.clone(), feed, executors, options).await;
    let runs = runs.map_err(|error| Failure::of_storage(&settings.db, error))?;
    let grace = settings.grace.min(Duration::from_secs(10));
    let git = Git { launcher: cli::agents::launcher(), stop: stop.clone(), grace, ..Git::default() };
    let worktrees = Worktrees::new(git, settings.worktrees.clone());
    worktrees.sweep().await;
    lifecycle::start(&runs, &worktrees);
    let routes = api(App::new(runs.clone(), worktrees, settings.limits), access, settings.dev);
    let writer = stop_with_writer(&repository, &stop);
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, database = %settings.db.display(), %address, auth = settings.auth, executors = ?names, "serving");
    greet(&settings, address, &names);
    let stopped = async {
        stop.cancelled().await;
        runs.shut_down().await;
    };
    let orderly = async {
        tokio::join!(serve(listener, routes, &tasks, stop.clone()), stopped);
        let ended = writer.is_finished();
        let stopped = repository.check_writable().await;
        repository.close().await;
        tasks.finish().await;
        (ended, stopped)
    };
    let (ended, stopped) = tokio::select! {
        stopped = orderly => stopped,
        () = late(&stop) => {
            tracing::warn!("not all work has ended in time; the next start goes on with it");
            let _ = tokio::time::timeout(CLOSING, repository.close()).await;
            return Ok(ExitCode::SUCCESS);
        }
    };
    match stopped {
        _ if ended => {
            Err(Failure::new(1, "the writer of the database has ended; the log says why. Start the server again"))
        }
        Err(storage::Error::Stopped(reason)) => Err(Failure::new(OTHER_FILE, reason)),
        _ => {
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A stop that takes too long, whatever it waits for.
async fn late(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(STOPPING).await;
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

/// The last server was killed: looks deeper, beside the serving.
fn check_beside(tasks: &Tasks, db: PathBuf, stop: CancellationToken) {
    tasks.spawn(async move {
        match sqlite::check(&db, stop.clone(), &mut |_, _| ()).await {
            _ if stop.is_cancelled() => tracing::info!("the server stops before the database was checked"),
            Ok(findings) if findings.is_empty() => tracing::info!("the database is sound after an unclean stop"),
            Ok(findings) => findings.iter().for_each(|finding| tracing::error!(%finding, "the database is damaged")),
            Err(error) => tracing::error!(%error, "the database could not be checked"),
        }
    });
}
