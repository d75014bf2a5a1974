//! A removal that is interrupted anywhere goes on, and one that fails has taken nothing.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use culm::{
    model::Worktree,
    worktree::{Error, Git, Refusal, Step, Worktrees},
};

use super::{Yard, absolute, blob, commit, git, said, write};

/// The same record, as a job or a later server has it: through JSON.
fn stored(worktree: &Worktree) -> Worktree {
    let json = serde_json::to_string(worktree).unwrap();
    Worktree { asked_for: worktree.asked_for.clone(), ..serde_json::from_str(&json).unwrap() }
}

#[tokio::test]
async fn it_goes_on_after_a_crash_behind_each_step() {
    for force in [false, true] {
        for steps in 0..=5 {
            let yard = Yard::new();
            let worktree = yard.attach("s").await;
            if force {
                write(&worktree.path.as_path().join("new"), b"new\n");
            }
            let mut taken = Vec::new();
            for _ in 0..steps {
                taken.push(yard.worktrees.advance(&worktree, force).await.unwrap());
            }
            // A new server, which knows the record alone.
            let later = Worktrees::new(Git::default(), yard.path("worktrees"));
            let removed = later.remove(&stored(&worktree), force).await.unwrap();
            assert!(removed.removed, "after {taken:?}");
            assert!(removed.branch_deleted, "after {taken:?}");
            yard.assert_gone(&worktree);
            let name = removed.rescue_ref.unwrap();
            assert_eq!(blob(&yard.repo(), &name, "file").as_deref(), Some("one\n"), "after {taken:?}");
            assert_eq!(blob(&yard.repo(), &name, "new").is_some(), force, "after {taken:?}");
            assert_eq!(said(&yard.repo(), &["for-each-ref", "refs/rescue"]).lines().count(), 1);
            let again = later.remove(&worktree, force).await.unwrap();
            assert_eq!((again.removed, again.rescue_ref), (true, Some(name)));
            if steps == 5 {
                let whole = [Step::Renamed, Step::Rescued, Step::Deleted, Step::Forgotten];
                assert_eq!(taken[..4], whole);
                assert!(matches!(taken[4], Step::Done(_)));
            }
        }
    }
}

#[tokio::test]
async fn it_goes_on_after_a_crash_within_a_step() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    write(&worktree.path.as_path().join("new"), b"new\n");
    for _ in 0..2 {
        yard.worktrees.advance(&worktree, true).await.unwrap();
    }
    // Half of the files are deleted.
    let left = renamed(&yard);
    fs::remove_file(left.join(".git")).unwrap();
    fs::remove_file(left.join("file")).unwrap();
    assert_eq!(yard.worktrees.advance(&worktree, true).await.unwrap(), Step::Deleted);
    // Half of what the repository knew is deleted.
    fs::remove_file(worktree.git_dir.as_ref().unwrap().as_path().join("gitdir")).unwrap();
    let removed = yard.discard(&worktree).await;
    yard.assert_gone(&worktree);
    let name = removed.rescue_ref.unwrap();
    assert_eq!(blob(&yard.repo(), &name, "file").as_deref(), Some("one\n"));
    assert_eq!(blob(&yard.repo(), &name, "new").as_deref(), Some("new\n"));
}

/// More files than are deleted before a clock ticks.
#[tokio::test]
async fn deleting_has_a_bound_and_goes_on() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    for number in 0..5000 {
        write(&worktree.path.as_path().join(format!("target/{number}")), b"");
    }
    for _ in 0..2 {
        yard.worktrees.advance(&worktree, false).await.unwrap();
    }
    let hasty = Git { write: Duration::ZERO, ..Git::default() };
    let hasty = Worktrees::new(hasty, yard.path("worktrees")).advance(&worktree, false).await;
    assert!(matches!(hasty, Err(Refusal::Failed(Error::Late { .. }))), "{hasty:?}");
    assert!(yard.worktrees.remove(&worktree, false).await.unwrap().removed);
    yard.assert_gone(&worktree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_remove_it_once() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    write(&worktree.path.as_path().join("new"), b"new\n");
    let remove = async || {
        let _turn = yard.worktrees.turn(&worktree.path).await;
        yard.worktrees.remove(&worktree, true).await
    };
    let both = tokio::join!(remove(), remove());
    let (one, two) = (both.0.unwrap(), both.1.unwrap());
    assert_eq!(one, two);
    yard.assert_gone(&worktree);
    assert_eq!(said(&yard.repo(), &["for-each-ref", "refs/rescue"]).lines().count(), 1);
}

/// The directory under its other name.
fn renamed(yard: &Yard) -> PathBuf {
    let entries = fs::read_dir(yard.path("worktrees")).unwrap().map(|entry| entry.unwrap().path());
    entries.into_iter().find(|path| path.to_string_lossy().contains(".culm-removing-")).unwrap()
}

