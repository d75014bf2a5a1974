//! The store that Culm replaces: a session is loaded as a whole, a message added, and the session saved, as its server
//! does for each message.

use std::time::Instant;

use bamboo_domain::{Message, Storage};
use bamboo_storage::SessionStoreV2;
use bench_protocol::{Job, Texts, Took, serve};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

struct Peer {
    texts: Texts,
    open: Option<SessionStoreV2>,
    /// The number of the next text.
    next: u64,
}

fn main() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut peer = Peer { texts: Texts::default(), open: None, next: 1 << 32 };
    serve(|job| runtime.block_on(peer.work(job)).map_err(|error| error.to_string()));
    Ok(())
}

impl Peer {
    async fn work(&mut self, job: Job) -> Outcome<Took> {
        match job {
            Job::Open { path } => {
                self.open = Some(SessionStoreV2::new(path.into()).await?);
                Ok(Took::default())
            }
            Job::Append { session, count } => self.append(&session, count).await,
            other => Err(format!("not a job for the replaced store: {other:?}").into()),
        }
    }

    async fn append(&mut self, id: &str, count: usize) -> Outcome<Took> {
        let store = self.open.as_ref().ok_or("nothing is open")?;
        let (begun, mut micros) = (Instant::now(), Vec::with_capacity(count));
        for _ in 0..count {
            self.next += 1;
            let message = Message::user(self.texts.of_a_kib(self.next));
            let begun = Instant::now();
            let mut session = store.load_session(id).await?.ok_or("no such session")?;
            session.add_message(message);
            store.save_session(&session).await?;
            micros.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        Ok(Took { micros, seconds: begun.elapsed().as_secs_f64() })
    }
}
