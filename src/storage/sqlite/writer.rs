//! The one writer: a task that owns the only connection that writes, and commits together whatever is queued.
//!
//! **One writer.** Every write is a [`Job`] on one queue. A job that breaks a rule fails alone, in a savepoint of its
//! own. When the engine itself fails (disk full, I/O error), the transaction is rolled back, the connection replaced,
//! and the jobs are tried again one by one: SQLite has rolled back by itself then, and what is said to the old
//! connection would run in autocommit. Jobs can be run again: they bring the ids that they store. A panic is met in
//! the same way: it fails the job that it comes from.
//!
//! On a full disk only those jobs are done that free space or end what runs (`space.rs`).
//!
//! The transaction is begun and ended with plain statements. sqlx's own transactions count their depth, and the count
//! is never right again after the engine rolled back by itself.

mod room;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    append, checkpoint,
    clock::Followed,
    error, events,
    halt::Halt,
    housekeeping::Housekeeping,
    probe::{self, LastWrite, Probe},
    queue::{Append, Command, PATIENCE, QUEUE, Queued, Writer},
    space::Space,
    transaction::{Job, Outcomes, at_once, begin, fill, or_panic, run},
    warnings::Warnings,
};
use crate::{
    model::Timestamp,
    storage::{Error, Result},
    tasks::Worker,
};

/// Jobs that are committed together at most.
const BATCH: usize = 256;
/// How often the writer looks for commits of other processes.
const TICK: Duration = Duration::from_millis(250);

/// Statistics for whoever opens the database next, of large tables alone. That a table was small when it was last looked
/// at is worse than nothing: it is read to its end for each row that is looked for, however large it has become. Of a
/// table without statistics SQLite supposes that it is large.
const ANALYZE: &str = "pragma optimize;
    delete from sqlite_stat1 where tbl not in (select tbl from sqlite_stat1 where cast(stat as integer) >= 10000)";

/// Takes over the connection and starts to work.
pub(super) fn start(
    conn: SqliteConnection,
    options: SqliteConnectOptions,
    last_event: i64,
    housekeeping: Housekeeping,
    halt: Halt,
    warnings: Warnings,
) -> Writer {
    let (queue, jobs) = mpsc::channel(QUEUE);
    let (foreign_commits, foreign) = watch::channel(0);
    let (announced, last_event) = watch::channel(last_event);
    let (conn, seen) = (Some(conn), None);
    let wal = checkpoint::wal_path(options.get_filename());
    let (full, last_write) = (Arc::<AtomicBool>::default(), LastWrite::default());
    let work = Working {
        conn,
        waits: true,
        scrubs: true,
        space: Space::new(options.get_filename(), warnings.clone(), full.clone()),
        options,
        seen,
        clock: Followed::default(),
        foreign_commits,
        announced,
        housekeeping,
        warnings,
        rest: Vec::new(),
        outcomes: last_write.clone(),
        halt: halt.clone(),
    };
    let worker = Worker::start("the writer", |closing| work.run(jobs, closing));
    Writer { queue, foreign, last_event, wal, halt, worker, full, last_write, probe: Probe::default() }
}

/// The queue's other end.
struct Working {
    conn: Option<SqliteConnection>,
    /// Whether its commits wait for the disk, as they do on a new one.
    waits: bool,
    /// Whether what it frees is overwritten, as it is on a new one.
    scrubs: bool,
    options: SqliteConnectOptions,
    seen: Option<i64>,
    clock: Followed,
    foreign_commits: watch::Sender<u64>,
    /// The last event that was committed, for those who wait for the next.
    announced: watch::Sender<i64>,
    housekeeping: Housekeeping,
    warnings: Warnings,
    space: Space,
    /// Jobs that the last transaction did not come to.
    rest: Vec<Queued>,
    /// What came of each transaction, for those who ask whether writes are taken.
    outcomes: LastWrite,
    halt: Halt,
}

