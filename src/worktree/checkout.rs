//! What a checkout has that git alone would see through its filters: files that a filter made, and submodules.
//!
//! Culm runs no filter: a repository says itself what its filters run. So a file that a filter made differs from what is
//! committed. It is clean all the same when git, which ran the filter, has written down the very file that lies there
//! (to the nanosecond), or when it is what Git LFS would make of what is committed.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    Error, Worktrees,
    commits::lines,
    git::Git,
    preflight,
    repository::{Repository, WorkingTree},
    shadow::{Access, Bytes, Shadow},
    status::{Changed, Status},
    walk,
};
use crate::{
    model::{Findings, Worktree, hex},
    tasks,
};

/// Files that are looked up in one call.
const CHUNK: usize = 500;
/// Bytes of a pointer of Git LFS at most, as its specification has it.
const POINTER: u64 = 1024;
/// Bytes of files that are hashed for one look, at most.
const HASHED: u64 = 16 << 30;

impl Worktrees {
    /// The files of a new worktree that a filter would have made, and did not: they are as they are committed, such as
    /// pointers of Git LFS.
    pub async fn unfiltered(&self, worktree: &Worktree) -> Result<Findings, Error> {
        let mut findings = Findings::default();
        let (Some(tree), false) = (WorkingTree::at(worktree.path.as_path()), worktree.adopted) else {
            return Ok(findings);
        };
        let shadow = Shadow::of(self.git(), &tree.repository, Access::Look, Bytes::Converted).await?;
        tokio::fs::copy(tree.git_dir.join("index"), shadow.index()).await?;
        let names = shadow.call_in(&tree.git_dir, &tree.path, &["ls-files", "-z"]).ok().await?;
        let mut filtered: Vec<PathBuf> = filters(&shadow, &tree, names).await?.into_keys().collect();
        filtered.sort();
        filtered.iter().for_each(|path| findings.add(path.to_string_lossy()));
        Ok(findings)
    }
}

/// The files among these names, each ended by NUL, that a filter is named for, and which.
async fn filters(shadow: &Shadow, tree: &WorkingTree, names: Vec<u8>) -> Result<HashMap<PathBuf, String>, Error> {
    let words = ["check-attr", "-z", "--stdin", "filter"];
    let answer = shadow.call_in(&tree.git_dir, &tree.path, &words).ok_with(names).await?;
    let fields: Vec<&[u8]> = answer.split(|byte| *byte == 0).collect();
    let named = fields.chunks_exact(3).filter(|entry| !matches!(entry[2], b"unspecified" | b"unset"));
    Ok(named.map(|entry| (path(entry[0]), String::from_utf8_lossy(entry[2]).into_owned())).collect())
}

/// Of the files that differ from the index, those that only a filter makes differ.
pub(super) async fn clean_files(
    shadow: &Shadow,
    tree: &WorkingTree,
    changed: &[Changed],
) -> Result<HashSet<PathBuf>, Error> {
    let could = |changed: &&Changed| {
        !changed.staged && !changed.hidden && matches!(changed.index.as_slice(), [blob] if blob.mode.starts_with("100"))
    };
    let candidates: Vec<&Changed> = changed.iter().filter(could).collect();
    let names = candidates.iter().flat_map(|changed| [changed.path.as_os_str().as_bytes(), b"\0"].concat()).collect();
    let filters = match candidates.is_empty() {
        true => return Ok(HashSet::new()),
        false => filters(shadow, tree, names).await?,
    };
    let filtered: Vec<&Changed> =
        candidates.into_iter().filter(|changed| filters.contains_key(&changed.path)).collect();
    let mut clean = HashSet::new();
    for some in filtered.chunks(CHUNK) {
        clean.extend(as_written_down(shadow, tree, some).await?);
    }
    let lfs = |changed: &&&Changed| filters[&changed.path] == "lfs" && !clean.contains(&changed.path);
    let lfs: Vec<&Changed> = filtered.iter().filter(lfs).copied().collect();
    let clean_lfs = as_pointed_to(shadow, tree, &lfs).await?;
    clean.extend(clean_lfs);
    Ok(clean)
}

/// Those that are the very files that git has written down in its index.
async fn as_written_down(shadow: &Shadow, tree: &WorkingTree, files: &[&Changed]) -> Result<Vec<PathBuf>, Error> {
    let call = shadow.call_in(&tree.git_dir, &tree.path, &["ls-files", "-z", "--debug", "--"]);
    let answer = call.args(files.iter().map(|changed| changed.path.as_os_str())).ok().await?;
    let (mut rest, mut found) = (answer.as_slice(), Vec::new());
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let (name, after) = (path(&rest[..end]), &rest[end + 1..]);
        // Five lines of numbers.
        let mut ends = after.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        let numbers = ends.nth(4).unwrap_or(after.len());
        let text = String::from_utf8_lossy(&after[..numbers]);
        if fs::symlink_metadata(tree.path.join(&name)).is_ok_and(|file| is_this(&text, &file)) {
            found.push(name);
        }
        rest = &after[numbers..];
    }
    Ok(found)
}

