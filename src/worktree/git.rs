//! The `git` binary: how it is called, for how long, and with what around it. What its answers mean is elsewhere.
//!
//! **Nothing of a repository runs.** Whoever works in a repository can write its configuration, and git runs what that
//! names: `core.fsmonitor` on a mere status, filters, hooks, merge drivers, a promisor's transport. So no call reads it:
//! each is made from a [`super::shadow::Shadow`], whose configuration is Culm's. What is set here is a second wall.

use std::{
    ffi::{OsStr, OsString},
    future::Future,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
};

use tokio_util::sync::CancellationToken;

use super::Error;
use crate::{program, tasks};

/// Bytes that a call may answer at most: the names of about half a million files.
const ANSWER: usize = 64 << 20;
/// Bytes of a complaint that are kept.
const COMPLAINT: usize = 4 << 10;

/// What is said to every call before its own words.
const SETTINGS: [&str; 13] = [
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.pager=cat",
    "core.untrackedCache=false",
    "core.splitIndex=false",
    // It could tell of other parents than the commits themselves.
    "core.commitGraph=false",
    "core.quotePath=false",
    "protocol.allow=never",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
];

/// All that is in the environment of a call, but for PATH and what says where the repository is.
const ENVIRONMENT: [(&str, &str); 22] = [
    ("LC_ALL", "C"),
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_SYSTEM", "/dev/null"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_ATTR_NOSYSTEM", "1"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_ASKPASS", "false"),
    ("GIT_EDITOR", "false"),
    ("GIT_SEQUENCE_EDITOR", "false"),
    ("GIT_PAGER", "cat"),
    ("GIT_SSH_COMMAND", "false"),
    ("GIT_ALLOW_PROTOCOL", "none"),
    ("GIT_PROTOCOL_FROM_USER", "0"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("GIT_NO_LAZY_FETCH", "1"),
    // A replacement could make commits look merged.
    ("GIT_NO_REPLACE_OBJECTS", "1"),
    ("GIT_ADVICE", "0"),
    ("GIT_LITERAL_PATHSPECS", "1"),
    ("GIT_AUTHOR_NAME", "Culm"),
    ("GIT_AUTHOR_EMAIL", "culm@localhost"),
    ("GIT_COMMITTER_NAME", "Culm"),
    ("GIT_COMMITTER_EMAIL", "culm@localhost"),
];

/// The `git` binary, and how long it may take.
#[derive(Debug, Clone)]
pub struct Git {
    /// Its path, or a name that is looked for on PATH.
    pub program: PathBuf,
    /// What ends git, with all that it started, when the server is killed: a program, and the arguments before the
    /// server's process. Where none is named, git is started without it.
    pub launcher: Vec<OsString>,
    /// Cancelled when the server stops.
    pub stop: CancellationToken,
    /// How long calls may go on then.
    pub grace: Duration,
    /// How long a call may take that only looks.
    pub look: Duration,
    /// How long a call may take that writes files or objects.
    pub write: Duration,
    /// Bytes of files that a rescue keeps at most. Of more, the largest are left out, and named.
    pub rescue: u64,
}

impl Default for Git {
    fn default() -> Self {
        Self {
            program: "git".into(),
            launcher: Vec::new(),
            stop: CancellationToken::new(),
            grace: Duration::from_secs(10),
            look: Duration::from_secs(60),
            write: Duration::from_secs(1800),
            rescue: 2 << 30,
        }
    }
}

/// One call, before it is made.
pub(super) struct Call {
    program: PathBuf,
    command: Command,
    what: String,
    deadline: Duration,
    stop: CancellationToken,
    grace: Duration,
}

/// What a call answered.
pub(super) struct Output {
    what: String,
    status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    stderr: String,
}

impl Git {
    /// Pending until the server stops, and a little longer.
    pub(super) async fn stopping(&self) {
        stopping(&self.stop, self.grace).await;
    }

    /// A call that only looks, in this directory and with a home that is not there.
    pub(super) fn call(&self, dir: &Path, words: &[&str]) -> Call {
        let mut command = match self.launcher.as_slice() {
            [launcher, arguments @ ..] => {
                let mut command = Command::new(launcher);
                command.args(arguments).arg(std::process::id().to_string()).arg("--").arg(&self.program);
                command
            }
            [] => Command::new(&self.program),
        };
        command.current_dir(dir).env_clear().envs(ENVIRONMENT).env("HOME", dir.join("no-home"));
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.args(words).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (program, what) = (self.program.clone(), words.first().copied().unwrap_or_default().into());
        Call { program, command, what, deadline: self.look, stop: self.stop.clone(), grace: self.grace }
    }
}

impl Call {
    pub(super) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(super) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(super) fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Makes the call, whatever it answers.
    pub(super) async fn run(self) -> Result<Output, Error> {
        self.carry_out(None::<fn(ChildStdin) -> std::future::Ready<io::Result<()>>>).await
    }

    /// Makes the call. What it answered, if it succeeded.
    pub(super) async fn ok(self) -> Result<Vec<u8>, Error> {
        self.run().await?.ok()
    }

    /// Makes the call with these bytes on its standard input.
    pub(super) async fn ok_with(self, input: Vec<u8>) -> Result<Vec<u8>, Error> {
        let feed = move |mut stdin: ChildStdin| async move {
            stdin.write_all(&input).await?;
            stdin.shutdown().await
        };
        self.fed(feed).await
    }

    /// Makes the call with what is written to its standard input.
    pub(super) async fn fed<F, W>(mut self, feed: F) -> Result<Vec<u8>, Error>
    where
        F: FnOnce(ChildStdin) -> W,
        W: Future<Output = io::Result<()>>,
    {
        self.command.stdin(Stdio::piped());
        self.carry_out(Some(feed)).await?.ok()
    }

    async fn carry_out<F, W>(self, feed: Option<F>) -> Result<Output, Error>
    where
        F: FnOnce(ChildStdin) -> W,
        W: Future<Output = io::Result<()>>,
    {
        if program::find(self.program.as_os_str(), &std::env::var_os("PATH").unwrap_or_default()).is_none() {
            return Err(Error::NoGit);
        }
        let mut command = self.command;
        let start = move || {
            let child = command.spawn()?;
            let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
            Ok((group, child))
        };
        let (mut group, mut child) = tasks::starting(start).await?;
        let stopping = stopping(&self.stop, self.grace);
        let ended = tokio::select! {
            biased;
            ended = tokio::time::timeout(self.deadline, converse(&mut child, feed)) => ended.map_err(|_| Error::TooLong {
                what: self.what.clone(),
                after: self.deadline,
            }),
            () = stopping => Err(Error::Stopping),
        };
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => {
                drop(group);
                // Reaped, so that nothing of it is left.
                let _ = child.wait().await;
                return Err(error);
            }
        };
        let (status, stdout, stderr, fed) = ended?;
        // It was reaped: its number may be another's from now on.
        group.0 = None;
        match fed {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(Error::Io(error)),
            _ => {}
        }
        let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
        Ok(Output { what: self.what, status, stdout, stderr })
    }
}

