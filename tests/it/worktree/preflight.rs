//! The eight checks, each alone: what stands against a removal, what only informs, and what does neither.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::{Yard, blob, commit, git, holds, said, write};

/// A worktree in which nothing is at risk, and its directory.
macro_rules! clean {
    ($yard:ident, $worktree:ident, $top:ident) => {
        let $yard = Yard::new();
        let $worktree = $yard.attach("s").await;
        let $top = $worktree.path.as_path();
        assert_eq!($yard.blocking(&$worktree).await, Vec::<&str>::new());
    };
}

#[tokio::test]
async fn a_clean_worktree_goes_with_its_branch() {
    clean!(yard, worktree, top);
    write(&top.join("target/debug/made"), b"again");
    write(&top.join("dir/node_modules.env/x"), b"not ignored as a directory of tools");
    fs::remove_dir_all(top.join("dir/node_modules.env")).unwrap();
    let head = said(top, &["rev-parse", "HEAD"]);
    let removed = yard.worktrees.remove(&worktree, false).await.unwrap();
    assert!(removed.removed && removed.branch_deleted);
    yard.assert_gone(&worktree);
    assert!(holds(&yard.repo(), &removed.rescue_ref.unwrap(), &head));
    assert_eq!(said(&yard.repo(), &["branch", "--format=%(refname)"]), "refs/heads/main");
    assert_eq!(said(&yard.repo(), &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn changes_that_are_not_committed() {
    for stage in [false, true] {
        clean!(yard, worktree, top);
        write(&top.join("file"), b"changed\n");
        if stage {
            said(top, &["add", "file"]);
        }
        yard.assert_refused(&worktree, &["uncommitted"]).await;
        let at_risk = yard.worktrees.preflight(&worktree, &[]).await.unwrap();
        assert_eq!((at_risk.uncommitted.count, at_risk.uncommitted.first), (1, vec!["file".to_owned()]));
    }
    clean!(yard, worktree, top);
    fs::remove_file(top.join("file")).unwrap();
    yard.assert_refused(&worktree, &["uncommitted"]).await;
    clean!(yard, worktree, top);
    fs::set_permissions(top.join("file"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    yard.assert_refused(&worktree, &["uncommitted"]).await;
}

#[tokio::test]
async fn what_is_staged_alone_and_undone_in_the_file() {
    clean!(yard, worktree, top);
    write(&top.join("file"), b"staged\n");
    said(top, &["add", "file"]);
    write(&top.join("file"), b"one\n");
    yard.assert_refused(&worktree, &["uncommitted"]).await;
}

#[tokio::test]
async fn files_that_git_does_not_follow() {
    clean!(yard, worktree, top);
    write(&top.join("new/er/file"), b"");
    yard.assert_refused(&worktree, &["untracked"]).await;
    // What tools make again is work where it is not ignored.
    clean!(yard, worktree, top);
    write(&top.join("node_modules/mine"), b"");
    yard.assert_refused(&worktree, &["untracked"]).await;
}

#[tokio::test]
async fn files_that_git_ignores_but_that_no_tool_makes_again() {
    for path in ["local.env", "kept/notes", "dir/.env"] {
        clean!(yard, worktree, top);
        write(&top.join(path), b"secret");
        yard.assert_refused(&worktree, &["ignored"]).await;
    }
    clean!(yard, worktree, top);
    write(&top.join("kept/cache"), b"");
    write(&top.join("kept/CACHEDIR.TAG"), b"Signature: 8a477f597d28d172789f06886806bc55\n");
    assert_eq!(yard.blocking(&worktree).await, Vec::<&str>::new());
}

#[tokio::test]
async fn repositories_within() {
    // One that git shows, one that it does not, and one that it ignores.
    for place in ["nested", "dir", "kept/nested"] {
        clean!(yard, worktree, top);
        fs::create_dir_all(top.join(place)).unwrap();
        said(&top.join(place), &["init", "-q"]);
        let found = yard.worktrees.preflight(&worktree, &[]).await.unwrap().nested_repositories;
        assert_eq!(found.first, [place]);
        let checks: &[&str] =
            if place.starts_with("kept") { &["ignored", "nested_repositories"] } else { &["nested_repositories"] };
        yard.assert_refused(&worktree, checks).await;
    }
}

#[tokio::test]
async fn submodules() {
    let yard = Yard::new();
    super::repository(&yard.path("library"));
    said(&yard.repo(), &["submodule", "--quiet", "add", "../library", "sub"]);
    commit(&yard.repo(), "with a submodule");
    let worktree = yard.attach("s").await;
    assert_eq!(yard.blocking(&worktree).await, Vec::<&str>::new(), "it is not checked out: there is nothing in it");
    said(worktree.path.as_path(), &["submodule", "--quiet", "update", "--init"]);
    assert_eq!(yard.blocking(&worktree).await, Vec::<&str>::new(), "all of it is at its remote");
    commit(&worktree.path.as_path().join("sub"), "within");
    yard.assert_refused(&worktree, &["uncommitted", "nested_repositories"]).await;
}

/// A branch `other` whose commit is in conflict with the one that is made here.
fn conflict(yard: &Yard, top: &Path) {
    said(&yard.repo(), &["switch", "-q", "-c", "other"]);
    write(&yard.repo().join("file"), b"theirs\n");
    commit(&yard.repo(), "theirs");
    said(&yard.repo(), &["switch", "-q", "main"]);
    write(&top.join("file"), b"ours\n");
    commit(top, "ours");
}

#[tokio::test]
async fn an_operation_under_way() {
    for (words, operation) in [
        (&["merge", "-q", "other"][..], "merge"),
        (&["rebase", "-q", "other"], "rebase"),
        (&["cherry-pick", "other"], "cherry-pick"),
        (&["revert", "--no-edit", "HEAD~1"], "revert"),
        (&["bisect", "start", "HEAD", "HEAD~1"], "bisect"),
    ] {
        clean!(yard, worktree, top);
        conflict(&yard, top);
        if operation == "revert" {
            write(&top.join("file"), b"again\n");
            commit(top, "again");
        }
        git(top, words);
        let at_risk = yard.worktrees.preflight(&worktree, &[]).await.unwrap();
        assert_eq!(at_risk.operations.first, [operation], "{at_risk:?}");
        assert!(at_risk.blocking().contains(&"operations"));
        assert!(yard.worktrees.remove(&worktree, false).await.is_err());
        assert!(top.join("file").exists());
    }
    // Nothing but the operation: all commits are merged, and no file differs.
    clean!(yard, worktree, top);
    said(top, &["bisect", "start"]);
    yard.assert_refused(&worktree, &["operations"]).await;
}

#[tokio::test]
async fn commits_that_are_merged_nowhere() {
    clean!(yard, worktree, top);
    write(&top.join("work"), b"work\n");
    let work = commit(top, "work");
    assert_eq!(yard.worktrees.preflight(&worktree, &[]).await.unwrap().unmerged_commits.first, [work.as_str()]);
    yard.assert_refused(&worktree, &["unmerged_commits"]).await;
    // A remote that has them keeps them; the branch that is not merged here stays.
    said(yard.dir.path(), &["clone", "-q", "--bare", "repo", "remote.git"]);
    said(top, &["push", "-q", "../../remote.git", "HEAD:refs/heads/work"]);
    said(&yard.repo(), &["remote", "add", "-f", "up", "../remote.git"]);
    let removed = yard.worktrees.remove(&worktree, false).await.unwrap();
    assert_eq!((removed.removed, removed.branch_deleted), (true, false));
    assert_eq!(said(&yard.repo(), &["rev-parse", "culm/s"]), work);
}

#[tokio::test]
async fn commits_that_are_merged() {
    for squash in [false, true] {
        clean!(yard, worktree, top);
        for text in ["first\n", "second\n"] {
            write(&top.join("work"), text.as_bytes());
            commit(top, text);
        }
        write(&yard.repo().join("elsewhere"), b"meanwhile\n");
        commit(&yard.repo(), "meanwhile");
        yard.assert_refused(&worktree, &["unmerged_commits"]).await;
        said(&yard.repo(), &["merge", "-q", "--no-edit", if squash { "--squash" } else { "--no-ff" }, "culm/s"]);
        commit(&yard.repo(), "merged");
        let removed = yard.worktrees.remove(&worktree, false).await.unwrap();
        // Of a squash git does not know that it is one, and keeps the branch.
        assert_eq!((removed.removed, removed.branch_deleted), (true, !squash));
    }
}

#[tokio::test]
async fn a_squash_merge_at_the_remote() {
    clean!(yard, worktree, top);
    write(&top.join("work"), b"work\n");
    commit(top, "work");
    said(yard.dir.path(), &["clone", "-q", "repo", "other"]);
    let other = yard.path("other");
    said(&other, &["fetch", "-q", "origin", "culm/s"]);
    said(&other, &["merge", "-q", "--squash", "FETCH_HEAD"]);
    commit(&other, "squashed");
    said(&yard.repo(), &["remote", "add", "up", "../other"]);
    yard.assert_refused(&worktree, &["unmerged_commits"]).await;
    said(&yard.repo(), &["fetch", "-q", "up", "+main:refs/remotes/up/main"]);
    assert_eq!(yard.blocking(&worktree).await, Vec::<&str>::new());
}

#[tokio::test]
async fn commits_that_no_branch_holds() {
    clean!(yard, worktree, top);
    said(top, &["switch", "-q", "--detach"]);
    assert_eq!(yard.blocking(&worktree).await, Vec::<&str>::new());
    write(&top.join("work"), b"work\n");
    let lost = commit(top, "detached");
    yard.assert_refused(&worktree, &["unmerged_commits", "detached_commits"]).await;
    // HEAD is elsewhere, and only its log remembers.
    said(top, &["switch", "-q", "culm/s"]);
    yard.assert_refused(&worktree, &["detached_commits"]).await;
    let at_risk = yard.worktrees.preflight(&worktree, &[]).await.unwrap();
    assert_eq!(at_risk.detached_commits.first, [lost]);
}

#[tokio::test]
async fn commits_that_were_replaced_on_their_branch() {
    clean!(yard, worktree, top);
    write(&top.join("work"), b"work\n");
    let first = commit(top, "first");
    said(top, &["commit", "-q", "--amend", "-m", "better"]);
    said(&yard.repo(), &["switch", "-q", "-c", "aside", "main"]);
    said(&yard.repo(), &["commit", "-q", "--allow-empty", "-m", "aside"]);
    said(&yard.repo(), &["switch", "-q", "main"]);
    said(top, &["rebase", "-q", "aside"]);
    said(&yard.repo(), &["merge", "-q", "--no-edit", "culm/s"]);
    let removed = yard.worktrees.remove(&worktree, false).await.unwrap();
    assert!(removed.branch_deleted);
    // The branch's log is gone with it: the rescue ref has what it held.
    assert!(holds(&yard.repo(), &removed.rescue_ref.unwrap(), &first));
}

#[tokio::test]
async fn edits_that_git_was_told_not_to_see() {
    for mark in ["--assume-unchanged", "--skip-worktree"] {
        clean!(yard, worktree, top);
        said(top, &["update-index", mark, "file"]);
        assert_eq!(yard.blocking(&worktree).await, Vec::<&str>::new(), "{mark}: nothing differs");
        write(&top.join("file"), b"hidden\n");
        assert_eq!(said(top, &["status", "--porcelain"]), "");
        yard.assert_refused(&worktree, &["hidden_edits"]).await;
        assert_eq!(said(top, &["status", "--porcelain"]), "", "the marks are as they were");
    }
}

#[tokio::test]
async fn a_sparse_checkout_hides_nothing() {
    clean!(yard, worktree, top);
    said(top, &["sparse-checkout", "set", "--no-cone", "/file"]);
    assert!(!top.join("dir/inner").exists());
    let removed = yard.worktrees.remove(&worktree, false).await.unwrap();
    assert_eq!(blob(&yard.repo(), &removed.rescue_ref.unwrap(), "dir/inner").as_deref(), Some("inner\n"));
}

#[tokio::test]
async fn stashes_only_inform() {
    clean!(yard, worktree, top);
    write(&top.join("file"), b"stashed\n");
    said(top, &["stash", "-q"]);
    write(&yard.repo().join("file"), b"another branch's\n");
    said(&yard.repo(), &["stash", "-q"]);
    let at_risk = yard.worktrees.preflight(&worktree, &[]).await.unwrap();
    assert_eq!((at_risk.stashes.count, at_risk.blocking().len()), (1, 0), "{at_risk:?}");
    yard.worktrees.remove(&worktree, false).await.unwrap();
    assert_eq!(said(&yard.repo(), &["stash", "list"]).lines().count(), 2);
}

#[tokio::test]
async fn a_process_that_works_in_it() {
    clean!(yard, worktree, top);
    let mut process = Command::new("cat").current_dir(top.join("dir")).stdin(Stdio::piped()).spawn().unwrap();
    yard.assert_refused(&worktree, &["processes"]).await;
    let at_risk = yard.worktrees.preflight(&worktree, &[]).await.unwrap();
    assert_eq!(at_risk.processes.first, [format!("{} cat", process.id())]);
    drop(process.stdin.take());
    process.wait().unwrap();
    assert_eq!(yard.blocking(&worktree).await, Vec::<&str>::new());
}

#[tokio::test]
async fn a_lock_of_somebody_elses() {
    clean!(yard, worktree, top);
    said(&yard.repo(), &["worktree", "unlock", top.to_str().unwrap()]);
    said(&yard.repo(), &["worktree", "lock", "--reason", "on a stick", top.to_str().unwrap()]);
    yard.assert_refused(&worktree, &["locked"]).await;
    assert_eq!(yard.worktrees.preflight(&worktree, &[]).await.unwrap().locked.as_deref(), Some("on a stick"));
    assert!(yard.discard(&worktree).await.removed);
}

#[tokio::test]
async fn looking_writes_nothing() {
    clean!(yard, worktree, top);
    write(&top.join("file"), b"changed\n");
    write(&top.join("work"), b"work\n");
    said(top, &["add", "work"]);
    said(top, &["commit", "-q", "-m", "work"]);
    said(top, &["update-index", "--assume-unchanged", "dir/inner"]);
    let (repository, tree) = (super::snapshot(&yard.repo()), super::snapshot(top));
    assert_eq!(yard.blocking(&worktree).await, ["uncommitted", "unmerged_commits"]);
    assert!(super::snapshot(&yard.repo()) == repository && super::snapshot(top) == tree);
}

#[tokio::test]
async fn replacements_and_grafts_do_not_make_work_look_merged() {
    clean!(yard, worktree, top);
    write(&top.join("work"), b"work\n");
    let work = commit(top, "work");
    said(&yard.repo(), &["replace", "-f", &work, "main"]);
    yard.assert_refused(&worktree, &["unmerged_commits"]).await;
}