#[tokio::test]
async fn work_that_comes_while_it_is_removed_brings_it_back() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    assert_eq!(yard.worktrees.advance(&worktree, false).await.unwrap(), Step::Renamed);
    // Whoever works in it has its directory open.
    write(&renamed(&yard).join("late"), b"late\n");
    match yard.worktrees.remove(&worktree, false).await {
        Err(Refusal::AtRisk(at_risk)) => assert_eq!(at_risk.blocking(), ["untracked"]),
        other => panic!("{other:?}"),
    }
    assert!(yard.worktrees.is_whole(&worktree).await);
    assert_eq!(fs::read(worktree.path.as_path().join("late")).unwrap(), b"late\n");
    assert_eq!(said(worktree.path.as_path(), &["status", "--porcelain"]), "?? late");
    let removed = yard.discard(&worktree).await;
    assert_eq!(blob(&yard.repo(), &removed.rescue_ref.unwrap(), "late").as_deref(), Some("late\n"));
}

#[tokio::test]
async fn what_was_put_back_by_hand_is_rescued_again() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    for _ in 0..2 {
        yard.worktrees.advance(&worktree, true).await.unwrap();
    }
    fs::rename(renamed(&yard), worktree.path.as_path()).unwrap();
    write(&worktree.path.as_path().join("more"), b"more\n");
    yard.worktrees.remove(&worktree, false).await.unwrap_err();
    assert!(worktree.path.as_path().join("more").exists());
    let name = yard.discard(&worktree).await.rescue_ref.unwrap();
    assert_eq!(name, "refs/rescue/s/then-2");
    assert_eq!(blob(&yard.repo(), &name, "more").as_deref(), Some("more\n"));
    yard.assert_gone(&worktree);
}

#[tokio::test]
async fn a_rescue_that_fails_leaves_everything() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    write(&worktree.path.as_path().join("new"), b"new\n");
    let objects = yard.repo().join(".git/objects");
    // A file in the place of the directory that the rescue is written to.
    let pack = objects.join("pack");
    fs::remove_dir_all(&pack).unwrap();
    fs::write(&pack, b"").unwrap();
    let before = super::snapshot(worktree.path.as_path());
    assert!(matches!(yard.worktrees.remove(&worktree, true).await, Err(Refusal::Failed(_))));
    assert_eq!(super::snapshot(worktree.path.as_path()), before);
    assert!(yard.worktrees.is_whole(&worktree).await);
    fs::remove_file(&pack).unwrap();
    assert!(yard.discard(&worktree).await.removed);
}

#[tokio::test]
async fn the_main_working_tree_is_never_removed() {
    let yard = Yard::new();
    let worktree = yard.adopt("s", &yard.repo()).await;
    assert!(worktree.main && worktree.adopted);
    write(&yard.repo().join("new"), b"new\n");
    for force in [false, true] {
        let removed = yard.worktrees.remove(&worktree, force).await.unwrap();
        assert!(!removed.removed && removed.left.unwrap().contains("main working tree"));
    }
    assert!(yard.repo().join("new").exists() && yard.repo().join(".git/HEAD").exists());
    assert!(!yard.repo().join(".git/locked").exists());
}

#[tokio::test]
async fn one_that_was_adopted_keeps_its_branch() {
    let yard = Yard::new();
    let place = yard.path("mine");
    said(&yard.repo(), &["worktree", "add", "-q", "-b", "mine", place.to_str().unwrap()]);
    let worktree = yard.adopt("s", &place).await;
    assert_eq!((worktree.branch.as_deref(), worktree.branch_created), (Some("mine"), false));
    let listed = said(&yard.repo(), &["worktree", "list", "--porcelain"]);
    assert!(listed.contains("locked culm: session s"), "{listed}");
    let removed = yard.worktrees.remove(&worktree, false).await.unwrap();
    assert!(removed.removed && !removed.branch_deleted);
    said(&yard.repo(), &["rev-parse", "--verify", "mine"]);
}

#[tokio::test]
async fn one_that_is_let_go_is_unlocked() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    yard.worktrees.release(&worktree).await.unwrap();
    assert!(!said(&yard.repo(), &["worktree", "list", "--porcelain"]).contains("locked"));
    said(&yard.repo(), &["worktree", "lock", "--reason", "mine", worktree.path.as_path().to_str().unwrap()]);
    yard.worktrees.release(&worktree).await.unwrap();
    assert!(said(&yard.repo(), &["worktree", "list", "--porcelain"]).contains("locked mine"));
}

