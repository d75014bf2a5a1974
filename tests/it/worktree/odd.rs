//! What an agent leaves where git reads: pipes, files of any size, files that nobody may delete. All of it ends, soon.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use culm::{
    model::{AttachWorktree, Worktree},
    worktree::{Error, Git, Refusal, Worktrees},
};

use super::{Yard, blob, commit, said, write};

pub(super) fn pipe(path: &Path) {
    let _ = fs::remove_file(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

pub(super) fn sparse(path: &Path, bytes: u64) {
    let _ = fs::remove_file(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().set_len(bytes).unwrap();
}

/// Git with a deadline that nothing here may come near.
fn patient(yard: &Yard) -> Worktrees {
    let hour = Duration::from_secs(3600);
    Worktrees::new(Git { look: hour, write: hour, ..Git::default() }, yard.path("worktrees"))
}

#[tokio::test]
async fn a_file_that_git_would_not_come_to_an_end_with_is_not_read() {
    let places = [
        (true, ".gitignore"),
        (true, ".gitattributes"),
        (true, "dir/.gitignore"),
        (true, "new/.gitattributes"),
        (false, "packed-refs"),
        (false, "refs/heads/pipe"),
        (false, "logs/refs/heads/pipe"),
        (false, "shallow"),
    ];
    for (in_tree, place) in places {
        for make in [pipe as fn(&Path), |path: &Path| sparse(path, 200 << 30)] {
            let yard = Yard::new();
            let (worktree, patient) = (yard.attach("s").await, patient(&yard));
            let top = if in_tree { worktree.path.as_path().to_owned() } else { yard.repo().join(".git") };
            write(&worktree.path.as_path().join("new/file"), b"new\n");
            make(&top.join(place));
            let found = patient.preflight(&worktree, &[]).await.unwrap();
            assert!(found.unreadable.as_ref().is_some_and(|why| why.contains(place)), "{place}: {found:?}");
            assert!(matches!(patient.remove(&worktree, false).await, Err(Refusal::AtRisk(_))), "{place}");
            let removed = patient.remove(&worktree, true).await.unwrap();
            match in_tree {
                true => {
                    let name = removed.rescue_ref.unwrap();
                    assert_eq!(blob(&yard.repo(), &name, "new/file").as_deref(), Some("new\n"), "{place}");
                }
                false => assert!(removed.left.is_some_and(|why| why.contains(place)) && top.exists(), "{place}"),
            }
        }
    }
}

/// Without what it says, more is at risk.
#[tokio::test]
async fn a_list_of_what_to_ignore_that_cannot_be_read_ignores_nothing() {
    let yard = Yard::new();
    let (worktree, patient) = (yard.attach("s").await, patient(&yard));
    pipe(&yard.repo().join(".git/info/exclude"));
    assert!(patient.remove(&worktree, false).await.unwrap().removed);
}

#[tokio::test]
async fn a_repository_within_that_cannot_be_read_holds_nothing_up() {
    let yard = Yard::new();
    let (worktree, patient) = (yard.attach("s").await, patient(&yard));
    super::repository(&worktree.path.as_path().join("within"));
    pipe(&worktree.path.as_path().join("within/.git/HEAD"));
    assert!(patient.preflight(&worktree, &[]).await.unwrap().unreadable.is_some());
}

#[tokio::test]
async fn a_rescue_has_a_bound_and_names_what_it_leaves_out() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    sparse(&worktree.path.as_path().join("huge"), 200 << 30);
    write(&worktree.path.as_path().join("small"), b"small\n");
    let removed = yard.discard(&worktree).await;
    assert_eq!(removed.left_out.first, [format!("huge ({} bytes)", 200_u64 << 30)]);
    let name = removed.rescue_ref.unwrap();
    assert_eq!(blob(&yard.repo(), &name, "small").as_deref(), Some("small\n"));
    assert!(said(&yard.repo(), &["log", "-1", "--format=%B", &name]).contains("huge (214748364800 bytes)"));
    yard.assert_gone(&worktree);
}

/// Makes directories that are nested deeper than a path can say. A file at the bottom.
fn nest(top: &Path) {
    let script = "import os, sys\nos.chdir(sys.argv[1])\nfor _ in range(1200):\n os.mkdir('node_modules')\n os.chdir('node_modules')\nopen('bottom', 'w').close()";
    assert!(std::process::Command::new("python3").args(["-c", script]).arg(top).status().unwrap().success());
}

#[tokio::test]
async fn what_is_nested_without_end_goes_and_is_named() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    nest(worktree.path.as_path());
    write(&worktree.path.as_path().join("new"), b"new\n");
    assert_eq!(yard.blocking(&worktree).await, ["unreadable"]);
    assert!(matches!(yard.worktrees.remove(&worktree, false).await, Err(Refusal::AtRisk(_))));
    let removed = yard.discard(&worktree).await;
    assert!(removed.removed && removed.set_aside.is_none(), "{removed:?}");
    assert!(removed.left_out.first[0].starts_with("node_modules/node_modules/"), "{removed:?}");
    assert_eq!(blob(&yard.repo(), &removed.rescue_ref.unwrap(), "new").as_deref(), Some("new\n"));
    yard.assert_gone(&worktree);
    // And in what the repository keeps about it.
    let worktree = yard.attach("s").await;
    nest(worktree.git_dir.as_ref().unwrap().as_path());
    assert_eq!(yard.blocking(&worktree).await, ["unreadable"]);
    let removed = yard.discard(&worktree).await;
    assert!(removed.removed && !worktree.path.as_path().exists(), "{removed:?}");
}

#[tokio::test]
async fn what_is_read_only_goes_with_its_worktree() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    for place in ["node_modules/pkg", "kept/go/mod"] {
        let dir = worktree.path.as_path().join(place);
        write(&dir.join("file"), b"x");
        fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o444)).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o555)).unwrap();
    }
    let removed = yard.discard(&worktree).await;
    assert!(removed.removed && removed.set_aside.is_none(), "{removed:?}");
    yard.assert_gone(&worktree);
}

