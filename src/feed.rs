//! What subscribers hear: durable events in the order of their commits, and passing deltas between them.
//!
//! **Events after commit.** Storage announces the last number; one task reads the log from there and hands what is new
//! to all subscribers at once, so that a commit costs one read and not one for each of them. Who falls behind reads the
//! log from the number it saw last: it loses deltas, never an event.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::{
    model::{Event, EventKind, EventPage, EventScope, SessionId, Timestamp},
    repository::SessionRepository,
    storage::{Result, Storage},
    tasks::Tasks,
};

/// Frames that wait for a slow subscriber at most; then it goes on from the log.
const BEHIND: usize = 256;
/// How long to wait before the log is read again, when that failed.
const RETRY: Duration = Duration::from_millis(200);
/// Events that are read from the log at once.
pub const PAGE: i64 = 100;

/// One thing to tell, ready to be sent.
#[derive(Debug)]
pub struct Frame {
    /// The event's number; none for a delta.
    pub event_id: Option<i64>,
    /// The session.
    pub session_id: SessionId,
    /// The sessions above it, nearest first.
    pub above: Vec<SessionId>,
    /// Whether it is the last that there is to tell of the session.
    pub last: bool,
    /// A server-sent event.
    pub bytes: Bytes,
}

impl Frame {
    /// A durable event.
    pub fn of(event: &Event) -> Self {
        let name = json!(event.event);
        let bytes = sse(Some(event.event_id), name.as_str().unwrap_or_default(), &json!(event));
        Self {
            event_id: Some(event.event_id),
            session_id: event.session_id.clone(),
            above: event.above.clone(),
            last: event.event == EventKind::SessionDeleted,
            bytes,
        }
    }
}

/// A server-sent event: one line of JSON.
pub fn sse(id: Option<i64>, name: &str, data: &Value) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("{id}event: {name}\ndata: {data}\n\n").into()
}

/// Where a delta belongs.
#[derive(Debug, Clone)]
pub struct Place {
    /// The session.
    pub session_id: SessionId,
    /// Its root.
    pub root_session_id: SessionId,
    /// The sessions above it, nearest first.
    pub above: Vec<SessionId>,
}

/// The server's news. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    repository: SessionRepository,
    frames: broadcast::Sender<Arc<Frame>>,
    stop: CancellationToken,
}

impl Feed {
    /// A feed of these sessions, which reads the log until `stop`.
    pub fn start(repository: SessionRepository, tasks: &Tasks, stop: CancellationToken) -> Self {
        let feed = Self { repository, frames: broadcast::Sender::new(BEHIND), stop };
        let reader = feed.clone();
        tasks.spawn(async move {
            reader.stop.run_until_cancelled(reader.follow()).await;
        });
        feed
    }

    /// Hands on what is committed.
    async fn follow(&self) {
        let mut last = self.repository.last_event();
        let mut seen = *last.borrow_and_update();
        while last.changed().await.is_ok() {
            let until = *last.borrow_and_update();
            while seen < until {
                match self.repository.events(&EventScope::All, seen, PAGE).await {
                    Ok(page) => {
                        seen = page.through;
                        page.events.iter().for_each(|event| self.hand_out(Frame::of(event)));
                    }
                    // Nothing is passed over: it goes on from here.
                    Err(error) => {
                        tracing::warn!(%error, "the log of events was not read");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        }
    }

    fn hand_out(&self, frame: Frame) {
        // Nobody listens: nothing is lost, the log has it.
        let _ = self.frames.send(Arc::new(frame));
    }

    /// Tells a fragment of what is still being made.
    pub fn delta(&self, place: &Place, name: &str, mut data: Value) {
        if self.frames.receiver_count() == 0 {
            return;
        }
        data["event"] = json!(name);
        data["session_id"] = json!(place.session_id);
        data["root_session_id"] = json!(place.root_session_id);
        data["at"] = json!(Timestamp::now());
        let bytes = sse(None, name, &data);
        let (session_id, above) = (place.session_id.clone(), place.above.clone());
        self.hand_out(Frame { event_id: None, session_id, above, last: false, bytes });
    }

    /// What is told from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Frame>> {
        self.frames.subscribe()
    }

    /// Cancelled when the server stops: subscriptions end then.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// A part of the log.
    pub async fn log(&self, scope: &EventScope, after: i64) -> Result<EventPage> {
        self.repository.events(scope, after, PAGE).await
    }
}
