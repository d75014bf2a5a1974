//! What is measured: a file for each work. A figure's name begins with its work's.

mod append;
mod attachment;
mod beside;
mod binary;
mod cleanup;
mod delete;
mod import;
mod index;
mod list;
mod memory;
mod read;
mod search;
mod start;
mod together;
mod transcript;

use bench_protocol::Plan;

use crate::{Outcome, bench::Bench};

type Work = fn(&mut Bench) -> Outcome<()>;

/// All of it, in the order of a run.
pub(crate) const WORKS: [(&str, Work); 14] = [
    ("append", append::measure),
    ("together", together::measure),
    ("transcript", transcript::measure),
    ("list", list::measure),
    ("read", read::measure),
    ("delete", delete::measure),
    ("cleanup", cleanup::measure),
    ("index", index::measure),
    ("attachment", attachment::measure),
    ("import", import::measure),
    ("memory", memory::measure),
    ("search", search::measure),
    ("start", start::measure),
    ("binary", binary::measure),
];

/// Their names.
pub(crate) const NAMES: [&str; WORKS.len()] = {
    let mut names = [""; WORKS.len()];
    let mut place = 0;
    while place < names.len() {
        names[place] = WORKS[place].0;
        place += 1;
    }
    names
};

/// The database of long histories: 10 000 sessions, of which some have many messages.
fn histories(bench: &Bench) -> (&'static str, Plan) {
    let sizes: &[usize] = bench.sized(&[100, 1000, 5000, 10_000, 100_000], &[100, 1000, 5000]);
    let mut histories: Vec<(String, usize)> = sizes.iter().map(|size| (format!("n{size}"), *size)).collect();
    histories.extend((0..bench.repeats * append::TURNS).map(|repeat| (format!("n10-{repeat}"), 10)));
    histories.extend((0..CLIENTS).map(|client| (format!("client{client}"), 10)));
    ("histories", Plan { roots: bench.sized(10_000, 1000), histories, ..Plan::default() })
}

/// The database of this many short sessions.
fn sessions(roots: usize) -> (String, Plan) {
    let histories = vec![("n10".into(), 10)];
    (format!("sessions-{roots}"), Plan { roots, histories, words: Some(20), ..Plan::default() })
}

/// How many sessions the databases of short sessions have.
fn numbers_of_sessions(bench: &Bench) -> &'static [usize] {
    bench.sized(&[10, 1000, 10_000, 100_000], &[10, 1000, 10_000])
}

/// Clients at once, at most.
const CLIENTS: usize = 64;