/// What was asked for is not possible: the answer says so, and nothing stays.
#[tokio::test]
async fn names_that_lead_to_nothing_are_refused() {
    let yard = Yard::new();
    commit(&yard.repo(), "three");
    said(&yard.repo(), &["branch", "taken/below"]);
    said(&yard.repo(), &["branch", "plain"]);
    let long = "x".repeat(300);
    let file = yard.repo().join("file/below");
    for (param, branch, place) in [
        ("branch", Some(long.as_str()), None),
        ("branch", Some("HEAD"), None),
        ("branch", Some("taken"), None),
        ("branch", Some("plain/below"), None),
        ("path", None, Some(Path::new("/proc/x"))),
        ("path", None, Some(Path::new("/proc/self/x/y"))),
        ("path", None, Some(file.as_path())),
        ("path", None, Some(yard.path(&long).as_path())),
    ] {
        let path = place.map(super::absolute);
        let ask = AttachWorktree { branch: branch.map(String::from), path, ..yard.ask() };
        let refused = yard.try_attach("s", &ask).await;
        assert!(
            matches!(&refused, Err(Error::Invalid { param: found, .. }) if *found == param),
            "{ask:?}: {refused:?}"
        );
    }
    for commit in ["^main", "main..plain", "^main^", "nothing", ":file", "HEAD^{tree}", "refs/heads"] {
        let ask = AttachWorktree { commit: Some(commit.into()), ..yard.ask() };
        let refused = yard.try_attach("s", &ask).await;
        assert!(matches!(&refused, Err(Error::Invalid { param: "commit", .. })), "{commit}: {refused:?}");
    }
    assert_eq!(said(&yard.repo(), &["worktree", "list"]).lines().count(), 1);
}

/// What calls of a server that was killed left beside is deleted; what is in use is not.
#[tokio::test]
async fn what_a_killed_server_left_is_swept() {
    let yard = Yard::new();
    let left = tempfile::Builder::new().prefix("culm-git-").tempdir().unwrap().keep();
    write(&left.join("objects/some/thing"), b"x");
    let worktrees: Vec<Worktree> = vec![yard.attach("s").await];
    let (found, ()) = tokio::join!(yard.worktrees.preflight(&worktrees[0], &[]), yard.worktrees.sweep());
    assert_eq!(found.unwrap().blocking(), [""; 0]);
    assert!(!left.exists());
}
