//! An agent's process: its own group, its own home, its own environment, and an end that leaves nothing behind.

mod found;
mod launcher;

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use tokio_util::sync::CancellationToken;

pub use self::launcher::launch;
use super::Error;
use crate::{
    model::{AgentSession, BackendId, Process},
    removal,
    tasks::{self, Tasks},
};

/// How long a process may take to end by itself once its input is closed.
const POLITE: Duration = Duration::from_secs(1);
/// How long it may take after SIGTERM.
const TERM: Duration = Duration::from_secs(2);
/// How long the last words of a process that ends are waited for.
const LAST: Duration = Duration::from_secs(5);
/// How long the system may take to remove a process that was killed.
const KILL: Duration = Duration::from_secs(5);
/// How long deleting a home may take at one time.
const HOME: Duration = Duration::from_secs(600);
/// How often is looked whether it is gone.
const LOOK: Duration = Duration::from_millis(10);
/// Lines of an agent's complaints that are kept, and bytes of each.
const TAIL: (usize, u64) = (20, 500);
/// What an agent inherits of the server's environment, besides what is configured. The rest may hold secrets.
const INHERITED: [&str; 6] = ["PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM"];

/// How a backend's processes are started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The launcher, and the arguments that make it one.
    pub launcher: Vec<OsString>,
    /// The directory of all backends' homes.
    pub homes: PathBuf,
    /// What runs beside.
    pub tasks: Tasks,
}

/// What is started.
#[derive(Debug)]
pub(super) struct Program<'a> {
    pub(super) command: &'a [String],
    pub(super) environment: &'a BTreeMap<String, String>,
    /// Where it works; its home where nothing is said.
    pub(super) directory: Option<&'a Path>,
}

impl Launch {
    fn home(&self, backend: &BackendId) -> PathBuf {
        self.homes.join(backend.as_str())
    }

    /// Makes the home of a backend whose program another one shares, and gives where it works in it.
    pub(super) async fn make_home(&self, backend: &BackendId) -> Result<PathBuf, Error> {
        let work = self.directory(backend);
        let making = work.clone();
        let made = tasks::blocking(move || fs::DirBuilder::new().recursive(true).mode(0o700).create(making)).await;
        made.map_err(|error| Error::Unavailable(format!("the agent's home cannot be made: {error}")))?;
        Ok(work)
    }

    /// The id of what all sessions of an executor share, as long as the homes are there.
    pub(super) async fn shared_id(&self, executor: &str) -> io::Result<BackendId> {
        let (homes, file) = (self.homes.clone(), self.homes.join(format!("{executor}.id")));
        tasks::blocking(move || kept_id(&homes, &file)).await
    }

    /// Where a program works that no directory is named for.
    pub(super) fn directory(&self, backend: &BackendId) -> PathBuf {
        self.home(backend).join("work")
    }

    /// Removes a backend's home.
    pub(super) async fn remove_home(&self, backend: &BackendId) -> Result<(), Error> {
        remove_home(&self.homes, backend).await
    }

