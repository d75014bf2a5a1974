//! Bare SQLite doing what Culm does: the same tables and the same index, the same durability, one connection that writes,
//! through a thin binding and without a server's layers. It is the limit that Culm is compared with.

mod append;
mod attachment;
mod delete;
mod fill;
mod index;
mod read;
mod together;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bench_protocol::{Job, Texts, Took, serve};
use rusqlite::{Connection, OpenFlags};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

struct Peer {
    texts: Texts,
    open: Option<Open>,
    /// The number of the next text.
    next: u64,
}

/// An open database: as Culm has it, one connection that writes, and here one that reads.
struct Open {
    path: String,
    writer: Connection,
    reader: Connection,
    /// Its triggers are gone: what they do is done by statements.
    unhooked: bool,
}

impl Open {
    fn new(path: String, unhooked: bool) -> Outcome<Self> {
        let (writer, reader) = (to_write(&path)?, to_read(&path)?);
        Ok(Self { path, writer, reader, unhooked })
    }

    fn unhook(&mut self) -> Outcome<()> {
        self.unhooked = true;
        fill::take_triggers(&self.writer).map(drop)
    }
}

fn main() {
    let mut peer = Peer { texts: Texts::default(), open: None, next: 1 << 32 };
    serve(|job| peer.work(job).map_err(|error| error.to_string()));
}

impl Peer {
    fn work(&mut self, job: Job) -> Outcome<Took> {
        match job {
            Job::Fill { path, plan } => fill::fill(&path, &plan, &self.texts).map(|()| Took::default()),
            Job::Open { path } => {
                self.open = Some(Open::new(path, false)?);
                Ok(Took::default())
            }
            Job::Unhook {} => self.open()?.unhook().map(|()| Took::default()),
            Job::Close {} => {
                self.open = None;
                Ok(Took::default())
            }
            Job::Append { session, count } => {
                let texts = self.take_texts(count);
                let writer = &mut self.open()?.writer;
                timed(texts, |text| append::append(writer, &session, &text))
            }
            Job::AppendTogether { prefix, clients, count } => {
                let texts = self.take_texts(count);
                let Open { path, unhooked, .. } = self.open.take().ok_or("nothing is open")?;
                let took = together::append(to_write(&path)?, &prefix, clients, texts)?;
                self.open = Some(Open::new(path, unhooked)?);
                Ok(took)
            }
            Job::List { limit, count } => {
                let reader = &self.open()?.reader;
                timed(0..count, |_| read::list(reader, limit))
            }
            Job::Load { session } => {
                let reader = &self.open()?.reader;
                read::load(reader, "root-0")?;
                timed([session], |session| read::load(reader, &session))
            }
            Job::Delete { session } => {
                let open = self.open()?;
                timed([session], |session| delete::delete(open, &session))
            }
            Job::CleanUp {} => {
                let open = self.open()?;
                timed([()], |()| delete::clean_up(open))
            }
            Job::Attach { session, bytes, count } => {
                let (bytes, writer) = (vec![7; bytes], &mut self.open()?.writer);
                timed(0..count, |_| attachment::store(writer, &session, &bytes))
            }
            Job::ReadAttachment { count } => {
                let reader = &self.open()?.reader;
                timed(0..count, |_| attachment::read(reader))
            }
            Job::Index { path, layout, count } => index::index(&path, layout, count, &self.texts),
            other => Err(format!("not a job for bare SQLite: {other:?}").into()),
        }
    }

    fn open(&mut self) -> Outcome<&mut Open> {
        self.open.as_mut().ok_or_else(|| "nothing is open".into())
    }

    fn take_texts(&mut self, count: usize) -> Vec<String> {
        let numbers = self.next..self.next + count as u64;
        self.next = numbers.end;
        numbers.map(|number| self.texts.of_a_kib(number)).collect()
    }
}

/// Does it for each, and takes the time that each takes. What it gives is dropped outside of that time.
fn timed<I, T>(inputs: impl IntoIterator<Item = I>, mut work: impl FnMut(I) -> Outcome<T>) -> Outcome<Took> {
    let (begun, mut micros) = (Instant::now(), Vec::new());
    for input in inputs {
        let begun = Instant::now();
        let output = work(input)?;
        micros.push(begun.elapsed().as_secs_f64() * 1e6);
        drop(output);
    }
    Ok(Took { micros, seconds: begun.elapsed().as_secs_f64() })
}

/// A connection as Culm's that writes (`src/storage/sqlite/open.rs`).
fn to_write(path: &str) -> rusqlite::Result<Connection> {
    let conn = Connection::open(path)?;
    conn.execute_batch(
        "pragma journal_mode = wal; pragma synchronous = full; pragma foreign_keys = on; pragma secure_delete = on;
         pragma trusted_schema = off; pragma cell_size_check = on; pragma temp_store = memory;
         pragma journal_size_limit = 67108864; pragma wal_autocheckpoint = 1000;",
    )?;
    conn.set_prepared_statement_cache_capacity(400);
    Ok(conn)
}

/// A connection as Culm's that read.
fn to_read(path: &str) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.execute_batch(
        "pragma query_only = on; pragma trusted_schema = off; pragma cell_size_check = on; pragma temp_store = memory;",
    )?;
    Ok(conn)
}

/// Microseconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