async fn stopping(stop: &CancellationToken, grace: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(grace).await;
}

type Ended = (ExitStatus, Vec<u8>, Vec<u8>, io::Result<()>);

/// Writes and reads at once, for a pipe holds little.
async fn converse<F, W>(child: &mut Child, feed: Option<F>) -> Result<Ended, Error>
where
    F: FnOnce(ChildStdin) -> W,
    W: Future<Output = io::Result<()>>,
{
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feeding = async {
        match (feed, stdin) {
            (Some(feed), Some(stdin)) => feed(stdin).await,
            _ => Ok(()),
        }
    };
    let (fed, answer, complaint) = tokio::join!(feeding, take(stdout, ANSWER), take(stderr, COMPLAINT));
    let ((answer, whole), (complaint, _)) = (answer?, complaint?);
    if !whole {
        return Err(Error::TooMuch);
    }
    Ok((child.wait().await?, answer, complaint, fed))
}

/// Reads to the end, and keeps what there is room for. Whether that is all.
async fn take(from: Option<impl AsyncRead + Unpin>, limit: usize) -> io::Result<(Vec<u8>, bool)> {
    let Some(mut from) = from else { return Ok((Vec::new(), true)) };
    let mut kept = Vec::new();
    (&mut from).take(limit as u64).read_to_end(&mut kept).await?;
    let rest = tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok((kept, rest == 0))
}

/// A process that was not waited for, with all that it started: they end when this is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Output {
    /// How it ended; none by a signal.
    pub(super) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// What it answered, if it succeeded.
    pub(super) fn ok(self) -> Result<Vec<u8>, Error> {
        match self.status.success() {
            true => Ok(self.stdout),
            false if self.stderr.is_empty() => Err(Error::Git { what: self.what, why: self.status.to_string() }),
            false => Err(Error::Git { what: self.what, why: self.stderr }),
        }
    }
}
