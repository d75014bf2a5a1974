//! The write-ahead log is copied into the database beside the writer, so that no write waits for it: it is all that
//! was written once more, and two waits for the disk.
//!
//! **The log is bounded.** It begins anew only when all of it was copied, which beside a writer that goes on may never
//! come to be. Beyond [`LONG`] pages the writer waits, then, while the little is copied that it has written meanwhile.
//! Only a reader that stays keeps it from that: once the log is four times as long, a warning names the reader's process.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{error, halt::Halt, wal_readers, warnings::Warnings};
use crate::tasks::{self, Worker};

/// After which pause the log is looked at again.
const PAUSE: Duration = Duration::from_millis(250);
/// Pages from which on the log is copied: an append writes about twenty.
const WORTHWHILE: i64 = 1000;
/// Pages of 4 KiB after which the log is to begin anew: 64 MiB, which is what its file may keep (`journal_size_limit`).
const LONG: i64 = 16384;
/// Bytes of a page.
const PAGE: u64 = 4096;
/// How often the readers of a log that is too long are looked for.
const NAMING: Duration = Duration::from_secs(5);
/// How long a log that is to begin anew waits for those who still read it, with the writer waiting behind it. If they
/// stay, it tries again when as much was written as is worth while.
const PATIENCE: Duration = Duration::from_millis(10);

/// A connection that copies nothing itself.
pub(super) fn left_to_others(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options.pragma("wal_autocheckpoint", "0")
}

/// Starts to look after the log of the database that these options open.
pub(super) fn start(
    options: SqliteConnectOptions,
    reclaims: watch::Receiver<u64>,
    halt: Halt,
    warnings: Warnings,
) -> Worker {
    let copying = Copying { reclaims: Some(reclaims), ..Copying::new(options, LONG, halt, warnings) };
    Worker::start("the copying of the log", |closing| copying.run(closing))
}

struct Copying {
    options: SqliteConnectOptions,
    conn: Option<SqliteConnection>,
    /// Pages after which the log is to begin anew.
    long: i64,
    halt: Halt,
    /// Counts how often space was given back: the database shrinks when all of the log is copied, and the log then, too.
    reclaims: Option<watch::Receiver<u64>>,
    warnings: Warnings,
    /// When the readers of a log that is too long were last looked for.
    named: Option<Instant>,
}

impl Copying {
    /// Writes no row.
    fn new(options: SqliteConnectOptions, long: i64, halt: Halt, warnings: Warnings) -> Self {
        let options = options.busy_timeout(PATIENCE).pragma("query_only", "on");
        Self { options, conn: None, long, halt, reclaims: None, warnings, named: None }
    }

    async fn run(mut self, closing: CancellationToken) {
        while closing.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
            if self.conn.is_none() {
                self.halt.look();
            }
            if self.halt.is_halted() {
                break;
            }
            self.look().await;
        }
        if let Some(conn) = self.conn.take_if(|_| !self.halt.is_halted())
            && let Err(error) = conn.close().await
        {
            tracing::debug!(%error, "the connection that copies the log did not close");
        }
        self.give_up();
    }

    /// Drops the connection, which closes it; once writing has stopped it stays open.
    fn give_up(&mut self) {
        let conn = self.conn.take();
        if self.halt.is_halted() {
            std::mem::forget(conn);
        }
    }

    /// Copies what is worth while, and warns of what keeps the log from being copied or cut.
    async fn look(&mut self) {
        let failed = self.copy().await.err().map(|error| {
            self.halt.notice_sqlx(&error);
            self.give_up();
            format!("the write-ahead log was not copied into the database, so it grows: {error}")
        });
        self.warnings.set("checkpoint", failed);
        let wal = wal_path(self.options.get_filename());
        let (size, bound) = (std::fs::metadata(wal).map_or(0, |wal| wal.len()), self.long.unsigned_abs() * 4 * PAGE);
        if size <= bound {
            self.named = None;
            return self.warnings.set("log", None);
        }
        // Those who stay are found with the next look, too.
        if self.named.is_none_or(|named| named.elapsed() >= NAMING) {
            self.named = Some(Instant::now());
            let path = self.options.get_filename().to_owned();
            let who = tasks::blocking(move || wal_readers::readers(&path)).await;
            let size = size >> 20;
            let warning = format!(
                "the write-ahead log has {size} MiB and cannot be cut while {who} reads an old state of the database: \
                 end that transaction"
            );
            self.warnings.set("log", Some(warning));
        }
    }

    /// Whether the log begins anew with the next write, for being long.
    async fn copy(&mut self) -> sqlx::Result<bool> {
        let conn = match self.conn {
            Some(ref mut conn) => conn,
            None => self.conn.insert(self.options.connect().await?),
        };
        if let Some(reclaims) = &mut self.reclaims
            && reclaims.has_changed().unwrap_or_default()
        {
            checkpoint(conn, "pragma wal_checkpoint(passive)").await?;
            let (refused, ..) = checkpoint(conn, "pragma wal_checkpoint(truncate)").await?;
            // Where others still read the log, it is tried again.
            if refused == 0 {
                reclaims.mark_unchanged();
            }
            return Ok(refused == 0);
        }
        let (_, pages, copied) = checkpoint(conn, "pragma wal_checkpoint(noop)").await?;
        if pages - copied < WORTHWHILE {
            return Ok(false);
        }
        let (_, pages, copied) = checkpoint(conn, "pragma wal_checkpoint(passive)").await?;
        // Where much is left, somebody still reads what was before it.
        if pages < self.long || pages - copied >= WORTHWHILE {
            return Ok(false);
        }
        // Once more, so that there is little to wait for.
        checkpoint(conn, "pragma wal_checkpoint(passive)").await?;
        let (refused, ..) = checkpoint(conn, "pragma wal_checkpoint(restart)").await?;
        Ok(refused == 0)
    }
}

