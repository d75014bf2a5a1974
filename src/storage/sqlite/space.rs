//! Room on the disk: what keeps a full one from being the end.
//!
//! **A delete always works.** On a full disk it could not: it is a write, and what was written before it may be in the
//! write-ahead log alone, with no room to copy it into the database. So ordinary writes end early, at a floor of free
//! space, with [`Error::Full`](crate::storage::Error::Full), and only those go on that free space or end what runs. And
//! a file beside the database holds a reserve, which is given up when something else has filled the disk: the steps of a
//! purge need room for what they write, until what they removed goes back to the system. Then all goes on as before, and
//! the reserve is made again.
//!
//! A disk quota, and a limit of the size of files, are the same as a full disk.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    io::Errno,
    process::{Resource, getrlimit},
};
use sqlx::SqliteConnection;

use super::{checkpoint::wal_path, error, lock::beside, warnings::Warnings};
use crate::{storage::Result, tasks};

/// The reserve and the floor are an eighth of the disk each, within these bounds.
const SHARE: u64 = 8;
const SMALLEST: u64 = 1 << 20;
const LARGEST: u64 = 16 << 20;
/// Free space from which on nothing is near: more than any one transaction writes.
const CAREFUL: u64 = 512 << 20;
/// How often the disk is looked at while it is not near to full.
const LOOK: Duration = Duration::from_millis(20);
/// Pages that one step gives back to the system.
const STEP: &str = "pragma incremental_vacuum(256)";
/// Steps between two looks.
const STEPS: usize = 8;

/// What is known of the room on a database's disk.
pub(super) struct Space {
    database: PathBuf,
    warnings: Warnings,
    /// Whether ordinary writes are refused, for all who ask.
    full: Arc<AtomicBool>,
    looked: Option<Instant>,
}

/// What can still be written.
struct Room {
    /// Free bytes of the disk, less what the database's file will grow by when the log is copied.
    bytes: u64,
    growth: u64,
    /// Bytes up to the limit of the size of files, and the limit, where there is one.
    below_limit: Option<(u64, u64)>,
}

impl Room {
    /// The floor: so much is to be left on the disk, and an eighth of a limit, or as many times that.
    fn has(&self, floor: u64, times: impl Fn(u64) -> u64) -> bool {
        let below = |(left, limit): (u64, u64)| left >= times((limit / SHARE).min(LARGEST));
        self.bytes >= times(floor) && self.below_limit.is_none_or(below)
    }
}

impl Space {
    pub(super) fn new(database: &Path, warnings: Warnings, full: Arc<AtomicBool>) -> Self {
        Self { database: database.into(), warnings, full, looked: None }
    }

    /// Whether only those writes are taken that free space or end what runs.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Finds out whether the disk is full, and whether it no longer is. While there is plenty of room it costs a call of
    /// the system now and then.
    pub(super) async fn look(&mut self, conn: &mut SqliteConnection) -> Result<()> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return Ok(());
        }
        let (Some(disk), limit) = (Disk::of(&self.database), file_limit()) else { return Ok(()) };
        if disk.free >= CAREFUL && limit.is_none() && !self.is_full() {
            self.looked = Some(Instant::now());
            return Ok(());
        }
        let mut room = self.room(conn, disk.free, limit).await?;
        if room.growth > disk.unit() / 2 {
            // The database's file grows now, while there is room for it. A reader may keep some of it for later.
            copy_log(conn, "pragma wal_checkpoint(passive)").await?;
            room = self.room_now(conn, limit).await?;
        }
        if !self.is_full() && !room.has(disk.unit(), |floor| floor) {
            self.relieve(conn).await?;
            room = self.room_now(conn, limit).await?;
            if !room.has(disk.unit(), |floor| floor) {
                self.set_full(true);
            }
        }
        if self.is_full()
            && room.has(disk.unit(), |floor| floor / 4 * 5)
            && room.bytes >= disk.unit() / 4 * 5 + self.missing_reserve(disk.unit())
        {
            self.keep_reserve().await;
            self.set_full(false);
        }
        Ok(())
    }

    /// A write found no room, whatever the last look said. The reserve is given up, and what can be is given back.
    pub(super) async fn exhausted(&mut self, conn: &mut SqliteConnection) -> Result<()> {
        give_up_reserve(&self.database);
        self.set_full(true);
        self.relieve(conn).await
    }

    /// What the writer does with its leisure: gives back what can be while the disk is full, and sees to the reserve.
    pub(super) async fn at_leisure(&mut self, conn: &mut SqliteConnection) -> Result<()> {
        if self.is_full() {
            self.relieve(conn).await?;
        }
        self.look(conn).await?;
        if !self.is_full() && !beside(&self.database, RESERVE).exists() {
            self.keep_reserve().await;
        }
        Ok(())
    }

    /// Gives pages that are free to the system, and the write-ahead log. What fails now may not fail the next time: then
    /// the log was copied as far as there was room.
    async fn relieve(&mut self, conn: &mut SqliteConnection) -> Result<()> {
        cut_log(conn).await?;
        for _ in 0..STEPS {
            let free: i64 =
                sqlx::query_scalar("pragma freelist_count").fetch_one(&mut *conn).await.map_err(error::of)?;
            if free == 0 {
                break;
            }
            match sqlx::query(STEP).execute(&mut *conn).await {
                Err(error) if error::is_failed_sync(&error) => return Err(error::of(error)),
                Err(_) => break,
                Ok(_) => {}
            }
            cut_log(conn).await?;
        }
        Ok(())
    }

    async fn room_now(&self, conn: &mut SqliteConnection, limit: Option<u64>) -> Result<Room> {
        let free = Disk::of(&self.database).map_or(u64::MAX, |disk| disk.free);
        self.room(conn, free, limit).await
    }

    async fn room(&self, conn: &mut SqliteConnection, free: u64, limit: Option<u64>) -> Result<Room> {
        let size = "select page_count * page_size from pragma_page_count, pragma_page_size";
        let size: i64 = sqlx::query_scalar(size).fetch_one(conn).await.map_err(error::of)?;
        let (size, growth) = (size.unsigned_abs(), size.unsigned_abs().saturating_sub(length(&self.database)));
        let longest = size.max(length(&wal_path(&self.database)));
        let below_limit = limit.map(|limit| (limit.saturating_sub(longest), limit));
        Ok(Room { bytes: free.saturating_sub(growth), growth, below_limit })
    }

    fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
        let warning = "the disk is nearly full, or a file nearly at its limit (ulimit -f): only deletes, and writes that end a run, are taken until there is room";
        self.warnings.set("disk", full.then(|| warning.into()));
    }

    fn missing_reserve(&self, unit: u64) -> u64 {
        if beside(&self.database, RESERVE).exists() { 0 } else { unit }
    }

    /// Makes the reserve where there is room for it; without one, less can go wrong before a delete does.
    async fn keep_reserve(&self) {
        let database = self.database.clone();
        if let Err(error) = tasks::blocking(move || make_reserve(&database)).await {
            tracing::debug!(%error, "no reserve was made beside the database");
        }
    }
}

