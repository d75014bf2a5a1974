//! Worktrees: a git worktree that a session tree works in, and what would be lost if it were removed.

use std::{
    ffi::OsString,
    fmt,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Invalid, SessionId, Timestamp, check_line};

/// Bytes of a path at most, as Linux has it.
const PATH: usize = 4096;
/// Bytes of a branch's name or of a revision at most.
const REVISION: usize = 1024;
/// What a URI of a file holds as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const SCHEME: &str = "file://";

/// An absolute path. As text it is the path itself; one that is no UTF-8 is a `file://` URI (RFC 8089), and what a client
/// sends may be either. So it is always one string, nothing of it is lost, and the usual path is nothing but itself: an
/// absolute path begins with a slash, so that the two are never taken for each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AbsolutePath(PathBuf);

impl AbsolutePath {
    /// The path, if it is absolute, holds no NUL and is not longer than a system takes.
    pub fn new(path: PathBuf) -> Option<Self> {
        let bytes = path.as_os_str().as_bytes();
        (bytes.first() == Some(&b'/') && bytes.len() <= PATH && !bytes.contains(&0)).then_some(Self(path))
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for AbsolutePath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = match text.strip_prefix(SCHEME) {
            Some(encoded) => percent_decode_str(encoded).collect(),
            None => text.as_bytes().to_vec(),
        };
        Self::new(OsString::from_vec(bytes).into())
            .ok_or("an absolute path of at most 4096 bytes without NUL, or a file:// URI of one")
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.to_str() {
            Some(text) => f.write_str(text),
            None => write!(f, "{SCHEME}{}", percent_encode(self.0.as_os_str().as_bytes(), PLAIN)),
        }
    }
}

impl Serialize for AbsolutePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AbsolutePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for AbsolutePath {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AbsolutePath".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let description = "An absolute path; as a file:// URI (RFC 8089) where it is no UTF-8.";
        json_schema!({ "type": "string", "minLength": 1, "description": description })
    }
}

/// The worktree that a tree is to have: one to make from a repository, or one to adopt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachWorktree {
    /// The repository to make one from: the top of a working tree of it, or its git directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<AbsolutePath>,
    /// The branch to check out. One that is not there is made: at `commit`, or else where exactly one remote has it, or
    /// else at the repository's HEAD. Without branch and commit: a branch of the session's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit to work from, as git names one. Without a branch, its HEAD is detached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Where to make it: a place where nothing is. Without one, below the server's directory of worktrees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<AbsolutePath>,
    /// The top of a working tree that is there, instead of all else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<AbsolutePath>,
}

impl AttachWorktree {
    /// Checks what a client sent.
    pub fn check(&self) -> Result<(), Invalid> {
        let (adopt, repository) = (self.adopt.is_some(), self.repository.is_some());
        if adopt == repository {
            return Err(Invalid::new("repository", "either a repository, or a worktree to adopt"));
        }
        if adopt && self.path.is_some() {
            return Err(Invalid::new("path", "a worktree that is adopted stays where it is"));
        }
        for (param, revision) in [("branch", &self.branch), ("commit", &self.commit)] {
            let Some(revision) = revision else { continue };
            if adopt {
                return Err(Invalid::new(param, "a worktree that is adopted stays as it is"));
            }
            check_line(param, revision, REVISION)?;
            if revision.is_empty() || revision.starts_with('-') {
                return Err(Invalid::new(param, "it is not empty and does not begin with '-'"));
            }
        }
        Ok(())
    }
}

/// Where a worktree stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorktreeState {
    /// It is being made, or was when the server ended.
    Creating,
    /// The tree works in it.
    Attached,
    /// It is being removed, or was when the server ended.
    Removing,
    /// Its sessions are closed, and it stays because work in it would be lost.
    Retained,
    /// It is gone.
    Removed,
    /// It is the tree's no more, and stays where it is.
    Detached,
}

impl WorktreeState {
    /// Whether it is its tree's.
    pub fn is_active(self) -> bool {
        !matches!(self, Self::Removed | Self::Detached)
    }
}

/// A git worktree that a session tree works in. It is all that its removal needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Worktree {
    /// The root of the tree.
    pub session_id: SessionId,
    /// Where it stands.
    pub state: WorktreeState,
    /// Its directory.
    pub path: AbsolutePath,
    /// The repository: the top of its main working tree, or its git directory.
    pub repository: AbsolutePath,
    /// What the repository keeps about it. Absent while it is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_dir: Option<AbsolutePath>,
    /// The branch that it was on when it was attached; absent when its HEAD was detached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Whether the branch was made for it: then it goes with it, where nothing is lost by that.
    pub branch_created: bool,
    /// The commit that it was at when it was attached; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_commit: Option<String>,
    /// Where its commits are expected to be merged into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_ref: Option<String>,
    /// Whether it was there before it was attached.
    pub adopted: bool,
    /// Whether it is the main working tree of its repository: that is never removed.
    pub main: bool,
    /// What keeps whatever was in it, once its removal has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue_ref: Option<String>,
    /// Whether its removal was to go on with work at risk.
    #[serde(default)]
    pub discard: bool,
    /// When it was attached.
    pub created_at: Timestamp,
    /// When its state changed.
    pub updated_at: Timestamp,
    /// What it was asked for with, in short.
    #[serde(skip)]
    pub asked_for: String,
}

