//! Housekeeping: what the writer does beside the writes. It purges what was deleted, and cuts the log of events.
//!
//! Each step is a transaction of its own, of a few milliseconds; what is lost of it is done again.

use std::time::Instant;

use sqlx::SqliteConnection;

use super::{
    LogBounds, events, purge,
    transaction::{or_panic, run},
};
use crate::storage::Result;

/// What is left to do.
pub(super) struct Housekeeping {
    log: LogBounds,
    /// Whether there may be something to purge.
    purging: bool,
    /// How far the trees are looked through that are being purged.
    seen: purge::Seen,
    /// The last event when the log was last found short enough, and when that was; none before the first look.
    cut_at: Option<(i64, Instant)>,
    /// Until the writer's next tick: a step failed.
    paused: bool,
}

impl Housekeeping {
    /// At start, what the last server left is still to be done.
    pub(super) fn new(log: LogBounds) -> Self {
        Self { log, purging: true, seen: purge::Seen::default(), cut_at: None, paused: false }
    }

    /// Something was written, perhaps a delete.
    pub(super) fn written(&mut self) {
        self.purging = true;
        self.seen = purge::Seen::default();
    }

    pub(super) fn pause(&mut self, failed: bool) {
        self.paused = failed;
    }

    /// Whether there is something to do now.
    pub(super) fn is_due(&self, last_event: i64) -> bool {
        !self.paused && (self.purging || self.is_log_due(last_event))
    }

    /// Whether the log grew by a step since it was short enough, or grew older.
    fn is_log_due(&self, last_event: i64) -> bool {
        let is_short = |(at, then): (i64, Instant)| last_event - at < events::STEP && then.elapsed() < self.log.every;
        !self.cut_at.is_some_and(is_short)
    }

    /// One step of a transaction that was begun, and its commit. After an error the connection is not to be trusted.
    pub(super) async fn step(&mut self, conn: &mut SqliteConnection, last_event: i64) -> Result<()> {
        if self.purging {
            self.purging = or_panic(purge::some(conn, &mut self.seen)).await?;
        } else if self.is_log_due(last_event) {
            let more = or_panic(events::cut(conn, &self.log)).await?;
            self.cut_at = Some((last_event, Instant::now())).filter(|_| !more);
        }
        run(conn, "commit").await
    }
}
