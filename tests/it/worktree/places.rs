//! Paths of any bytes, places that are taken, git that is not there, and git that does not end.

use std::{
    ffi::OsString,
    fs,
    os::unix::{
        ffi::OsStringExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use culm::{
    model::{AttachWorktree, Worktree},
    worktree::{Error, Git, Refusal, Worktrees},
};

use super::{Yard, absolute, blob, repository, said, write};

fn odd(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

#[tokio::test]
async fn paths_of_any_bytes_work_for_repositories_and_for_worktrees() {
    for name in
        [&b"a space"[..], b" at the ends ", b"line\nfeed\n", b"\"quoted\\", b"not \xff utf-8", b"$(touch x)", b"-f"]
    {
        let yard = Yard::new();
        let repo = yard.dir.path().join(odd(name)).join("repo");
        repository(&repo);
        let place = yard.dir.path().join(odd(&[b"worktree of ", name].concat()));
        let ask = AttachWorktree {
            repository: Some(absolute(&repo)),
            path: Some(absolute(&place)),
            ..AttachWorktree::default()
        };
        // As a client sends it.
        let ask: AttachWorktree = serde_json::from_str(&serde_json::to_string(&ask).unwrap()).unwrap();
        let worktree = yard.try_attach("s", &ask).await.unwrap();
        let json = serde_json::to_string(&worktree).unwrap();
        let worktree: Worktree = serde_json::from_str(&json).unwrap();
        assert_eq!(worktree.path.as_path(), place.canonicalize().unwrap());
        assert_eq!(said(&place, &["status", "--porcelain"]), "", "{place:?}");
        write(&place.join(odd(name)), name);
        assert_eq!(yard.blocking(&worktree).await, ["untracked"], "{place:?}");
        let removed = yard.discard(&worktree).await;
        assert!(removed.removed && removed.branch_deleted, "{place:?}");
        assert!(!place.exists());
        let files = super::files_of(&repo, &removed.rescue_ref.unwrap());
        assert_eq!(files.get(&odd(name).into_os_string()).map(Vec::as_slice), Some(name));
        // And one that git has made itself.
        said(&repo, &["worktree", "add", "-q", "--detach", "../by git"]);
        let adopted = yard.adopt("t", &repo.with_file_name("by git")).await;
        assert_eq!(adopted.git_dir.clone().unwrap().as_path().parent().unwrap().file_name().unwrap(), "worktrees");
        assert!(yard.worktrees.remove(&adopted, false).await.unwrap().removed);
    }
}

#[tokio::test]
async fn a_link_to_a_worktree_is_the_worktree() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    symlink(worktree.path.as_path(), yard.path("link")).unwrap();
    let ask = AttachWorktree { adopt: Some(absolute(&yard.path("link"))), ..AttachWorktree::default() };
    let adopted = yard.planned("t", &ask).await.unwrap();
    assert_eq!((adopted.path, adopted.git_dir), (worktree.path.clone(), worktree.git_dir.clone()));
    // And where one is made below a link, it is known by where it really is.
    fs::create_dir(yard.path("real")).unwrap();
    symlink(yard.path("real"), yard.path("alias")).unwrap();
    let ask =
        AttachWorktree { path: Some(absolute(&yard.path("alias/new/er"))), branch: Some("b".into()), ..yard.ask() };
    let made = yard.try_attach("u", &ask).await.unwrap();
    assert_eq!(made.path.as_path(), yard.path("real/new/er").canonicalize().unwrap());
}

#[tokio::test]
async fn one_that_was_moved_by_hand_is_adopted_where_it_is_and_a_copy_is_not() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let (from, to) = (worktree.path.as_path(), yard.path("moved"));
    fs::create_dir(&to).unwrap();
    for entry in [".git", "file"] {
        fs::copy(from.join(entry), to.join(entry)).unwrap();
    }
    let ask = AttachWorktree { adopt: Some(absolute(&to)), ..AttachWorktree::default() };
    match yard.planned("t", &ask).await {
        Err(Error::Invalid { param: "adopt", reason }) => assert!(reason.contains("copy"), "{reason}"),
        other => panic!("{other:?}"),
    }
    fs::remove_dir_all(&to).unwrap();
    fs::rename(from, &to).unwrap();
    let adopted = yard.adopt("t", &to).await;
    assert_eq!(said(&to, &["status", "--porcelain"]), "");
    assert!(said(&yard.repo(), &["worktree", "list", "--porcelain"]).contains(to.to_str().unwrap()));
    assert!(yard.worktrees.remove(&adopted, false).await.unwrap().removed);
    assert!(!to.exists());
}

#[tokio::test]
async fn without_git_each_call_says_so() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let without = Worktrees::new(Git { program: "no-such-git".into(), ..Git::default() }, yard.path("worktrees"));
    assert!(matches!(without.plan(&worktree.session_id, &yard.ask()).await, Err(Error::NoGit)));
    assert!(matches!(without.preflight(&worktree, &[]).await, Err(Error::NoGit)));
    for force in [false, true] {
        assert!(matches!(without.remove(&worktree, force).await, Err(Refusal::Failed(Error::NoGit))));
    }
    assert!(worktree.path.as_path().join("file").exists());
}