#[tokio::test]
async fn one_whose_repository_is_gone_stays() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    fs::rename(yard.repo(), yard.path("elsewhere")).unwrap();
    assert_eq!(yard.blocking(&worktree).await, ["unreadable"]);
    let Err(Refusal::AtRisk(_)) = yard.worktrees.remove(&worktree, false).await else { panic!("it is at risk") };
    let removed = yard.discard(&worktree).await;
    assert!(!removed.removed && removed.left.unwrap().contains("repository is gone"));
    assert!(worktree.path.as_path().join("file").exists());
    // And nothing is left to do where both are gone.
    fs::remove_dir_all(worktree.path.as_path()).unwrap();
    assert!(yard.worktrees.remove(&worktree, false).await.unwrap().removed);
}

#[tokio::test]
async fn one_that_git_has_forgotten_is_kept_whole() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    write(&worktree.path.as_path().join("new"), b"new\n");
    fs::remove_dir_all(worktree.git_dir.as_ref().unwrap().as_path()).unwrap();
    yard.assert_refused(&worktree, &["unreadable"]).await;
    let name = yard.discard(&worktree).await.rescue_ref.unwrap();
    assert_eq!(blob(&yard.repo(), &name, "new").as_deref(), Some("new\n"));
    assert_eq!(blob(&yard.repo(), &name, "dir/inner").as_deref(), Some("inner\n"));
    yard.assert_gone(&worktree);
}

#[tokio::test]
async fn one_that_git_moved_is_found_and_what_lies_in_its_place_is_left_alone() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let (from, to) = (worktree.path.as_path(), yard.path("moved"));
    said(&yard.repo(), &["worktree", "move", "-f", "-f", from.to_str().unwrap(), to.to_str().unwrap()]);
    write(&from.join("somebody's"), b"else\n");
    write(&to.join("new"), b"new\n");
    assert_eq!(yard.blocking(&worktree).await, ["untracked"]);
    let name = yard.discard(&worktree).await.rescue_ref.unwrap();
    assert_eq!(blob(&yard.repo(), &name, "new").as_deref(), Some("new\n"));
    assert!(!to.exists());
    assert_eq!(fs::read(from.join("somebody's")).unwrap(), b"else\n");
}

#[tokio::test]
async fn one_that_was_moved_by_hand_is_left_where_it_is() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let to = yard.path("moved");
    write(&worktree.path.as_path().join("new"), b"new\n");
    let made = commit(worktree.path.as_path(), "made");
    fs::rename(worktree.path.as_path(), &to).unwrap();
    assert_eq!(yard.blocking(&worktree).await, ["unmerged_commits"]);
    let name = yard.discard(&worktree).await.rescue_ref.unwrap();
    assert!(to.join("new").exists());
    assert!(super::holds(&yard.repo(), &name, &made));
}

#[tokio::test]
async fn one_behind_a_link_is_removed_and_the_link_is_not_followed_out_of_it() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let (path, big) = (worktree.path.as_path(), yard.path("big"));
    fs::rename(path, &big).unwrap();
    symlink(&big, path).unwrap();
    write(&yard.path("outside/file"), b"outside\n");
    symlink(yard.path("outside"), big.join("out")).unwrap();
    assert_eq!(yard.blocking(&worktree).await, ["untracked"]);
    // Also where it is interrupted in between.
    assert_eq!(yard.worktrees.advance(&worktree, true).await.unwrap(), Step::Renamed);
    let name = yard.discard(&worktree).await.rescue_ref.unwrap();
    assert!(!big.exists());
    assert!(yard.path("outside/file").exists());
    assert_eq!(blob(&yard.repo(), &name, "out"), Some(yard.path("outside").to_str().unwrap().to_owned()));
    let left: Vec<_> = fs::read_dir(yard.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("culm-removing")), "{left:?}");
}

#[tokio::test]
async fn one_that_was_half_made_goes() {
    let yard = Yard::new();
    let planned = yard.planned("s", &yard.ask()).await.unwrap();
    // The branch, what the repository knows, and a directory that has not come to its files.
    let path = planned.path.as_path();
    let words = ["worktree", "add", "-q", "--no-checkout", "-b", "culm/s", path.to_str().unwrap()];
    said(&yard.repo(), &words);
    fs::write(path.join(".git"), b"gitdir: /tmp/of-a-stand-in-that-is-gone/worktrees/s\n").unwrap();
    assert!(yard.discard(&planned).await.removed);
    assert!(!path.exists());
    assert_eq!(said(&yard.repo(), &["worktree", "list", "--porcelain"]).matches("worktree ").count(), 1);
    assert!(!git(&yard.repo(), &["rev-parse", "--verify", "culm/s"]).status.success());
}

#[tokio::test]
async fn a_place_that_is_nobodys_is_never_removed() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let other = yard.attach("other").await;
    write(&other.path.as_path().join("new"), b"new\n");
    // The record of one, with the place of the other.
    let wrong = Worktree { path: absolute(other.path.as_path()), ..worktree.clone() };
    yard.discard(&wrong).await;
    assert!(other.path.as_path().join("new").exists());
    assert!(!worktree.path.as_path().exists(), "its git directory says where it is");
}
