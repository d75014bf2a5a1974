//! Where a program is that a command names, as the system would look for it.

use std::{
    ffi::OsStr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The file that would be run: the path itself, or the first one of this name in the directories of `path`.
pub fn find(program: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let runs = |file: &Path| file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    if Path::new(program).components().count() > 1 {
        return Some(program.into()).filter(|file: &PathBuf| runs(file));
    }
    std::env::split_paths(path).map(|directory| directory.join(program)).find(|file| runs(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_path_or_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tool");
        std::fs::write(&file, "").unwrap();
        let find = |program: &OsStr| super::find(program, dir.path().as_os_str());
        assert_eq!((find("tool".as_ref()), find(file.as_os_str())), (None, None), "it cannot be run");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!((find("tool".as_ref()), find(file.as_os_str())), (Some(file.clone()), Some(file.clone())));
        assert_eq!((find("other".as_ref()), find("/tool".as_ref())), (None, None));
    }
}
