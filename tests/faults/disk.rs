//! The disk below a server: a library that writes down what the server does to its files, and the replay of that log up to
//! any point, as power that fails there would leave the files. Knows nothing of what the files hold.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

/// Bytes that a disk writes whole.
const SECTOR: usize = 512;
/// Bytes that the system writes back on their own.
const PAGE: usize = 4096;

const WRITE: u64 = 1;
const TRUNCATE: u64 = 2;
const SYNC: u64 = 3;
const FAILED_SYNC: u64 = 4;
const REMOVE: u64 = 5;
/// What a test wrote between the server's records.
const MARK: u64 = 6;

/// A file of the database, as the library numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Db,
    Wal,
    Lock,
}

impl Name {
    const ALL: [Self; 3] = [Self::Db, Self::Wal, Self::Lock];

    pub(crate) fn word(self) -> &'static str {
        ["db", "wal", "lock"][self as usize]
    }

    fn beside(self, db: &Path) -> PathBuf {
        PathBuf::from(format!("{}{}", db.display(), ["", "-wal", ".lock"][self as usize]))
    }
}

/// How a sync fails.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    /// With EIO.
    Reported,
    /// Without a word: the disk lies.
    Silent,
}

/// The library, built once.
fn library() -> &'static Path {
    static BUILT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/disk.c");
        let mut build = Command::new("cc");
        build.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&path).args([source, "-ldl", "-lpthread"]);
        assert!(build.status().expect("a C compiler, cc").success());
        (folder, path)
    });
    path
}

/// Has a server run on this disk, where the n-th sync of a file fails.
pub(crate) fn run_on(command: &mut Command, db: &Path, log: &Path, fail: Option<(Name, usize, How)>) {
    command.env("LD_PRELOAD", library()).env("FAULTS_DB", db).env("FAULTS_LOG", log);
    if let Some((file, n, how)) = fail {
        let how = if matches!(how, How::Silent) { "lie" } else { "report" };
        command.env("FAULTS_FAIL", format!("{} {n}", file.word())).env("FAULTS_HOW", how);
    }
}

/// Writes something into the log, after all that the server has done so far.
pub(crate) fn mark(log: &Path, text: &str) {
    let head = [MARK, 0, 0, text.len() as u64].map(u64::to_ne_bytes).concat();
    let mut log = OpenOptions::new().append(true).create(true).open(log).unwrap();
    log.write_all(&[&head, text.as_bytes()].concat()).unwrap();
}

#[derive(Debug, Clone)]
pub(crate) enum Record {
    Write(Name, usize, Vec<u8>),
    Truncate(Name, usize),
    Sync(Name),
    FailedSync(Name),
    Remove(Name),
    Mark(String),
}

pub(crate) fn read_log(path: &Path) -> Vec<Record> {
    let bytes = std::fs::read(path).unwrap();
    let (mut rest, mut records) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let (head, after) = rest.split_at(32);
        let number = |place: usize| u64::from_ne_bytes(head[place * 8..][..8].try_into().unwrap());
        let (kind, offset, length) = (number(0), number(2) as usize, number(3) as usize);
        let name = || Name::ALL[number(1) as usize - 1];
        let (bytes, after) = after.split_at(length);
        records.push(match kind {
            WRITE => Record::Write(name(), offset, bytes.into()),
            TRUNCATE => Record::Truncate(name(), offset),
            SYNC => Record::Sync(name()),
            FAILED_SYNC => Record::FailedSync(name()),
            REMOVE => Record::Remove(name()),
            MARK => Record::Mark(String::from_utf8(bytes.into()).unwrap()),
            other => panic!("a record of the kind {other}"),
        });
        rest = after;
    }
    records
}

/// What becomes of writes that no sync has covered when the power fails.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unsynced {
    Kept,
    Lost,
    /// Up to some place in their order, and the last one in part.
    Torn,
    /// Some pages of them, whatever their order.
    Shuffled,
}

impl Unsynced {
    pub(crate) const ALL: [Self; 4] = [Self::Kept, Self::Lost, Self::Torn, Self::Shuffled];
}

/// Numbers by chance, the same for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below this bound.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

/// A file: what is on the disk, and what is only in memory.
#[derive(Debug, Clone, Default)]
struct File {
    there: bool,
    durable: Vec<u8>,
    /// In their order, since the last sync.
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, new) => {
            if bytes.len() < offset + new.len() {
                bytes.resize(offset + new.len(), 0);
            }
            bytes[*offset..][..new.len()].copy_from_slice(new);
        }
        Change::Truncate(length) => bytes.resize(*length, 0),
    }
}

/// The files at some point of the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(BTreeMap<Name, File>);

impl Disk {
    /// As it is before the log begins.
    pub(crate) fn of(db: &Path) -> Self {
        let file = |name: Name| {
            let durable = std::fs::read(name.beside(db)).ok();
            (name, File { there: durable.is_some(), durable: durable.unwrap_or_default(), pending: Vec::new() })
        };
        Self(Name::ALL.into_iter().map(file).collect())
    }

    /// Goes on by one record. `syncs` says whether a sync does anything on this disk.
    pub(crate) fn step(&mut self, record: &Record, syncs: bool) {
        let mut change = |name: &Name, change| {
            let file = self.0.entry(*name).or_default();
            file.there = true;
            file.pending.push(change);
        };
        match record {
            Record::Write(name, offset, bytes) => change(name, Change::Write(*offset, bytes.clone())),
            Record::Truncate(name, length) => change(name, Change::Truncate(*length)),
            Record::Sync(name) if syncs => {
                let file = self.0.entry(*name).or_default();
                for change in std::mem::take(&mut file.pending) {
                    apply(&mut file.durable, &change);
                }
            }
            // The system takes these pages for written from now on.
            Record::FailedSync(name) => self.0.entry(*name).or_default().pending.clear(),
            Record::Remove(name) => drop(self.0.insert(*name, File::default())),
            Record::Sync(_) | Record::Mark(_) => {}
        }
    }

    /// Puts the files as the power leaves them that fails now.
    pub(crate) fn put(&self, db: &Path, unsynced: Unsynced, dice: &mut Dice) {
        for (name, file) in self.0.iter().filter(|(_, file)| file.there) {
            std::fs::write(name.beside(db), file.after_power_loss(unsynced, dice)).unwrap();
        }
    }
}

impl File {
    fn after_power_loss(&self, unsynced: Unsynced, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        match unsynced {
            Unsynced::Lost => {}
            Unsynced::Kept => self.pending.iter().for_each(|change| apply(&mut bytes, change)),
            Unsynced::Torn => {
                let whole = dice.below(self.pending.len() + 1);
                self.pending[..whole].iter().for_each(|change| apply(&mut bytes, change));
                if let Some(Change::Write(offset, torn)) = self.pending.get(whole) {
                    let sectors = dice.below(torn.len() / SECTOR + 1);
                    apply(&mut bytes, &Change::Write(*offset, torn[..sectors * SECTOR].into()));
                }
            }
            Unsynced::Shuffled => {
                for change in &self.pending {
                    match change {
                        Change::Write(offset, new) => {
                            for (page, new) in new.chunks(PAGE).enumerate() {
                                if dice.below(2) == 1 {
                                    apply(&mut bytes, &Change::Write(offset + page * PAGE, new.into()));
                                }
                            }
                        }
                        truncate if dice.below(2) == 1 => apply(&mut bytes, truncate),
                        _ => {}
                    }
                }
            }
        }
        bytes
    }
}
