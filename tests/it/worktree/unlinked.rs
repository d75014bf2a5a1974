//! Worktrees that do not lead to their repository any more, or whose repository cannot be read: nothing is said to be
//! removed that is still there, and nothing goes that git could not judge.

use std::{fs, os::unix::fs::symlink, path::Path};

use culm::{
    model::{AttachWorktree, Worktree},
    worktree::Refusal,
};

use super::{
    Yard, blob,
    odd::{pipe, sparse},
    repository, said, write,
};

/// What the repository keeps about it.
fn git_dir(worktree: &Worktree) -> &Path {
    worktree.git_dir.as_ref().unwrap().as_path()
}

#[tokio::test]
async fn one_whose_link_is_broken_is_at_risk_and_rescued() {
    let breaks: [fn(&Path); 5] = [
        |link| fs::remove_file(link).unwrap(),
        |link| pipe(link),
        |link| sparse(link, 200 << 30),
        |link| write(link, b"gitdir: /no/where\n"),
        |link| write(link, b"notes\n"),
    ];
    for (number, spoil) in breaks.into_iter().enumerate() {
        let yard = Yard::new();
        let worktree = yard.attach("s").await;
        let top = worktree.path.as_path();
        write(&top.join("precious"), b"work\n");
        write(&top.join("file"), b"edited\n");
        spoil(&top.join(".git"));
        let checks = ["uncommitted", "untracked", "unreadable"];
        assert_eq!(yard.blocking(&worktree).await, checks, "{number}");
        match yard.worktrees.remove(&worktree, false).await {
            Err(Refusal::AtRisk(at_risk)) => assert_eq!(at_risk.blocking(), checks, "{number}"),
            other => panic!("{number}: {other:?}"),
        }
        assert!(yard.worktrees.is_whole(&worktree).await, "{number}");
        let removed = yard.discard(&worktree).await;
        assert!(removed.removed && removed.set_aside.is_none(), "{number}: {removed:?}");
        let name = removed.rescue_ref.unwrap();
        let kept = ["precious", "file"].map(|file| blob(&yard.repo(), &name, file).unwrap());
        assert_eq!(kept, ["work\n", "edited\n"], "{number}");
        if number == 4 {
            assert_eq!(blob(&yard.repo(), &format!("{name}^3"), "dot-git").as_deref(), Some("notes\n"));
        }
        yard.assert_gone(&worktree);
        yard.attach("s").await;
    }
}

/// Git has moved it, and then somebody made it a repository of its own.
#[tokio::test]
async fn one_that_git_moved_is_at_risk_where_it_is() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let (from, to) = (worktree.path.as_path(), yard.path("moved"));
    said(&yard.repo(), &["worktree", "move", "-f", "-f", from.to_str().unwrap(), to.to_str().unwrap()]);
    fs::remove_file(to.join(".git")).unwrap();
    repository(&to);
    yard.worktrees.remove(&worktree, false).await.unwrap_err();
    let aside = yard.discard(&worktree).await.set_aside.unwrap();
    assert!(!to.exists() && aside.as_path().join("dir/inner").exists());
}

/// The directory has a repository of its own, or is not the worktree at all.
#[tokio::test]
async fn what_lies_in_the_place_of_a_worktree_is_set_aside_whole() {
    let lays: [fn(&Yard, &Worktree); 4] = [
        |_, worktree| {
            fs::remove_file(worktree.path.as_path().join(".git")).unwrap();
            repository(worktree.path.as_path());
        },
        |_, worktree| {
            fs::remove_file(worktree.path.as_path().join(".git")).unwrap();
            fs::remove_dir_all(git_dir(worktree)).unwrap();
        },
        |yard, worktree| {
            fs::remove_dir_all(worktree.path.as_path()).unwrap();
            write(&yard.path("victim/precious"), b"work\n");
            symlink(yard.path("victim"), worktree.path.as_path()).unwrap();
        },
        |yard, worktree| {
            fs::remove_file(worktree.path.as_path().join(".git")).unwrap();
            fs::rename(yard.repo(), yard.path("elsewhere")).unwrap();
        },
    ];
    for (number, lay) in lays.into_iter().enumerate() {
        let yard = Yard::new();
        let worktree = yard.attach("s").await;
        let top = worktree.path.as_path();
        write(&top.join("precious"), b"work\n");
        lay(&yard, &worktree);
        assert_eq!(yard.blocking(&worktree).await, ["unreadable"], "{number}");
        let refused = yard.worktrees.remove(&worktree, false).await;
        assert!(matches!(refused, Err(Refusal::AtRisk(_))), "{number}: {refused:?}");
        assert!(top.join("precious").exists() && yard.worktrees.is_whole(&worktree).await, "{number}");
        let removed = yard.discard(&worktree).await;
        let aside = removed.set_aside.clone().unwrap();
        assert_eq!(fs::read(aside.as_path().join("precious")).unwrap(), b"work\n", "{number}");
        assert!(removed.removed && fs::symlink_metadata(top).is_err(), "{number}");
        // Somebody else has the place by now.
        write(&top.join("other"), b"other\n");
        if removed.rescue_ref.is_some() {
            assert!(yard.worktrees.remove(&worktree, true).await.unwrap().removed);
            assert!(top.join("other").exists(), "{number}");
        }
    }
}

