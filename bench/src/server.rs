//! Servers: Culm's own program, and the one that only answers.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Outcome, http::Address};

pub(crate) struct Server {
    program: Child,
    pub(crate) address: Address,
    /// How long it took from its start until it said that it listens.
    pub(crate) started_in: Duration,
}

impl Server {
    /// Culm, as it is without settings: with its token, on a port of its own.
    pub(crate) fn culm(program: &Path, db: &Path) -> Outcome<Self> {
        let token = Command::new(program).arg("token").arg("--db").arg(db).output()?;
        let token = String::from_utf8(token.stdout)?.trim().to_owned();
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--db"]).arg(db);
        Self::start(command, Some(token))
    }

    /// The server that answers with bodies of these sizes, under `/0` and so on.
    pub(crate) fn fixed(program: &Path, directory: &Path, sizes: &[usize]) -> Outcome<Self> {
        let mut command = Command::new(program);
        command.arg(directory).args(sizes.iter().map(ToString::to_string));
        Self::start(command, None)
    }

    fn start(mut command: Command, token: Option<String>) -> Outcome<Self> {
        let begun = Instant::now();
        let mut program = command.stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(program.stdout.take().ok_or("a server without an output")?).lines();
        for line in lines {
            // The first address that it names; what comes after it is not read.
            if let Some(at) = line?.split_whitespace().find_map(|word| word.strip_prefix("http://")?.parse().ok()) {
                return Ok(Self { program, address: Address { at, token }, started_in: begun.elapsed() });
            }
        }
        let _ = program.kill();
        Err("a server ended before it listened".into())
    }

    pub(crate) fn id(&self) -> u32 {
        self.program.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Memory of a process in MiB, as the system calls it: `VmRSS`, or `VmHWM` for the most that it had.
pub(crate) fn memory(process: u32, what: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
