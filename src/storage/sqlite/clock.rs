//! The system clock, which may be wrong: what is believed of it, and activity that lies in its future.
//!
//! A clock that was ahead for a moment leaves sessions whose last activity lies in the future. Once it is right again
//! these would lead every list, and escape every sweep, until that time has come. So they are brought back to now, in
//! their order. A clock that is *behind* looks the same, but then the sessions are right, and bringing them back would
//! have a sweep take what was in use yesterday. Which of the two it is, is decided like this:
//!
//! - While the server runs, its clock is compared with one that only ticks. A clock that returns to what it would show
//!   without a leap is right. One that fell behind that is believed after a day ([`BELIEVED`]).
//! - At start, when fewer sessions lie in the future than in the past, these few are wrong; else the clock is.

use std::time::{Duration, Instant};

use sqlx::SqliteConnection;

use super::{error, teardown::LONGEST_DELAY, types};
use crate::{model::Timestamp, storage::Result};

/// A difference that a clock which is set a little at a time may have.
const SLACK: i64 = 60 * 1_000_000;
/// How long a clock that leapt is to go on from there before it is believed.
const BELIEVED: Duration = Duration::from_secs(24 * 3600);
/// Sessions that are brought back at once.
const STEP: i64 = 500;

/// What is believed of the system clock, in microseconds since 1970.
#[derive(Debug)]
pub(super) struct Clock {
    /// What it showed when it was last believed, and when that was.
    believed: (i64, Instant),
    /// Since when it shows something else than it would without a leap.
    apart: Option<Instant>,
    shown: i64,
    /// Whether sessions may lie in the future.
    suspicious: bool,
}

impl Clock {
    /// A clock that is believed to have shown this at that instant.
    fn new(believed: i64, now: Instant) -> Self {
        Self { believed: (believed, now), apart: None, shown: believed, suspicious: true }
    }

    /// Looks at what the clock shows. Whether sessions are to be looked for that lie in the future.
    fn look(&mut self, shown: i64, now: Instant) -> bool {
        self.suspicious |= shown < self.shown;
        self.shown = shown;
        if (shown - self.ticked(now)).abs() <= SLACK {
            self.apart = None;
        } else if now.duration_since(*self.apart.get_or_insert(now)) >= BELIEVED {
            *self = Self::new(shown, now);
        }
        self.suspicious
    }

    /// What the clock would show if it had only ticked.
    fn ticked(&self, now: Instant) -> i64 {
        let (believed, since) = self.believed;
        believed.saturating_add(i64::try_from(now.duration_since(since).as_micros()).unwrap_or(i64::MAX))
    }

    /// The latest time that can have been.
    fn latest(&self, now: Instant) -> i64 {
        match self.ticked(now) {
            ticked if ticked > self.shown + SLACK => ticked,
            _ => self.shown,
        }
    }
}

/// The clock as the writer follows it; none before its first look.
#[derive(Debug, Default)]
pub(super) struct Followed(Option<Clock>);

impl Followed {
    /// Others may have written sessions that lie in the future.
    pub(super) fn suspect(&mut self) {
        if let Some(clock) = &mut self.0 {
            clock.suspicious = true;
        }
    }

    /// Whether [`Followed::bring_back`] has something to look for.
    pub(super) fn is_suspicious(&mut self, shown: Timestamp) -> bool {
        self.0.as_mut().is_none_or(|clock| clock.look(shown.0, Instant::now()))
    }

    /// Brings sessions back that lie in the future, a step of them. Whether there were any.
    pub(super) async fn bring_back(&mut self, conn: &mut SqliteConnection, shown: Timestamp) -> Result<bool> {
        let now = Instant::now();
        let clock = match &mut self.0 {
            Some(clock) => clock,
            none => none.insert(Clock::new(at_start(conn, shown.0).await?, now)),
        };
        let latest = clock.latest(now);
        let keys = in_the_future(conn, latest).await?;
        if !keys.is_empty() {
            // One statement, and so a transaction: what it finds is as it was a moment ago, for there is one writer.
            bring_to(conn, latest, &keys).await?;
            tracing::warn!(sessions = keys.len(), "the last activity of sessions lay in the future, and is now");
        }
        bring_teardowns_to(conn, latest).await?;
        clock.suspicious = i64::try_from(keys.len()).is_ok_and(|found| found == STEP);
        Ok(!keys.is_empty())
    }
}