#[tokio::test]
async fn a_worktree_that_another_session_has_by_now_is_left_alone() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    said(&yard.repo(), &["worktree", "remove", "-f", "-f", worktree.path.as_path().to_str().unwrap()]);
    fs::create_dir(yard.repo().join(".git/worktrees")).ok();
    fs::write(git_dir(&worktree), b"").unwrap();
    let ask = AttachWorktree { path: Some(worktree.path.clone()), branch: Some("other".into()), ..yard.ask() };
    let other = yard.try_attach("other", &ask).await.unwrap();
    assert_ne!(git_dir(&other), git_dir(&worktree));
    yard.discard(&worktree).await;
    assert!(other.path.as_path().join("file").exists());
}

/// A pipe in what the repository keeps about the worktree alone holds nothing up.
#[tokio::test]
async fn a_pipe_among_its_own_files_in_the_repository_goes_with_it() {
    for name in ["index", "HEAD", "commondir", "some/where"] {
        let yard = Yard::new();
        let worktree = yard.attach("s").await;
        write(&worktree.path.as_path().join("precious"), b"work\n");
        pipe(&git_dir(&worktree).join(name));
        yard.assert_refused(&worktree, &["unreadable"]).await;
        let removed = yard.discard(&worktree).await;
        let kept = blob(&yard.repo(), &removed.rescue_ref.unwrap(), "precious");
        assert_eq!(kept.as_deref(), Some("work\n"), "{name}");
        yard.assert_gone(&worktree);
        yard.attach("s").await;
    }
}

#[tokio::test]
async fn the_worktree_of_a_repository_that_cannot_be_read_is_set_aside() {
    for name in ["HEAD", "config", "packed-refs", "refs/heads/pipe", "refs/heads/culm/s"] {
        let yard = Yard::new();
        let worktree = yard.attach("s").await;
        let place = yard.repo().join(".git").join(name);
        let before = fs::read(&place).ok();
        write(&worktree.path.as_path().join("precious"), b"work\n");
        pipe(&place);
        assert_eq!(yard.blocking(&worktree).await, ["unreadable"], "{name}");
        assert!(matches!(yard.worktrees.remove(&worktree, false).await, Err(Refusal::AtRisk(_))), "{name}");
        let removed = yard.discard(&worktree).await;
        assert!(removed.removed && removed.rescue_ref.is_none(), "{name}: {removed:?}");
        assert!(!worktree.path.as_path().exists(), "{name}");
        assert_eq!(yard.discard(&worktree).await, removed, "{name}: it was interrupted before that was written down");
        // Once the repository is mended, git goes on with it where it is.
        fs::remove_file(&place).unwrap();
        before.into_iter().for_each(|bytes| write(&place, &bytes));
        let aside = removed.set_aside.unwrap();
        assert_eq!(said(aside.as_path(), &["status", "--porcelain"]), "?? precious", "{name}");
        said(&yard.repo(), &["worktree", "remove", "-f", aside.as_path().to_str().unwrap()]);
        yard.attach("s").await;
    }
}

#[tokio::test]
async fn a_main_working_tree_stays_where_it_is_also_if_its_repository_cannot_be_read() {
    let yard = Yard::new();
    let worktree = yard.adopt("s", &yard.repo()).await;
    pipe(&yard.repo().join(".git/index"));
    let removed = yard.discard(&worktree).await;
    assert!(!removed.removed && removed.set_aside.is_none(), "{removed:?}");
    assert!(yard.repo().join("file").exists());
}
