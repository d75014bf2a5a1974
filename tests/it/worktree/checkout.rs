//! Checkouts with filters and submodules: clean where the user's git says so, and nothing of them is run here.

use std::{fs, path::Path};

use super::{Yard, commit, git, repository, said, write};

/// What a filter of the tests makes of a file, and back: the letters, turned by thirteen.
const FILTER: [&str; 2] = ["filter.turn.clean=tr a-z n-za-m", "filter.turn.smudge=tr a-z n-za-m"];

/// Git with the filter, as its user has it.
fn filtering(dir: &Path, words: &[&str]) -> String {
    let settings: Vec<&str> = FILTER.iter().flat_map(|setting| ["-c", setting]).collect();
    said(dir, &[&settings, words].concat())
}

/// A repository with a file that the filter makes, and a user's own worktree of it.
fn filtered(yard: &Yard) -> std::path::PathBuf {
    write(&yard.repo().join(".gitattributes"), b"*.turned filter=turn\n");
    write(&yard.repo().join("a.turned"), b"hello\n");
    filtering(&yard.repo(), &["add", "-A"]);
    filtering(&yard.repo(), &["commit", "-q", "-m", "turned"]);
    let own = yard.path("own");
    filtering(&yard.repo(), &["worktree", "add", "-q", "-b", "own", own.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(own.join("a.turned")).unwrap(), "hello\n");
    own
}

#[tokio::test]
async fn what_a_filter_made_is_clean_until_it_is_changed() {
    let yard = Yard::new();
    let own = filtered(&yard);
    let worktree = yard.adopt("s", &own).await;
    assert_eq!(yard.blocking(&worktree).await, [""; 0]);
    // As large as before, and no older by a clock that ticks in seconds.
    fs::write(own.join("a.turned"), "world\n").unwrap();
    assert_eq!(yard.blocking(&worktree).await, ["uncommitted"]);
    filtering(&own, &["checkout", "-q", "--", "a.turned"]);
    assert_eq!(yard.blocking(&worktree).await, [""; 0]);
    assert!(yard.worktrees.remove(&worktree, false).await.unwrap().removed);
}

#[tokio::test]
async fn a_checkout_without_its_filter_is_said_to_be_one() {
    let yard = Yard::new();
    let plain = yard.attach("plain").await;
    assert!(yard.worktrees.unfiltered(&plain).await.unwrap().is_empty());
    let own = filtered(&yard);
    let worktree = yard.attach("s").await;
    let unfiltered = yard.worktrees.unfiltered(&worktree).await.unwrap();
    assert_eq!((unfiltered.count, unfiltered.first), (1, vec!["a.turned".to_owned()]));
    assert_eq!(fs::read_to_string(worktree.path.as_path().join("a.turned")).unwrap(), "uryyb\n");
    assert_eq!(yard.blocking(&worktree).await, [""; 0], "it is as it was committed");
    // What was there before, somebody else has checked out.
    let adopted = yard.adopt("t", &own).await;
    assert!(yard.worktrees.unfiltered(&adopted).await.unwrap().is_empty());
}

/// A pointer, and what it points to, as `git lfs` has them.
#[tokio::test]
async fn what_git_lfs_points_to_is_clean_whenever_it_was_written() {
    let yard = Yard::new();
    let content = "large ".repeat(1000);
    let hash = culm::model::hex(&<sha2::Sha256 as sha2::Digest>::digest(&content));
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{hash}\nsize {}\n", content.len());
    write(&yard.repo().join(".gitattributes"), b"*.bin filter=lfs diff=lfs merge=lfs -text\n");
    write(&yard.repo().join("a.bin"), pointer.as_bytes());
    commit(&yard.repo(), "with a large file");
    let worktree = yard.attach("s").await;
    let file = worktree.path.as_path().join("a.bin");
    fs::write(&file, &content).unwrap();
    assert_eq!(yard.blocking(&worktree).await, [""; 0]);
    fs::write(&file, content.replace('l', "L")).unwrap();
    assert_eq!(yard.blocking(&worktree).await, ["uncommitted"], "another content of the same size");
    fs::write(&file, &content).unwrap();
    assert!(yard.worktrees.remove(&worktree, false).await.unwrap().removed);
}

/// A repository with a submodule, in which there is another one.
fn with_submodules(yard: &Yard) {
    repository(&yard.path("deep"));
    repository(&yard.path("library"));
    said(&yard.path("library"), &["submodule", "--quiet", "add", "../deep", "deep"]);
    commit(&yard.path("library"), "with a submodule");
    said(&yard.repo(), &["submodule", "--quiet", "add", "../library", "lib/sub"]);
    commit(&yard.repo(), "with a submodule");
}

#[tokio::test]
async fn a_submodule_is_at_risk_only_with_something_to_lose() {
    let yard = Yard::new();
    with_submodules(&yard);
    let changes: [(&str, &[&str]); 7] = [
        ("a file is edited", &["nested_repositories"]),
        ("a file is new", &["nested_repositories"]),
        ("a file is ignored", &["nested_repositories"]),
        ("there is a commit", &["nested_repositories"]),
        ("there is a commit on a branch that is not checked out", &["nested_repositories"]),
        ("something is stashed", &["nested_repositories"]),
        ("a rebase is under way", &["nested_repositories"]),
    ];
    for (number, (change, checks)) in changes.into_iter().enumerate() {
        for inner in ["lib/sub", "lib/sub/deep"] {
            let worktree = yard.attach(&format!("s{number}{}", inner.len())).await;
            let top = worktree.path.as_path();
            said(top, &["submodule", "--quiet", "update", "--init", "--recursive"]);
            assert_eq!(yard.blocking(&worktree).await, [""; 0], "they are clean");
            let sub = top.join(inner);
            match change {
                "a file is edited" => write(&sub.join("file"), b"edited\n"),
                "a file is new" => write(&sub.join("new"), b"new\n"),
                "a file is ignored" => {
                    let git_dir = said(&sub, &["rev-parse", "--absolute-git-dir"]);
                    write(&Path::new(&git_dir).join("info/exclude"), b"secret\n");
                    write(&sub.join("secret"), b"kept nowhere else\n");
                }
                "there is a commit" => drop(commit(&sub, "new")),
                "there is a commit on a branch that is not checked out" => {
                    said(&sub, &["checkout", "-q", "-b", "work"]);
                    commit(&sub, "new");
                    said(&sub, &["checkout", "-q", "--detach", "HEAD^"]);
                }
                "something is stashed" => {
                    write(&sub.join("file"), b"edited\n");
                    said(&sub, &["stash", "-q"]);
                }
                _ => {
                    let git_dir = said(&sub, &["rev-parse", "--absolute-git-dir"]);
                    fs::create_dir(Path::new(&git_dir).join("rebase-merge")).unwrap();
                }
            }
            let found = yard.blocking(&worktree).await;
            assert!(checks.iter().all(|check| found.contains(check)), "{change} in {inner}: {found:?}");
            yard.discard(&worktree).await;
        }
    }
    let worktree = yard.attach("clean").await;
    said(worktree.path.as_path(), &["submodule", "--quiet", "update", "--init", "--recursive"]);
    assert!(yard.worktrees.remove(&worktree, false).await.unwrap().removed);
    yard.assert_gone(&worktree);
    assert!(git(&yard.repo(), &["status"]).status.success());
}