impl Working {
    async fn run(mut self, mut jobs: mpsc::Receiver<Queued>, closing: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let is_due = self.housekeeping.is_due(*self.announced.borrow());
            tokio::select! {
                biased;
                taken = jobs.recv_many(&mut batch, BATCH) => match taken {
                    0 => break,
                    _ => {
                        self.write(std::mem::take(&mut batch)).await;
                        while !self.rest.is_empty() {
                            let mut batch = std::mem::take(&mut self.rest);
                            batch.extend(std::iter::from_fn(|| jobs.try_recv().ok()).take(BATCH));
                            self.write(batch).await;
                        }
                    }
                },
                // What is queued is still taken; then the channel is empty and ends the loop.
                () = closing.cancelled(), if !jobs.is_closed() => jobs.close(),
                // Without a pause while there is something to do and nothing is written.
                () = tokio::time::sleep_until(self.housekeeping.quiet_from().into()), if is_due => self.idle().await,
                _ = tick.tick() => self.idle().await,
            }
        }
        self.leave().await;
    }

    /// Copies the log and closes the connection. Closing alone would not tell of a sync that fails.
    async fn leave(mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        for statement in [ANALYZE, "pragma wal_checkpoint(truncate)"] {
            if !self.halt.is_halted()
                && let Err(error) = conn.execute(statement).await
            {
                self.halt.notice_sqlx(&error);
                tracing::warn!(%error, "the database was not closed cleanly");
            }
        }
        if self.halt.is_halted() {
            return std::mem::forget(conn);
        }
        if let Err(error) = conn.close().await {
            tracing::warn!(%error, "the database was not closed cleanly");
        }
    }

    /// Commits what was queued; then housekeeping has its share of the time, also when more is queued.
    async fn write(&mut self, batch: Vec<Queued>) {
        let began = Instant::now();
        self.commit_together(batch).await;
        self.housekeeping.written(began.elapsed());
        if self.housekeeping.is_due_beside_writes(*self.announced.borrow()) {
            let began = Instant::now();
            self.idle().await;
            self.housekeeping.took_beside_writes(began.elapsed());
        }
    }

    /// What is done when nothing is queued.
    async fn idle(&mut self) {
        let done = match self.keep_house().await {
            Ok(()) => self.see_to_space().await,
            failed => failed,
        };
        let failed = match done {
            // Nothing was tried.
            Ok(()) if self.housekeeping.is_paused() => return,
            Ok(()) => None,
            // Another process has the lock for a while.
            Err(Error::Busy(_)) => {
                self.housekeeping.pause();
                None
            }
            // Tried again with the next tick.
            Err(error) => {
                self.housekeeping.pause();
                self.give_up(&error).await;
                let error = self.or_full(error).await;
                Some(format!("the database's housekeeping fails: {error}"))
            }
        };
        if !self.halt.is_halted() {
            self.warnings.set("housekeeping", failed);
        }
    }

    async fn keep_house(&mut self) -> Result<()> {
        self.follow_clock().await?;
        // What of it is lost is done again.
        self.wait_for_disk(false).await?;
        let conn = self.connection().await?;
        let (version, last) = (data_version(conn).await?, events::last(conn).await?);
        self.notice(version);
        self.announce(last);
        if !self.housekeeping.is_due(last) {
            return Ok(());
        }
        self.prepare_step().await?;
        let Some(conn) = &mut self.conn else { return Ok(()) };
        // That another process has the lock is nothing that the connection suffers from.
        run(conn, "begin immediate").await?;
        let done = self.housekeeping.step(conn, last).await;
        if let Err(error) = &done {
            self.give_up(error).await;
        }
        done
    }

    /// Refuses to write under a clock that cannot be right, and brings back what one that was ahead has left.
    async fn follow_clock(&mut self) -> Result<()> {
        let now = Timestamp::checked_now()?;
        if self.clock.is_suspicious(now) {
            self.connection().await?;
            if let Some(conn) = &mut self.conn {
                match self.clock.bring_back(conn, now).await {
                    Ok(false) | Err(Error::Busy(_)) => {}
                    Ok(true) => self.foreign_commits.send_modify(|count| *count += 1),
                    Err(error) => self.give_up(&error).await,
                }
            }
        }
        Ok(())
    }

    /// `data_version` moves, on this connection, only for commits of others. The first look at it cannot tell what
    /// was committed before, and counts as one that moved.
    fn notice(&mut self, version: i64) {
        if self.seen.replace(version) != Some(version) {
            self.foreign_commits.send_modify(|count| *count += 1);
            self.housekeeping.suspect();
            self.clock.suspect();
        }
    }

    fn announce(&self, event: i64) {
        self.announced.send_if_modified(|last| std::mem::replace(last, event) != event);
    }

    async fn commit_together(&mut self, batch: Vec<Queued>) {
        let batch = self.admit(batch).await;
        if batch.is_empty() {
            return;
        }
        // The oldest waits no longer than it may, however many batches were before its own.
        let until = batch.first().map_or_else(Instant::now, |(since, _)| *since) + PATIENCE;
        if batch.iter().all(|(_, command)| matches!(command, Command::Prepare(_))) {
            return self.prepare(batch, until).await;
        }
        let (mut appends, mut calls) = (Vec::new(), Vec::new());
        for (_, command) in batch {
            match command {
                Command::Append(append) => appends.push(append),
                Command::Call(call) | Command::Prepare(call) => calls.push(call),
            }
        }
        // What was committed while a sync failed elsewhere is not acknowledged either.
        let outcomes = self.transaction(&appends, &mut calls, until).await;
        match outcomes.and_then(|outcomes| self.halt.check().map(|()| outcomes)) {
            Ok(outcomes) => {
                for (append, outcome) in appends.into_iter().zip(outcomes.appends) {
                    let _ = append.reply.send(outcome);
                }
                let (since, rest) = (until - PATIENCE, calls.split_off(outcomes.calls.len()));
                self.rest.extend(rest.into_iter().map(|call| (since, Command::Call(call))));
                for (call, outcome) in calls.into_iter().zip(outcomes.calls) {
                    call.answer(outcome);
                }
            }
            // Nobody's fault, and one by one they would wait one after the other.
            Err(error @ (Error::Busy(_) | Error::Stopped(_))) => {
                for append in appends {
                    let _ = append.reply.send(Err(probe::again(&error)));
                }
                for call in calls {
                    call.answer(Err(probe::again(&error)));
                }
            }
            // One that a full disk takes is tried again, with the space that was made for it.
            Err(_) if appends.len() + calls.len() > 1 || calls.iter().any(|call| call.is_for_full_disk()) => {
                self.one_by_one(appends, calls, until).await
            }
            Err(error) => match (appends.pop(), calls.pop()) {
                (Some(append), _) => drop(append.reply.send(Err(error))),
                (_, Some(call)) => call.answer(Err(error)),
                _ => {}
            },
        }
    }

    /// Jobs that count for nothing yet: each statement commits itself, and no commit waits for the disk.
    async fn prepare(&mut self, batch: Vec<Queued>, until: Instant) {
        for (_, command) in batch {
            if let Command::Prepare(mut call) = command {
                let outcome = self.prepared(&mut call, until).await;
                call.answer(outcome);
            }
        }
    }

    async fn prepared(&mut self, call: &mut Box<dyn Job>, until: Instant) -> Result<()> {
        self.wait_for_disk(false).await?;
        loop {
            match or_panic(call.run(self.connection().await?)).await {
                Err(Error::Busy(_)) if Instant::now() < until => {}
                Err(error) if error::is_engine(&error) && !matches!(error, Error::Busy(_)) => {
                    self.give_up(&error).await;
                    tracing::warn!(%error, "a write failed");
                    return Err(self.or_full(error).await);
                }
                outcome => return self.halt.check().and(outcome),
            }
        }
    }

    /// The engine failed under a batch: whose fault it was shows when each is alone.
    async fn one_by_one(&mut self, appends: Vec<Append>, calls: Vec<Box<dyn Job>>, until: Instant) {
        for append in appends {
            let alone = std::slice::from_ref(&append);
            let outcome = match self.space.is_full() {
                true => Err(Error::Full),
                false => self.transaction(alone, &mut [], until).await.and_then(|mut done| done.appends.remove(0)),
            };
            let _ = append.reply.send(outcome);
        }
        for call in calls {
            let mut alone = [call];
            let outcome = match self.space.is_full() && !alone[0].is_for_full_disk() {
                true => Err(Error::Full),
                false => self.transaction(&[], &mut alone, until).await.and_then(|mut done| done.calls.remove(0)),
            };
            let [call] = alone;
            call.answer(outcome);
        }
    }

    /// One transaction. An error is the engine's: nothing was committed, and the connection has been given up, unless
    /// all that happened is that another process has the lock.
    async fn transaction(
        &mut self,
        appends: &[Append],
        calls: &mut [Box<dyn Job>],
        until: Instant,
    ) -> Result<Outcomes> {
        self.follow_clock().await?;
        self.wait_for_disk(true).await?;
        let conn = self.connection().await?;
        let appends: Vec<&append::Append> = appends.iter().map(|append| &append.input).collect();
        let alone = calls.is_empty();
        let outcome = match at_once(conn, &appends, alone).await {
            Ok(None) => match begin(conn, &appends, until).await {
                Ok(begun) => or_panic(fill(conn, begun, &appends, calls)).await,
                Err(Error::Busy(reason)) => {
                    self.outcomes.record(Err(Error::Busy(reason)));
                    return Err(Error::Busy(reason));
                }
                Err(error) => Err(error),
            },
            Ok(Some(outcomes)) => Ok(outcomes),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(outcomes) => {
                self.notice(outcomes.data_version);
                self.announce(outcomes.last_event);
                self.outcomes.record(Ok(()));
                Ok(outcomes)
            }
            Err(error) => {
                self.give_up(&error).await;
                tracing::warn!(%error, "a write was rolled back");
                let error = self.or_full(error).await;
                self.outcomes.record(Err(probe::again(&error)));
                Err(error)
            }
        }
    }

    /// Whether commits are to wait for the disk from now on.
    async fn wait_for_disk(&mut self, wait: bool) -> Result<()> {
        if let Some(conn) = &mut self.conn
            && self.waits != wait
        {
            run(conn, if wait { "pragma synchronous = full" } else { "pragma synchronous = normal" }).await?;
            self.waits = wait;
        }
        Ok(())
    }

    async fn connection(&mut self) -> Result<&mut SqliteConnection> {
        if self.conn.is_none() {
            self.halt.look();
        }
        self.halt.check()?;
        match self.conn {
            Some(ref mut conn) => Ok(conn),
            None => {
                let conn = self.options.connect().await.map_err(error::of);
                let conn = conn.inspect_err(|error| self.halt.notice(error))?;
                (self.waits, self.scrubs) = (true, true);
                Ok(self.conn.insert(conn))
            }
        }
    }

    /// Gives up the connection on which the engine failed.
    async fn give_up(&mut self, error: &Error) {
        self.halt.notice(error);
        self.discard().await;
    }

    /// Closes the connection. Once writing has stopped, it stays open until the process ends.
    async fn discard(&mut self) {
        // The next connection counts from anew.
        self.seen = None;
        let conn = self.conn.take();
        if self.halt.is_halted() {
            std::mem::forget(conn);
        } else if let Some(conn) = conn
            && let Err(error) = conn.close_hard().await
        {
            tracing::debug!(%error, "a given-up connection did not close");
        }
    }
}

async fn data_version(conn: &mut SqliteConnection) -> Result<i64> {
    sqlx::query_scalar("pragma data_version").fetch_one(conn).await.map_err(error::of)
}

#[cfg(test)]
mod tests;