/// A worktree to attach.
#[derive(Debug, Clone)]
pub struct NewWorktree {
    /// As in [`Worktree`].
    pub path: AbsolutePath,
    /// As in [`Worktree`].
    pub repository: AbsolutePath,
    /// As in [`Worktree`]; known of one that is there.
    pub git_dir: Option<AbsolutePath>,
    /// As in [`Worktree`].
    pub branch: Option<String>,
    /// As in [`Worktree`].
    pub branch_created: bool,
    /// As in [`Worktree`].
    pub base_commit: Option<String>,
    /// As in [`Worktree`].
    pub base_ref: Option<String>,
    /// As in [`Worktree`].
    pub adopted: bool,
    /// As in [`Worktree`].
    pub main: bool,
    /// As in [`Worktree`].
    pub asked_for: String,
}

/// What becomes of a worktree next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorktreeStep {
    /// It was made: it is attached.
    Attached {
        /// What the repository keeps about it.
        git_dir: AbsolutePath,
    },
    /// It was not made: nobody had it.
    Abandoned,
    /// It is about to be removed. One that is being removed already keeps its rescue ref.
    Removing {
        /// What will keep what is in it.
        rescue_ref: String,
        /// Whether to go on with work at risk.
        discard: bool,
        /// Only while every session of the tree is closed, and none has anything warm.
        closed: bool,
    },
    /// It is not removed: attached as before, or retained where all its sessions are closed.
    Kept,
    /// It is gone.
    Removed {
        /// What keeps what was in it.
        rescue_ref: Option<String>,
    },
    /// It stays where it is, and is the tree's no more.
    Detached,
}

/// Some of what was found, and how much there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// How many there are.
    pub count: usize,
    /// The first hundred, as text.
    pub first: Vec<String>,
}

impl Findings {
    /// One more.
    pub fn add(&mut self, what: impl Into<String>) {
        self.count += 1;
        if self.first.len() < 100 {
            self.first.push(what.into());
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// What would be lost if a worktree were removed: each check by itself, absent where it found nothing. All but `stashes`
/// stand against a removal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AtRisk {
    /// Files with changes that are staged, not staged or in conflict.
    #[serde(skip_serializing_if = "Findings::is_empty")]
    pub uncommitted: Findings,
    /// Files that git does not follow.
    #[serde(skip_serializing_if = "Findings::is_empty")]
    pub untracked: Findings,
    /// Files and directories that git ignores, other than what tools make again.
    #[serde(skip_serializing_if = "Findings::is_empty")]
    pub ignored: Findings,
    /// Directories that are repositories of their own: submodules, and others.
    #[serde(skip_serializing_if = "Findings::is_empty")]
    pub nested_repositories: Findings,
    /// What is under way: a rebase, a merge, …
    #[serde(skip_serializing_if = "Findings::is_empty")]
    pub operations: Findings,
    /// Commits that are neither in what the worktree was made from nor at a remote.
    #[serde(skip_serializing_if = "Findings::is_empty")]
    pub unmerged_commits: Findings,
    /// Commits that no branch, tag or remote holds.
    #[serde(skip_serializing_if = "Findings::is_empty")]
    pub detached_commits: Findings,
    /// Files with changes that git was told not to see (assume-unchanged, skip-worktree).
    #[serde(skip_serializing_if = "Findings::is_empty")]
    pub hidden_edits: Findings,
    /// Stashes that name the branch. They stay: this only informs.
    #[serde(skip_serializing_if = "Findings::is_empty")]
    pub stashes: Findings,
    /// Processes that work in it, as `pid name`.
    #[serde(skip_serializing_if = "Findings::is_empty")]
    pub processes: Findings,
    /// Why somebody else locked it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked: Option<String>,
    /// Why it cannot be said what is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

impl AtRisk {
    /// The checks that stand against a removal, by their names.
    pub fn blocking(&self) -> Vec<&'static str> {
        let findings = [
            ("uncommitted", &self.uncommitted),
            ("untracked", &self.untracked),
            ("ignored", &self.ignored),
            ("nested_repositories", &self.nested_repositories),
            ("operations", &self.operations),
            ("unmerged_commits", &self.unmerged_commits),
            ("detached_commits", &self.detached_commits),
            ("hidden_edits", &self.hidden_edits),
            ("processes", &self.processes),
        ];
        let mut names: Vec<_> =
            findings.into_iter().filter(|(_, found)| !found.is_empty()).map(|(name, _)| name).collect();
        names.extend(self.locked.as_ref().map(|_| "locked"));
        names.extend(self.unreadable.as_ref().map(|_| "unreadable"));
        names
    }
}

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Removed {
    /// Whether the directory is gone.
    pub removed: bool,
    /// What keeps all that was in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescue_ref: Option<String>,
    /// Whether its branch is gone with it.
    pub branch_deleted: bool,
    /// Why it was left where it is, or set aside whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
    /// Where files are now that could not be deleted, such as those of another user, or that git could not judge: those of
    /// a directory that does not lead to its repository any more, or whose repository cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<AbsolutePath>,
    /// Files that were too large for the rescue ref, or nested too deep, and are deleted.
    #[serde(default, skip_serializing_if = "Findings::is_empty")]
    pub left_out: Findings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_itself_and_what_is_no_utf_8_a_uri() {
        let path = |bytes: &[u8]| AbsolutePath::new(OsString::from_vec(bytes.to_vec()).into());
        for (bytes, text) in [
            (&b"/a b/100%/\xc3\xa9\n"[..], "/a b/100%/é\n"),
            (b"/file://x", "/file://x"),
            (b"/a b\xff\n%", "file:///a%20b%FF%0A%25"),
        ] {
            let path = path(bytes);
            assert_eq!(path.as_ref().map(ToString::to_string).as_deref(), Some(text));
            assert_eq!(text.parse().ok(), path);
        }
        assert_eq!("file:///a%20b".parse().ok(), path(b"/a b"));
        assert!(["", "a", "./a", "file://a/b", "/\0"].iter().all(|text| text.parse::<AbsolutePath>().is_err()));
    }
}
