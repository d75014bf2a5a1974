//! What is outside of the database is torn down: at once by whoever deleted it, and else by the reaper.
//!
//! A job is in the database before anybody begins it, and leaves it when it was done. So it may be done twice, and is
//! never forgotten. What works in a worktree ends before it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures_util::{
    StreamExt,
    stream::{self, FuturesUnordered},
};
use tokio::sync::mpsc;

use super::close;
use crate::{
    model::{SessionId, Teardown, TeardownJob, Unfinished, Worktree, WorktreeState},
    runs::Runs,
    storage::Storage,
    worktree::{Refusal, Worktrees},
};

/// Jobs that are carried out at one time.
pub(super) const AT_ONCE: usize = 256;
/// Jobs that the reaper carries out at one time.
const BATCH: usize = 16;
/// How often the reaper looks for jobs that are due.
const LOOK: Duration = Duration::from_secs(1);

/// What was not torn down.
#[derive(Default)]
pub(super) struct Left {
    /// It is tried again.
    pub(super) unfinished: Vec<Unfinished>,
    /// Worktrees that stay.
    pub(super) retained: Vec<String>,
}

/// What became of a job.
enum Outcome {
    Done,
    /// The worktree stays on disk.
    Stays,
    Failed(String),
}

/// Carries out what others have left, for as long as it is let. What another process deletes leaves jobs, too: they are
/// looked for as soon as its commit is noticed. A job that takes long holds up no other, until [`BATCH`] of them do.
pub(super) async fn reap(runs: &Runs, worktrees: &Worktrees) {
    let mut commits = runs.repository().foreign_commits();
    let (mut carried, mut under_way) = (FuturesUnordered::new(), HashSet::new());
    loop {
        let room = i64::try_from(BATCH.saturating_sub(under_way.len())).unwrap_or(0);
        let mut jobs = Vec::new();
        if room > 0 {
            jobs = runs.repository().claim_teardowns(room).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "teardown jobs were not taken");
                Vec::new()
            });
        }
        // One that is under way is not begun again, whoever says that it is due.
        jobs.retain(|job| under_way.insert(job.key));
        if jobs.is_empty() {
            tokio::select! {
                Some(ended) = carried.next() => drop(under_way.remove(&ended)),
                seen = tokio::time::timeout(LOOK, commits.changed()) => if seen.is_ok_and(|seen| seen.is_err()) {
                    // The writer has ended, and the server stops.
                    return;
                },
            }
        }
        for job in jobs {
            carried.push(async move {
                let (key, (told, _)) = (job.key, mpsc::channel(1));
                carry_out(runs, worktrees, vec![job], told).await;
                key
            });
        }
    }
}

/// Carries out jobs that were just made. What has not ended within a bound goes on all the same.
pub(super) async fn at_once(runs: &Runs, worktrees: &Worktrees, jobs: Vec<TeardownJob>) -> Left {
    let mut left = Left::default();
    if jobs.is_empty() {
        return left;
    }
    let mut waiting: HashMap<i64, TeardownJob> = jobs.iter().map(|job| (job.key, job.clone())).collect();
    let (tells, mut told) = mpsc::channel(jobs.len());
    let (carrying_runs, carrying_worktrees) = (runs.clone(), worktrees.clone());
    let carrying = async move { carry_out(&carrying_runs, &carrying_worktrees, jobs, tells).await };
    runs.repository().tasks().spawn(carrying);
    let listening = async {
        while let Some((key, outcome)) = told.recv().await {
            match (waiting.remove(&key), outcome) {
                (Some(job), Outcome::Failed(error)) => left.unfinished.push(job.unfinished(error)),
                (Some(TeardownJob { work: Teardown::Worktree { worktree, .. }, .. }), Outcome::Stays) => {
                    left.retained.push(worktree.path.to_string());
                }
                _ => {}
            }
        }
    };
    // Each backend is bounded: all together take as long as the slowest, unless they are very many.
    let _ = tokio::time::timeout(runs.options().dispose * 2, listening).await;
    left.unfinished.extend(waiting.values().map(|job| job.unfinished("it has not ended yet")));
    left.retained.sort();
    left
}

