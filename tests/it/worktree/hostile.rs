//! A repository whose owner wants to run something as the server. Everything that git would run for it leaves a mark;
//! no call of ours does.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use culm::model::{AttachWorktree, Worktree};

use super::{Yard, absolute, blob, commit, git, said, write};

/// A script that leaves a mark and passes on what it reads.
fn trap(yard: &Yard) -> (PathBuf, PathBuf) {
    let (script, mark) = (yard.path("trap"), yard.path("mark"));
    let text = format!("#!/bin/sh\necho \"$0 $*\" >> '{}'\ncat\n", mark.display());
    write(&script, text.as_bytes());
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (script, mark)
}

/// All of git's configuration that names something to run, or a way to more of it.
fn configuration(trap: &Path, include: &Path) -> String {
    let (trap, include) = (trap.display(), include.display());
    let drivers = format!(
        "[filter \"x\"]\n clean = {trap}\n smudge = {trap}\n process = {trap}\n required = true\n\
         [merge \"x\"]\n driver = {trap} %O %A %B\n[merge]\n default = x\n\
         [diff \"x\"]\n textconv = {trap}\n command = {trap}\n[diff]\n external = {trap}\n"
    );
    let aliases = [
        "status",
        "worktree",
        "rev-parse",
        "rev-list",
        "ls-files",
        "log",
        "branch",
        "fast-import",
        "update-index",
        "merge-tree",
        "for-each-ref",
        "cat-file",
        "show-ref",
        "symbolic-ref",
        "check-ref-format",
        "config",
        "reset",
    ]
    .map(|name| format!(" {name} = !{trap}\n"))
    .concat();
    format!(
        "[core]\n fsmonitor = {trap}\n pager = {trap}\n editor = {trap}\n sshCommand = {trap}\n gitProxy = {trap}\n\
         \x20askPass = {trap}\n alternateRefsCommand = {trap}\n attributesFile = {include}.attributes\n{drivers}\
         [alias]\n{aliases}[credential]\n helper = !{trap}\n[gpg]\n program = {trap}\n[gpg \"ssh\"]\n program = {trap}\n\
         [commit]\n gpgSign = true\n[tag]\n gpgSign = true\n[log]\n showSignature = true\n[sequence]\n editor = {trap}\n\
         [pager]\n status = {trap}\n log = {trap}\n branch = {trap}\n[submodule]\n recurse = true\n\
         [submodule \"sub\"]\n update = !{trap}\n[protocol \"ext\"]\n allow = always\n\
         [uploadpack]\n packObjectsHook = {trap}\n[receive]\n procReceiveRefs = refs\n[trailer \"x\"]\n command = {trap}\n\
         [remote \"origin\"]\n url = ext::{trap}\n promisor = true\n partialclonefilter = blob:none\n vcs = x\n\
         \x20fetch = +refs/heads/*:refs/remotes/origin/*\n[gc]\n auto = 1\n[maintenance]\n auto = true\n\
         [hook \"x\"]\n command = {trap}\n event = reference-transaction\n event = post-checkout\n event = post-index-change\n\
         [interactive]\n diffFilter = {trap}\n[man \"x\"]\n cmd = {trap}\n[init]\n templateDir = {include}.template\n"
    )
}

/// Sets every trap in a repository: in its configuration, in what that includes, in hooks and attributes.
fn set(yard: &Yard, repo: &Path, trap: &Path) {
    let git_dir = repo.join(".git");
    let include = yard.path("included");
    let text = configuration(trap, &include);
    write(&include, text.as_bytes());
    let attributes = b"* filter=x merge=x diff=x\n";
    write(&yard.path("included.attributes"), attributes);
    write(&git_dir.join("info/attributes"), attributes);
    for hook in [
        "post-checkout",
        "post-index-change",
        "reference-transaction",
        "pre-commit",
        "post-commit",
        "pre-auto-gc",
        "fsmonitor-watchman",
        "update",
        "post-update",
        "pre-push",
        "post-rewrite",
        "prepare-commit-msg",
        "post-merge",
    ] {
        fs::create_dir_all(git_dir.join("hooks")).unwrap();
        fs::copy(trap, git_dir.join("hooks").join(hook)).unwrap();
    }
    let own = fs::read_to_string(git_dir.join("config")).unwrap();
    let more = format!(
        "[include]\n path = {0}\n[includeIf \"gitdir:**\"]\n path = {0}\n[extensions]\n worktreeConfig = true\n partialClone = origin\n",
        include.display()
    );
    write(&git_dir.join("config"), format!("{own}{more}{text}").as_bytes());
    write(&git_dir.join("config.worktree"), text.as_bytes());
}

