//! Whether a write would be taken, by the last one's outcome, or else by one that changes nothing.
//!
//! **Asking costs little, however many ask.** The outcome of any write counts for a second; after that, one probe is
//! made for all who ask meanwhile. It rewrites the database's header as it is: an empty transaction writes nothing, and
//! would succeed on a disk that takes no more.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::error;
use crate::{
    storage::{Error, Result},
    tasks,
};

/// For how long the outcome of a write counts.
const COUNTS: Duration = Duration::from_secs(1);

/// What came of a write: nothing, or why the engine failed.
type Outcome = std::result::Result<(), Arc<Error>>;

/// The outcome of the last write. Clones share it.
#[derive(Clone, Default)]
pub(super) struct LastWrite(Arc<Mutex<Option<(Instant, Outcome)>>>);

impl LastWrite {
    pub(super) fn record(&self, outcome: Result<()>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), outcome.map_err(Arc::new)));
    }

    fn outcome(&self) -> Option<Outcome> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| at.elapsed() < COUNTS).map(|(_, outcome)| outcome.clone())
    }
}

/// The one probe that is under way, or the last.
#[derive(Default)]
pub(super) struct Probe(Mutex<Option<Shared<BoxFuture<'static, Outcome>>>>);

impl Probe {
    /// The last write's outcome, or that of a probe, which is made by `write` unless one is under way.
    pub(super) async fn outcome(
        &self,
        last: &LastWrite,
        write: impl FnOnce() -> BoxFuture<'static, Result<()>>,
    ) -> Result<()> {
        let outcome = match last.outcome() {
            Some(outcome) => outcome,
            None => self.running(write).await,
        };
        outcome.map_err(|error| again(&error))
    }

    fn running(&self, write: impl FnOnce() -> BoxFuture<'static, Result<()>>) -> Shared<BoxFuture<'static, Outcome>> {
        let mut probe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = probe.as_ref().filter(|running| running.peek().is_none()) {
            return running.clone();
        }
        // A task of its own: those who ask may leave.
        let task = tasks::owned(write());
        let outcome = async {
            let written = task.await.unwrap_or_else(|_| Err(Error::Failed("the probe broke down".into())));
            written.map_err(Arc::new)
        };
        probe.insert(outcome.boxed().shared()).clone()
    }
}

/// The same failure, for one more who asked.
pub(super) fn again(error: &Error) -> Error {
    match error {
        Error::Full => Error::Full,
        Error::Busy(why) => Error::Busy(why),
        Error::Unavailable(why) => Error::Unavailable(why.clone()),
        Error::Stopped(why) => Error::Stopped(why.clone()),
        Error::Damaged(why) => Error::Damaged(why.clone()),
        Error::Failed(why) => Error::Failed(why.clone()),
        error => Error::Failed(error.to_string()),
    }
}

/// Writes the header as it is.
pub(super) async fn rewrite_header(conn: &mut SqliteConnection) -> Result<()> {
    let schema: i64 = sqlx::query_scalar("pragma user_version").fetch_one(&mut *conn).await.map_err(error::of)?;
    let same = AssertSqlSafe(format!("pragma user_version = {schema}"));
    sqlx::query(same).execute(conn).await.map(drop).map_err(error::of)
}
