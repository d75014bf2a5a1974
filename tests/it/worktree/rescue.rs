//! With force, every bit is in the rescue ref: each test puts something in, discards the worktree, and finds it there.

use std::{
    ffi::OsString,
    fs,
    os::unix::{
        ffi::OsStringExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use super::{Yard, blob, commit, files_of, git, holds, said, write};

/// Discards a worktree. The repository, and the ref that is left.
macro_rules! discarded {
    ($yard:ident, $worktree:ident, $repo:ident, $name:ident) => {
        let $repo = $yard.repo();
        let $name = $yard.discard(&$worktree).await.rescue_ref.unwrap();
        $yard.assert_gone(&$worktree);
        said(&$repo, &["fsck", "--strict"]);
    };
}

#[tokio::test]
async fn files_as_they_were() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let top = worktree.path.as_path();
    // Edited, staged and edited again, staged as removed, removed, made a directory of, followed by git or not.
    write(&top.join("file"), b"edited\r\n");
    write(&top.join("twice"), b"staged\n");
    said(top, &["add", "twice"]);
    write(&top.join("twice"), b"and edited\n");
    said(top, &["rm", "-q", "--cached", "dir/inner"]);
    write(&top.join("new/er"), &[0, 255, 13, 10, 0]);
    write(&top.join("secret.env"), b"KEY=1");
    write(&top.join("kept/deep/notes"), b"ignored");
    write(&top.join("target/made"), b"again");
    write(&top.join("script"), b"#!/bin/sh\n");
    fs::set_permissions(top.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/etc/passwd", top.join("link")).unwrap();
    symlink("nowhere", top.join("dangling")).unwrap();
    discarded!(yard, worktree, repo, name);
    let mut files = files_of(&repo, &name);
    let mut expect = |path: &str, bytes: &[u8]| {
        assert_eq!(files.remove(&OsString::from(path)).as_deref(), Some(bytes), "{path}");
    };
    expect("file", b"edited\r\n");
    expect("twice", b"and edited\n");
    expect("dir/inner", b"inner\n");
    expect("new/er", &[0, 255, 13, 10, 0]);
    expect("secret.env", b"KEY=1");
    expect("kept/deep/notes", b"ignored");
    expect("script", b"#!/bin/sh\n");
    expect("link", b"/etc/passwd");
    expect("dangling", b"nowhere");
    expect(".gitignore", b"target/\n*.env\n/kept/\n");
    assert!(files.is_empty(), "{files:?}");
    let modes = said(&repo, &["ls-tree", &name, "script", "link", "file"]);
    let modes: Vec<&str> = modes.lines().map(|line| &line[..6]).collect();
    assert_eq!(modes, ["100644", "120000", "100755"]);
    // The index is its second parent.
    let index = format!("{name}^2");
    assert_eq!(blob(&repo, &index, "twice").as_deref(), Some("staged\n"));
    assert_eq!(blob(&repo, &index, "file").as_deref(), Some("one\n"));
    assert_eq!(blob(&repo, &index, "dir/inner"), None);
    assert_eq!(said(&repo, &["rev-parse", &format!("{name}^1")]), worktree.base_commit.unwrap());
}

#[tokio::test]
async fn a_file_in_the_place_of_a_directory_and_the_other_way_round() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let top = worktree.path.as_path();
    fs::remove_dir_all(top.join("dir")).unwrap();
    write(&top.join("dir"), b"a file now\n");
    fs::remove_file(top.join("file")).unwrap();
    write(&top.join("file/within"), b"a directory now\n");
    discarded!(yard, worktree, repo, name);
    assert_eq!(blob(&repo, &name, "dir").as_deref(), Some("a file now\n"));
    assert_eq!(blob(&repo, &name, "file/within").as_deref(), Some("a directory now\n"));
}

#[tokio::test]
async fn bytes_that_attributes_would_convert() {
    let yard = Yard::new();
    write(&yard.repo().join(".gitattributes"), b"* text=auto eol=lf ident\n*.u16 working-tree-encoding=UTF-16LE\n");
    commit(&yard.repo(), "attributes");
    let worktree = yard.attach("s").await;
    let top = worktree.path.as_path();
    write(&top.join("lines"), b"a\r\nb\r\n$Id: mine $\r\n");
    write(&top.join("odd.u16"), b"odd");
    discarded!(yard, worktree, repo, name);
    assert_eq!(blob(&repo, &name, "lines").as_deref(), Some("a\r\nb\r\n$Id: mine $\r\n"));
    assert_eq!(blob(&repo, &name, "odd.u16").as_deref(), Some("odd"));
}

#[tokio::test]
async fn names_that_nothing_should_have() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let top = worktree.path.as_path();
    let plain = [&b" lead"[..], b"trail ", b"new\nline", b"tab\t\"quote\\", b"not \xff\xfe utf-8", b"-dash"];
    let like_git = [&b"git~1"[..], b".GiT", b".git .", b".git::$INDEX_ALLOCATION", b"a\\.git", b".g\xe2\x80\x8cit"];
    for name in plain.iter().chain(&like_git) {
        write(&top.join("odd").join(OsString::from_vec(name.to_vec())).join("file"), name);
    }
    write(&top.join("dot-git-"), b"taken");
    discarded!(yard, worktree, repo, rescued);
    let files = files_of(&repo, &rescued);
    let hex = |name: &[u8]| name.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let like_git = like_git.map(|name| (name, format!("dot-git_-{}", hex(name)).into_bytes()));
    for (name, written) in plain.map(|name| (name, name.to_vec())).into_iter().chain(like_git) {
        let path = OsString::from_vec([b"odd/", written.as_slice(), b"/file"].concat());
        assert_eq!(files.get(&path).map(Vec::as_slice), Some(name), "{path:?}");
    }
    assert_eq!(blob(&repo, &rescued, "dot-git-").as_deref(), Some("taken"));
    let text = said(&repo, &["log", "-1", "--format=%B", &rescued]);
    assert!(text.contains("A .git in it is written dot-git_;"), "{text}");
}

