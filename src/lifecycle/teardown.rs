//! What is outside of the database is torn down: at once by whoever deleted it, and else by the reaper.
//!
//! A job is in the database before anybody begins it, and leaves it when it was done. So it may be done twice, and is
//! never forgotten.

use std::time::Duration;

use futures_util::{StreamExt, stream};

use crate::{
    model::{Teardown, TeardownJob, Unfinished},
    runs::Runs,
    storage::Storage,
};

/// Jobs that are carried out at one time.
pub(super) const AT_ONCE: usize = 256;
/// Jobs that the reaper takes at a time.
const BATCH: i64 = 16;
/// How often the reaper looks for jobs that are due.
const LOOK: Duration = Duration::from_secs(1);

/// Starts the reaper, which carries out what others have left, until the server stops.
pub fn start(runs: &Runs) {
    let (runs, stop) = (runs.clone(), runs.feed().stopping().clone());
    let tasks = runs.repository().tasks().clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(reap(&runs)).await;
    });
}

async fn reap(runs: &Runs) {
    loop {
        match runs.repository().claim_teardowns(BATCH).await {
            Ok(jobs) if jobs.is_empty() => tokio::time::sleep(LOOK).await,
            Ok(jobs) => drop(carry_out(runs, jobs).await),
            Err(error) => {
                tracing::warn!(%error, "teardown jobs were not taken");
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// Carries out jobs that were just made, within a bound. What is not done then; the reaper does it.
pub(super) async fn at_once(runs: &Runs, jobs: Vec<TeardownJob>) -> Vec<Unfinished> {
    let all = jobs.clone();
    // Each is bounded: together they take as long as the slowest, unless they are very many.
    match tokio::time::timeout(runs.options().dispose * 2, carry_out(runs, jobs)).await {
        Ok(unfinished) => unfinished,
        Err(_) => all.iter().map(|job| job.unfinished("there was no time for it yet")).collect(),
    }
}

/// What was not done.
async fn carry_out(runs: &Runs, jobs: Vec<TeardownJob>) -> Vec<Unfinished> {
    let done = stream::iter(jobs).map(|job| carry_out_one(runs, job)).buffer_unordered(AT_ONCE);
    done.filter_map(std::future::ready).collect().await
}

async fn carry_out_one(runs: &Runs, job: TeardownJob) -> Option<Unfinished> {
    let Teardown::Backend { backend, purge } = &job.work;
    let error = runs.dispose(backend, *purge).await.err().map(|error| error.to_string());
    if let Some(error) = &error {
        tracing::warn!(%error, job = job.key, backend = %backend.id, "a backend was not ended; it is tried again");
    }
    if let Err(error) = runs.repository().finish_teardown(&job, error.clone()).await {
        // It is done twice then, which is as well.
        tracing::warn!(%error, job = job.key, "the end of a teardown job was not written");
    }
    error.map(|error| job.unfinished(error))
}