/// Copies the log into the database and gives its file back, without waiting for those who read it.
pub(super) async fn cut_log(conn: &mut SqliteConnection) -> Result<()> {
    let cut = async {
        sqlx::query("pragma busy_timeout = 10").execute(&mut *conn).await?;
        let cut = copy_log(conn, "pragma wal_checkpoint(truncate)").await;
        sqlx::query("pragma busy_timeout = 1500").execute(&mut *conn).await?;
        Ok::<_, sqlx::Error>(cut)
    };
    cut.await.map_err(error::of)?
}

/// A checkpoint. That it found no room, or somebody reads what it would overwrite, is for the next one; a sync that
/// failed is not.
async fn copy_log(conn: &mut SqliteConnection, how: &'static str) -> Result<()> {
    match sqlx::query(how).execute(conn).await {
        Err(error) if error::is_failed_sync(&error) => Err(error::of(error)),
        _ => Ok(()),
    }
}

/// The ending of the reserve's name.
const RESERVE: &str = "-reserve";

/// Makes room for opening a database on a full disk, which writes a little.
pub(super) fn make_room(database: &Path) {
    if Disk::of(database).is_some_and(|disk| disk.free < disk.unit()) {
        give_up_reserve(database);
    }
}

/// The space is the system's as soon as the name is gone: nobody has the file open.
pub(super) fn give_up_reserve(database: &Path) {
    match std::fs::remove_file(beside(database, RESERVE)) {
        Ok(()) => tracing::warn!("the disk is full: the reserve beside the database was given up"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%error, "the disk is full, and the reserve beside the database cannot be given up")
        }
    }
}

/// Allocated, not only long. Where the file system cannot promise that, written.
fn make_reserve(database: &Path) -> io::Result<()> {
    let Some(disk) = Disk::of(database).filter(|disk| disk.free >= disk.unit() / 4 * 9) else { return Ok(()) };
    let path = beside(database, RESERVE);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let made = match fallocate(&file, FallocateFlags::empty(), 0, disk.unit()) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let zeros = vec![0; 1 << 20];
            (0..disk.unit() / SMALLEST).try_for_each(|_| file.write_all(&zeros))
        }
        made => made.map_err(io::Error::from),
    };
    made.inspect_err(|_| drop(std::fs::remove_file(&path)))
}

/// Whether a write that failed did so for want of room: a quota, or a limit of the size of files, are errors of the disk
/// to SQLite. For the blocking pool: it writes a little.
pub(super) fn lacks_room(database: &Path) -> bool {
    let longest = length(database).max(length(&wal_path(database)));
    if file_limit().is_some_and(|limit| limit.saturating_sub(longest) < SMALLEST) {
        return true;
    }
    let folder = database.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let tried = tempfile::tempfile_in(folder).and_then(|mut file| {
        file.write_all(&vec![0; 64 << 10])?;
        file.sync_data()
    });
    let full = [Errno::NOSPC, Errno::DQUOT, Errno::FBIG].map(|errno| Some(errno.raw_os_error()));
    tried.is_err_and(|error| full.contains(&error.raw_os_error()))
}

struct Disk {
    total: u64,
    free: u64,
}

impl Disk {
    fn of(database: &Path) -> Option<Self> {
        let folder = database.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let disk = statvfs(folder).ok()?;
        Some(Self {
            total: disk.f_blocks.saturating_mul(disk.f_frsize),
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
        })
    }

    /// Bytes of the reserve, and of the floor below which ordinary writes are refused.
    fn unit(&self) -> u64 {
        (self.total / SHARE).clamp(SMALLEST, LARGEST)
    }
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

/// The limit of the size of files (`ulimit -f`), where there is one.
fn file_limit() -> Option<u64> {
    getrlimit(Resource::Fsize).current
}