#[tokio::test]
async fn edits_that_were_hidden() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let top = worktree.path.as_path();
    said(top, &["update-index", "--assume-unchanged", "file"]);
    said(top, &["update-index", "--skip-worktree", "dir/inner"]);
    write(&top.join("file"), b"hidden\n");
    write(&top.join("dir/inner"), b"hidden too\n");
    discarded!(yard, worktree, repo, name);
    assert_eq!(blob(&repo, &name, "file").as_deref(), Some("hidden\n"));
    assert_eq!(blob(&repo, &name, "dir/inner").as_deref(), Some("hidden too\n"));
}

#[tokio::test]
async fn commits_of_any_place() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let top = worktree.path.as_path();
    let unmerged = commit(top, "on the branch");
    said(top, &["switch", "-q", "--detach"]);
    let left = commit(top, "left behind");
    said(top, &["reset", "-q", "--hard", "HEAD~1"]);
    let mine = commit(top, "a ref of its own");
    said(top, &["update-ref", "refs/worktree/mine", &mine]);
    let head = commit(top, "head");
    // What was fetched, and nothing else.
    super::repository(&yard.path("other"));
    write(&yard.path("other/file"), b"theirs\n");
    let fetched = commit(&yard.path("other"), "fetched");
    said(top, &["fetch", "-q", "--no-auto-maintenance", "../../other", "main"]);
    discarded!(yard, worktree, repo, name);
    said(&repo, &["reflog", "expire", "--expire=now", "--all"]);
    said(&repo, &["gc", "-q", "--prune=now"]);
    for commit in [&unmerged, &left, &mine, &head, &fetched] {
        assert!(holds(&repo, &name, commit), "{commit}");
    }
    assert_eq!(said(&repo, &["rev-parse", "culm/s"]), unmerged, "a branch with work is not deleted");
}

