//! The rescue ref: before a worktree goes, all that is in it becomes commits that one ref holds.
//!
//! The ref's commit has the files as they are. Its parents: HEAD, if there was one; the index as it was staged; and a
//! commit with the rest: `git-dir/`, what the repository kept of the worktree alone (an operation under way, logs,
//! the modules of submodules); `nested/`, repositories within it, whole; `unmerged/`, the sides of conflicts; with every
//! commit as parent that nothing else holds. `.git`, and what some file system takes for it, cannot be a name in a
//! commit: it is `dot-git` there.
//!
//! It is written by `git fast-import`, from bytes that are read here: no filter and no conversion is between, any name
//! can be written, and the ref is there whole or not at all.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};

use super::{
    Error,
    commits::Commits,
    git::Git,
    preflight::Survey,
    repository::{self, WorkingTree},
    shadow::{Access, Bytes, Shadow},
    status::Changed,
    walk::{self, Kind},
};
use crate::{
    model::{Findings, Timestamp, Worktree, hex},
    tasks,
};

/// Bytes of a file that is searched for the names of objects, at most.
const SEARCHED: u64 = 16 << 20;

/// What a commit of the rescue changes of its first parent.
#[derive(Debug, Default)]
struct Tree {
    removed: Vec<PathBuf>,
    /// Objects that are there: mode, name, path.
    objects: Vec<(String, String, PathBuf)>,
    /// Files to read, and where to put them.
    files: Vec<(PathBuf, PathBuf)>,
}

/// All that is to be kept of a worktree.
#[derive(Debug, Default)]
struct Kept {
    head: Option<String>,
    index: Tree,
    rest: Tree,
    files: Tree,
    /// Names of what may be commits.
    named: HashSet<String>,
    /// Files that are too large to be kept, or nested too deep.
    left_out: Findings,
}

impl Kept {
    /// The files below a directory that can be kept.
    fn files_of(&mut self, dir: &Path) -> Result<Vec<PathBuf>, Error> {
        let files = walk::files(dir)?;
        files.too_deep.iter().for_each(|path| self.left_out.add(format!("{path} (nested too deep)")));
        Ok(files.found)
    }
}

/// Writes the ref. `survey` is none where git cannot say what there is: then everything is kept as if it were new. What
/// cannot be kept; without `force`, that is an error, and nothing is written.
pub(super) async fn rescue(
    git: &Git,
    worktree: &Worktree,
    tree: &WorkingTree,
    there: bool,
    survey: Option<Survey>,
    name: &str,
    force: bool,
) -> Result<Findings, Error> {
    let shadow = Shadow::of(git, &tree.repository, Access::Write, Bytes::Raw).await?;
    let (looked_at, most) = (tree.clone(), git.rescue);
    let kept = tasks::blocking(move || gather(&looked_at, there, survey, most)).await?;
    if kept.left_out.count > 0 && !force {
        return Err(Error::Unreadable(format!("not all of it can be kept: {}", kept.left_out.first.join(", "))));
    }
    let rest = commits_of(&shadow, worktree, tree, &kept).await?;
    let script = Script { name, title: title(worktree), at: Timestamp::now().0 / 1_000_000, dot_git: dot_git(&kept) };
    let words = [
        "-c",
        "core.protectHFS=false",
        "-c",
        "core.protectNTFS=false",
        "-c",
        "core.ignoreCase=false",
        // On disk before anything is removed.
        "-c",
        "core.fsync=all",
        "-c",
        "fastimport.unpackLimit=1",
        "fast-import",
        "--quiet",
        "--done",
        "--big-file-threshold=16m",
    ];
    let call = shadow.call(&words).within(git.write);
    call.fed(async |stdin| {
        let mut out = BufWriter::with_capacity(256 << 10, stdin);
        script.write(&mut out, &kept, &rest).await?;
        out.flush().await?;
        out.into_inner().shutdown().await
    })
    .await
    .map(|_| kept.left_out)
}

/// Whether a ref is there.
pub(super) async fn is_rescued(shadow: &Shadow, name: &str) -> Result<bool, Error> {
    let output = shadow.call(&["show-ref", "--verify", "--quiet", name]).run().await?;
    match output.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => output.ok().map(|_| false),
    }
}

