//! Worktrees: one a tree, one tree a worktree, and the steps that each can take.

use culm::{
    model::{AbsolutePath, Closing, DeleteOptions, NewWorktree, Worktree, WorktreeState, WorktreeStep},
    storage::{Error, Result, Storage},
};

use super::runs::pending;
use crate::support::*;

fn path(text: &str) -> AbsolutePath {
    text.parse().unwrap()
}

fn worktree(place: &str) -> NewWorktree {
    NewWorktree {
        path: path(place),
        repository: path("/repo"),
        git_dir: None,
        branch: Some("topic".into()),
        branch_created: true,
        base_commit: Some("17b176bf".into()),
        base_ref: Some("refs/heads/main".into()),
        adopted: false,
        main: false,
        asked_for: "hash".into(),
    }
}

fn attached(git_dir: &str) -> WorktreeStep {
    WorktreeStep::Attached { git_dir: path(git_dir) }
}

fn removing(name: &str, discard: bool) -> WorktreeStep {
    WorktreeStep::Removing { rescue_ref: format!("refs/rescue/{name}"), discard, closed: false }
}

async fn step(storage: &dyn Storage, session: &str, step: WorktreeStep) -> Result<Worktree> {
    storage.advance_worktree(&id(session), step).await
}

async fn state(storage: &dyn Storage, session: &str) -> Option<WorktreeState> {
    storage.worktree_of(&id(session)).await.unwrap().map(|worktree| worktree.state)
}

pub(super) async fn a_worktree_is_its_whole_trees_and_comes_back_as_it_was(storage: &dyn Storage) {
    create(storage, "r").await;
    child(storage, "r", "a").await;
    child(storage, "a", "a1").await;
    create(storage, "other").await;
    let added = storage.add_worktree(&id("a1"), worktree("file:///w%FF")).await.unwrap();
    assert_eq!((&added.session_id, added.state), (&id("r"), WorktreeState::Creating));
    let made = step(storage, "a", attached("/repo/.git/worktrees/w")).await.unwrap();
    assert_eq!(made.path, path("file:///w%FF"));
    assert_eq!(
        (made.branch.as_deref(), made.branch_created, made.adopted, made.main),
        (Some("topic"), true, false, false)
    );
    assert_eq!((made.base_commit.as_deref(), made.base_ref.as_deref()), (Some("17b176bf"), Some("refs/heads/main")));
    assert_eq!((made.asked_for.as_str(), made.repository.clone()), ("hash", path("/repo")));
    for session in ["r", "a", "a1"] {
        assert_eq!(storage.worktree_of(&id(session)).await.unwrap(), Some(made.clone()));
    }
    assert_eq!(storage.worktree_of(&id("other")).await.unwrap(), None);
    assert_fails!(storage.worktree_of(&id("absent")).await, Error::SessionNotFound(_));
    assert_fails!(storage.add_worktree(&id("absent"), worktree("/x")).await, Error::SessionNotFound(_));
    let version = read(storage, "r").await.version;
    assert_eq!(version, 2, "a summary does not show it: only the child raised the version");
}

pub(super) async fn a_tree_has_one_worktree_and_a_worktree_one_tree(storage: &dyn Storage) {
    for name in ["a", "b"] {
        create(storage, name).await;
    }
    storage.add_worktree(&id("a"), worktree("/w")).await.unwrap();
    step(storage, "a", attached("/repo/.git/worktrees/w")).await.unwrap();
    let by_git_dir = NewWorktree { git_dir: Some(path("/repo/.git/worktrees/w")), ..worktree("/moved") };
    for (session, new) in [("a", worktree("/another")), ("b", worktree("/w")), ("b", by_git_dir)] {
        match storage.add_worktree(&id(session), new).await {
            Err(Error::WorktreeExists { root, path: held }) => assert_eq!((root, held), (id("a"), path("/w"))),
            other => panic!("{other:?}"),
        }
    }
    let b = id("b");
    let (one, two) =
        tokio::join!(storage.add_worktree(&b, worktree("/one")), storage.add_worktree(&b, worktree("/two")));
    assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1);
    // What is gone is in nobody's way.
    for (session, end) in [("a", WorktreeStep::Removed { rescue_ref: None }), ("a", WorktreeStep::Detached)] {
        step(storage, session, removing("a", false)).await.unwrap();
        step(storage, session, end).await.unwrap();
        assert_eq!(state(storage, session).await, None);
        storage.add_worktree(&id(session), worktree("/w")).await.unwrap();
        step(storage, session, attached("/repo/.git/worktrees/w")).await.unwrap();
    }
}

