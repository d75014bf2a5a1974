//! What others notice of a delete: the longest read and write beside it and beside the purge that follows, against the
//! longest without it; and when all of it is purged.

use std::{
    cell::Cell,
    fs::{self, File},
    io::Read,
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use crate::{
    Outcome,
    figures::percentile,
    http::{Address, Client},
};

/// What others do between two requests.
const PAUSE: Duration = Duration::from_millis(1);
/// How long they are alone first, and how long they go on afterwards, beside the purge.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(5);
/// A write beside a delete takes at most so many microseconds, or three times the longest without it.
const LONGEST: f64 = 80e3;
/// A purge takes no longer.
const PATIENCE: Duration = Duration::from_secs(900);

/// In microseconds.
pub(crate) struct Seen {
    /// The request itself.
    pub(crate) took: f64,
    pub(crate) longest_read: f64,
    pub(crate) longest_write: f64,
    pub(crate) longest_write_without: f64,
}

impl Seen {
    /// The longest write as a part of what it may be.
    pub(crate) fn write_over_bound(&self) -> f64 {
        self.longest_write / LONGEST.max(3.0 * self.longest_write_without)
    }
}

/// Makes a request while others make theirs, one after another, until all that they had begun has ended.
pub(crate) async fn beside(
    server: &Address,
    request: &[u8],
    readers: Vec<Vec<Rc<[u8]>>>,
    writers: Vec<Rc<[u8]>>,
) -> Outcome<Seen> {
    let done = Rc::new(Cell::new(false));
    let start = |requests| tokio::task::spawn_local(again_and_again(server.clone(), requests, done.clone()));
    let readers: Vec<_> = readers.into_iter().map(start).collect();
    let writers: Vec<_> = writers.into_iter().map(|write| start(vec![write])).collect();
    let mut client = Client::connect(server).await?;
    tokio::time::sleep(BEFORE).await;
    let begun = Instant::now();
    client.succeed(request).await?;
    let took = begun.elapsed().as_secs_f64() * 1e6;
    tokio::time::sleep(AFTER).await;
    done.set(true);
    let (mut read, mut write, mut without) = (Vec::new(), Vec::new(), Vec::new());
    for reader in readers {
        read.extend(reader.await??.into_iter().filter(|sample| ends_after(sample, begun)).map(|(_, took)| took));
    }
    for writer in writers {
        for sample in writer.await?? {
            if ends_after(&sample, begun) { &mut write } else { &mut without }.push(sample.1);
        }
    }
    let longest = |samples: &[f64]| if samples.is_empty() { 0.0 } else { percentile(samples, 1.0) };
    Ok(Seen {
        took,
        longest_read: longest(&read),
        longest_write: longest(&write),
        longest_write_without: longest(&without),
    })
}

fn ends_after((at, took): &(Instant, f64), begun: Instant) -> bool {
    *at + Duration::from_secs_f64(took / 1e6) >= begun
}

/// When each request began, and how many microseconds it took.
async fn again_and_again(
    address: Address,
    requests: Vec<Rc<[u8]>>,
    done: Rc<Cell<bool>>,
) -> Outcome<Vec<(Instant, f64)>> {
    let (mut client, mut samples) = (Client::connect(&address).await?, Vec::new());
    for request in requests.iter().cycle() {
        if done.get() {
            break;
        }
        let begun = Instant::now();
        client.succeed(request).await?;
        samples.push((begun, begun.elapsed().as_secs_f64() * 1e6));
        tokio::time::sleep(PAUSE).await;
    }
    Ok(samples)
}

/// Waits until all that was deleted from a database is purged and its space given back: its log is cut off then. The
/// part of its pages that is free.
pub(crate) fn purged(database: &Path) -> Outcome<f64> {
    let begun = Instant::now();
    let mut wal = database.as_os_str().to_owned();
    wal.push("-wal");
    while fs::metadata(&wal).is_ok_and(|wal| wal.len() > 0) {
        if begun.elapsed() > PATIENCE {
            return Err("a purge that does not end".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // The header of the file: its pages, and those that are free.
    let mut header = [0; 40];
    File::open(database)?.read_exact(&mut header)?;
    let number =
        |at: usize| f64::from(u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    Ok(number(36) / number(28).max(1.0))
}