/// The commits that are to be held: of HEAD's log, of refs of its own, of all that its files name; and those of the
/// branch that is removed with it.
async fn commits_of(
    shadow: &Shadow,
    worktree: &Worktree,
    tree: &WorkingTree,
    kept: &Kept,
) -> Result<Vec<String>, Error> {
    let asked = shadow.call_in(&tree.git_dir, &shadow.nothing(), &["rev-parse", "--git-dir"]).run().await?;
    // Damaged, or gone: then only the repository can be asked, and of HEAD its files alone tell.
    let own = asked.code() == Some(0);
    let commits = Commits { shadow, git_dir: if own { &tree.git_dir } else { shadow.path() }, head: None };
    let mut named = kept.named.clone();
    let branch = worktree.branch.as_ref().filter(|_| worktree.branch_created);
    let branch = branch.map(|branch| format!("refs/heads/{branch}"));
    for log in own.then_some("HEAD").into_iter().chain(branch.as_deref()) {
        named.extend(commits.log_of(log).await?.into_iter().map(|(oid, _)| oid));
    }
    if own {
        named.extend(commits.own_refs().await?);
    }
    commits.only_here(&named).await
}

fn gather(tree: &WorkingTree, there: bool, survey: Option<Survey>, most: u64) -> Result<Kept, Error> {
    let mut kept = Kept::default();
    // Of clean submodules nothing would be lost.
    let clean = survey.iter().flat_map(|survey| &survey.clean);
    let clean = clean.filter_map(|dir| WorkingTree::at(&tree.path.join(dir)).map(|submodule| submodule.git_dir));
    keep_git_dir(&mut kept, &tree.git_dir, &clean.collect::<Vec<_>>())?;
    match survey {
        Some(survey) => keep_known(&mut kept, tree, there, &survey)?,
        None if there => keep_all(&mut kept, &tree.path)?,
        None => {}
    }
    // A link to the repository says nothing; what somebody wrote in its place does.
    let link = tree.path.join(".git");
    if there && repository::git_dir_named_by(&tree.path).is_none() && walk::kind_of(&link)? == Some(Kind::File) {
        kept.rest.files.push((link, ".git".into()));
    }
    bound(&mut kept, most);
    Ok(kept)
}

/// Leaves out the largest files, until the rest is no more than a rescue may take.
fn bound(kept: &mut Kept, most: u64) {
    let size = |file: &Path| fs::symlink_metadata(file).map_or(0, |found| found.len());
    let all = kept.rest.files.iter().chain(&kept.files.files);
    let mut sizes: Vec<(u64, PathBuf)> = all.map(|(file, _)| (size(file), file.clone())).collect();
    sizes.sort();
    let mut sum = 0_u64;
    let fits = |(size, _): &&(u64, PathBuf)| {
        sum = sum.saturating_add(*size);
        sum <= most
    };
    let out = &sizes[sizes.iter().take_while(fits).count()..];
    if out.is_empty() {
        return;
    }
    let out: HashSet<&PathBuf> = out.iter().map(|(_, file)| file).collect();
    for tree in [&mut kept.rest, &mut kept.files] {
        for (file, path) in tree.files.extract_if(.., |(file, _)| out.contains(file)) {
            kept.left_out.add(format!("{} ({} bytes)", path.display(), size(&file)));
        }
    }
}

fn keep_git_dir(kept: &mut Kept, git_dir: &Path, but: &[PathBuf]) -> Result<(), Error> {
    if !git_dir.is_dir() {
        return Ok(());
    }
    for path in kept.files_of(git_dir)? {
        let file = git_dir.join(&path);
        if but.iter().any(|left| file.starts_with(left)) {
            continue;
        }
        if !path.starts_with("modules") {
            name_objects(&mut kept.named, &file)?;
        }
        kept.rest.files.push((file, Path::new("git-dir").join(path)));
    }
    Ok(())
}

/// The names of objects that a file holds: heads, logs, what a rebase or a merge set aside.
fn name_objects(named: &mut HashSet<String>, file: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(file) {
        Ok(found) if found.is_file() && found.len() <= SEARCHED => {}
        _ => return Ok(()),
    }
    let bytes = match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    let words = bytes.split(|byte| !byte.is_ascii_hexdigit()).filter(|word| matches!(word.len(), 40 | 64));
    named.extend(
        words
            .filter(|word| word.iter().any(|byte| *byte != b'0'))
            .map(|word| String::from_utf8_lossy(word).to_ascii_lowercase()),
    );
    Ok(())
}