pub(super) async fn a_worktree_takes_only_steps_that_follow(storage: &dyn Storage) {
    create(storage, "s").await;
    let wrong = async |steps: &[WorktreeStep]| {
        for wrong in steps {
            assert_fails!(step(storage, "s", wrong.clone()).await, Error::WorktreeNotFound(_));
        }
    };
    let removed = || WorktreeStep::Removed { rescue_ref: Some("refs/rescue/first".into()) };
    wrong(&[attached("/g"), removing("x", false), WorktreeStep::Kept, WorktreeStep::Abandoned, removed()]).await;
    storage.add_worktree(&id("s"), worktree("/w")).await.unwrap();
    wrong(&[removing("x", false), WorktreeStep::Kept, WorktreeStep::Detached, removed()]).await;
    step(storage, "s", WorktreeStep::Abandoned).await.unwrap();
    assert_eq!(state(storage, "s").await, None);
    storage.add_worktree(&id("s"), worktree("/w")).await.unwrap();
    step(storage, "s", attached("/g")).await.unwrap();
    wrong(&[attached("/g"), removed()]).await;
    let first = step(storage, "s", removing("first", true)).await.unwrap();
    assert_eq!((first.state, first.discard), (WorktreeState::Removing, true));
    let again = step(storage, "s", removing("second", false)).await.unwrap();
    assert_eq!((again.rescue_ref.as_deref(), again.discard), (Some("refs/rescue/first"), false));
    assert_eq!(storage.unfinished_worktrees().await.unwrap(), [again]);
    let kept = step(storage, "s", WorktreeStep::Kept).await.unwrap();
    assert_eq!((kept.state, kept.rescue_ref), (WorktreeState::Attached, None));
    storage.close_sessions(&id("s"), Closing::default()).await.unwrap();
    assert_eq!(step(storage, "s", WorktreeStep::Kept).await.unwrap().state, WorktreeState::Retained);
    step(storage, "s", removing("first", false)).await.unwrap();
    let gone = step(storage, "s", removed()).await.unwrap();
    assert_eq!((gone.state, gone.rescue_ref.as_deref()), (WorktreeState::Removed, Some("refs/rescue/first")));
    wrong(&[WorktreeStep::Kept, removing("x", true)]).await;
    assert!(storage.unfinished_worktrees().await.unwrap().is_empty());
}

pub(super) async fn a_worktree_stays_while_a_run_of_its_tree_is_active(storage: &dyn Storage) {
    let run = pending(storage, "r").await;
    child(storage, "r", "a").await;
    storage.add_worktree(&id("a"), worktree("/w")).await.unwrap();
    step(storage, "a", attached("/g")).await.unwrap();
    assert_fails!(step(storage, "a", removing("x", true)).await, Error::SessionBusy(busy) if busy == id("r"));
    assert_eq!(state(storage, "a").await, Some(WorktreeState::Attached));
    pending(storage, "another").await;
    storage.cancel_pending_run(&run).await.unwrap();
    step(storage, "a", removing("x", true)).await.unwrap();
}

pub(super) async fn a_worktree_goes_with_its_root_and_not_with_a_child(storage: &dyn Storage) {
    create(storage, "r").await;
    child(storage, "r", "a").await;
    storage.add_worktree(&id("a"), worktree("/w")).await.unwrap();
    storage.delete_session(&id("a"), DeleteOptions::default()).await.unwrap();
    assert_eq!(state(storage, "r").await, Some(WorktreeState::Creating));
    storage.delete_session(&id("r"), DeleteOptions::default()).await.unwrap();
    assert_fails!(step(storage, "r", attached("/g")).await, Error::SessionDeleted(_));
    assert_fails!(storage.add_worktree(&id("a"), worktree("/w")).await, Error::SessionDeleted(_));
    create(storage, "next").await;
    storage.add_worktree(&id("next"), worktree("/w")).await.unwrap();
    assert_eq!(storage.unfinished_worktrees().await.unwrap().len(), 1);
}