#[tokio::test]
async fn a_conflict_with_all_its_sides() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let top = worktree.path.as_path();
    write(&yard.repo().join("file"), b"theirs\n");
    let theirs = commit(&yard.repo(), "theirs");
    write(&top.join("file"), b"ours\n");
    commit(top, "ours");
    assert!(!git(top, &["merge", "-q", "main"]).status.success());
    write(&top.join("file"), b"half resolved\n");
    discarded!(yard, worktree, repo, name);
    assert_eq!(blob(&repo, &name, "file").as_deref(), Some("half resolved\n"));
    for (side, text) in [("1", "one\n"), ("2", "ours\n"), ("3", "theirs\n")] {
        assert_eq!(blob(&repo, &format!("{name}^3"), &format!("unmerged/{side}/file")).as_deref(), Some(text));
    }
    assert_eq!(blob(&repo, &format!("{name}^3"), "git-dir/MERGE_HEAD"), Some(format!("{theirs}\n")));
}

#[tokio::test]
async fn a_rebase_under_way() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let top = worktree.path.as_path();
    write(&yard.repo().join("file"), b"theirs\n");
    commit(&yard.repo(), "theirs");
    write(&top.join("file"), b"ours\n");
    commit(top, "ours");
    write(&top.join("second"), b"second\n");
    let original = commit(top, "second");
    write(&top.join("second"), b"set aside\n");
    assert!(!git(top, &["rebase", "-q", "--autostash", "main"]).status.success());
    let git_dir = worktree.git_dir.clone().unwrap();
    let stash = fs::read_to_string(git_dir.as_path().join("rebase-merge/autostash")).unwrap();
    // Nobody but the rebase knows the branch's commits any more.
    said(&yard.repo(), &["update-ref", "-d", "refs/heads/culm/s"]);
    discarded!(yard, worktree, repo, name);
    said(&repo, &["gc", "-q", "--prune=now"]);
    assert!(holds(&repo, &name, &original));
    assert!(holds(&repo, &name, stash.trim()));
    let todo = blob(&repo, &format!("{name}^3"), "git-dir/rebase-merge/git-rebase-todo").unwrap();
    assert!(todo.contains("second"), "{todo}");
}

/// Puts a repository together again from what a rescue ref has of it.
fn restored(yard: &Yard, name: &str, nested: &str) -> PathBuf {
    let place = yard.path("restored");
    for (path, bytes) in files_of(&yard.repo(), &format!("{name}^3")) {
        let path = PathBuf::from(path);
        if let Ok(path) = path.strip_prefix(Path::new("nested").join(nested)) {
            let parts = path
                .components()
                .map(|part| if part.as_os_str() == "dot-git" { ".git".as_ref() } else { part.as_os_str() });
            write(&place.join(parts.collect::<PathBuf>()), &bytes);
        }
    }
    // Git does not keep directories that are empty.
    fs::create_dir_all(place.join(".git/refs")).unwrap();
    place
}

#[tokio::test]
async fn repositories_within_it_whole() {
    for nested in ["nested", "dir", "kept/nested"] {
        let yard = Yard::new();
        let worktree = yard.attach("s").await;
        let inner = worktree.path.as_path().join(nested);
        super::repository(&inner);
        let head = commit(&inner, "its own");
        write(&inner.join("file"), b"edited\n");
        write(&inner.join("new"), b"new\n");
        said(&inner, &["stash", "-q", "-u"]);
        write(&inner.join("after"), b"after\n");
        discarded!(yard, worktree, repo, name);
        assert_eq!(blob(&repo, &name, &format!("{nested}/dot-git/HEAD")), None, "it is beside the files");
        let restored = restored(&yard, &name, nested);
        assert_eq!(said(&restored, &["rev-parse", "HEAD"]), head);
        assert_eq!(said(&restored, &["status", "--porcelain", "--", "after"]), "?? after");
        said(&restored, &["stash", "pop", "-q"]);
        assert_eq!(fs::read(restored.join("file")).unwrap(), b"edited\n");
        assert_eq!(fs::read(restored.join("new")).unwrap(), b"new\n");
    }
}

