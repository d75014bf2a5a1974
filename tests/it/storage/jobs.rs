//! Teardown jobs: left by a delete, taken, done, tried again.

use std::collections::BTreeSet;

use culm::{
    model::{
        AbsolutePath, AgentSession, BackendFilter, BackendState, BackendStatus, Closing, DeleteOptions, NewWorktree,
        Teardown, TeardownJob, Worktree, WorktreeState, WorktreeStep,
    },
    storage::{Error, Storage},
};

use super::{
    agent_sessions::{backend, ended, warm},
    runs::asked,
};
use crate::support::*;

fn of(job: &TeardownJob) -> (&AgentSession, bool) {
    match &job.work {
        Teardown::Backend { backend, purge, .. } => (backend, *purge),
        Teardown::Worktree { .. } => panic!("{job:?}"),
    }
}

fn sessions(jobs: &[TeardownJob]) -> BTreeSet<&str> {
    jobs.iter().map(|job| of(job).0.session_id.as_str()).collect()
}

/// A root over two children, warm, dormant and closed.
pub(super) async fn tree(storage: &dyn Storage) -> AgentSession {
    create(storage, "r").await;
    for name in ["dormant", "closed"] {
        child(storage, "r", name).await;
    }
    let closed = warm(storage, "closed").await;
    storage.close_sessions(&id("closed"), ended(&[&closed])).await.unwrap();
    let dormant = warm(storage, "dormant").await;
    storage.update_agent_session(&dormant.id, BackendState::Dormant).await.unwrap();
    say(storage, "r", &["hello"]).await;
    warm(storage, "r").await
}

/// Leaves a job for a backend of a closed session.
async fn failed(storage: &dyn Storage, session: &str) -> AgentSession {
    create(storage, session).await;
    let backend = warm(storage, session).await;
    let closing = Closing { failed: vec![(backend.clone(), "it hangs".into())], ..Closing::default() };
    let closed = storage.close_sessions(&id(session), closing).await.unwrap();
    assert_eq!((closed[0].closed_at.is_some(), closed[0].backends, closed[0].busy), (true, 0, false));
    backend
}

pub(super) async fn a_delete_leaves_a_job_for_each_backend_and_hands_it_out(storage: &dyn Storage) {
    let root = tree(storage).await;
    let receipt = storage.delete_session(&id("r"), DeleteOptions::default()).await.unwrap();
    assert_eq!(sessions(&receipt.teardowns), ["closed", "dormant", "r"].into());
    for job in &receipt.teardowns {
        let (backend, purge) = of(job);
        assert!(purge);
        // Its memory is not forgotten on the way out: it names what there is to remove.
        assert_eq!(backend.agent_session_id, Some(format!("of {}", backend.session_id)));
        if backend.session_id == id("r") {
            assert_eq!(*backend, root, "all that was known of it");
        }
    }
    // They are the caller's.
    assert!(storage.claim_teardowns(10).await.unwrap().is_empty());
    for job in &receipt.teardowns {
        storage.finish_teardown(job, None).await.unwrap();
    }
    assert!(storage.claim_teardowns(10).await.unwrap().is_empty());
}

pub(super) async fn a_cleanup_leaves_jobs_and_a_dry_run_none(storage: &dyn Storage) {
    use culm::model::{Cleanup, CleanupMode};
    tree(storage).await;
    let dry = Cleanup { dry_run: true, ..cleanup(CleanupMode::All) };
    assert!(storage.cleanup_sessions(dry).await.unwrap().teardowns.is_empty());
    assert_eq!(storage.agent_sessions(&BackendFilter::default(), None, 10).await.unwrap().items.len(), 3);
    let receipt = storage.cleanup_sessions(cleanup(CleanupMode::Children)).await.unwrap();
    assert_eq!(sessions(&receipt.teardowns), ["closed", "dormant"].into());
    let receipt = storage.cleanup_sessions(cleanup(CleanupMode::All)).await.unwrap();
    assert_eq!(sessions(&receipt.teardowns), ["r"].into());
}

pub(super) async fn a_delete_that_is_refused_leaves_no_job(storage: &dyn Storage) {
    tree(storage).await;
    let other = DeleteOptions { if_match: Some(4711), ..DeleteOptions::default() };
    assert!(storage.delete_session(&id("r"), other).await.is_err());
    assert!(storage.claim_teardowns(10).await.unwrap().is_empty());
    assert_eq!(storage.agent_sessions(&BackendFilter::default(), None, 10).await.unwrap().items.len(), 3);
}

pub(super) async fn a_backend_that_could_not_be_ended_stays_warm_until_it_is(storage: &dyn Storage) {
    let left = failed(storage, "a").await;
    let row = async || storage.agent_sessions(&BackendFilter::default(), None, 1).await.unwrap().items.remove(0);
    assert_eq!(row().await, left);
    // Closed again, it is the same job.
    let closing = Closing { failed: vec![(left.clone(), "it hangs".into())], ..Closing::default() };
    storage.close_sessions(&id("a"), closing).await.unwrap();
    assert!(storage.claim_teardowns(10).await.unwrap().is_empty(), "not yet");
    let job =
        TeardownJob { key: 1, work: Teardown::Backend { backend: left, root: id("a"), purge: false, left: false } };
    storage.finish_teardown(&job, Some("again".into())).await.unwrap();
    assert_eq!(row().await.status, BackendStatus::Warm);
    storage.finish_teardown(&job, None).await.unwrap();
    assert_eq!((row().await.status, row().await.process), (BackendStatus::Closed, None));
}