    /// Starts a backend's program as the leader of a group of its own, with a home of its own; on the thread that lives as
    /// long as the server (see `launcher.rs`).
    pub(super) async fn start(&self, backend: &BackendId, program: &Program<'_>) -> Result<Started, Error> {
        let (home, work) = (self.home(backend), self.make_home(backend).await?);
        let [launcher, arguments @ ..] = self.launcher.as_slice() else {
            return Err(Error::Unavailable("no launcher is configured".into()));
        };
        let mut command = Command::new(launcher);
        command.args(arguments).arg(std::process::id().to_string()).arg("--").args(program.command);
        command.env_clear().envs(std::env::vars_os().filter(|(name, _)| INHERITED.iter().any(|known| name == known)));
        for (name, folder) in [
            ("XDG_CONFIG_HOME", ".config"),
            ("XDG_DATA_HOME", ".local/share"),
            ("XDG_STATE_HOME", ".local/state"),
            ("XDG_CACHE_HOME", ".cache"),
        ] {
            command.env(name, home.join(folder));
        }
        command.env("HOME", &home).envs(program.environment).env(found::MARK, backend.as_str());
        command.current_dir(program.directory.unwrap_or(&work));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let (backend, tail) = (backend.clone(), Tail::default());
        let listening = tail.clone();
        let start = move || {
            let mut child = command.spawn()?;
            let (input, output, complaints) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
            let identity = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(found::identity);
            // From here on its group goes with it.
            let process = AgentProcess { backend, child, identity, tail, ended: false };
            Ok((process, input, output, complaints))
        };
        let started = tasks::starting(start).await;
        let started = started.map_err(|error| Error::Unavailable(format!("the agent cannot be started: {error}")))?;
        let (process, Some(input), Some(output), Some(complaints)) = started else {
            return Err(Error::Unavailable("the agent's pipes cannot be made".into()));
        };
        self.tasks.spawn(listening.follow(complaints));
        Ok(Started { process, input, output })
    }
}

/// A process that was started, and its pipes.
pub(super) struct Started {
    pub(super) process: AgentProcess,
    pub(super) input: ChildStdin,
    pub(super) output: ChildStdout,
}

/// An agent's process. Dropped, it is killed, and its group with it.
#[derive(Debug)]
pub(super) struct AgentProcess {
    backend: BackendId,
    child: Child,
    identity: Option<Process>,
    tail: Tail,
    ended: bool,
}

impl AgentProcess {
    pub(super) fn identity(&self) -> Option<Process> {
        self.identity
    }

