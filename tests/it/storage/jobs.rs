//! Teardown jobs: left by a delete, taken, done, tried again.

use std::collections::BTreeSet;

use culm::{
    model::{AgentSession, BackendFilter, BackendState, BackendStatus, Closing, DeleteOptions, Teardown, TeardownJob},
    storage::Storage,
};

use super::{
    agent_sessions::{backend, ended, warm},
    runs::asked,
};
use crate::support::*;

fn of(job: &TeardownJob) -> (&AgentSession, bool) {
    let Teardown::Backend { backend, purge } = &job.work;
    (backend, *purge)
}

fn sessions(jobs: &[TeardownJob]) -> BTreeSet<&str> {
    jobs.iter().map(|job| of(job).0.session_id.as_str()).collect()
}

/// A root over two children, warm, dormant and closed.
async fn tree(storage: &dyn Storage) -> AgentSession {
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
    let job = TeardownJob { key: 1, work: Teardown::Backend { backend: left, purge: false } };
    storage.finish_teardown(&job, Some("again".into())).await.unwrap();
    assert_eq!(row().await.status, BackendStatus::Warm);
    storage.finish_teardown(&job, None).await.unwrap();
    assert_eq!((row().await.status, row().await.process), (BackendStatus::Closed, None));
}

pub(super) async fn a_job_that_is_done_closes_no_backend_that_was_used_since(storage: &dyn Storage) {
    let left = failed(storage, "a").await;
    storage.create_run(&id("a"), asked("r"), None).await.unwrap();
    let used = warm(storage, "a").await;
    let job = TeardownJob { key: 1, work: Teardown::Backend { backend: left, purge: false } };
    storage.finish_teardown(&job, None).await.unwrap();
    assert_eq!(backend(storage, "a").await, used);
}