/// Whether the numbers that git wrote down are a file's.
fn is_this(written: &str, file: &fs::Metadata) -> bool {
    let number = |name: &str| {
        let at = written.find(&format!("{name}: "))? + name.len() + 2;
        written[at..].split_whitespace().next().map(str::to_owned)
    };
    let time = |seconds: i64, nanoseconds: i64| Some(format!("{seconds}:{nanoseconds}"));
    number("ctime") == time(file.ctime(), file.ctime_nsec())
        && number("mtime") == time(file.mtime(), file.mtime_nsec())
        && number("ino") == Some((file.ino() as u32).to_string())
        && number("size") == Some((file.len() as u32).to_string())
        && file.len() > 0
}

/// Those that hold what a pointer of Git LFS in the index points to.
async fn as_pointed_to(shadow: &Shadow, tree: &WorkingTree, files: &[&Changed]) -> Result<Vec<PathBuf>, Error> {
    let oids: String = files.iter().map(|changed| format!("{}\n", changed.index[0].oid)).collect();
    let call = |words: &[&str]| shadow.call_in(&tree.git_dir, &tree.path, words);
    let sizes = lines(&call(&["cat-file", "--batch-check=%(objectsize)"]).ok_with(oids.into_bytes()).await?);
    let (mut clean, mut left) = (Vec::new(), HASHED);
    for (changed, size) in files.iter().zip(sizes) {
        if !size.parse::<u64>().is_ok_and(|size| size <= POINTER) {
            continue;
        }
        let text = call(&["cat-file", "blob", &changed.index[0].oid]).ok().await?;
        let Some((hash, size)) = pointer(&String::from_utf8_lossy(&text)) else { continue };
        let (file, executable) = (tree.path.join(&changed.path), changed.index[0].mode == "100755");
        let fits = fs::symlink_metadata(&file)
            .is_ok_and(|file| file.is_file() && file.len() == size && (file.mode() & 0o100 != 0) == executable);
        if !fits || size > left {
            continue;
        }
        left -= size;
        if tasks::blocking(move || hash_of(&file, size)).await.is_ok_and(|found| found == hash) {
            clean.push(changed.path.clone());
        }
    }
    Ok(clean)
}

/// What a pointer says (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>): the hash, and the size.
fn pointer(text: &str) -> Option<(String, u64)> {
    let rest = text.strip_prefix("version https://git-lfs.github.com/spec/v1\n")?;
    let field = |name: &str| rest.lines().find_map(|line| line.strip_prefix(name));
    Some((field("oid sha256:")?.to_owned(), field("size ")?.parse().ok()?))
}

fn hash_of(file: &Path, size: u64) -> io::Result<String> {
    let (mut hash, mut bytes) = (Sha256::new(), File::open(file)?.take(size + 1));
    io::copy(&mut bytes, &mut hash)?;
    Ok(hex(&hash.finalize()))
}

/// The submodules among these directories in which nothing would be lost: as their repository has them, with nothing
/// beside, and all their commits at their remotes.
pub(super) async fn clean_submodules(git: &Git, top: &WorkingTree, nested: &[PathBuf]) -> HashSet<PathBuf> {
    let mut clean = HashSet::new();
    for dir in nested {
        let above = nested
            .iter()
            .filter(|other| *other != dir && dir.starts_with(other))
            .max_by_key(|other| other.as_os_str().len());
        // What cannot be said is at risk.
        if is_clean(git, top, above.map(PathBuf::as_path).unwrap_or(Path::new("")), dir).await.unwrap_or(false) {
            clean.insert(dir.clone());
        }
    }
    clean
}

async fn is_clean(git: &Git, top: &WorkingTree, above: &Path, dir: &Path) -> Result<bool, Error> {
    let (Some(parent), Some(tree)) = (WorkingTree::at(&top.path.join(above)), WorkingTree::at(&top.path.join(dir)))
    else {
        return Ok(false);
    };
    // It must be one that git has put away with this worktree, and at the place that the index above it says.
    let within = tree.git_dir.starts_with(top.git_dir.join("modules")) && tree.is_main();
    let of = async |tree: &WorkingTree| {
        Shadow::of(git, &Repository { ..tree.repository.clone() }, Access::Look, Bytes::Converted).await
    };
    if !within || !is_linked(&of(&parent).await?, &parent, dir.strip_prefix(above).unwrap_or(dir)).await? {
        return Ok(false);
    }
    let shadow = of(&tree).await?;
    let status = Status::of(&shadow, &tree.git_dir, Some(&tree.path)).await?;
    let made_again = |path: &PathBuf| walk::is_made_again(&tree.path, path);
    let files = status.untracked.is_empty() && status.ignored.iter().all(made_again);
    let changed = clean_files(&shadow, &tree, &status.changed).await?.len() == status.changed.len();
    if !files || !changed || preflight::is_under_way(&tree.git_dir) {
        return Ok(false);
    }
    let words = ["rev-list", "--max-count=1", "--all", "--reflog", "--not", "--remotes", "--tags"];
    Ok(shadow.call_in(&tree.git_dir, &shadow.nothing(), &words).ok().await?.is_empty())
}

/// Whether the index names this directory as a submodule.
async fn is_linked(shadow: &Shadow, tree: &WorkingTree, dir: &Path) -> Result<bool, Error> {
    tokio::fs::copy(tree.git_dir.join("index"), shadow.index()).await?;
    let call = shadow.call_in(&tree.git_dir, &tree.path, &["ls-files", "-z", "--stage", "--"]).arg(dir);
    Ok(call.ok().await?.starts_with(b"160000 "))
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}
