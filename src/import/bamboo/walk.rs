//! What lies in a home: the directories of sessions, what else is beside them, and the index.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::file::Place;
use crate::import::{FindingKind, ImportError, Report};

/// Files that a session's directory may hold, apart from hidden ones.
const FILES: [&str; 4] = ["session.json", "runtime.json", "token-usage.jsonl", "root-tool-authority.json"];

/// A session on disk: what is known of it before it is read as a whole.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Its directory, from the home on.
    pub(super) directory: PathBuf,
    /// The directory of its tree, as a name.
    pub(super) tree: String,
    /// Whether it lies under `children`.
    pub(super) below: bool,
    pub(super) id: String,
    pub(super) kind: Option<String>,
    pub(super) parent: Option<String>,
    pub(super) root: Option<String>,
}

/// The part of a session's file that says where it belongs. The messages are passed over, not held.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Header {
    id: Value,
    kind: Value,
    parent_session_id: Value,
    root_session_id: Value,
}

#[derive(Deserialize)]
struct Index {
    sessions: HashMap<String, Entry>,
}

/// All that is held of a session in the index: the index grows with the home.
#[derive(Default, PartialEq, Deserialize)]
#[serde(untagged)]
enum Entry {
    Listed {
        rel_path: String,
    },
    Other(IgnoredAny),
    /// Was met on disk.
    #[default]
    #[serde(skip)]
    Met,
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// Refuses a directory that is no home.
pub(super) fn check(home: &Path) -> Result<(), ImportError> {
    let is_there = |name: &str| fs::symlink_metadata(home.join(name)).is_ok();
    match is_there("sessions") || is_there("sessions.json") {
        true => Ok(()),
        false => Err(ImportError::NotAHome(home.into())),
    }
}

/// Every session on disk, roots first, each group by path.
pub(super) fn sessions(home: &Path, report: &mut Report) -> Result<Vec<Found>, ImportError> {
    check(home)?;
    let sessions = Path::new("sessions");
    let unreadable = |error| ImportError::Unreadable { path: home.into(), error };
    for entry in fs::read_dir(home).map_err(unreadable)?.flatten() {
        if is_temporary(&entry.file_name()) {
            temporary(Path::new(&entry.file_name()), report);
        }
    }
    let (mut roots, mut children) = (Vec::new(), Vec::new());
    for tree in directories(home, sessions, &[], report) {
        roots.extend(found(home, &tree, false, report));
        let below = tree.join("children");
        for child in directories(home, &below, &[], report) {
            children.extend(found(home, &child, true, report));
        }
    }
    roots.append(&mut children);
    compare_with_index(home, &roots, report);
    Ok(roots)
}

/// The directories in a directory, by name. Whatever else is there is reported.
fn directories(home: &Path, path: &Path, files: &[&str], report: &mut Report) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    for (path, kind) in entries(home, path, report) {
        let name = path.file_name().unwrap_or_default();
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if kind.is_dir() && !hidden {
            directories.push(path);
        } else if is_temporary(name) {
            temporary(&path, report);
        } else if !hidden && !files.iter().any(|file| name == *file) {
            report.add(FindingKind::UnknownFile, path.display().to_string(), "is no part of a session; it was ignored");
        }
    }
    directories
}

