//! What git says of a working tree's files: `git status --porcelain=v2 -z`, with nothing hidden from it.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use super::{Error, readable, shadow::Shadow};
use crate::tasks;

/// An object with its mode, as git writes them; a mode of zeros stands for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) mode: String,
    pub(super) oid: String,
}

impl Blob {
    pub(super) fn is_none(&self) -> bool {
        self.mode.bytes().all(|byte| byte == b'0')
    }
}

/// A file that git follows, and that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) path: PathBuf,
    /// Whether the index differs from HEAD.
    pub(super) staged: bool,
    /// Whether the file differs from the index.
    pub(super) edited: bool,
    /// What the index has; three sides of a conflict.
    pub(super) index: Vec<Blob>,
    /// Whether its change was hidden from git.
    pub(super) hidden: bool,
}

/// What git says of a working tree.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// The commit of HEAD, if there is one.
    pub(super) head: Option<String>,
    /// The branch of HEAD, unless it is detached.
    pub(super) branch: Option<String>,
    pub(super) changed: Vec<Changed>,
    /// Files; a directory where it is a repository of its own.
    pub(super) untracked: Vec<PathBuf>,
    /// Files and directories.
    pub(super) ignored: Vec<PathBuf>,
}

impl Status {
    /// Reads a working tree, or what is staged where it is gone.
    pub(super) async fn of(shadow: &Shadow, git_dir: &Path, tree: Option<&Path>) -> Result<Self, Error> {
        let (own, top) = (git_dir.to_owned(), tree.map(Path::to_owned));
        tasks::blocking(move || readable::check_tree(&own, top.as_deref())).await?;
        let index = git_dir.join("index");
        match index.is_file() {
            true => drop(tokio::fs::copy(index, shadow.index()).await?),
            // One that was copied before is not this one.
            false if shadow.index().exists() => fs::remove_file(shadow.index())?,
            false => {}
        }
        let nothing = shadow.nothing();
        let place = tree.unwrap_or(&nothing);
        let hidden = match tree {
            Some(tree) => uncover(shadow, git_dir, tree).await?,
            None => HashSet::new(),
        };
        let words = [
            "status",
            "--porcelain=v2",
            "-z",
            "--branch",
            "--untracked-files=all",
            "--ignored=matching",
            "--ignore-submodules=dirty",
            "--no-renames",
            "--no-ahead-behind",
        ];
        let answer = shadow.call_in(git_dir, place, &words).ok().await?;
        let mut status = Self::default();
        for entry in answer.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            status.take(entry).ok_or_else(|| unknown(entry))?;
        }
        status.changed.iter_mut().for_each(|changed| changed.hidden = hidden.contains(&changed.path));
        if tree.is_none() {
            status.changed.retain(|changed| changed.staged);
        }
        Ok(status)
    }

    fn take(&mut self, entry: &[u8]) -> Option<()> {
        let (kind, rest) = entry.split_at_checked(2)?;
        match kind {
            b"? " => self.untracked.push(path(rest)),
            b"! " => self.ignored.push(path(rest)),
            b"# " => self.take_header(std::str::from_utf8(rest).ok()),
            // XY sub mH mI mW hH hI path
            b"1 " => {
                let (fields, path) = fields::<7>(rest)?;
                let blob = Blob { mode: fields[3].into(), oid: fields[6].into() };
                self.changed.push(changed(path, fields[0], vec![blob]));
            }
            // XY sub m1 m2 m3 mW h1 h2 h3 path
            b"u " => {
                let (fields, path) = fields::<9>(rest)?;
                let sides = (0..3).map(|side| Blob { mode: fields[2 + side].into(), oid: fields[6 + side].into() });
                self.changed.push(changed(path, fields[0], sides.collect()));
            }
            _ => return None,
        }
        Some(())
    }

    fn take_header(&mut self, header: Option<&str>) {
        match header.and_then(|header| header.split_once(' ')) {
            Some(("branch.oid", oid)) if oid != "(initial)" => self.head = Some(oid.into()),
            Some(("branch.head", name)) if name != "(detached)" => self.branch = Some(name.into()),
            _ => {}
        }
    }
}

/// Takes the marks away that hide edits, in the copy of the index. The files that had them.
async fn uncover(shadow: &Shadow, git_dir: &Path, tree: &Path) -> Result<HashSet<PathBuf>, Error> {
    let listed = shadow.call_in(git_dir, tree, &["ls-files", "-v", "-z"]).ok().await?;
    let marked = listed.split(|byte| *byte == 0).filter_map(|entry| entry.split_at_checked(2));
    let marked: Vec<(u8, PathBuf)> = marked
        .map(|(tag, name)| (tag[0], path(name)))
        .filter(|(tag, _)| tag.is_ascii_lowercase() || *tag == b'S')
        // One that is not there is not hidden: a sparse checkout has left it out.
        .filter(|(tag, name)| !tag.eq_ignore_ascii_case(&b'S') || fs::symlink_metadata(tree.join(name)).is_ok())
        .collect();
    let unmark = async |option, of: fn(u8) -> bool| {
        let names: Vec<_> = marked.iter().filter(|(tag, _)| of(*tag)).map(|(_, name)| name.as_os_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let names: Vec<u8> = names.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
        let words = ["update-index", option, "-z", "--stdin"];
        shadow.call_in(git_dir, tree, &words).ok_with(names).await.map(drop)
    };
    unmark("--no-assume-unchanged", |tag| tag.is_ascii_lowercase()).await?;
    unmark("--no-skip-worktree", |tag| tag.eq_ignore_ascii_case(&b'S')).await?;
    Ok(marked.into_iter().map(|(_, name)| name).collect())
}

fn path(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

/// Fields up to the path, which may hold anything.
fn fields<const N: usize>(entry: &[u8]) -> Option<([&str; N], PathBuf)> {
    let mut parts = entry.splitn(N + 1, |byte| *byte == b' ');
    let mut fields = [""; N];
    for field in &mut fields {
        *field = std::str::from_utf8(parts.next()?).ok()?;
    }
    Some((fields, path(parts.next()?)))
}

fn changed(path: PathBuf, xy: &str, index: Vec<Blob>) -> Changed {
    let (x, y) = (xy.as_bytes().first(), xy.as_bytes().get(1));
    Changed { path, staged: x != Some(&b'.'), edited: y != Some(&b'.'), index, hidden: false }
}

fn unknown(entry: &[u8]) -> Error {
    let why = format!("its answer is of an unknown kind: {}", OsStr::from_bytes(entry).display());
    Error::Git { what: "status".into(), why }
}