fn keep_known(kept: &mut Kept, tree: &WorkingTree, there: bool, survey: &Survey) -> Result<(), Error> {
    kept.head.clone_from(&survey.status.head);
    for changed in &survey.status.changed {
        keep_index(kept, changed);
        if there {
            keep_change(kept, &tree.path, &changed.path)?;
        }
    }
    let nested = |path: &Path| survey.nested.iter().chain(&survey.clean).any(|dir| path.starts_with(dir));
    let ignored = survey.status.ignored.iter().filter(|path| !walk::is_made_again(&tree.path, path));
    for path in survey.status.untracked.iter().chain(ignored) {
        for file in kept.files_of(&tree.path.join(path))? {
            // Joining nothing would end the path in a slash.
            let file = if file.as_os_str().is_empty() { path.clone() } else { path.join(file) };
            if !nested(&file) {
                kept.files.files.push((tree.path.join(&file), file));
            }
        }
    }
    for dir in &survey.nested {
        keep_nested(kept, tree, dir)?;
    }
    Ok(())
}

/// What is staged, or in conflict, of a file.
fn keep_index(kept: &mut Kept, changed: &Changed) {
    if !changed.staged {
        return;
    }
    match changed.index.as_slice() {
        [blob] if !blob.is_none() => {
            kept.index.objects.push((blob.mode.clone(), blob.oid.clone(), changed.path.clone()));
        }
        sides => {
            kept.index.removed.push(changed.path.clone());
            for (side, blob) in sides.iter().enumerate().filter(|(_, blob)| !blob.is_none()) {
                let path = Path::new("unmerged").join((side + 1).to_string()).join(&changed.path);
                kept.rest.objects.push((blob.mode.clone(), blob.oid.clone(), path));
            }
        }
    }
}

/// What a file that git follows is now.
fn keep_change(kept: &mut Kept, top: &Path, path: &Path) -> Result<(), Error> {
    match walk::kind_of(&top.join(path))? {
        Some(Kind::File | Kind::Link) => kept.files.files.push((top.join(path), path.to_owned())),
        // A submodule stays what it was in the tree; what is in it is kept beside.
        Some(Kind::Directory) if walk::kind_of(&top.join(path).join(".git"))?.is_some() => {}
        _ => kept.files.removed.push(path.to_owned()),
    }
    Ok(())
}

/// A repository within, whole. One that is a worktree of the same repository has its commits there.
fn keep_nested(kept: &mut Kept, tree: &WorkingTree, dir: &Path) -> Result<(), Error> {
    let top = tree.path.join(dir);
    for file in kept.files_of(&top)? {
        kept.rest.files.push((top.join(&file), Path::new("nested").join(dir).join(file)));
    }
    if let Some(git_dir) = repository::git_dir_named_by(&top).filter(|git_dir| !git_dir.starts_with(&top)) {
        for name in ["HEAD", "ORIG_HEAD", "logs/HEAD"] {
            name_objects(&mut kept.named, &git_dir.join(name))?;
        }
    }
    Ok(())
}

fn keep_all(kept: &mut Kept, top: &Path) -> Result<(), Error> {
    for file in kept.files_of(top)?.into_iter().filter(|file| file != Path::new(".git")) {
        kept.files.files.push((top.join(&file), file));
    }
    Ok(())
}

/// What stands for `.git`: no name begins with it.
fn dot_git(kept: &Kept) -> String {
    let used = |name: &str| {
        let all = kept.rest.files.iter().chain(&kept.files.files);
        let mut names = all.flat_map(|(_, path)| path.components());
        names.any(|part| part.as_os_str().as_bytes().starts_with(name.as_bytes()))
    };
    let mut name = "dot-git".to_owned();
    while used(&name) {
        name.push('_');
    }
    name
}

/// Whether git takes a name for `.git`, because a file system may: NTFS with its short names, streams, dots and spaces
/// at the end; HFS+ with characters that it does not see.
fn is_dot_git(name: &[u8]) -> bool {
    const UNSEEN: [std::ops::RangeInclusive<char>; 4] =
        ['\u{200c}'..='\u{200f}', '\u{202a}'..='\u{202e}', '\u{206a}'..='\u{206f}', '\u{feff}'..='\u{feff}'];
    let name: String =
        String::from_utf8_lossy(name).chars().filter(|c| !UNSEEN.iter().any(|range| range.contains(c))).collect();
    name.split('\\').any(|part| {
        let part = part.split(':').next().unwrap_or_default().trim_end_matches([' ', '.']);
        part.eq_ignore_ascii_case(".git") || part.eq_ignore_ascii_case("git~1")
    })
}

/// What the commit says of files that it does not have.
fn left_out(files: &Findings) -> String {
    match files.count {
        0 => String::new(),
        count => format!(
            "\n\n{count} files were too large or nested too deep, and are left out:\n{}",
            files.first.join("\n")
        ),
    }
}

fn title(worktree: &Worktree) -> String {
    let branch = worktree.branch.as_deref().unwrap_or("no branch");
    format!("All that was in the worktree {} ({branch}) of session {}", worktree.path, worktree.session_id)
}

