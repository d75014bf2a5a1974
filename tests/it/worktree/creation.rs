//! What is made, from what, and what is refused.

use std::{fs, os::unix::fs::symlink};

use culm::{
    model::{AttachWorktree, Worktree},
    worktree::Error,
};

use super::{Yard, absolute, commit, git, repository, said, write};

fn branch(yard: &Yard, name: &str) -> AttachWorktree {
    AttachWorktree { branch: Some(name.into()), ..yard.ask() }
}

fn at(yard: &Yard, name: &str) -> AttachWorktree {
    AttachWorktree { commit: Some(name.into()), ..yard.ask() }
}

fn head(worktree: &Worktree) -> String {
    said(worktree.path.as_path(), &["rev-parse", "HEAD"])
}

#[tokio::test]
async fn without_a_word_it_is_on_a_branch_of_its_own_at_head() {
    let yard = Yard::new();
    let worktree = yard.attach("one two").await;
    let path = worktree.path.as_path();
    assert_eq!(path, yard.path("worktrees/one two").canonicalize().unwrap());
    assert_eq!(said(path, &["symbolic-ref", "HEAD"]), "refs/heads/culm/one%20two");
    assert_eq!(head(&worktree), said(&yard.repo(), &["rev-parse", "main"]));
    assert_eq!((worktree.branch_created, worktree.base_ref.as_deref()), (true, Some("refs/heads/main")));
    // It is what git itself would have made.
    assert_eq!(said(path, &["status", "--porcelain"]), "");
    assert_eq!(fs::read(path.join("dir/inner")).unwrap(), b"inner\n");
    let listed = said(&yard.repo(), &["worktree", "list", "--porcelain"]);
    assert!(listed.contains("locked culm: session one two"), "{listed}");
    said(&yard.repo(), &["fsck", "--strict"]);
}

#[tokio::test]
async fn a_branch_that_is_there_is_checked_out_and_one_that_is_not_is_made() {
    let yard = Yard::new();
    said(&yard.repo(), &["branch", "old", "HEAD~1"]);
    let old = yard.try_attach("a", &branch(&yard, "old")).await.unwrap();
    assert_eq!(head(&old), said(&yard.repo(), &["rev-parse", "old"]));
    assert!(!old.branch_created);
    let new = yard.try_attach("b", &branch(&yard, "topic/new")).await.unwrap();
    assert_eq!(said(new.path.as_path(), &["symbolic-ref", "HEAD"]), "refs/heads/topic/new");
    assert!(new.branch_created);
    let both = AttachWorktree { commit: Some("HEAD~1".into()), ..branch(&yard, "third") };
    let third = yard.try_attach("c", &both).await.unwrap();
    assert_eq!(head(&third), head(&old));
}

#[tokio::test]
async fn a_commit_alone_detaches_head() {
    let yard = Yard::new();
    said(&yard.repo(), &["tag", "-m", "annotated", "v1", "HEAD~1"]);
    let worktree = yard.try_attach("a", &at(&yard, "v1")).await.unwrap();
    assert_eq!(head(&worktree), said(&yard.repo(), &["rev-parse", "HEAD~1"]));
    assert!(!git(worktree.path.as_path(), &["symbolic-ref", "-q", "HEAD"]).status.success());
    assert_eq!((worktree.branch.as_deref(), worktree.branch_created), (None, false));
}

#[tokio::test]
async fn a_branch_that_one_remote_has_begins_there() {
    let yard = Yard::new();
    let upstream = yard.path("upstream");
    said(yard.dir.path(), &["clone", "-q", "repo", "upstream"]);
    said(&upstream, &["switch", "-q", "-c", "theirs"]);
    let theirs = commit(&upstream, "theirs");
    said(&yard.repo(), &["remote", "add", "-f", "up", "../upstream"]);
    let worktree = yard.try_attach("a", &branch(&yard, "theirs")).await.unwrap();
    assert_eq!(head(&worktree), theirs);
    said(&yard.repo(), &["remote", "add", "-f", "again", "../upstream"]);
    said(&upstream, &["branch", "other"]);
    said(&yard.repo(), &["fetch", "-q", "--all"]);
    let worktree = yard.try_attach("b", &branch(&yard, "other")).await.unwrap();
    assert_eq!(head(&worktree), said(&yard.repo(), &["rev-parse", "main"]), "two remotes have it: neither is meant");
}

#[tokio::test]
async fn a_repository_is_known_by_any_of_its_places() {
    let yard = Yard::new();
    let linked = yard.attach("linked").await;
    said(yard.dir.path(), &["clone", "-q", "--bare", "repo", "bare.git"]);
    symlink(yard.repo(), yard.path("link")).unwrap();
    let places = [yard.repo().join(".git"), linked.path.as_path().to_owned(), yard.path("link")];
    for (number, place) in places.iter().enumerate() {
        let ask = AttachWorktree { repository: Some(absolute(place)), ..AttachWorktree::default() };
        let worktree = yard.try_attach(&format!("s{number}"), &ask).await.unwrap();
        assert_eq!(worktree.repository.as_path(), yard.repo().canonicalize().unwrap());
    }
    // A bare one has no working tree that its HEAD is checked out in.
    let bare = absolute(&yard.path("bare.git"));
    let ask = AttachWorktree { repository: Some(bare), branch: Some("main".into()), ..AttachWorktree::default() };
    let worktree = yard.try_attach("bare", &ask).await.unwrap();
    assert_eq!(said(worktree.path.as_path(), &["status", "--porcelain", "--branch"]), "## main");
    assert!(yard.worktrees.remove(&worktree, false).await.unwrap().removed);
    assert_eq!(said(&yard.path("bare.git"), &["rev-parse", "--is-bare-repository"]), "true");
}

