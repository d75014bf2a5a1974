//! Housekeeping: what the writer does beside the writes. It purges what was deleted, cuts the log of events, forgets old
//! receipts, merges the search index after a large purge, and gives space back to the system.
//!
//! **Writes go first, and housekeeping does not starve.** While writes come, it gets a tenth of the writer's time; when
//! none came for a moment, all of it, a step at a time. Each step is a transaction of its own, of a few milliseconds.
//! What is lost of it is done again, so that no step waits for the disk.

use std::time::{Duration, Instant};

use sqlx::SqliteConnection;
use tokio::sync::watch;

use super::{
    LogBounds, cleanup, error, events, purge, reindex, search,
    transaction::{or_panic, run},
};
use crate::storage::Result;

/// How long a step goes on to begin statements. Each of these takes a few milliseconds at most.
const STEP: Duration = Duration::from_millis(8);
/// After which time without a write all of the writer's time is housekeeping's.
const QUIET: Duration = Duration::from_millis(5);
/// How often it is looked for what there is to do.
const LOOK: Duration = Duration::from_millis(250);
/// Of the time of writes, the part that housekeeping may take as well: together with it, a tenth of all.
const SHARE: u32 = 9;
/// What it may save up of that, in nanoseconds.
const SAVED: i64 = 20_000_000;
/// Rows after whose purge the log is cut.
const SOME_ROWS: u64 = 100;
/// After how much that was purged the search index is merged (until then it keeps what was deleted): messages, if they are
/// this part of those that are left, or bytes of text, if they are this part of the file.
const MANY_ROWS: u64 = 1_000;
const PART_OF_MESSAGES: u64 = 4;
const MANY_BYTES: i64 = 1 << 20;
const PART_OF_FILE: i64 = 16;

/// What is left to do.
#[derive(Debug)]
pub(super) struct Housekeeping {
    log: LogBounds,
    share: Share,
    /// Whether something was written since it was last looked for what to do, and when that was.
    is_written: bool,
    looked: Instant,
    purge: Option<purge::Progress>,
    /// The last event when the log was last found short enough, and when that was; none before the first look.
    cut_at: Option<(i64, Instant)>,
    /// The tree from which on it is looked for one with too many events.
    cut_from: i64,
    /// Pages of the next step of a merge.
    merge: Option<i64>,
    /// What was purged and is still in the search index: messages, and bytes of text.
    unmerged: (u64, i64),
    /// Whether another process may have written texts without their indexed forms.
    is_unsettled: bool,
    reclaim: bool,
    /// Whether space was given back, or much was purged, since the log was last to be cut.
    gave: bool,
    /// Counts how often space was given back: the log is to be cut then, so that the file shrinks.
    reclaimed: watch::Sender<u64>,
    /// Until the next look: a step failed.
    is_paused: bool,
}

impl Housekeeping {
    /// At start, what the last server left is still to be done.
    pub(super) fn new(log: LogBounds, reclaimed: watch::Sender<u64>) -> Self {
        Self {
            log,
            share: Share::default(),
            is_written: false,
            looked: Instant::now(),
            purge: Some(purge::Progress::default()),
            cut_at: None,
            cut_from: 0,
            merge: None,
            unmerged: (0, 0),
            is_unsettled: true,
            reclaim: false,
            gave: false,
            reclaimed,
            is_paused: false,
        }
    }

    /// Writes took this long.
    pub(super) fn written(&mut self, took: Duration) {
        self.is_written = true;
        self.share.written(took);
    }

    /// Another process wrote something.
    pub(super) fn suspect(&mut self) {
        self.is_written = true;
        self.is_unsettled = true;
    }

    /// What was written may have left something to do.
    fn look(&mut self) {
        self.looked = Instant::now();
        self.is_paused = false;
        if std::mem::take(&mut self.is_written) {
            self.purge.get_or_insert_default();
            self.is_unsettled = true;
        }
    }

    /// Whether there is something to do.
    pub(super) fn is_due(&mut self, last_event: i64) -> bool {
        if self.looked.elapsed() >= LOOK {
            self.look();
        }
        !self.is_paused
            && (self.is_unsettled
                || self.purge.is_some()
                || self.merge.is_some()
                || self.reclaim
                || self.is_log_due(last_event))
    }