/// A git that hangs where it is told to, with a child that hangs as well; it writes both numbers down.
fn hanging(yard: &Yard, word: &str) -> PathBuf {
    let script = yard.path("hanging-git");
    let pids = yard.path("pids");
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in *' {word} '*)\n tail -f /dev/null & echo $$ $! > '{}.new'\n mv '{0}.new' '{0}'; wait;; esac\nexec git \"$@\"\n",
        pids.display()
    );
    write(&script, text.as_bytes());
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// Whether a process is there and not only waited for.
fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

async fn gone(pids: &Path) {
    let pids = fs::read_to_string(pids).unwrap();
    let all = async {
        while pids.split_whitespace().any(is_alive) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
}

#[tokio::test]
async fn a_git_that_does_not_end_is_ended_with_all_that_it_started() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    write(&worktree.path.as_path().join("new"), b"new\n");
    let program = hanging(&yard, "status");
    let pids = yard.path("pids");
    // As long as it takes on a busy machine until it hangs.
    let mut deadline = Duration::from_millis(500);
    let slow = loop {
        let git = Git { program: program.clone(), look: deadline, ..Git::default() };
        let slow = Worktrees::new(git, yard.path("worktrees"));
        let found = slow.preflight(&worktree, &[]).await.unwrap();
        assert!(found.unreadable.unwrap().contains("took longer"));
        if pids.exists() {
            break slow;
        }
        deadline *= 2;
    };
    gone(&pids).await;
    assert!(matches!(slow.remove(&worktree, false).await, Err(Refusal::AtRisk(_))));
    assert!(worktree.path.as_path().join("new").exists());
    // With force it goes all the same: all of it is kept as it lies there.
    let name = slow.remove(&worktree, true).await.unwrap().rescue_ref.unwrap();
    assert_eq!(blob(&yard.repo(), &name, "new").as_deref(), Some("new\n"));
    assert_eq!(blob(&yard.repo(), &name, "file").as_deref(), Some("one\n"));
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_no_process() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let git = Git { program: hanging(&yard, "status"), ..Git::default() };
    let slow = Worktrees::new(git, yard.path("worktrees"));
    let pids = yard.path("pids");
    {
        let call = slow.preflight(&worktree, &[]);
        let hangs = async {
            while !pids.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = call => panic!("it hangs"),
            () = hangs => {}
        }
    }
    gone(&pids).await;
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_file_holds_nothing_up() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let pipe = |path: PathBuf| {
        let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success());
    };
    pipe(worktree.path.as_path().join("pipe"));
    let lock = worktree.git_dir.clone().unwrap().as_path().join("locked");
    fs::remove_file(&lock).unwrap();
    pipe(lock);
    assert!(yard.worktrees.remove(&worktree, false).await.unwrap().removed);
}