    pub(super) fn tail(&self) -> &Tail {
        &self.tail
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What a process that ends said last. Its end may not have been seen yet, nor its last line have been read.
    pub(super) async fn last_words(&mut self) -> String {
        let ended = async {
            let _ = self.child.wait().await;
            self.tail.read.cancelled().await;
        };
        // It may live on without its output, and others may hold its line for complaints.
        let _ = tokio::time::timeout(LAST, ended).await;
        let status = self.child.try_wait().ok().flatten();
        let status = status.map(|status| format!(" ({status})")).unwrap_or_default();
        format!("{status}{}", self.tail.said())
    }

    /// Its group; none once it was waited for, when the number may be another's.
    fn group(&self) -> Option<Pid> {
        self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group() {
            // It may be gone already.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Ends it: its input is closed already, which most obey; then it is asked, then forced. Nothing of it is left then.
    pub(super) async fn end(mut self) -> Result<(), Error> {
        for (patience, signal) in [(POLITE, Signal::TERM), (TERM, Signal::KILL)] {
            if tokio::time::timeout(patience, self.child.wait()).await.is_ok() {
                break;
            }
            self.signal(signal);
        }
        self.ended = tokio::time::timeout(KILL, self.child.wait()).await.is_ok();
        sweep(&self.backend).await
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::KILL);
        }
    }
}

/// Ends what is left of a backend that another process of the server started: its group, if it is still the same, and
/// all that carry its mark.
pub async fn reap(backend: &AgentSession) -> Result<(), Error> {
    let process = backend.process;
    let still = move || process.filter(|process| found::identity(process.pid) == Some(*process));
    let ended = until_gone(move || match still().and_then(|process| Pid::from_raw(process.pid)) {
        // A signal to group 1 would go to everybody.
        Some(group) if !group.is_init() => {
            let _ = kill_process_group(group, Signal::KILL);
            false
        }
        _ => true,
    });
    ended.await?;
    sweep(&backend.id).await
}

/// Ends what is left of a backend, as [`reap`] does, and removes its home among these.
pub async fn purge(backend: &AgentSession, homes: &Path) -> Result<(), Error> {
    reap(backend).await?;
    remove_home(homes, &backend.id).await
}

/// Removes a backend's home, also what its tools made read-only. What cannot be deleted is set aside: it would be in
/// nobody's way, but for a job that is never done.
async fn remove_home(homes: &Path, backend: &BackendId) -> Result<(), Error> {
    let (home, aside) = (homes.join(backend.as_str()), homes.join(format!("{backend}.left")));
    let removing = move || -> io::Result<()> {
        let left = removal::delete(&home, Instant::now() + HOME)?;
        if !left.is_nothing() {
            fs::rename(&home, &aside)?;
            tracing::warn!(left = left.count, path = %aside.display(), "part of an agent's home cannot be deleted; it was set aside");
        }
        Ok(())
    };
    tasks::blocking(removing).await.map_err(|error| Error::Failed(format!("the agent's home stays: {error}")))
}

/// The processes of backends that are warm, by their numbers: their groups, and all that carry a mark of theirs.
pub async fn all_of(warm: &[AgentSession]) -> Vec<i32> {
    let warm = warm.to_vec();
    tasks::blocking(move || processes_of(&warm)).await
}

fn processes_of(warm: &[AgentSession]) -> Vec<i32> {
    let group = |process: &Process| found::identity(process.pid).filter(|found| found == process);
    let groups = warm.iter().filter_map(|backend| Pid::from_raw(backend.process.as_ref().and_then(group)?.pid));
    let grouped = groups.flat_map(found::in_group).collect::<Vec<_>>();
    let marked = warm.iter().flat_map(|backend| found::marked(backend.id.as_str()));
    grouped.into_iter().chain(marked).map(|pid| pid.as_raw_nonzero().get()).collect()
}

/// Kills all processes of a backend, and waits until there are none.
pub(super) async fn sweep(backend: &BackendId) -> Result<(), Error> {
    let backend = backend.clone();
    until_gone(move || kill_marked(&backend)).await
}

/// Whether there was none to kill.
fn kill_marked(backend: &BackendId) -> bool {
    let left = found::marked(backend.as_str());
    for pid in &left {
        let _ = kill_process(*pid, Signal::KILL);
    }
    left.is_empty()
}

/// The id that a file holds, made where there is none.
fn kept_id(homes: &Path, file: &Path) -> io::Result<BackendId> {
    if let Some(id) = fs::read_to_string(file).ok().and_then(|id| id.parse().ok()) {
        return Ok(id);
    }
    let id = BackendId::mint();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(homes)?;
    fs::write(file, id.as_str())?;
    Ok(id)
}

/// Looks again and again whether all is gone, within a bound. A look reads much of `/proc`.
async fn until_gone(gone: impl Fn() -> bool + Send + Sync + 'static) -> Result<(), Error> {
    let gone = Arc::new(gone);
    let look = || {
        let gone = gone.clone();
        tasks::blocking(move || gone())
    };
    let looking = async {
        while !look().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    let looked = tokio::time::timeout(KILL, looking).await;
    looked.map_err(|_| Error::Failed("a process of the agent cannot be ended".into()))
}

/// The last lines that a process complained with.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Cancelled when there will be no more.
    read: CancellationToken,
}

impl Tail {
    pub(super) fn push(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == TAIL.0 {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// What was said, as the end of a sentence.
    pub(super) fn said(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.is_empty() {
            true => String::new(),
            false => format!("; it said last: {}", lines.iter().cloned().collect::<Vec<_>>().join("\n")),
        }
    }

    /// Keeps the last lines that a process complains with, until it closes its end.
    async fn follow(self, complaints: impl AsyncRead + Unpin) {
        let _end = self.read.clone().drop_guard();
        let mut complaints = BufReader::new(complaints);
        while let Some(line) = self.hear(&mut complaints).await {
            // Not the line: it may repeat the prompt.
            tracing::debug!(bytes = line.len(), "an agent writes to standard error");
        }
    }

    /// The next line, of a bounded length, which is kept.
    pub(super) async fn hear(&self, from: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
        let mut line = Vec::new();
        match from.take(TAIL.1).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => None,
            Ok(_) => {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                self.push(&line);
                Some(line)
            }
        }
    }
}