#[tokio::test]
async fn repositories_of_other_formats_work() {
    let yard = Yard::new();
    for (name, format) in [("sha256", "--object-format=sha256"), ("reftable", "--ref-format=reftable")] {
        let repo = yard.path(name);
        said(yard.dir.path(), &["init", "-q", "-b", "main", format, name]);
        write(&repo.join("file"), b"one\n");
        commit(&repo, "one");
        said(&repo, &["config", "extensions.worktreeConfig", "true"]);
        let ask = AttachWorktree { repository: Some(absolute(&repo)), ..AttachWorktree::default() };
        let worktree = yard.try_attach(name, &ask).await.unwrap();
        assert_eq!(said(worktree.path.as_path(), &["status", "--porcelain"]), "", "{name}");
        let top = worktree.path.as_path();
        said(top, &["switch", "-q", "--detach"]);
        let left = commit(top, "left behind");
        said(top, &["reset", "-q", "--hard", "HEAD~1"]);
        let mine = commit(top, "a ref of its own");
        said(top, &["update-ref", "refs/worktree/mine", &mine]);
        said(top, &["switch", "-q", worktree.branch.as_ref().unwrap()]);
        assert_eq!(yard.blocking(&worktree).await, ["detached_commits"], "{name}");
        write(&top.join("new"), b"new");
        let removed = yard.discard(&worktree).await;
        let rescue = removed.rescue_ref.unwrap();
        assert_eq!(super::blob(&repo, &rescue, "new").as_deref(), Some("new"), "{name}");
        assert!(super::holds(&repo, &rescue, &left) && super::holds(&repo, &rescue, &mine), "{name}");
        assert!(removed.branch_deleted, "{name}");
        yard.assert_gone(&worktree);
        said(&repo, &["fsck", "--strict"]);
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_says_which_part() {
    let yard = Yard::new();
    let empty = yard.path("empty");
    said(yard.dir.path(), &["init", "-q", "empty"]);
    let strange = yard.path("strange");
    repository(&strange);
    said(&strange, &["config", "core.repositoryFormatVersion", "1"]);
    said(&strange, &["config", "extensions.fromTheFuture", "yes"]);
    let of = |path: &str| AttachWorktree { repository: Some(absolute(&yard.path(path))), ..AttachWorktree::default() };
    let to = |path: &str| AttachWorktree { path: Some(absolute(&yard.path(path))), ..yard.ask() };
    let taken = AttachWorktree { commit: Some("HEAD".into()), ..branch(&yard, "main") };
    let adopt = |path: &str| AttachWorktree { adopt: Some(absolute(&yard.path(path))), ..AttachWorktree::default() };
    write(&yard.path("full/file"), b"");
    for (ask, wanted) in [
        (of("nowhere"), "repository"),
        (of("repo/dir"), "repository"),
        (of("empty"), "repository"),
        (of("strange"), "repository"),
        (branch(&yard, "a..b"), "branch"),
        (branch(&yard, "@{-1}"), "branch"),
        (taken, "branch"),
        (at(&yard, "nothing"), "commit"),
        (at(&yard, "HEAD:file"), "commit"),
        (to("full"), "path"),
        (to("full/file"), "path"),
        (to("a/../b"), "path"),
        (adopt("repo/dir"), "adopt"),
        (adopt("nowhere"), "adopt"),
    ] {
        match yard.try_attach("a", &ask).await {
            Err(Error::Invalid { param, .. }) => assert_eq!(param, wanted, "{ask:?}"),
            other => panic!("{ask:?}: {other:?}"),
        }
    }
    match yard.try_attach("a", &branch(&yard, "main")).await {
        Err(Error::BranchInUse { branch, place }) => {
            assert_eq!(
                (branch.as_str(), place.as_str()),
                ("main", yard.repo().canonicalize().unwrap().to_str().unwrap())
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(!yard.path("worktrees/a").exists());
    assert!(empty.join(".git").exists());
    assert_eq!(said(&yard.repo(), &["worktree", "list", "--porcelain"]).matches("worktree ").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_at_once_on_one_repository_are_all_made_and_all_removed() {
    let yard = Yard::new();
    let names: Vec<String> = (0..8).map(|number| format!("s{number}")).collect();
    let made = futures_util::future::join_all(names.iter().map(|name| yard.attach(name))).await;
    for worktree in &made {
        assert_eq!(said(worktree.path.as_path(), &["status", "--porcelain"]), "");
    }
    assert_eq!(said(&yard.repo(), &["worktree", "list", "--porcelain"]).matches("worktree ").count(), 9);
    let removed = made.iter().map(|worktree| yard.worktrees.remove(worktree, false));
    for (outcome, worktree) in futures_util::future::join_all(removed).await.into_iter().zip(&made) {
        let removed = outcome.unwrap();
        assert!(removed.removed && removed.branch_deleted, "{removed:?}");
        yard.assert_gone(worktree);
    }
    said(&yard.repo(), &["fsck", "--strict"]);
}
