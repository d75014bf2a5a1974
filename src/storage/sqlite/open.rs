//! Opening a database: the lock, the refusals, the migrations, the connections.
//!
//! **The server never opens its own database files except through SQLite.** Closing such a file drops the locks that
//! SQLite holds on it: a shell that ends then removes the write-ahead log under the server. Paths are only asked for
//! their metadata here; the lock is on a file of its own.

use std::{
    fs::rename,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    LogBounds, SqliteStorage, attachments, checkpoint, error, events,
    halt::Halt,
    housekeeping::Housekeeping,
    identity::{self, Files},
    lock::{Lock, beside},
    recovery, space, starts, teardown,
    warnings::Warnings,
    writer,
};

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// CULM, as the first migration sets it.
const APPLICATION_ID: i64 = 0x4355_4C4D;
/// The schema's number, as the last migration sets it.
pub(super) const SCHEMA: i64 = 16;
/// The first version of SQLite in which two connections cannot corrupt a write-ahead log that is reset.
const OLDEST_SQLITE: [u32; 3] = [3, 51, 3];
/// How the names of the threads begin that connections run on.
pub const THREADS: &str = "culm-sqlite";
/// How the names of the log's targets begin that have statements in them.
pub const LOG_TARGET: &str = "sqlx";

/// Where a database is, and how to open it.
#[derive(Debug, Clone)]
pub struct Options {
    /// The database's file.
    pub path: PathBuf,
    /// Connections that read.
    pub readers: u32,
    /// How much of the log of events is kept.
    pub log: LogBounds,
    /// Called with the reason at the first failed sync: nothing is written any more. A server exits in it, so that no
    /// connection is closed.
    pub on_failed_sync: fn(&str),
    /// Whether a new database is made where one is missing that was there before.
    pub create: bool,
}

impl Options {
    /// A database at this path, with four readers.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), readers: 4, log: LogBounds::default(), on_failed_sync: |_| {}, create: false }
    }
}

/// Why a database was not opened. No row of it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another server has it.
    #[error("another culm has the database {0} open; stop it first, or use another --db")]
    Locked(PathBuf),
    /// Another process is in the middle of a transaction.
    #[error("another process, a shell perhaps, has locked the database {0}; end what it does there, and try again")]
    Busy(PathBuf),
    /// It is to be read, and is not there.
    #[error("there is no database {0}; name one with --db")]
    Missing(PathBuf),
    /// It has a schema that this version does not know.
    #[error(
        "the database {path} is from a newer version of culm (schema {found}, this one knows {SCHEMA}); use that version"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema's number.
        found: i64,
    },
    /// Its schema was made by other migrations than this build has.
    #[error(
        "the database {path} was made by another build of culm ({reason}); use that build, or another --db. Nothing was changed"
    )]
    OtherBuild {
        /// The database.
        path: PathBuf,
        /// Which migration differs.
        reason: String,
    },
    /// It is not Culm's.
    #[error("the database {0} belongs to another application; name another file with --db")]
    OtherApplication(PathBuf),
    /// Its header or its schema cannot be read.
    #[error(
        "the database {path} is damaged ({reason}); restore a backup, or save what can be read with `sqlite3 FILE .recover`"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// It cannot be written.
    #[error("the database {path} cannot be written ({reason}); check its owner, its mode and the disk it is on")]
    ReadOnly {
        /// The database.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The disk did not confirm a write. Nothing that was acknowledged is lost.
    #[error("{reason} while the database {path} was opened; check the disk, then start again")]
    FailedSync {
        /// The database.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// What is to be done needs a temporary copy, and there is no room for it.
    #[error(
        "there is no room for a temporary copy of the search index in {folder}: it needs {needs} bytes, and {has} are free; \
         set TMPDIR to a directory with more room. Nothing is known to be wrong with the database"
    )]
    NoRoom {
        /// Bytes that are needed; 0 when that is not known.
        needs: u64,
        /// Bytes that are free.
        has: u64,
        /// Where.
        folder: PathBuf,
    },
    /// One was made here before.
    #[error(
        "the database {0} is missing, or emptied, and one was made here before; put it back with its -wal file, or restore a \
         backup. To begin with a new, empty database, start once with --create"
    )]
    Gone(PathBuf),
    /// A log lies there without its database.
    #[error(
        "the write-ahead log {0}-wal lies there without its database; put the database back, or move the log away. To begin \
         with a new, empty database, start once with --create: the log is moved aside"
    )]
    OrphanedLog(PathBuf),
    /// A log lies there that is another database's.
    #[error(
        "the database {0} is not the one that was last served here, such as a backup, and the write-ahead log {0}-wal is that \
         of the other one: together they would be corrupted. To use this database, move {0}-wal and {0}-shm away; to use the \
         other one with its newest changes, put its file back"
    )]
    OtherLog(PathBuf),
    /// The file has several names.
    #[error(
        "the file {0} has several names (hard links): another server could open it by another one, and both would write it. \
         Remove the other names, or copy the database with `sqlite3 FILE \".backup COPY\"`"
    )]
    ManyNames(PathBuf),
    /// A link leads to no file.
    #[error("{path} is a link to {target}, which is missing; put the database back, or name the file itself with --db")]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// The library is too old.
    #[error("SQLite {0} can corrupt a database that two connections use; at least 3.51.3 is needed")]
    OldSqlite(String),
}

