//! What would become of a working tree's commits: which nothing else holds, and which are not where they were to go.

use std::{collections::HashSet, path::Path};

use super::{Error, shadow::Shadow};
use crate::model::Worktree;

/// Commits that are counted, at most.
const COUNTED: usize = 1000;
/// Refs that are asked whether they hold the same change, at most.
const CANDIDATES: usize = 8;
/// Refs of a working tree's own: they go with it.
const OWN: [&str; 3] = ["refs/bisect/", "refs/worktree/", "refs/rewritten/"];

/// The commits of a working tree.
pub(super) struct Commits<'a> {
    pub(super) shadow: &'a Shadow,
    pub(super) git_dir: &'a Path,
    /// The commit of HEAD, if there is one.
    pub(super) head: Option<&'a str>,
}

impl Commits<'_> {
    /// How many commits are neither in what the worktree was made from nor at a remote; none where the change that
    /// they make together is: a squash merge leaves nothing else to know it by.
    pub(super) async fn unmerged(&self, worktree: &Worktree) -> Result<Vec<String>, Error> {
        let Some(head) = self.head else { return Ok(Vec::new()) };
        let into: Vec<&String> = worktree.base_commit.iter().chain(&worktree.base_ref).collect();
        let into = self.commits(&into).await?;
        let most = format!("--max-count={COUNTED}");
        let mut words = vec!["rev-list", &most, head, "--not", "--remotes"];
        words.extend(into.iter().map(String::as_str));
        let unmerged = self.lines(&words).await?;
        match unmerged.is_empty() || self.is_contained(worktree, head).await? {
            true => Ok(Vec::new()),
            false => Ok(unmerged),
        }
    }

    /// Whether merging HEAD would change nothing.
    async fn is_contained(&self, worktree: &Worktree, head: &str) -> Result<bool, Error> {
        let base = worktree.base_ref.as_deref().unwrap_or_default();
        let branch = base.strip_prefix("refs/heads/").unwrap_or("HEAD");
        let patterns = [base.to_owned(), format!("refs/remotes/*/{branch}"), "refs/remotes/*/HEAD".to_owned()];
        let mut words = vec!["for-each-ref", "--format=%(objectname)", "--count=8"];
        words.extend(patterns.iter().map(String::as_str).filter(|pattern| !pattern.is_empty()));
        let candidates: HashSet<String> = self.lines(&words).await?.into_iter().take(CANDIDATES).collect();
        for candidate in candidates {
            let tree = self.lines(&["rev-parse", "--verify", "--quiet", &format!("{candidate}^{{tree}}")]).await?;
            // 0 says that it merges; an older git does not know how to ask.
            let merged = self.call(&["merge-tree", "--write-tree", &candidate, head]).run().await?;
            if merged.code() == Some(0) && text(&merged.stdout).lines().next() == tree.first().map(String::as_str) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The commits of HEAD, and of what it was, that no ref holds. What HEAD passed in a rebase is no work of its own,
    /// and what a branch's log of changes holds stays with the branch.
    pub(super) async fn detached(&self) -> Result<Vec<String>, Error> {
        let mut tips: Vec<String> = self.head.map(str::to_owned).into_iter().collect();
        let logged = self.log_of("HEAD").await?;
        tips.extend(logged.into_iter().filter(|(_, why)| !why.starts_with("rebase")).map(|(oid, _)| oid));
        if self.unheld(&tips, &[], COUNTED).await?.is_empty() {
            return Ok(Vec::new());
        }
        let head: Vec<String> = self.head.map(str::to_owned).into_iter().collect();
        let mut lost: HashSet<String> = self.unheld(&head, &[], COUNTED).await?.into_iter().collect();
        lost.extend(self.unheld(&tips[head.len()..], &self.logs_of_branches().await?, COUNTED).await?);
        Ok(lost.into_iter().collect())
    }

    /// The commits from these on that neither a ref of the repository nor one of the others holds.
    pub(super) async fn unheld(&self, tips: &[String], others: &[String], most: usize) -> Result<Vec<String>, Error> {
        if tips.is_empty() {
            return Ok(Vec::new());
        }
        let others = others.iter().map(|oid| format!("^{oid}\n"));
        let revisions: String = tips.iter().map(|oid| format!("{oid}\n")).chain(others).collect();
        let own = OWN.map(|refs| format!("--exclude={refs}*"));
        let words = [
            "rev-list",
            &format!("--max-count={}", most.min(i32::MAX as usize)),
            "--ignore-missing",
            "--stdin",
            "--not",
        ];
        let answer = self.call(&words).args(own).arg("--glob=refs/*").ok_with(revisions.into_bytes()).await?;
        Ok(lines(&answer))
    }

    /// Of these names of objects, the commits that no ref of the repository holds.
    pub(super) async fn only_here(&self, names: &HashSet<String>) -> Result<Vec<String>, Error> {
        let commits = self.commits(&names.iter().collect::<Vec<_>>()).await?;
        let unheld: HashSet<String> = self.unheld(&commits, &[], usize::MAX).await?.into_iter().collect();
        let commits: HashSet<String> = commits.into_iter().filter(|oid| unheld.contains(oid)).collect();
        Ok(commits.into_iter().collect())
    }

    /// The commits that names stand for, of those that are there.
    async fn commits(&self, names: &[&String]) -> Result<Vec<String>, Error> {
        let asked: String = names.iter().map(|name| format!("{name}^{{commit}}\n")).collect();
        let call = self.call(&["cat-file", "--batch-check=%(objecttype) %(objectname)"]);
        let known = lines(&call.ok_with(asked.into_bytes()).await?);
        Ok(known.iter().filter_map(|line| line.strip_prefix("commit ")).map(str::to_owned).collect())
    }

    /// What the refs of the working tree's own point to.
    pub(super) async fn own_refs(&self) -> Result<Vec<String>, Error> {
        let mut words = vec!["for-each-ref", "--format=%(objectname)"];
        words.extend(OWN);
        self.lines(&words).await
    }

    /// Stashes that name the branch, by what they say.
    pub(super) async fn stashes(&self, branch: Option<&str>) -> Result<Vec<String>, Error> {
        let Some(branch) = branch else { return Ok(Vec::new()) };
        let names = [format!("WIP on {branch}:"), format!("On {branch}:")];
        let stashes = self.log_of("refs/stash").await?;
        let named = stashes.into_iter().map(|(_, why)| why);
        Ok(named.filter(|why| names.iter().any(|name| why.starts_with(name.as_str()))).collect())
    }

    /// The log of changes of a ref, newest first: commits, and why.
    pub(super) async fn log_of(&self, of: &str) -> Result<Vec<(String, String)>, Error> {
        let words = ["log", "--walk-reflogs", "--no-show-signature", "--format=%H %gs", "-z", of, "--"];
        let output = self.call(&words).run().await?;
        // There is no such ref, or it has no log.
        if output.code() != Some(0) {
            return Ok(Vec::new());
        }
        let entries = output.stdout.split(|byte| *byte == 0).map(text);
        Ok(entries.filter_map(|entry| entry.split_once(' ').map(|(oid, why)| (oid.into(), why.into()))).collect())
    }

    async fn logs_of_branches(&self) -> Result<Vec<String>, Error> {
        let words = ["log", "--walk-reflogs", "--no-show-signature", "--format=%H", "--branches", "--"];
        let output = self.call(&words).run().await?;
        Ok(if output.code() == Some(0) { lines(&output.stdout) } else { Vec::new() })
    }

    async fn lines(&self, words: &[&str]) -> Result<Vec<String>, Error> {
        Ok(lines(&self.call(words).ok().await?))
    }

    fn call(&self, words: &[&str]) -> super::git::Call {
        self.shadow.call_in(self.git_dir, &self.shadow.nothing(), words)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn lines(answer: &[u8]) -> Vec<String> {
    text(answer).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}
