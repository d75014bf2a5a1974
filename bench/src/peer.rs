//! A peer: a program that does jobs.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use bench_protocol::{Answer, Job, Took};

use crate::Outcome;

pub(crate) struct Peer {
    program: Child,
    jobs: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start(program: &Path) -> Outcome<Self> {
        let child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut program = child.map_err(|error| format!("{}: {error}", program.display()))?;
        let (jobs, answers) = (program.stdin.take(), program.stdout.take().ok_or("a peer without an output")?);
        Ok(Self { program, jobs, answers: BufReader::new(answers) })
    }

    /// Has a job done.
    pub(crate) fn ask(&mut self, job: &Job) -> Outcome<Took> {
        let jobs = self.jobs.as_mut().ok_or("the peer has ended")?;
        writeln!(jobs, "{}", serde_json::to_string(job)?)?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        match serde_json::from_str(&line).map_err(|_| format!("a peer ended while it did {job:?}"))? {
            Answer::Took(took) => Ok(took),
            Answer::Failed(reason) => Err(format!("{job:?}: {reason}").into()),
        }
    }

    pub(crate) fn open(&mut self, path: &Path) -> Outcome<()> {
        self.ask(&Job::Open { path: path.display().to_string() }).map(drop)
    }

    pub(crate) fn close(&mut self) -> Outcome<()> {
        self.ask(&Job::Close {}).map(drop)
    }
}

impl Drop for Peer {
    /// It ends with its input.
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.program.wait();
    }
}