type Told = mpsc::Sender<(i64, Outcome)>;

/// Ends backends, all at the same time, and then removes the worktrees in which nothing works any more.
async fn carry_out(runs: &Runs, worktrees: &Worktrees, jobs: Vec<TeardownJob>, told: Told) {
    let is_backend = |job: &TeardownJob| matches!(job.work, Teardown::Backend { .. });
    let (backends, trees): (Vec<_>, Vec<_>) = jobs.into_iter().partition(is_backend);
    let told = &told;
    let ending = stream::iter(backends).map(|job| async move { carry_out_one(runs, worktrees, job, told).await });
    let warm: HashSet<SessionId> = ending.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
    let warm = &warm;
    let removing = trees.into_iter().map(|job| async move {
        match &job.work {
            Teardown::Worktree { worktree, .. } if warm.contains(&worktree.session_id) => {
                finish(runs, &job, Outcome::Failed("what works in it has not ended".into()), told).await;
            }
            _ => drop(carry_out_one(runs, worktrees, job, told).await),
        }
    });
    stream::iter(removing).buffer_unordered(AT_ONCE).collect::<()>().await;
}

/// The root of the tree where a backend has not ended.
async fn carry_out_one(runs: &Runs, worktrees: &Worktrees, job: TeardownJob, told: &Told) -> Option<SessionId> {
    let (outcome, root) = match &job.work {
        Teardown::Backend { backend, root, purge, .. } => match runs.dispose(backend, *purge).await {
            Ok(()) => (Outcome::Done, None),
            Err(error) => (Outcome::Failed(error.to_string()), Some(root.clone())),
        },
        Teardown::Worktree { worktree, discard, closing: false } => {
            (take_down(worktrees, worktree, *discard).await, None)
        }
        Teardown::Worktree { worktree, discard, closing: true } => {
            let gone = close::remove_worktree(runs, worktrees, &worktree.session_id, *discard).await;
            let outcome = gone.err().map_or(Outcome::Done, |error| Outcome::Failed(error.to_string()));
            (outcome, None)
        }
    };
    finish(runs, &job, outcome, told).await;
    root
}

async fn finish(runs: &Runs, job: &TeardownJob, outcome: Outcome, told: &Told) {
    let error = match &outcome {
        Outcome::Failed(error) => Some(error.clone()),
        Outcome::Done | Outcome::Stays => None,
    };
    if let Some(error) = &error {
        tracing::warn!(error, job = job.key, "something was not torn down; it is tried again");
    }
    if let Err(error) = runs.repository().finish_teardown(job, error).await {
        // It is done twice then, which is as well.
        tracing::warn!(%error, job = job.key, "the end of a teardown job was not written");
    }
    // Nobody waits for what the reaper does.
    let _ = told.send((job.key, outcome)).await;
}

/// Removes the worktree of a tree that was deleted, unless work is at risk: then it stays, and is nobody's.
async fn take_down(worktrees: &Worktrees, worktree: &Worktree, discard: bool) -> Outcome {
    let _turn = worktrees.turn(&worktree.path).await;
    // Nobody had what was being made; what was there before stays.
    let half_made = worktree.state == WorktreeState::Creating;
    let outcome = match half_made && worktree.adopted {
        true => Ok(false),
        false => worktrees.remove(worktree, discard || half_made).await.map(|removed| removed.removed),
    };
    match outcome {
        Ok(true) => Outcome::Done,
        Ok(false) | Err(Refusal::AtRisk(_)) => match worktrees.release(worktree).await {
            Ok(()) => Outcome::Stays,
            Err(error) => Outcome::Failed(error.to_string()),
        },
        Err(Refusal::Failed(error)) => Outcome::Failed(error.to_string()),
    }
}