/// A repository with all traps set, and a submodule with them.
fn trapped() -> (Yard, PathBuf) {
    let yard = Yard::new();
    let repo = yard.repo();
    super::repository(&yard.path("library"));
    said(&repo, &["submodule", "--quiet", "add", "../library", "sub"]);
    write(&repo.join(".gitattributes"), b"* filter=x merge=x diff=x text=auto\n");
    commit(&repo, "traps");
    said(&repo, &["branch", "there"]);
    said(&repo, &["branch", "base", "HEAD~1"]);
    let (script, mark) = trap(&yard);
    set(&yard, &repo, &script);
    (yard, mark)
}

/// Git's words when the traps are not to be sprung, as a test needs it.
fn quietly(dir: &Path, words: &[&str]) -> String {
    let safe = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.pager=cat"];
    let filters =
        ["-c", "filter.x.clean=", "-c", "filter.x.smudge=", "-c", "filter.x.process=", "-c", "filter.x.required=false"];
    said(dir, &[&safe[..], &filters, words].concat())
}

fn assert_nothing_ran(mark: &Path, when: &str) {
    assert!(!mark.exists(), "{when}: {}", fs::read_to_string(mark).unwrap());
}

/// Makes a mess of every kind in a worktree, sets its own traps, and looks at it, and removes it.
async fn use_and_remove(yard: &Yard, worktree: &Worktree, mark: &Path) {
    let top = worktree.path.as_path();
    let git_dir = worktree.git_dir.as_ref().unwrap().as_path();
    write(&git_dir.join("config.worktree"), configuration(&yard.path("trap"), &yard.path("included")).as_bytes());
    write(&git_dir.join("hooks/post-index-change"), &fs::read(yard.path("trap")).unwrap());
    write(&git_dir.join("info/attributes"), b"* filter=x\n");
    write(&top.join("dir/.gitattributes"), b"* filter=x merge=x\n");
    // Of the same size, so that git has to read it; staged, hidden, unmerged.
    write(&top.join("file"), b"eno\n");
    write(&top.join("dir/inner"), b"renni\n");
    write(&top.join("new"), b"new\n");
    write(&top.join("a.env"), b"ignored\n");
    quietly(top, &["update-index", "--assume-unchanged", "dir/inner"]);
    super::repository(&top.join("nested"));
    set(yard, &top.join("nested"), &yard.path("trap"));
    super::repository(&top.join("sub"));
    set(yard, &top.join("sub"), &yard.path("trap"));
    write(&top.join("sub/file"), b"eno\n");
    let found = yard.worktrees.preflight(worktree, &[]).await.unwrap();
    assert!(
        found.unreadable.is_none() && found.uncommitted.count > 0 && found.nested_repositories.count == 2,
        "{found:?}"
    );
    assert_nothing_ran(mark, "preflight");
    yard.worktrees.remove(worktree, false).await.unwrap_err();
    assert_nothing_ran(mark, "a removal that is refused");
    let name = yard.discard(worktree).await.rescue_ref.unwrap();
    assert_nothing_ran(mark, "a removal");
    assert!(!top.exists());
    let files = ["new", "file", "a.env", "dir/inner"].map(|path| blob(&yard.repo(), &name, path).unwrap());
    assert_eq!(files, ["new\n", "eno\n", "ignored\n", "renni\n"]);
    assert!(blob(&yard.repo(), &format!("{name}^3"), "nested/nested/dot-git/config").is_some());
}

#[tokio::test]
async fn the_traps_work() {
    let (yard, mark) = trapped();
    git(&yard.repo(), &["status"]);
    assert!(mark.exists(), "or this file proves nothing");
    let sprung = fs::read_to_string(&mark).unwrap();
    fs::remove_file(&mark).unwrap();
    git(&yard.repo(), &["-c", "core.fsmonitor=false", "worktree", "add", "-q", "../plain"]);
    let more = fs::read_to_string(&mark).unwrap();
    assert!(sprung.contains("trap") && more.contains("hooks/"), "{sprung}{more}");
}

