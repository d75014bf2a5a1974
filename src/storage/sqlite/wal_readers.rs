//! Which processes read from a database's write-ahead log right now, and so keep it from being cut.
//!
//! SQLite marks each reader with a POSIX lock on one of five bytes of the `-shm` file. The kernel lists those locks in
//! `/proc/locks`, by process and inode: nothing of the database is opened, for closing it would drop our own locks.

use std::{os::unix::fs::MetadataExt, path::Path};

use super::lock::beside;

/// The bytes of a `-shm` file that readers lock (SQLite's `WAL_READ_LOCK`).
const MARKS: std::ops::RangeInclusive<u64> = 123..=127;
/// Processes that are named at most.
const MANY: usize = 5;

/// The processes, in words. It reads files of the kernel: for the blocking pool.
pub(super) fn readers(database: &Path) -> String {
    let Ok(shared) = std::fs::metadata(beside(database, "-shm")) else { return "nobody that can be found".into() };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut found: Vec<u32> = locks.lines().filter_map(|line| marked(line, shared.ino())).collect();
    found.sort_unstable();
    found.dedup();
    match found.is_empty() {
        true => "nobody that can be found".into(),
        false => found.into_iter().take(MANY).map(named).collect::<Vec<_>>().join(", "),
    }
}

/// The process of a line such as `1: POSIX  ADVISORY  READ 812 08:01:131 124 124`, if it is a reader's.
fn marked(line: &str, inode: u64) -> Option<u32> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "POSIX", _, "READ", process, file, first, last] = words[..] else { return None };
    let of_file = file.rsplit(':').next()?.parse::<u64>().ok()? == inode;
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    (of_file && MARKS.contains(&first) && MARKS.contains(&last)).then(|| process.parse().ok())?
}

fn named(process: u32) -> String {
    if process == std::process::id() {
        return format!("process {process} (this server)");
    }
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    match name.trim() {
        "" => format!("process {process}"),
        name => format!("process {process} ({name})"),
    }
}
