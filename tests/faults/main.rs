//! Power that fails, and syncs that fail, below a server as it runs: its calls to the disk are written down, and the files
//! are put as they are left at any point of that log. Each time, what was acknowledged is there, what was deleted is not,
//! and the database is whole. Two controls must fail, or else nothing is seen here: a disk whose syncs do nothing, and one
//! that loses what a sync covered without a word.
//!
//! `CULM_FAULTS=20 cargo test --test faults` tries twenty times as many faults and points.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod disk;
mod work;

use std::path::PathBuf;

use disk::{Dice, Disk, How, Name, Record, Unsynced, read_log};
use tempfile::TempDir;
use work::{Known, Server, make};

/// Points of a log at which the power fails, in the short form.
const POINTS: usize = 10;
/// Records of a log that are soon after another one.
const SOON: usize = 4000;
/// Rounds of writes in a life.
const ROUNDS: usize = 16;
/// The exit code after a failed sync.
const FAILED_SYNC: i32 = 9;

/// How many times as much is tried as in the short form.
fn more() -> usize {
    std::env::var("CULM_FAULTS").ok().and_then(|more| more.parse().ok()).unwrap_or(1)
}

/// What servers did, from a database that was closed.
struct History {
    _folder: TempDir,
    before: Disk,
    records: Vec<Record>,
}

struct Place {
    folder: TempDir,
    db: PathBuf,
    log: PathBuf,
    before: Disk,
}

impl Place {
    async fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (db, log) = (folder.path().join("culm.db"), folder.path().join("log"));
        make(&db).await;
        let before = Disk::of(&db);
        Self { folder, db, log, before }
    }

    fn history(self) -> History {
        History { records: read_log(&self.log), _folder: self.folder, before: self.before }
    }
}

impl History {
    /// What is wrong when the power fails at points by chance after this record.
    async fn power_fails(&self, from: usize, points: usize, syncs: bool, dice: &mut Dice) -> Vec<String> {
        let last = self.records.len();
        // Every other one soon after it: the disk has what was lost overwritten later.
        let mut point =
            |n: usize| from + dice.below((last + 1 - from).min(if n.is_multiple_of(2) { SOON } else { last }));
        let mut points: Vec<usize> = (0..points).map(&mut point).collect();
        points.sort_unstable();
        let (mut disk, mut known, mut at, mut wrongs) = (self.before.clone(), Known::default(), 0, Vec::new());
        for (n, point) in points.into_iter().enumerate() {
            for record in &self.records[at..point] {
                disk.step(record, syncs);
                known.hear(record);
            }
            at = point;
            let unsynced = Unsynced::ALL[n % Unsynced::ALL.len()];
            let folder = tempfile::tempdir().unwrap();
            let db = folder.path().join("culm.db");
            disk.put(&db, unsynced, dice);
            let found = known.wrongs(&db).await;
            wrongs.extend(found.into_iter().take(3).map(|wrong| format!("{unsynced:?} at {point}: {wrong}")));
        }
        wrongs
    }

    fn failed_sync(&self) -> Option<usize> {
        self.records.iter().position(|record| matches!(record, Record::FailedSync(_)))
    }
}

#[tokio::test]
async fn power_that_fails_loses_nothing_that_was_acknowledged() {
    let place = Place::make().await;
    let server = Server::start(&place.db, &place.log, None).await.unwrap();
    server.work("one", ROUNDS * more()).await;
    server.kill().await;
    let server = Server::start(&place.db, &place.log, None).await.unwrap();
    server.work("two", ROUNDS / 2).await;
    server.kill().await;
    let history = place.history();
    let (mut dice, points) = (Dice::new(1), POINTS * 2 * more());
    assert_eq!(history.power_fails(0, points, true, &mut dice).await, Vec::<String>::new());
    let control = history.power_fails(history.records.len() / 2, POINTS, false, &mut dice).await;
    assert!(!control.is_empty(), "nothing is lost though no sync does anything: this test sees nothing");
}

/// A life with a sync that fails, and one after it; and the first one's exit code. None when that sync never came.
async fn lives_with(fail: (Name, usize, How)) -> Option<(History, Option<i32>)> {
    let place = Place::make().await;
    let code = match Server::start(&place.db, &place.log, Some(fail)).await {
        Ok(server) => {
            server.work("one", ROUNDS).await;
            let failed = read_log(&place.log).iter().any(|record| matches!(record, Record::FailedSync(_)));
            if failed && matches!(fail.2, How::Reported) {
                server.ended().await
            } else {
                server.kill().await;
                None
            }
        }
        Err(code) => Some(code),
    };
    let server = Server::start(&place.db, &place.log, None).await.unwrap();
    server.work("two", ROUNDS / 2).await;
    server.kill().await;
    let history = place.history();
    history.failed_sync().map(|_| (history, code))
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_and_the_next_start_recovers() {
    let mut dice = Dice::new(2);
    let wal = (0..4 * more()).map(|n| (Name::Wal, 6 + 7 * n));
    let db = (0..2 * more()).map(|n| (Name::Db, 1 + n));
    let mut tried = 0;
    for (file, n) in wal.chain(db) {
        let Some((history, code)) = lives_with((file, n, How::Reported)).await else { continue };
        let failed = history.failed_sync().unwrap();
        let wrongs = history.power_fails(failed, POINTS, true, &mut dice).await;
        assert_eq!((code, wrongs), (Some(FAILED_SYNC), Vec::new()), "{file:?} {n}");
        let closed = history.records[failed..].iter().position(|record| matches!(record, Record::Remove(Name::Wal)));
        assert_eq!(closed, None, "{file:?} {n}: a connection was closed, and the log went with it");
        tried += 1;
    }
    assert!(tried >= 4, "only {tried} syncs failed");
}

/// The same fault, which nobody is told of: what was acknowledged must be lost.
#[tokio::test]
async fn a_disk_that_lies_is_seen_to_lose_writes() {
    let mut dice = Dice::new(3);
    let (history, _) = lives_with((Name::Wal, 12, How::Silent)).await.expect("a sync that fails");
    let wrongs = history.power_fails(history.failed_sync().unwrap() + 40, POINTS, true, &mut dice).await;
    assert!(!wrongs.is_empty(), "nothing is lost though a sync did nothing: this test sees nothing");
}