#[tokio::test]
async fn nothing_of_it_runs_when_a_worktree_is_made_used_and_removed() {
    let (yard, mark) = trapped();
    let asks = [
        yard.ask(),
        AttachWorktree { branch: Some("there".into()), ..yard.ask() },
        AttachWorktree { branch: Some("new".into()), commit: Some("base".into()), ..yard.ask() },
        AttachWorktree { commit: Some("base".into()), ..yard.ask() },
    ];
    for (number, ask) in asks.iter().enumerate() {
        let worktree = yard.try_attach(&format!("s{number}"), ask).await.unwrap();
        assert_nothing_ran(&mark, "a creation");
        assert_eq!(fs::read(worktree.path.as_path().join("file")).unwrap(), b"one\n");
        use_and_remove(&yard, &worktree, &mark).await;
    }
}

#[tokio::test]
async fn nothing_of_it_runs_when_a_clean_worktree_is_removed() {
    let (yard, mark) = trapped();
    let worktree = yard.attach("s").await;
    let removed = yard.worktrees.remove(&worktree, false).await.unwrap();
    assert!(removed.removed && removed.branch_deleted);
    assert_nothing_ran(&mark, "a removal with its branch");
    // A merge in memory, to know of a squash, goes through the merge drivers.
    let worktree = yard.attach("t").await;
    let top = worktree.path.as_path();
    write(&top.join("file"), b"work\n");
    quietly(top, &["commit", "-q", "--no-gpg-sign", "-a", "-m", "work"]);
    write(&yard.repo().join("file"), b"work\n");
    quietly(&yard.repo(), &["commit", "-q", "--no-gpg-sign", "-a", "-m", "squashed"]);
    let _ = fs::remove_file(&mark);
    assert!(yard.worktrees.remove(&worktree, false).await.unwrap().removed);
    assert_nothing_ran(&mark, "a merge in memory");
}

#[tokio::test]
async fn nothing_of_it_runs_when_a_worktree_is_adopted() {
    let (yard, mark) = trapped();
    let place = yard.path("mine");
    quietly(&yard.repo(), &["worktree", "add", "-q", "--detach", place.to_str().unwrap()]);
    let _ = fs::remove_file(&mark);
    let worktree = yard.adopt("s", &place).await;
    assert_nothing_ran(&mark, "an adoption");
    use_and_remove(&yard, &worktree, &mark).await;
    let main = yard.adopt("main", &yard.repo()).await;
    yard.worktrees.preflight(&main, &[]).await.unwrap();
    yard.discard(&main).await;
    assert_nothing_ran(&mark, "an adoption of the main working tree");
}

#[tokio::test]
async fn nothing_is_fetched_for_objects_that_are_missing() {
    let (yard, mark) = trapped();
    let blob = quietly(&yard.repo(), &["rev-parse", "HEAD:file"]);
    fs::remove_file(yard.repo().join(".git/objects").join(&blob[..2]).join(&blob[2..])).unwrap();
    yard.try_attach("s", &yard.ask()).await.unwrap_err();
    assert_nothing_ran(&mark, "a promisor's objects");
}

#[tokio::test]
async fn a_worktree_that_says_it_is_of_another_repository_is_set_aside_whole() {
    let (yard, mark) = trapped();
    let worktree = yard.attach("s").await;
    let top = worktree.path.as_path();
    super::repository(&yard.path("decoy"));
    set(&yard, &yard.path("decoy"), &yard.path("trap"));
    write(&top.join("new"), b"new\n");
    write(&top.join(".git"), format!("gitdir: {}\n", yard.path("decoy/.git").display()).as_bytes());
    assert_eq!(yard.blocking(&worktree).await, ["unreadable"]);
    yard.assert_refused(&worktree, &["unreadable"]).await;
    let removed = yard.discard(&worktree).await;
    assert_nothing_ran(&mark, "another repository's configuration");
    let aside = removed.set_aside.unwrap();
    assert_eq!(fs::read(aside.as_path().join("new")).unwrap(), b"new\n");
    assert!(removed.removed);
    yard.assert_gone(&worktree);
    assert!(absolute(&yard.path("decoy/.git")).as_path().join("HEAD").exists());
}