/// What is in a directory, by name, without symbolic links; nothing when it is not there.
pub(super) fn entries(home: &Path, path: &Path, report: &mut Report) -> Vec<(PathBuf, fs::FileType)> {
    let full = home.join(path);
    match fs::symlink_metadata(&full) {
        Ok(about) if about.is_symlink() => {
            report.add(FindingKind::SymbolicLink, path.display().to_string(), "was not followed");
            return Vec::new();
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            unreadable(path, &error, report);
            return Vec::new();
        }
    }
    let listed = match fs::read_dir(full) {
        Ok(listed) => listed,
        Err(error) => {
            unreadable(path, &error, report);
            return Vec::new();
        }
    };
    let mut entries = Vec::new();
    for entry in listed {
        match entry.and_then(|entry| Ok((path.join(entry.file_name()), entry.file_type()?))) {
            Ok((path, kind)) if kind.is_symlink() => {
                report.add(FindingKind::SymbolicLink, path.display().to_string(), "was not followed");
            }
            Ok(entry) => entries.push(entry),
            Err(error) => unreadable(path, &error, report),
        }
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries
}

fn unreadable(path: &Path, error: &std::io::Error, report: &mut Report) {
    report.add(FindingKind::Unreadable, path.display().to_string(), format!("cannot be read: {error}"));
}

/// What a write that never ended leaves: `session.json.tmp.<uuid>`.
pub(super) fn is_temporary(name: &OsStr) -> bool {
    name.to_string_lossy().contains(".tmp.")
}

pub(super) fn temporary(path: &Path, report: &mut Report) {
    let text = "was left by an interrupted write; it was ignored";
    report.add(FindingKind::TemporaryFile, path.display().to_string(), text);
}

/// The session in a directory, if one is there.
fn found(home: &Path, directory: &Path, below: bool, report: &mut Report) -> Option<Found> {
    let known = if below { &["attachments"][..] } else { &["attachments", "children"] };
    for other in directories(home, directory, &FILES, report) {
        if !known.iter().any(|name| other.ends_with(name)) {
            report.add(
                FindingKind::UnknownFile,
                other.display().to_string(),
                "is no part of a session; it was ignored",
            );
        }
    }
    if fs::symlink_metadata(home.join(directory).join("session.json")).is_err() {
        report.add(FindingKind::Unreadable, directory.display().to_string(), "has no session.json");
        return None;
    }
    let header = header(home, directory);
    let name = |path: Option<&Path>| path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let named = name(Some(directory)).unwrap_or_default();
    let tree = if below { name(directory.ancestors().nth(2)).unwrap_or_default() } else { named.clone() };
    let id = text(header.id).unwrap_or_else(|| named.clone());
    if id != named {
        let text = format!("holds a session with the id '{id}', which is not its name");
        report.add(FindingKind::InvalidId, directory.display().to_string(), text);
    }
    let parent = text(header.parent_session_id).filter(|id| !id.is_empty());
    let root = text(header.root_session_id);
    Some(Found { directory: directory.into(), tree, below, id, kind: text(header.kind), parent, root })
}

/// From the sidecar if it can be read, else from the session's file. What is wrong with either is reported when it
/// is read as a whole.
fn header(home: &Path, directory: &Path) -> Header {
    let mut unheard = Report::default();
    for name in ["runtime.json", "session.json"] {
        let path = directory.join(name);
        let place = Place { home, path: &path };
        let Some(contents) = place.read(&mut unheard) else { continue };
        if let Some(header) = place.json::<Header>(&contents.bytes, &mut unheard) {
            return header;
        }
    }
    Header::default()
}

/// Reports where the index and the disk differ. The disk is believed.
fn compare_with_index(home: &Path, found: &[Found], report: &mut Report) {
    let place = Place { home, path: Path::new("sessions.json") };
    let Some(contents) = place.read(report) else {
        return report.add(FindingKind::NoIndex, place.shown(), "is not there; the directories were walked");
    };
    let Some(Index { mut sessions }) = place.json(&contents.bytes, report) else {
        return report.add(FindingKind::NoIndex, place.shown(), "is damaged; the directories were walked");
    };
    for session in found {
        let directory = session.directory.display().to_string();
        match sessions.get_mut(&session.id).map(std::mem::take) {
            None => report.add(FindingKind::NotInIndex, directory, format!("'{}' is on disk only", session.id)),
            Some(Entry::Listed { rel_path }) if Path::new(&rel_path) != session.directory => {
                report.add(FindingKind::OtherPlaceInIndex, directory, format!("the index has it at '{rel_path}'"));
            }
            Some(_) => {}
        }
    }
    let missing = sessions.into_iter().filter(|(_, entry)| *entry != Entry::Met).map(|(id, _)| id);
    let mut missing: Vec<String> = missing.collect();
    missing.sort();
    for id in missing {
        report.add(FindingKind::OnlyInIndex, place.shown(), format!("'{id}' is in the index and not on disk"));
    }
}