/// What is said to `git fast-import`.
struct Script<'a> {
    name: &'a str,
    title: String,
    at: i64,
    dot_git: String,
}

type Out = BufWriter<tokio::process::ChildStdin>;

impl Script<'_> {
    async fn write(&self, out: &mut Out, kept: &Kept, rest: &[String]) -> io::Result<()> {
        out.write_all(b"feature done\n").await?;
        let head: Vec<String> = kept.head.iter().cloned().collect();
        self.commit(out, 1, "The index, as it was staged", &head, &kept.index).await?;
        self.commit(out, 2, "What git kept of the worktree alone, and what nothing else holds", rest, &kept.rest)
            .await?;
        let parents = [head, vec![":1".into(), ":2".into()]].concat();
        let text = format!(
            "{}\n\nThe files are as they were, with those that git did not follow.\nThe last two parents are the index, and \
             the rest: git-dir/, nested/, unmerged/.\nA .git in it is written {}; names like it, {}- with their bytes.{}",
            self.title,
            self.dot_git,
            self.dot_git,
            left_out(&kept.left_out)
        );
        self.commit(out, 3, &text, &parents, &kept.files).await?;
        out.write_all(b"done\n").await
    }

    /// A commit that begins as its first parent. The rest alone begins with nothing: its parents are there to be held.
    async fn commit(&self, out: &mut Out, mark: u8, text: &str, parents: &[String], tree: &Tree) -> io::Result<()> {
        let (name, at) = (self.name, self.at);
        let head = format!("reset {name}\ncommit {name}\nmark :{mark}\ncommitter Culm <culm@localhost> {at} +0000\n");
        out.write_all(head.as_bytes()).await?;
        out.write_all(format!("data {}\n{text}\n", text.len()).as_bytes()).await?;
        for (place, parent) in parents.iter().enumerate() {
            let word = if place == 0 && mark != 2 && !parent.starts_with(':') { "from" } else { "merge" };
            out.write_all(format!("{word} {parent}\n").as_bytes()).await?;
        }
        // What is a file now may have been a directory.
        for path in &tree.removed {
            out.write_all(&[b"D ", self.quoted(path).as_slice(), b"\n"].concat()).await?;
        }
        for (mode, oid, path) in &tree.objects {
            out.write_all(&[format!("M {mode} {oid} ").as_bytes(), &self.quoted(path), b"\n"].concat()).await?;
        }
        for (file, path) in &tree.files {
            let within = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
            self.file(out, file, path).await.map_err(within)?;
        }
        Ok(())
    }

    async fn file(&self, out: &mut Out, file: &Path, path: &Path) -> io::Result<()> {
        let found = match tokio::fs::symlink_metadata(file).await {
            // What is gone is nothing to keep.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        if found.is_symlink() {
            let target = tokio::fs::read_link(file).await?.into_os_string();
            self.announce(out, "120000", path, target.len() as u64).await?;
            out.write_all(target.as_bytes()).await?;
        } else if found.is_file() {
            let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
            let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(file)?;
            let found = opened.metadata()?;
            let executable = std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o100 != 0;
            let mode = if executable { "100755" } else { "100644" };
            self.announce(out, mode, path, found.len()).await?;
            let mut bytes = tokio::fs::File::from_std(opened).take(found.len());
            if tokio::io::copy(&mut bytes, out).await? != found.len() {
                return Err(io::Error::other("it changes while it is read"));
            }
        } else {
            return Ok(());
        }
        out.write_all(b"\n").await
    }

    async fn announce(&self, out: &mut Out, mode: &str, path: &Path, size: u64) -> io::Result<()> {
        let line = [format!("M {mode} inline ").as_bytes(), &self.quoted(path), b"\n"].concat();
        out.write_all(&line).await?;
        out.write_all(format!("data {size}\n").as_bytes()).await
    }

    /// A path as fast-import reads it whatever is in it.
    fn quoted(&self, path: &Path) -> Vec<u8> {
        let parts = path.components().map(|part| match part.as_os_str().as_bytes() {
            b".git" => self.dot_git.clone().into_bytes(),
            name if is_dot_git(name) => format!("{}-{}", self.dot_git, hex(name)).into_bytes(),
            name => name.to_vec(),
        });
        let path = parts.collect::<Vec<_>>().join(&b'/');
        let mut quoted = vec![b'"'];
        for byte in &path {
            match byte {
                b'"' | b'\\' => quoted.extend([b'\\', *byte]),
                b' '..=b'~' => quoted.push(*byte),
                _ => quoted.extend(format!("\\{byte:03o}").as_bytes()),
            }
        }
        quoted.push(b'"');
        quoted
    }
}
