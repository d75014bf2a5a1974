//! What the driver says to its peers, one JSON line a job and one an answer; and the texts that all of them store.

mod text;

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

pub use text::{Random, Texts};

/// Something for a peer to do. Each peer does what it can, and refuses the rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case", deny_unknown_fields)]
pub enum Job {
    /// Make an empty database.
    Make { path: String },
    /// Fill an empty database: its rows first, its index in one go.
    Fill { path: String, plan: Plan },
    /// Open a database or a home, and close the one before.
    Open { path: String },
    /// Drop the triggers of the open database: from now on, do by statements what they do.
    Unhook {},
    /// Close it.
    Close {},
    /// Append this many messages of 1 KiB, one after the other: a sample each.
    Append { session: String, count: usize },
    /// Append from this many clients at once, each to a session of its own (`PREFIX0` …), this many in all: a sample each.
    AppendTogether { prefix: String, clients: usize, count: usize },
    /// List the newest sessions: a sample each time.
    List { limit: i64, count: usize },
    /// Load a session with all its messages, once, nothing of it having been read since the database was opened.
    Load { session: String },
    /// Delete a session with all below it: one sample.
    Delete { session: String },
    /// Delete all sessions without messages: one sample.
    CleanUp {},
    /// Store attachments of this many bytes, one after the other: a sample each.
    Attach { session: String, bytes: usize, count: usize },
    /// Read the attachment that was stored last, this often: a sample each.
    ReadAttachment { count: usize },
    /// In a new database, put texts of 60 words into an index, ten a transaction: a sample each ten.
    Index { path: String, layout: Layout, count: usize },
}

/// How an index is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// As Culm's migrations have it.
    Culm,
    /// Text alone, `detail = none`: the cheapest one that FTS5 has.
    Cheapest,
}

/// What a database holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Roots with one message each: `root-0` …
    pub roots: usize,
    /// Roots without a message: `empty-0` …
    pub empty: usize,
    /// Roots with as many messages: id and number.
    pub histories: Vec<(String, usize)>,
    /// Roots with children of as many messages: id, children, messages of each.
    pub trees: Vec<(String, usize, usize)>,
    /// Words of a message; none for 1 KiB of them.
    pub words: Option<usize>,
}

impl Plan {
    /// All messages that it has.
    pub fn messages(&self) -> usize {
        let histories: usize = self.histories.iter().map(|(_, messages)| messages).sum();
        let trees: usize = self.trees.iter().map(|(_, children, messages)| children * messages).sum();
        self.roots + histories + trees
    }
}

/// What a job took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Took {
    /// Each sample, in microseconds.
    pub micros: Vec<f64>,
    /// All of it, in seconds.
    pub seconds: f64,
}

/// A peer's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Took(Took),
    /// Not done, and why.
    Failed(String),
}

/// Does the jobs on standard input, one after the other, until there are no more.
pub fn serve(mut work: impl FnMut(Job) -> Result<Took, String>) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let outcome = serde_json::from_str(&line).map_err(|error| error.to_string()).and_then(&mut work);
        let answer = outcome.map_or_else(Answer::Failed, Answer::Took);
        let line = serde_json::to_string(&answer).unwrap_or_default();
        if writeln!(std::io::stdout(), "{line}").is_err() {
            return;
        }
    }
}