/// Whether the database's last server was stopped before it could close it.
pub fn was_left_open(path: &Path) -> bool {
    std::fs::metadata(checkpoint::wal_path(path)).is_ok_and(|wal| wal.len() > 0)
}

pub(super) fn read_only(path: &Path, reason: &impl ToString) -> OpenError {
    OpenError::ReadOnly { path: path.into(), reason: reason.to_string() }
}

pub(super) fn damaged(path: &Path, reason: &impl ToString) -> OpenError {
    OpenError::Damaged { path: path.into(), reason: reason.to_string() }
}

/// What an error of SQLite means when it comes while a database is opened.
pub(super) fn refusal(path: &Path, error: &sqlx::Error) -> OpenError {
    let code = error.as_database_error().and_then(|e| e.code()).and_then(|code| code.parse::<i32>().ok());
    match code.map(|code| code & 0xff) {
        _ if error::is_failed_sync(error) => {
            OpenError::FailedSync { path: path.into(), reason: error::failed_sync(error) }
        }
        Some(8 | 10 | 13 | 14) => read_only(path, error),
        Some(5 | 6) => OpenError::Busy(path.into()),
        _ => damaged(path, error),
    }
}

impl SqliteStorage {
    /// Opens a database, and makes it if there is none.
    pub async fn open(options: &Options) -> Result<Self, OpenError> {
        let path = &*identity::resolve(&options.path)?;
        let lock = Lock::take(path)?;
        space::make_room(path);
        let is_new = is_new(path, &lock, options.create)?;
        // First this, without the log: with the log of another database, a sound one looks damaged.
        let before = starts::compare(path, &lock, is_new).await?;
        if !is_new {
            probe(path).await?;
        }
        let left_open = was_left_open(path);
        let options_to_write = checkpoint::left_to_others(to_write(path));
        let first = if is_new { to_make(options_to_write.clone()) } else { options_to_write.clone() };
        let conn = first.connect().await.map_err(|error| refusal(path, &error))?;
        let mut conn = prepared(path, conn, left_open).await?;
        let epoch = match starts::begin(path, &mut conn, &lock, before).await {
            Ok(epoch) => epoch,
            Err(error) => return Err(abandoned(conn, error)),
        };
        let last_event = events::last(&mut conn).await.map_err(|error| damaged(path, &error))?;
        let mut anchor = to_read(path).connect().await.map_err(|error| refusal(path, &error))?;
        number(&mut anchor, "select count(*) from sqlite_schema").await.map_err(|error| refusal(path, &error))?;
        let files = Files::of(path).map_err(|error| read_only(path, &error))?;
        let recorder = lock.recorder().map_err(|error| read_only(path, &error))?;
        let (halt, warnings) = (Halt::new(options.on_failed_sync, Some(files)), Warnings::default());
        let (reclaimed, reclaims) = tokio::sync::watch::channel(0);
        let housekeeping = Housekeeping::new(options.log, reclaimed);
        let writer =
            writer::start(conn, options_to_write.clone(), last_event, housekeeping, halt.clone(), warnings.clone());
        Ok(Self {
            readers: readers(path, options.readers, &halt),
            checkpoints: checkpoint::start(options_to_write, reclaims, halt.clone(), warnings.clone()),
            watch: identity::watch(halt, anchor, writer.last_event(), recorder),
            writer,
            warnings,
            epoch,
            lock: Some(lock).into(),
        })
    }
}