/// Whether another is at it, the log's pages, and how many of them were copied.
pub(super) async fn checkpoint(conn: &mut SqliteConnection, how: &'static str) -> sqlx::Result<(i64, i64, i64)> {
    sqlx::query_as(how).fetch_one(conn).await
}

/// Brings to the disk what this log has so far. The log may be opened beside SQLite, for its locks are on other files.
pub(super) async fn flush(wal: PathBuf, halt: &Halt) {
    let synced = tasks::blocking(move || File::open(wal).map(|wal| wal.sync_data()));
    match synced.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => halt.failed_sync(&error::failed_sync(&error)),
        Err(error) => tracing::debug!(%error, "the write-ahead log was not flushed ahead"),
    }
}

/// The path of the file that a database's write-ahead log has.
pub(super) fn wal_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::{super::open, *};

    async fn log_pages(conn: &mut SqliteConnection) -> i64 {
        checkpoint(conn, "pragma wal_checkpoint(noop)").await.unwrap().1
    }

    async fn connect(options: SqliteConnectOptions) -> SqliteConnection {
        left_to_others(options).connect().await.unwrap()
    }

    async fn run(conn: &mut SqliteConnection, statement: &'static str) {
        sqlx::raw_sql(statement).execute(conn).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_long_log_begins_anew_beside_a_writer_that_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("culm.db");
        let mut writer = connect(open::to_make(open::to_write(&path))).await;
        run(&mut writer, "create table bytes (bytes)").await;
        let mut copying =
            Copying::new(open::to_write(&path), 2 * WORTHWHILE, Halt::new(|_| {}, None), Warnings::default());
        let mut shell = connect(open::to_read(&path)).await;
        let writes = async {
            loop {
                run(&mut writer, "insert into bytes values (zeroblob(100000))").await;
            }
        };
        let shorter = async {
            while !copying.copy().await.unwrap() {}
            while log_pages(&mut shell).await >= 2 * WORTHWHILE {}
        };
        tokio::select! {
            () = writes => {}
            done = tokio::time::timeout(Duration::from_secs(60), shorter) => done.expect("the log grows and grows"),
        }
    }

    #[tokio::test]
    async fn a_log_that_somebody_reads_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("culm.db");
        let mut writer = connect(open::to_make(open::to_write(&path))).await;
        run(&mut writer, "create table bytes (bytes); insert into bytes values (1)").await;
        let mut reader = connect(open::to_read(&path)).await;
        run(&mut reader, "begin; select bytes from bytes").await;
        run(&mut writer, "insert into bytes values (zeroblob(6 << 20))").await;
        let mut copying = Copying::new(open::to_write(&path), WORTHWHILE, Halt::new(|_| {}, None), Warnings::default());
        assert!(!copying.copy().await.unwrap());
        run(&mut writer, "insert into bytes values (1)").await;
        let mut shell = connect(open::to_read(&path)).await;
        assert!(log_pages(&mut shell).await > WORTHWHILE);
        let seen: i64 = sqlx::query_scalar("select count(*) from bytes").fetch_one(&mut reader).await.unwrap();
        assert_eq!(seen, 1);
    }

    #[tokio::test]
    async fn who_keeps_a_log_from_being_cut_is_named_until_it_ends() {
        use std::io::{BufRead, BufReader, Write};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("culm.db");
        let mut writer = connect(open::to_make(open::to_write(&path))).await;
        run(&mut writer, "create table bytes (bytes); insert into bytes values (1)").await;
        let mut shell = std::process::Command::new("sqlite3");
        let shell = shell.arg(&path).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut orders = shell.stdin.take().unwrap();
        writeln!(orders, "begin; select bytes from bytes;").unwrap();
        let mut said = String::new();
        BufReader::new(shell.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "1\n");
        let warnings = Warnings::default();
        let mut copying = Copying::new(open::to_write(&path), WORTHWHILE, Halt::new(|_| {}, None), warnings.clone());
        run(&mut writer, "insert into bytes values (zeroblob(20 << 20))").await;
        copying.look().await;
        let warned = warnings.all().join("");
        assert!(warned.contains(&format!("process {} (sqlite3)", shell.id())), "{warned}");
        drop(orders);
        shell.wait().unwrap();
        // What is copied whole begins anew with the next write; that cuts the file.
        copying.look().await;
        run(&mut writer, "pragma journal_size_limit = 0; insert into bytes values (1)").await;
        copying.look().await;
        assert_eq!(warnings.all(), [""; 0]);
    }

    #[tokio::test]
    async fn a_checkpoint_that_fails_is_warned_of_until_one_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("culm.db");
        let warnings = Warnings::default();
        // There is no database yet, so none can be opened.
        let mut copying = Copying::new(open::to_write(&path), WORTHWHILE, Halt::new(|_| {}, None), warnings.clone());
        copying.look().await;
        assert!(warnings.all().join("").contains("not copied into the database"), "{warnings:?}");
        let _writer = connect(open::to_make(open::to_write(&path))).await;
        copying.look().await;
        assert_eq!(warnings.all(), [""; 0]);
    }
}
