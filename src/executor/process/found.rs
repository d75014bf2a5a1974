//! Processes that are found, not started: read from `/proc`.

use std::fs;

use rustix::process::{Pid, getpid};

use crate::model::Process;

/// The variable that a backend's processes carry. Those that they start inherit it.
pub(super) const MARK: &str = "CULM_BACKEND";

fn all() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(Pid::from_raw)
}

/// The fields of `/proc/PID/stat` from the third, the state, on: what is before them may hold spaces.
fn stat(pid: Pid) -> Option<Vec<String>> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = line.rsplit_once(')')?;
    Some(fields.split_whitespace().map(String::from).collect())
}

/// A process that is there, and no zombie.
fn alive(pid: Pid) -> Option<Vec<String>> {
    stat(pid).filter(|fields| !matches!(fields[0].as_str(), "Z" | "X"))
}

/// The process of this number, as it can be told from a later one.
pub(super) fn identity(pid: i32) -> Option<Process> {
    let fields = alive(Pid::from_raw(pid)?)?;
    Some(Process { pid, started: fields.get(19)?.parse().ok()? })
}

/// The other processes of a group.
pub(super) fn in_group(group: Pid) -> Vec<Pid> {
    let belongs = |pid: &Pid| {
        let found = alive(*pid).and_then(|fields| fields.get(2)?.parse().ok());
        found == Some(group.as_raw_nonzero().get()) && *pid != getpid()
    };
    all().filter(belongs).collect()
}

/// All processes of a backend: those that carry its mark.
pub(super) fn marked(backend: &str) -> Vec<Pid> {
    let mark = format!("{MARK}={backend}");
    let carries = |pid: &Pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) && alive(*pid).is_some()
    };
    all().filter(carries).collect()
}