/// Whether a new database is to be made. What lies there of an old one is moved aside where that is meant, and refused
/// otherwise.
fn is_new(path: &Path, lock: &Lock, create: bool) -> Result<bool, OpenError> {
    let size = std::fs::metadata(path).map(|file| file.len()).ok();
    match size {
        Some(1..) => return Ok(false),
        Some(0) if lock.memory().made && !create => return Err(damaged(path, &"the file is empty and was not before")),
        None if lock.memory().made && !create => return Err(OpenError::Gone(path.into())),
        _ if was_left_open(path) && !create => return Err(OpenError::OrphanedLog(path.into())),
        _ => {}
    }
    if was_left_open(path) {
        let now = crate::model::Timestamp::now().0;
        for ending in ["-wal", "-shm"] {
            let (old, aside) = (beside(path, ending), beside(path, &format!("{ending}.{now}")));
            match rename(&old, &aside) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(read_only(path, &error)),
                _ => tracing::warn!(aside = %aside.display(), "what an older database left was moved aside"),
            }
        }
    }
    Ok(true)
}

/// Connections that read. One that would be to other files is refused.
fn readers(path: &Path, most: u32, halt: &Halt) -> SqlitePool {
    let halt = halt.clone();
    SqlitePoolOptions::new()
        .max_connections(most)
        .acquire_timeout(Duration::from_secs(5))
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(move |conn, _| {
            halt.look();
            let halted = halt.check().map_err(|error| sqlx::Error::Configuration(error.into()));
            Box::pin(async move {
                halted?;
                show_words(conn).await
            })
        })
        .connect_lazy_with(to_read(path))
}

/// The lock of a database that is there, and a connection that writes it.
pub(super) async fn connect_existing(path: &Path) -> Result<(Lock, SqliteConnection), OpenError> {
    let path = &*identity::resolve(path)?;
    let lock = Lock::take(path)?;
    if lock.memory().made && !path.exists() {
        return Err(OpenError::Gone(path.into()));
    }
    let before = starts::compare(path, &lock, false).await?;
    probe(path).await?;
    let left_open = was_left_open(path);
    let conn = to_write(path).connect().await.map_err(|error| refusal(path, &error))?;
    let mut conn = prepared(path, conn, left_open).await?;
    match starts::begin(path, &mut conn, &lock, before).await {
        Ok(_) => Ok((lock, conn)),
        Err(error) => Err(abandoned(conn, error)),
    }
}

/// A connection to a database that has its log copied into it and the newest schema.
async fn prepared(path: &Path, mut conn: SqliteConnection, left_open: bool) -> Result<SqliteConnection, OpenError> {
    let work = async {
        check_library(&mut conn).await?;
        if left_open {
            recovery::recover(path, &mut conn).await?;
        }
        migrate(path, &mut conn).await
    };
    match work.await {
        Ok(()) => Ok(conn),
        Err(error) => Err(abandoned(conn, error)),
    }
}

/// Gives up a connection for this error. After a failed sync it stays open until the process ends: closed, it would copy
/// the log and delete it.
pub(super) fn abandoned(conn: SqliteConnection, error: OpenError) -> OpenError {
    if matches!(error, OpenError::FailedSync { .. }) {
        std::mem::forget(conn);
    }
    error
}

/// Reads who made a database, and changes nothing: not even its journal's mode.
pub(super) async fn probe(path: &Path) -> Result<(), OpenError> {
    let refused = |error: sqlx::Error| refusal(path, &error);
    let mut conn = to_read(path).connect().await.map_err(refused)?;
    let tables = number(&mut conn, "select count(*) from sqlite_schema").await.map_err(refused)?;
    let application = number(&mut conn, "pragma application_id").await.map_err(refused)?;
    let schema = number(&mut conn, "pragma user_version").await.map_err(refused)?;
    let other_build = match application {
        APPLICATION_ID => other_migration(&mut conn).await.map_err(refused)?,
        _ => None,
    };
    conn.close().await.map_err(refused)?;
    match (application, tables, other_build) {
        (0, 0, _) => Ok(()),
        (APPLICATION_ID, ..) if schema > SCHEMA => Err(OpenError::Newer { path: path.into(), found: schema }),
        (APPLICATION_ID, _, Some(reason)) => Err(OpenError::OtherBuild { path: path.into(), reason }),
        (APPLICATION_ID, _, None) => Ok(()),
        _ => Err(OpenError::OtherApplication(path.into())),
    }
}