    /// Whether there is something to do, and time for it though writes wait.
    pub(super) fn is_due_beside_writes(&mut self, last_event: i64) -> bool {
        self.share.is_there() && self.is_due(last_event)
    }

    /// From when on all of the time is housekeeping's, unless something is written before.
    pub(super) fn quiet_from(&self) -> Instant {
        self.share.last_write.map_or_else(Instant::now, |last| last + QUIET)
    }

    /// A step failed, and is tried again after a while.
    pub(super) fn pause(&mut self) {
        self.is_paused = true;
        self.looked = Instant::now();
    }

    /// Whether a step failed, and it is not yet tried again.
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Housekeeping took this long while writes came.
    pub(super) fn took_beside_writes(&mut self, took: Duration) {
        self.share.take(took);
    }

    /// Whether the log grew by a step since it was short enough, or grew older.
    fn is_log_due(&self, last_event: i64) -> bool {
        let is_short = |(at, then): (i64, Instant)| last_event - at < events::STEP && then.elapsed() < self.log.every;
        !self.cut_at.is_some_and(is_short)
    }

    /// One step of a transaction that was begun, and its commit. After an error the connection is not to be trusted.
    pub(super) async fn step(&mut self, conn: &mut SqliteConnection, last_event: i64) -> Result<()> {
        or_panic(self.some(conn, last_event, Instant::now() + STEP)).await?;
        run(conn, "commit").await
    }

    async fn some(&mut self, conn: &mut SqliteConnection, last_event: i64, until: Instant) -> Result<()> {
        // The log first: that is short, and a purge may be long.
        if self.is_log_due(last_event) {
            while events::cut(conn, &self.log, &mut self.cut_from).await? || cleanup::forget_old(conn).await? {
                if Instant::now() >= until {
                    return Ok(());
                }
            }
            self.cut_at = Some((last_event, Instant::now()));
            return Ok(());
        }
        if self.is_unsettled {
            // Where it fails, a purge may make room for it first.
            self.is_unsettled = false;
            self.is_unsettled = search::settle(conn).await?;
            if self.is_unsettled {
                return Ok(());
            }
        }
        if let Some(progress) = &mut self.purge {
            if !purge::some(conn, progress, until).await? {
                let (messages, bytes) = self.unmerged;
                let unmerged = (messages + progress.messages, bytes.saturating_add(progress.bytes));
                if is_worth_a_merge(conn, unmerged).await? {
                    self.merge = Some(-reindex::SMALL_STEP_OF_MERGE);
                }
                self.unmerged = if self.merge.is_some() { (0, 0) } else { unmerged };
                // The log holds what a large purge has written, also where other writes have taken the pages that it freed.
                self.gave |= progress.sessions.max(progress.messages) >= SOME_ROWS || progress.bytes >= MANY_BYTES;
                self.purge = None;
                self.reclaim = true;
            }
        } else if let Some(pages) = self.merge {
            self.merge = reindex::merge(conn, pages).await?.then_some(reindex::SMALL_STEP_OF_MERGE);
        } else if self.reclaim {
            self.reclaim = reclaim(conn, until, &mut self.gave).await?;
            if !self.reclaim && std::mem::take(&mut self.gave) {
                self.reclaimed.send_modify(|times| *times += 1);
            }
        }
        Ok(())
    }
}

/// Whether so much was purged that merging the search index is worth while.
async fn is_worth_a_merge(conn: &mut SqliteConnection, (messages, bytes): (u64, i64)) -> Result<bool> {
    if messages >= MANY_ROWS && messages >= reindex::indexed(conn).await? / PART_OF_MESSAGES {
        return Ok(true);
    }
    let size = "select page_count * page_size from pragma_page_count, pragma_page_size";
    let size: i64 = sqlx::query_scalar(size).fetch_one(conn).await.map_err(error::of)?;
    Ok(bytes >= MANY_BYTES && bytes >= size / PART_OF_FILE)
}

