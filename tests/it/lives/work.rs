//! Work that is left in worktrees, of every kind that a removal could lose; and whether all of it is still somewhere.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use crate::worktree::{git, repository, said, write};

#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    Edited,
    Hidden,
    New,
    Ignored,
    Staged,
    Nested,
    Committed,
    Detached,
    Merging,
}

pub(super) fn work() -> impl Strategy<Value = Work> {
    use Work as W;
    prop::sample::select(vec![
        W::Edited,
        W::Hidden,
        W::New,
        W::Ignored,
        W::Staged,
        W::Nested,
        W::Committed,
        W::Detached,
        W::Merging,
    ])
}

/// An object that must not be lost: the bytes of a file, or a commit.
#[derive(Debug)]
struct Piece {
    worktree: PathBuf,
    /// The file that it is in, unless git alone has it.
    file: Option<(PathBuf, Vec<u8>)>,
    object: String,
    /// Whether it may be removed since: then a rescue ref holds it.
    forced: bool,
}

/// All work that was left, in worktrees of one repository.
#[derive(Debug)]
pub(super) struct Ledger {
    repository: PathBuf,
    pieces: Vec<Piece>,
    made: usize,
}

impl Ledger {
    pub(super) fn new(repository: PathBuf) -> Self {
        Self { repository, pieces: Vec::new(), made: 0 }
    }

    /// Works in a worktree in which nothing else happens.
    pub(super) fn work(&mut self, top: &Path, work: Work) {
        self.made += 1;
        let n = self.made;
        match work {
            Work::Edited => self.file(top, "file", n),
            Work::Hidden => {
                said(top, &["update-index", "--assume-unchanged", "dir/inner"]);
                self.file(top, "dir/inner", n);
            }
            Work::New => self.file(top, &format!("new-{n}"), n),
            Work::Ignored => self.file(top, &format!("{n}.env"), n),
            Work::Staged => {
                let name = format!("staged-{n}");
                write(&top.join(&name), format!("staged {n}").as_bytes());
                let object = said(top, &["hash-object", "--no-filters", &name]);
                said(top, &["add", &name]);
                self.piece(top, None, object);
                self.file(top, &name, n);
            }
            Work::Nested => {
                repository(&top.join(format!("nested-{n}")));
                self.file(top, &format!("nested-{n}/more"), n);
            }
            Work::Committed => self.commit(top, n),
            Work::Detached => {
                // Refused while something is being merged, which `checkout` would forget: then the commit ends the merge.
                git(top, &["switch", "-q", "--detach"]);
                self.commit(top, n);
            }
            Work::Merging => {
                let theirs = said(top, &["commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", &format!("theirs {n}")]);
                // Git refuses while something else is staged, or being merged.
                if git(top, &["merge", "-q", "--no-ff", "--no-commit", &theirs]).status.success() {
                    self.piece(top, None, theirs);
                }
            }
        }
    }

    /// A file with bytes that no other has.
    fn file(&mut self, top: &Path, name: &str, n: usize) {
        let (place, bytes) = (top.join(name), format!("work {n}\n").into_bytes());
        write(&place, &bytes);
        let object = said(&self.repository, &["hash-object", "--no-filters", place.to_str().unwrap()]);
        // What was there before was its owner's to overwrite.
        self.pieces.retain(|piece| piece.file.as_ref().is_none_or(|(file, _)| *file != place));
        self.piece(top, Some((place, bytes)), object);
    }

    fn commit(&mut self, top: &Path, n: usize) {
        let name = format!("committed-{n}");
        self.file(top, &name, n);
        said(top, &["add", &name]);
        said(top, &["commit", "-q", "-m", &name]);
        self.piece(top, None, said(top, &["rev-parse", "HEAD"]));
    }

    fn piece(&mut self, top: &Path, file: Option<(PathBuf, Vec<u8>)>, object: String) {
        self.pieces.push(Piece { worktree: top.to_owned(), file, object, forced: false });
    }

    /// Whoever owns what is in this worktree gave it up.
    pub(super) fn give_up(&mut self, top: &Path) {
        self.pieces.iter_mut().filter(|piece| piece.worktree == top).for_each(|piece| piece.forced = true);
    }

    pub(super) fn is_at(&self, top: &Path) -> bool {
        self.pieces.iter().any(|piece| piece.worktree == top)
    }

    /// Asserts that everything is in its place, or was given up and is held by a rescue ref; that is no more of concern.
    pub(super) fn assert_nothing_is_lost(&mut self) {
        let tops: HashSet<PathBuf> = self.pieces.iter().map(|piece| piece.worktree.clone()).collect();
        let held: HashSet<(PathBuf, String)> =
            tops.iter().flat_map(|top| held_in(top).into_iter().map(|object| (top.clone(), object))).collect();
        let rescued = objects(&self.repository, &["rev-list", "--objects", "--glob=refs/rescue/"]);
        self.pieces.retain(|piece| {
            let there = |(file, bytes): &(PathBuf, Vec<u8>)| fs::read(file).is_ok_and(|found| found == *bytes);
            if piece.file.as_ref().is_some_and(there) || held.contains(&(piece.worktree.clone(), piece.object.clone()))
            {
                return true;
            }
            assert!(piece.forced, "it was removed, and nobody had given it up: {piece:?}");
            assert!(rescued.contains(&piece.object), "it is lost: {piece:?}");
            false
        });
    }
}

/// What a worktree holds beside its files: what its HEAD, its index and a merge name.
fn held_in(top: &Path) -> HashSet<String> {
    if !top.join(".git").exists() {
        return HashSet::new();
    }
    let mut held = objects(top, &["rev-list", "--objects", "HEAD"]);
    let staged = said(top, &["ls-files", "--stage"]);
    held.extend(staged.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned));
    let git_dir = said(top, &["rev-parse", "--absolute-git-dir"]);
    held.extend(fs::read_to_string(Path::new(&git_dir).join("MERGE_HEAD")).map(|head| head.trim().to_owned()));
    held
}

fn objects(dir: &Path, words: &[&str]) -> HashSet<String> {
    said(dir, words).lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
}