/// How the migrations that made a database differ from those of this build. Compared before any of them is run: the
/// migrator compares each only when it comes to it, and has run earlier ones by then.
async fn other_migration(conn: &mut SqliteConnection) -> sqlx::Result<Option<String>> {
    let recorded = "select count(*) from sqlite_schema where name = '_sqlx_migrations'";
    if number(conn, recorded).await? == 0 {
        return Ok(None);
    }
    let applied: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select version, checksum from _sqlx_migrations order by version").fetch_all(conn).await?;
    Ok(applied.into_iter().find_map(|(version, checksum)| {
        match MIGRATIONS.iter().find(|migration| migration.version == version) {
            None => Some(format!("this build has no migration {version}")),
            Some(migration) => {
                (migration.checksum[..] != checksum[..]).then(|| format!("its migration {version} is not this build's"))
            }
        }
    }))
}

async fn number(conn: &mut SqliteConnection, sql: &'static str) -> sqlx::Result<i64> {
    sqlx::query_scalar(sql).fetch_one(conn).await
}

async fn check_library(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    let version: String = sqlx::query_scalar("select sqlite_version()").fetch_one(conn).await.unwrap_or_default();
    let parts: Vec<u32> = version.split('.').filter_map(|part| u32::from_str(part).ok()).collect();
    match parts.as_slice() >= OLDEST_SQLITE.as_slice() {
        true => Ok(()),
        false => Err(OpenError::OldSqlite(version)),
    }
}

async fn migrate(path: &Path, conn: &mut SqliteConnection) -> Result<(), OpenError> {
    use sqlx::migrate::MigrateError;
    MIGRATIONS.run(&mut *conn).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => refusal(path, &error),
        error => damaged(path, &error),
    })?;
    // A database that is only readable shows it at this, the first write. On a full disk it is served all the same.
    let mut settled = settle(conn).await;
    if settled.as_ref().is_err_and(error::is_full) {
        space::give_up_reserve(path);
        settled = settle(conn).await;
    }
    match settled {
        Err(error) if error::is_full(&error) => {
            tracing::warn!(%error, "the disk is full: what uploads left behind is purged after the next start");
            Ok(())
        }
        settled => settled.map_err(|error| refusal(path, &error)),
    }
}

/// What a dead process was about is for others to take up.
async fn settle(conn: &mut SqliteConnection) -> sqlx::Result<()> {
    attachments::sweep(&mut *conn).await?;
    teardown::release(&mut *conn).await
}

/// A connection that makes the database which it writes. That its pages can be given back is settled with the first: said again to a
/// database that is there, it is a write, which waits for others.
pub(super) fn to_make(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options.create_if_missing(true).auto_vacuum(SqliteAutoVacuum::Incremental)
}

/// The connection that writes. `synchronous=full`: acknowledged means on disk. `secure_delete`: deleted text is zeroed.
/// `recursive_triggers` stays off: the trigger that deletes what is below a session must not fire itself.
pub(super) fn to_write(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_millis(1500))
        .pragma("secure_delete", "on")
        .pragma("trusted_schema", "off")
        .pragma("cell_size_check", "on")
        .pragma("temp_store", "memory")
        .pragma("journal_size_limit", "67108864")
        .disable_statement_logging()
        .thread_name(|id| format!("{THREADS}-writer-{id}"))
}

/// The words of the search index, and the parts of titles, as tables: this connection's own, for in the schema they stop
/// sqlx from describing any query.
async fn show_words(conn: &mut SqliteConnection) -> sqlx::Result<()> {
    let words = "pragma query_only = off;
                 create virtual table temp.message_words using fts5vocab (main, message_index, instance);
                 create virtual table temp.title_pieces using fts5vocab (main, title_index, instance);
                 pragma query_only = on";
    sqlx::raw_sql(words).execute(conn).await.map(drop)
}

/// A connection that reads. A stray write fails loudly.
pub(super) fn to_read(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(Duration::from_millis(1500))
        .pragma("query_only", "on")
        .pragma("trusted_schema", "off")
        .pragma("cell_size_check", "on")
        .pragma("temp_store", "memory")
        .row_buffer_size(1000)
        .disable_statement_logging()
        .thread_name(|id| format!("{THREADS}-reader-{id}"))
}