pub(super) async fn a_job_that_is_done_closes_no_backend_that_was_used_since(storage: &dyn Storage) {
    let left = failed(storage, "a").await;
    storage.create_run(&id("a"), asked("r"), None).await.unwrap();
    let used = warm(storage, "a").await;
    let job =
        TeardownJob { key: 1, work: Teardown::Backend { backend: left, root: id("a"), purge: false, left: false } };
    storage.finish_teardown(&job, None).await.unwrap();
    assert_eq!(backend(storage, "a").await, used);
}

fn path(text: &str) -> AbsolutePath {
    text.parse().unwrap()
}

/// A worktree that a session's tree works in.
pub(super) async fn attached(storage: &dyn Storage, session: &str) -> Worktree {
    let new = NewWorktree {
        path: path(&format!("/trees/{session} x")),
        repository: path("file:///repo%FF"),
        git_dir: None,
        branch: Some("topic".into()),
        branch_created: true,
        base_commit: Some("abc".into()),
        base_ref: Some("refs/heads/main".into()),
        adopted: false,
        main: false,
        asked_for: String::new(),
    };
    storage.add_worktree(&id(session), new).await.unwrap();
    let step = WorktreeStep::Attached { git_dir: path("/repo/.git/worktrees/x") };
    storage.advance_worktree(&id(session), step).await.unwrap()
}

fn removing(discard: bool, closed: bool) -> WorktreeStep {
    WorktreeStep::Removing { rescue_ref: "refs/rescue/then".into(), discard, closed }
}

pub(super) async fn a_deleted_trees_worktree_is_known_by_its_job_alone(storage: &dyn Storage) {
    for (name, discard) in [("kept", false), ("discarded", true)] {
        create(storage, name).await;
        child(storage, name, &format!("{name} below")).await;
        let worktree = attached(storage, &format!("{name} below")).await;
        let receipt = storage.delete_session(&id(&format!("{name} below")), DeleteOptions::default()).await.unwrap();
        assert!(receipt.teardowns.is_empty(), "the tree is there");
        let options = DeleteOptions { discard_worktree: discard, ..DeleteOptions::default() };
        let receipt = storage.delete_session(&id(name), options).await.unwrap();
        let [job] = receipt.teardowns.as_slice() else { panic!("{receipt:?}") };
        let work = Teardown::Worktree { worktree: Box::new(Worktree { discard, ..worktree }), discard, closing: false };
        assert_eq!(job.work, work);
        storage.finish_teardown(job, None).await.unwrap();
    }
    for (name, step, discard) in [("removed", removing(true, false), true), ("gone", removing(false, false), false)] {
        create(storage, name).await;
        attached(storage, name).await;
        let worktree = storage.advance_worktree(&id(name), step).await.unwrap();
        if name == "gone" {
            storage.advance_worktree(&id(name), WorktreeStep::Removed { rescue_ref: None }).await.unwrap();
        }
        let receipt = storage.delete_session(&id(name), DeleteOptions::default()).await.unwrap();
        let left =
            (name == "removed").then(|| Teardown::Worktree { worktree: Box::new(worktree), discard, closing: false });
        assert_eq!(receipt.teardowns.into_iter().map(|job| job.work).collect::<Vec<_>>(), Vec::from_iter(left));
    }
}

pub(super) async fn a_worktree_goes_with_its_last_open_session(storage: &dyn Storage) {
    create(storage, "r").await;
    child(storage, "r", "a").await;
    attached(storage, "r").await;
    let close = async |name: &str| storage.close_sessions(&id(name), Closing::default()).await.unwrap();
    let remove = async || storage.advance_worktree(&id("r"), removing(false, true)).await;
    let state = async || storage.worktree_of(&id("r")).await.unwrap().unwrap().state;
    close("a").await;
    assert_fails!(remove().await, Error::SessionBusy(who) if who == id("r"));
    close("r").await;
    let failed = warm(storage, "a").await;
    assert_fails!(remove().await, Error::SessionBusy(who) if who == id("a"));
    storage.update_agent_session(&failed.id, BackendState::Dormant).await.unwrap();
    assert_eq!(remove().await.unwrap().state, WorktreeState::Removing);
    storage.advance_worktree(&id("r"), WorktreeStep::Kept).await.unwrap();
    // Who works there again has it again.
    storage.update_session(&id("a"), title("new"), None).await.unwrap();
    assert_eq!(state().await, WorktreeState::Retained);
    say(storage, "a", &["hi"]).await;
    assert_eq!(state().await, WorktreeState::Attached);
}

pub(super) async fn runs_wait_for_a_worktree_that_is_being_removed(storage: &dyn Storage) {
    for name in ["a", "b"] {
        create(storage, name).await;
    }
    child(storage, "a", "below").await;
    attached(storage, "a").await;
    storage.advance_worktree(&id("a"), removing(false, false)).await.unwrap();
    for name in ["below", "b"] {
        storage.create_run(&id(name), asked(name), None).await.unwrap();
    }
    let taken = async || {
        let taken = storage.claim_runs(10).await.unwrap();
        taken.iter().map(|run| run.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(taken().await, ["b"]);
    assert!(taken().await.is_empty());
    storage.advance_worktree(&id("a"), WorktreeStep::Kept).await.unwrap();
    assert_eq!(taken().await, ["below"]);
}
