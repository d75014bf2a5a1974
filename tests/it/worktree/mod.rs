//! Worktrees on real repositories, with the real git: made, looked at, removed, and what is left of them.

mod checkout;
mod creation;
mod hostile;
mod odd;
mod places;
mod preflight;
mod removal;
mod rescue;
mod unlinked;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use culm::{
    model::{AbsolutePath, AttachWorktree, Removed, Timestamp, Worktree, WorktreeState},
    worktree::{Error, Git, Refusal, Worktrees},
};
use tempfile::TempDir;

use crate::support::id;

/// A directory with a repository of two commits on `main`, and a server's worktrees.
pub(crate) struct Yard {
    pub(crate) dir: TempDir,
    pub(crate) worktrees: Worktrees,
}

/// Git as a person has it, but for that person's own configuration.
pub(crate) fn git(dir: &Path, words: &[&str]) -> Output {
    let mut command = Command::new("git");
    let settings = ["commit.gpgSign=false", "protocol.file.allow=always", "gc.auto=0", "maintenance.auto=false"];
    command.current_dir(dir).args(settings.iter().flat_map(|setting| ["-c", setting])).args(words);
    command.env("GIT_TEMPLATE_DIR", "");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
    for name in ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"] {
        command.env(name, "tester@localhost");
    }
    command.output().unwrap()
}

/// What git says, where it has to succeed.
pub(crate) fn said(dir: &Path, words: &[&str]) -> String {
    let output = git(dir, words);
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

pub(crate) fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Commits all there is. The commit.
pub(crate) fn commit(dir: &Path, text: &str) -> String {
    said(dir, &["add", "-A"]);
    said(dir, &["commit", "-q", "--allow-empty", "-m", text]);
    said(dir, &["rev-parse", "HEAD"])
}

/// A new repository with one file.
pub(crate) fn repository(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    said(dir, &["init", "-q", "-b", "main"]);
    write(&dir.join("file"), b"one\n");
    commit(dir, "one");
}

/// The repository that each test has a copy of: git takes its time to make one.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<TempDir> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        repository(dir.path());
        write(&dir.path().join("dir/inner"), b"inner\n");
        write(&dir.path().join(".gitignore"), b"target/\n*.env\n/kept/\n");
        commit(dir.path(), "two");
        dir
    };
    TEMPLATE.get_or_init(make).path()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// All files of a commit with their bytes.
pub(crate) fn files_of(repository: &Path, commit: &str) -> BTreeMap<OsString, Vec<u8>> {
    let list = git(repository, &["ls-tree", "-r", "-z", commit]).stdout;
    let entries = list.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    let blobs = entries.filter(|entry| !entry.starts_with(b"160000"));
    let file = |entry: &[u8]| {
        let tab = entry.iter().position(|byte| *byte == b'\t').unwrap();
        let oid = String::from_utf8(entry[..tab].to_vec()).unwrap();
        let oid = oid.split(' ').nth(2).unwrap().to_owned();
        let bytes = git(repository, &["cat-file", "blob", &oid]).stdout;
        (OsString::from_vec(entry[tab + 1..].to_vec()), bytes)
    };
    blobs.map(file).collect()
}

/// The bytes of a file of a commit.
pub(crate) fn blob(repository: &Path, commit: &str, path: &str) -> Option<String> {
    let bytes = files_of(repository, commit).remove(OsStr::new(path))?;
    Some(String::from_utf8(bytes).unwrap())
}

/// Whether a commit is held by another one.
pub(crate) fn holds(repository: &Path, holder: &str, commit: &str) -> bool {
    git(repository, &["merge-base", "--is-ancestor", commit, holder]).status.success()
}

pub(crate) fn absolute(path: &Path) -> AbsolutePath {
    AbsolutePath::new(path.to_owned()).unwrap()
}

impl Yard {
    pub(crate) fn new() -> Self {
        Self::with(Git::default())
    }

    pub(crate) fn with(git: Git) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(template(), &dir.path().join("repo"));
        let worktrees = Worktrees::new(git, dir.path().join("worktrees"));
        Self { dir, worktrees }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    /// What a client would ask for.
    pub(crate) fn ask(&self) -> AttachWorktree {
        AttachWorktree { repository: Some(absolute(&self.repo())), ..AttachWorktree::default() }
    }

    /// What storage does in between.
    pub(crate) async fn planned(&self, session: &str, ask: &AttachWorktree) -> Result<Worktree, Error> {
        let new = self.worktrees.plan(&id(session), ask).await?;
        Ok(Worktree {
            session_id: id(session),
            state: WorktreeState::Creating,
            path: new.path,
            repository: new.repository,
            git_dir: new.git_dir,
            branch: new.branch,
            branch_created: new.branch_created,
            base_commit: new.base_commit,
            base_ref: new.base_ref,
            adopted: new.adopted,
            main: new.main,
            rescue_ref: Some(format!("refs/rescue/{session}/then")),
            discard: false,
            created_at: Timestamp::now(),
            updated_at: Timestamp::now(),
            asked_for: new.asked_for,
        })
    }

    pub(crate) async fn try_attach(&self, session: &str, ask: &AttachWorktree) -> Result<Worktree, Error> {
        let planned = self.planned(session, ask).await?;
        let git_dir = self.worktrees.create(&planned).await?;
        Ok(Worktree { git_dir: Some(git_dir), state: WorktreeState::Attached, ..planned })
    }

    pub(crate) async fn attach(&self, session: &str) -> Worktree {
        self.try_attach(session, &self.ask()).await.unwrap()
    }

    /// Adopts what is there.
    pub(crate) async fn adopt(&self, session: &str, path: &Path) -> Worktree {
        let ask = AttachWorktree { adopt: Some(absolute(path)), ..AttachWorktree::default() };
        self.try_attach(session, &ask).await.unwrap()
    }

    /// The checks that stand against a removal.
    pub(crate) async fn blocking(&self, worktree: &Worktree) -> Vec<&'static str> {
        self.worktrees.preflight(worktree, &[]).await.unwrap().blocking()
    }

    /// Removes it whatever is in it.
    pub(crate) async fn discard(&self, worktree: &Worktree) -> Removed {
        self.worktrees.remove(worktree, true).await.unwrap()
    }

    /// Asserts that it is not removed, and that nothing of it changed; these checks say why.
    pub(crate) async fn assert_refused(&self, worktree: &Worktree, checks: &[&str]) {
        let before = snapshot(worktree.path.as_path());
        match self.worktrees.remove(worktree, false).await {
            Err(Refusal::AtRisk(at_risk)) => assert_eq!(at_risk.blocking(), checks, "{at_risk:?}"),
            other => panic!("it was to be refused for {checks:?}, and gave {other:?}"),
        }
        assert_eq!(snapshot(worktree.path.as_path()), before);
        assert_eq!(said(&self.repo(), &["for-each-ref", "refs/rescue"]), "");
    }

    /// Asserts that nothing is left of it but what the rescue ref holds.
    pub(crate) fn assert_gone(&self, worktree: &Worktree) {
        let parent = worktree.path.as_path().parent().unwrap();
        let left: Vec<_> = fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".culm")), "{left:?}");
        assert!(!worktree.path.as_path().exists());
        assert!(!worktree.git_dir.as_ref().unwrap().as_path().exists());
    }
}

/// All files below a directory with their bytes; links with their targets.
pub(crate) fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut left) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap();
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_symlink() {
                found.insert(path.clone(), fs::read_link(path).unwrap().into_os_string().into_vec());
            } else {
                found.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    found
}