/// Gives free pages back to the system while more than one in a hundred is free. Whether the time was over before.
async fn reclaim(conn: &mut SqliteConnection, until: Instant, gave: &mut bool) -> Result<bool> {
    let pages: i64 = sqlx::query_scalar("pragma page_count").fetch_one(&mut *conn).await.map_err(error::of)?;
    let mut free = free_pages(conn).await?;
    while free * 100 > pages {
        if Instant::now() >= until {
            return Ok(true);
        }
        run(conn, "pragma incremental_vacuum(32)").await?;
        let left = free_pages(conn).await?;
        if left >= free {
            // A database that was not made by Culm may give nothing back.
            return Ok(false);
        }
        (free, *gave) = (left, true);
    }
    Ok(false)
}

async fn free_pages(conn: &mut SqliteConnection) -> Result<i64> {
    sqlx::query_scalar("pragma freelist_count").fetch_one(conn).await.map_err(error::of)
}

/// The time that housekeeping may take while writes come.
#[derive(Debug, Default)]
struct Share {
    last_write: Option<Instant>,
    /// In nanoseconds; below zero after a step that took more than was there.
    saved: i64,
}

impl Share {
    fn written(&mut self, took: Duration) {
        self.last_write = Some(Instant::now());
        let earned = i64::try_from((took / SHARE).as_nanos()).unwrap_or(SAVED);
        self.saved = self.saved.saturating_add(earned).min(SAVED);
    }

    fn is_there(&self) -> bool {
        self.saved > 0
    }

    fn take(&mut self, took: Duration) {
        self.saved = self.saved.saturating_sub(i64::try_from(took.as_nanos()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions;

    use super::*;
    use crate::{
        model::{NewMessage, NewSession, Role},
        storage::{
            AppendOptions, Storage,
            sqlite::{Options, SqliteStorage, deletion, open},
        },
    };

    #[test]
    fn housekeeping_takes_a_tenth_of_the_time_while_writes_come_and_no_less() {
        let (write, step) = (Duration::from_millis(3), Duration::from_millis(14));
        let (mut share, mut writing, mut keeping) = (Share::default(), Duration::ZERO, Duration::ZERO);
        for _ in 0..10_000 {
            share.written(write);
            writing += write;
            if share.is_there() {
                share.take(step);
                keeping += step;
            }
        }
        let share = keeping.as_secs_f64() / (writing + keeping).as_secs_f64();
        assert!((0.098..0.101).contains(&share), "{share}");
    }

    #[test]
    fn what_was_saved_up_is_no_more_than_one_step() {
        let mut share = Share::default();
        share.written(Duration::from_secs(3600));
        share.take(Duration::from_millis(21));
        assert!(!share.is_there());
    }

    #[tokio::test]
    async fn a_purge_goes_on_where_it_was_however_much_is_written_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let storage = SqliteStorage::open(&Options::new(dir.path().join("culm.db"))).await.unwrap();
        let root = storage.create_session(NewSession::default(), None).await.unwrap();
        let child = NewSession { parent: Some(root.id.clone()), ..NewSession::default() };
        let child = storage.create_session(child, None).await.unwrap();
        for _ in 0..4 {
            let messages = vec![NewMessage::text(Role::User, "hello"); 1000];
            storage.append_messages(&root.id, messages, AppendOptions::default()).await.unwrap();
        }
        storage.close().await;
        let mut conn = open::to_write(&dir.path().join("culm.db")).connect().await.unwrap();
        let key = "select json_group_array(session_key) from sessions where id = ?1";
        let keys: String = sqlx::query_scalar(key).bind(child.id.as_str()).fetch_one(&mut conn).await.unwrap();
        deletion::mark(&mut conn, &keys, false).await.unwrap();
        let mut house = Housekeeping::new(LogBounds::default(), watch::channel(0).0);
        let mut steps = 0;
        loop {
            let left: i64 = sqlx::query_scalar("select count(*) from purges").fetch_one(&mut conn).await.unwrap();
            if left == 0 {
                break;
            }
            // As if something was written before each step, and each step had time for one statement.
            house.written(Duration::ZERO);
            house.look();
            house.some(&mut conn, 0, Instant::now()).await.unwrap();
            steps += 1;
            assert!(steps < 100, "4000 events are 16 steps");
        }
    }
}
