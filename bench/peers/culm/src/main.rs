//! Culm through its library: the repository in front of the SQLite storage, as the server has it.

use std::{sync::Arc, time::Instant};

use bench_protocol::{Job, Texts, Took, serve};
use culm::{
    model::{Cleanup, CleanupMode, DeleteOptions, NewMessage, Role, SessionFilter, SessionId},
    repository::SessionRepository,
    storage::{
        AppendOptions, Storage,
        sqlite::{Options, SqliteStorage},
    },
    tasks::Tasks,
};
use futures_util::future::join_all;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// As the server's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As the server's default.
const CACHE: usize = 64 << 20;

struct Peer {
    texts: Arc<Texts>,
    open: Option<SessionRepository>,
    /// The number of the next text.
    next: u64,
}

fn main() -> Outcome<()> {
    // As the server's: one core is left to SQLite's threads.
    let workers = std::thread::available_parallelism()?.get().saturating_sub(1).max(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let mut peer = Peer { texts: Texts::default().into(), open: None, next: 1 << 32 };
    serve(|job| runtime.block_on(peer.work(job)).map_err(|error| error.to_string()));
    runtime.block_on(peer.close());
    Ok(())
}

impl Peer {
    async fn work(&mut self, job: Job) -> Outcome<Took> {
        match job {
            Job::Make { path } | Job::Open { path } => self.open(path).await,
            Job::Close {} => {
                self.close().await;
                Ok(Took::default())
            }
            Job::Append { session, count } => self.append(&session, count).await,
            Job::AppendTogether { prefix, clients, count } => self.append_together(&prefix, clients, count).await,
            Job::List { limit, count } => self.list(limit, count).await,
            Job::Load { session } => self.load(&session).await,
            Job::Delete { session } => self.delete(&session).await,
            Job::CleanUp {} => self.clean_up().await,
            other => Err(format!("not a job for Culm: {other:?}").into()),
        }
    }

    async fn open(&mut self, path: String) -> Outcome<Took> {
        self.close().await;
        let storage = SqliteStorage::open(&Options::new(path)).await?;
        self.open = Some(SessionRepository::new(Arc::new(storage), CACHE, Tasks::default()));
        Ok(Took::default())
    }

    async fn close(&mut self) {
        if let Some(repository) = self.open.take() {
            repository.close().await;
            repository.tasks().finish().await;
        }
    }

    fn repository(&self) -> Outcome<SessionRepository> {
        self.open.clone().ok_or_else(|| "nothing is open".into())
    }

    fn messages(&mut self, count: usize) -> Vec<NewMessage> {
        let numbers = self.next..self.next + count as u64;
        self.next = numbers.end;
        numbers.map(|n| NewMessage::text(Role::User, self.texts.of_a_kib(n))).collect()
    }

    async fn append(&mut self, session: &str, count: usize) -> Outcome<Took> {
        let (repository, id, messages) = (self.repository()?, session.parse::<SessionId>()?, self.messages(count));
        on_a_worker(async move { timed(append_each(&repository, &id, messages)).await }).await
    }

    async fn append_together(&mut self, prefix: &str, clients: usize, count: usize) -> Outcome<Took> {
        let repository = self.repository()?;
        let each = (0..clients).map(|client| {
            let id = format!("{prefix}{client}").parse::<SessionId>();
            (id, self.messages(count / clients))
        });
        let each: Vec<_> = each.collect();
        let all = async move {
            let clients = each.into_iter().map(|(id, messages)| {
                let repository = repository.clone();
                on_a_worker(async move { append_each(&repository, &id?, messages).await })
            });
            let samples: Outcome<Vec<Vec<f64>>> = join_all(clients).await.into_iter().collect();
            Ok(samples?.concat())
        };
        timed(all).await
    }

    async fn list(&self, limit: i64, count: usize) -> Outcome<Took> {
        let repository = self.repository()?;
        let filter = SessionFilter::default();
        let all = async move {
            let mut samples = Vec::with_capacity(count);
            for _ in 0..count {
                let begun = Instant::now();
                repository.sessions(&filter, None, limit).await?;
                samples.push(micros(begun));
            }
            Ok(samples)
        };
        on_a_worker(timed(all)).await
    }

    async fn load(&self, session: &str) -> Outcome<Took> {
        let (repository, id) = (self.repository()?, session.parse::<SessionId>()?);
        // The connection is there, and has read another session.
        let warm = "root-0".parse::<SessionId>()?;
        repository.load(&warm).await?;
        let all = async move {
            let begun = Instant::now();
            let loaded = repository.load(&id).await?.ok_or("no such session")?;
            let samples = vec![micros(begun)];
            drop(loaded);
            Ok(samples)
        };
        on_a_worker(timed(all)).await
    }

    async fn delete(&self, session: &str) -> Outcome<Took> {
        let (repository, id) = (self.repository()?, session.parse::<SessionId>()?);
        let all = async move {
            let begun = Instant::now();
            repository.delete_session(&id, DeleteOptions::default()).await?;
            Ok(vec![micros(begun)])
        };
        on_a_worker(timed(all)).await
    }

    async fn clean_up(&self) -> Outcome<Took> {
        let repository = self.repository()?;
        let empty = Cleanup { keep_pinned: true, ..Cleanup::of(CleanupMode::Empty) };
        let all = async move {
            let begun = Instant::now();
            let receipt = repository.cleanup_sessions(empty).await?;
            let samples = vec![micros(begun)];
            if receipt.deleted_count == 0 {
                return Err("there was nothing to clean up".into());
            }
            Ok(samples)
        };
        on_a_worker(timed(all)).await
    }
}

async fn append_each(repository: &SessionRepository, id: &SessionId, messages: Vec<NewMessage>) -> Outcome<Vec<f64>> {
    let mut samples = Vec::with_capacity(messages.len());
    for message in messages {
        let begun = Instant::now();
        repository.append_messages(id, vec![message], AppendOptions::default()).await?;
        samples.push(micros(begun));
    }
    Ok(samples)
}

async fn timed(work: impl Future<Output = Outcome<Vec<f64>>>) -> Outcome<Took> {
    let begun = Instant::now();
    let micros = work.await?;
    Ok(Took { micros, seconds: begun.elapsed().as_secs_f64() })
}

/// Where a server's work is done; the main task is a thread of its own.
async fn on_a_worker<T: Send + 'static>(work: impl Future<Output = Outcome<T>> + Send + 'static) -> Outcome<T> {
    tokio::spawn(work).await?
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