#[tokio::test]
async fn submodules_with_their_commits() {
    let yard = Yard::new();
    super::repository(&yard.path("library"));
    said(&yard.repo(), &["submodule", "--quiet", "add", "../library", "sub"]);
    commit(&yard.repo(), "with a submodule");
    let worktree = yard.attach("s").await;
    let top = worktree.path.as_path();
    said(top, &["submodule", "--quiet", "update", "--init"]);
    write(&top.join("sub/file"), b"committed\n");
    let made = commit(&top.join("sub"), "made here");
    write(&top.join("sub/file"), b"edited\n");
    write(&top.join("sub/new"), b"new\n");
    discarded!(yard, worktree, repo, name);
    let rest = format!("{name}^3");
    assert_eq!(blob(&repo, &rest, "nested/sub/file").as_deref(), Some("edited\n"));
    assert_eq!(blob(&repo, &rest, "nested/sub/new").as_deref(), Some("new\n"));
    let object = format!("git-dir/modules/sub/objects/{}/{}", &made[..2], &made[2..]);
    assert!(files_of(&repo, &rest).contains_key(&OsString::from(object)), "its commit");
}

#[tokio::test]
async fn another_worktree_of_the_repository_within_it() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let inner = worktree.path.as_path().join("inner");
    said(&yard.repo(), &["worktree", "add", "-q", "--detach", inner.to_str().unwrap()]);
    let made = commit(&inner, "made in the inner one");
    write(&inner.join("file"), b"edited\n");
    discarded!(yard, worktree, repo, name);
    assert!(holds(&repo, &name, &made));
    assert_eq!(blob(&repo, &format!("{name}^3"), "nested/inner/file").as_deref(), Some("edited\n"));
}

#[tokio::test]
async fn what_git_cannot_read() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let top = worktree.path.as_path();
    said(top, &["switch", "-q", "--detach"]);
    let made = commit(top, "made");
    write(&top.join("file"), b"edited\n");
    write(&top.join("new"), b"new\n");
    write(&worktree.git_dir.clone().unwrap().as_path().join("index"), b"DIRC is all that is left");
    yard.assert_refused(&worktree, &["unreadable"]).await;
    discarded!(yard, worktree, repo, name);
    assert_eq!(blob(&repo, &name, "file").as_deref(), Some("edited\n"));
    assert_eq!(blob(&repo, &name, "new").as_deref(), Some("new\n"));
    assert_eq!(blob(&repo, &format!("{name}^2"), "git-dir/index").as_deref(), Some("DIRC is all that is left"));
    assert!(holds(&repo, &name, &made));
}

#[tokio::test]
async fn a_worktree_that_has_no_commit() {
    let yard = Yard::new();
    let place = yard.path("orphan");
    said(&yard.repo(), &["worktree", "add", "-q", "--orphan", "-b", "fresh", place.to_str().unwrap()]);
    let worktree = yard.adopt("s", &place).await;
    write(&place.join("staged"), b"staged\n");
    said(&place, &["add", "staged"]);
    write(&place.join("new"), b"new\n");
    yard.assert_refused(&worktree, &["uncommitted", "untracked"]).await;
    discarded!(yard, worktree, repo, name);
    assert_eq!(blob(&repo, &name, "staged").as_deref(), Some("staged\n"));
    assert_eq!(blob(&repo, &name, "new").as_deref(), Some("new\n"));
    assert_eq!(blob(&repo, &format!("{name}^1"), "staged").as_deref(), Some("staged\n"));
}

#[tokio::test]
async fn what_was_staged_where_the_directory_is_gone() {
    let yard = Yard::new();
    let worktree = yard.attach("s").await;
    let top = worktree.path.as_path();
    write(&top.join("file"), b"staged\n");
    said(top, &["add", "file"]);
    fs::remove_dir_all(top).unwrap();
    assert_eq!(yard.blocking(&worktree).await, ["uncommitted"]);
    assert!(yard.worktrees.remove(&worktree, false).await.is_err());
    discarded!(yard, worktree, repo, name);
    assert_eq!(blob(&repo, &format!("{name}^2"), "file").as_deref(), Some("staged\n"));
    assert_eq!(blob(&repo, &name, "file").as_deref(), Some("one\n"));
}
