//! Processes whose working directory is in a directory. Known where the system has `/proc`; elsewhere none is found.

use std::{fs, path::Path};

/// Each as `pid name`, but for those of these numbers.
pub(super) fn working_in(dir: &Path, but: &[i32]) -> Vec<String> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.filter_map(Result::ok).filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let pids = pids.filter(|pid| !but.contains(pid));
    // Another user's cannot be asked, and one may end meanwhile.
    let inside = pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir)));
    inside
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{pid} {}", name.trim_end())
        })
        .collect()
}
