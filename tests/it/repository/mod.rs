//! What the cache in front of storage promises, and the whole sessions that it loads and saves.
//! The storage below it is the real one, stopped or failing where a test says so.

mod cache;
mod faults;
mod merge;
mod steered;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use culm::{
    model::{KindFilter, MessagePage, SessionFilter, WholeSession, Window},
    repository::SessionRepository,
    storage::{Error, Result, Storage},
    tasks::Tasks,
};
use serde_json::{Value, json};
use steered::{Place, Steered, Stopped};

use crate::support::*;

/// A database behind a cache, and what steers the calls between them.
struct Opened {
    database: Arc<Database>,
    steered: Arc<Steered>,
    repository: SessionRepository,
}

async fn open() -> Opened {
    open_with(1 << 20).await
}

async fn open_with(cache_bytes: usize) -> Opened {
    let database = Arc::new(sqlite().await);
    let steered = Arc::new(Steered::new(database.clone()));
    let repository = SessionRepository::new(steered.clone(), cache_bytes, Tasks::default());
    Opened { database, steered, repository }
}

/// A session and its last messages as the cache answers them, both asked for at once; null when there is none.
async fn shown(repository: &SessionRepository, session: &str) -> [Value; 2] {
    let session = id(session);
    let messages = repository.messages_json(&session, window(Window::Last, 50), false);
    let (row, messages) = tokio::join!(repository.session_json(&session), messages);
    let parsed = |json: Bytes| serde_json::from_slice(&json).unwrap();
    [row.unwrap().map_or(Value::Null, |(_, json)| parsed(json)), found(messages).map_or(Value::Null, parsed)]
}

/// The same, from storage itself.
async fn stored(database: &Database, session: &str) -> [Value; 2] {
    let row = database.storage().session(&id(session)).await.unwrap();
    let messages = found(database.storage().messages(&id(session), window(Window::Last, 50)).await);
    [row.map_or(Value::Null, |session| json!({ "session": session })), messages.map_or(Value::Null, page_json)]
}

fn all_kinds() -> SessionFilter {
    SessionFilter { kind: Some(KindFilter::All), ..SessionFilter::default() }
}

/// Every session, as the cache lists them.
async fn shown_list(repository: &SessionRepository) -> Value {
    let json = repository.sessions_json(&all_kinds(), None, 200, |page| page.items).await.unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// The same, from storage itself.
async fn stored_list(database: &Database) -> Value {
    json!(database.storage().sessions(&all_kinds(), None, 200).await.unwrap().items)
}

fn found<T>(page: Result<T>) -> Option<T> {
    match page {
        Err(Error::SessionNotFound(_)) => None,
        page => Some(page.unwrap_or_else(|error| panic!("{error}"))),
    }
}

fn page_json(page: MessagePage) -> Value {
    json!({
        "messages": page.messages,
        "last_seq": page.last_seq,
        "has_more_before": page.has_more_before,
        "has_more_after": page.has_more_after,
    })
}

/// The title that the cache shows.
async fn shown_title(repository: &SessionRepository, session: &str) -> String {
    shown(repository, session).await[0]["session"]["title"].as_str().unwrap().to_owned()
}

/// Begins a call and gives up waiting for it when it has come to where it stops.
async fn begin<T: std::fmt::Debug>(call: impl Future<Output = T>, stopped: &mut Stopped) {
    tokio::select! {
        outcome = call => panic!("ended before it stopped: {outcome:?}"),
        () = stopped.reached() => {}
    }
}

/// Asks until it holds. What the cache answers at once gives nobody else a turn, so this does.
async fn soon(within: Duration, holds: impl AsyncFn() -> bool) {
    let asking = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(within, asking).await.expect("it holds in time");
}