/// What to believe at start: the clock, or the newest session when more lie in its future than in its past.
async fn at_start(conn: &mut SqliteConnection, shown: i64) -> Result<i64> {
    let found = sqlx::query!(
        r#"select
             (select count(*) from (select 1 from live_sessions where kind = 'root' and archived_at is null
                and last_activity_at > ?1 limit 1000)) as "ahead!: i64",
             (select count(*) from (select 1 from live_sessions where kind = 'root' and archived_at is null
                and last_activity_at <= ?1 limit 1000)) as "before!: i64",
             coalesce((select max(last_activity_at) from live_sessions where kind = 'root' and archived_at is null), 0)
               as "newest!: i64""#,
        shown
    );
    let found = found.fetch_one(conn).await.map_err(error::of)?;
    if found.ahead > found.before {
        tracing::warn!(clock = %Timestamp(shown), newest = %Timestamp(found.newest), "the system clock is behind the sessions: is it right?");
        return Ok(found.newest);
    }
    Ok(shown)
}

/// Sessions that lie in the future, the first of them first.
async fn in_the_future(conn: &mut SqliteConnection, latest: i64) -> Result<Vec<i64>> {
    let keys = sqlx::query_scalar!(
        r#"select session_key as "key!: i64" from (
             select session_key, last_activity_at from (select session_key, last_activity_at from live_sessions
               where kind = 'root' and archived_at is null and last_activity_at > ?1 order by last_activity_at limit ?2)
             union all
             select session_key, last_activity_at from (select session_key, last_activity_at from live_sessions
               where kind = 'child' and archived_at is null and last_activity_at > ?1 order by last_activity_at limit ?2)
             union all
             select session_key, last_activity_at from (select session_key, last_activity_at from live_sessions
               where kind = 'root' and archived_at is not null and last_activity_at > ?1 order by last_activity_at limit ?2)
             union all
             select session_key, last_activity_at from (select session_key, last_activity_at from live_sessions
               where kind = 'child' and archived_at is not null and last_activity_at > ?1 order by last_activity_at limit ?2)
           ) order by last_activity_at limit ?2"#,
        latest,
        STEP
    );
    keys.fetch_all(conn).await.map_err(error::of)
}

/// Gives sessions the times up to this one, in their order.
async fn bring_to(conn: &mut SqliteConnection, latest: i64, keys: &[i64]) -> Result<()> {
    let first = latest - i64::try_from(keys.len()).unwrap_or(STEP);
    let keys = types::object(&keys);
    let bring = sqlx::query!(
        "update sessions set last_activity_at = ?2 + j.key, updated_at = min(updated_at, ?2 + j.key), version = version + 1
         from json_each(?1) j where session_key = j.value",
        keys,
        first
    );
    bring.execute(conn).await.map(drop).map_err(error::of)
}

/// Jobs that were put off under a clock that was ahead are due.
async fn bring_teardowns_to(conn: &mut SqliteConnection, latest: i64) -> Result<()> {
    let longest = latest + LONGEST_DELAY;
    let due = sqlx::query!("update teardown_jobs set next_at = ?1 where next_at > ?2", latest, longest);
    due.execute(conn).await.map(drop).map_err(error::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600 * 1_000_000;
    const YEAR: i64 = 365 * 24 * HOUR;

    struct Scene {
        clock: Clock,
        start: Instant,
    }

    impl Scene {
        fn new(shown: i64) -> Self {
            let start = Instant::now();
            let mut clock = Clock::new(shown, start);
            clock.suspicious = false;
            Self { clock, start }
        }

        /// What the clock shows so long after the start: whether that is suspicious, and the latest time believed.
        fn after(&mut self, hours: u64, shown: i64) -> (bool, i64) {
            let now = self.start + Duration::from_secs(hours * 3600);
            let suspicious = self.clock.look(shown, now);
            self.clock.suspicious = false;
            (suspicious, self.clock.latest(now))
        }
    }

    #[test]
    fn a_clock_that_returns_from_the_future_is_right() {
        let mut scene = Scene::new(YEAR);
        assert_eq!(scene.after(1, YEAR + HOUR), (false, YEAR + HOUR));
        assert_eq!(scene.after(2, 2 * YEAR), (false, 2 * YEAR));
        assert_eq!(scene.after(3, YEAR + 3 * HOUR), (true, YEAR + 3 * HOUR));
    }

    #[test]
    fn a_clock_that_falls_behind_is_believed_after_a_day() {
        let mut scene = Scene::new(2 * YEAR);
        assert_eq!(scene.after(1, YEAR), (true, 2 * YEAR + HOUR));
        assert_eq!(scene.after(24, YEAR + 23 * HOUR), (false, 2 * YEAR + 24 * HOUR));
        assert_eq!(scene.after(25, YEAR + 24 * HOUR), (true, YEAR + 24 * HOUR));
    }

    #[test]
    fn a_clock_that_is_set_back_a_little_is_only_waited_for() {
        let mut scene = Scene::new(YEAR);
        let (suspicious, latest) = scene.after(1, YEAR + HOUR - 1000);
        assert_eq!((suspicious, latest), (false, YEAR + HOUR - 1000));
        assert_eq!(scene.after(1, YEAR + HOUR - 2000), (true, YEAR + HOUR - 2000));
    }
}
