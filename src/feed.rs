//! What subscribers hear: durable events in the order of their commits, and passing deltas between them.
//!
//! **Events after commit.** Storage announces the last number; one task reads the log from there and hands what is new
//! to all subscribers at once, so that a commit costs one read and not one for each of them. Who falls behind reads the
//! log from the number it saw last: it loses deltas, never an event. Deltas go through the same task, each at its place:
//! after what was committed before it was sent, and before what was committed after.

mod draft;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio_util::sync::CancellationToken;

pub use draft::Draft;

use crate::{
    model::{Event, EventKind, EventPage, EventScope, InEpoch, MessageId, RunId, SessionId, Timestamp},
    repository::SessionRepository,
    storage::{Result, Storage},
    tasks::Tasks,
};

/// Frames that wait for a slow subscriber at most; then it goes on from the log.
const BEHIND: usize = 256;
/// Deltas that wait to be handed out at most; what is written meanwhile is told later.
const QUEUE: usize = 256;
/// Subscribers that read the log at one time: others wait for them, and calls find a reader of the database.
const READING: usize = 2;
/// Bytes that are shown at most of all messages that are being written, to who comes in the middle.
const SHOWN: usize = 256 << 10;
/// How long to wait before the log is read again, when that failed.
const RETRY: Duration = Duration::from_millis(200);
/// Events that are read from the log at once.
const PAGE: i64 = 100;

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
    /// Which part of a message it is, for a delta of one.
    pub part: Option<Part>,
    /// A server-sent event.
    pub bytes: Bytes,
}

/// A part of a message that is being written.
#[derive(Debug, Clone)]
pub struct Part {
    /// The message.
    pub message_id: MessageId,
    /// Whether it is of its reasoning, not of its text.
    pub reasoning: bool,
    /// Where it begins.
    pub offset: usize,
}

/// A message that is being written, as it is shown to who comes in the middle.
#[derive(Debug)]
pub struct Shown {
    /// The message.
    pub message_id: MessageId,
    /// Bytes of its text and of its reasoning that were told, and are in what is shown.
    pub told: (usize, usize),
    /// What is shown.
    pub json: Value,
}

impl Shown {
    /// Whether it holds this part already.
    pub fn holds(&self, part: &Part) -> bool {
        let told = if part.reasoning { self.told.1 } else { self.told.0 };
        self.message_id == part.message_id && part.offset < told
    }
}

impl Frame {
    /// A durable event.
    pub fn of(event: &Event, epoch: i64) -> Self {
        let name = json!(event.event);
        let bytes = sse(Some(InEpoch { number: event.event_id, epoch }), name.as_str().unwrap_or_default(), event);
        Self {
            event_id: Some(event.event_id),
            session_id: event.session_id.clone(),
            above: event.above.clone(),
            last: event.event == EventKind::SessionDeleted,
            part: None,
            bytes,
        }
    }
}

/// A server-sent event: one line of JSON.
pub fn sse(id: Option<InEpoch>, name: &str, data: &impl Serialize) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    let mut event = format!("{id}event: {name}\ndata: ").into_bytes();
    let begin = event.len();
    if serde_json::to_writer(&mut event, data).is_err() {
        event.truncate(begin);
    }
    // What is kept as it came may have lines, between its values.
    event[begin..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    event.extend_from_slice(b"\n\n");
    event.into()
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

/// A delta on its way.
struct Delta {
    /// The last event that was committed when it was sent: it comes after that one.
    after: i64,
    frame: Frame,
}

/// The server's news. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    repository: SessionRepository,
    frames: broadcast::Sender<Arc<Frame>>,
    deltas: mpsc::Sender<Delta>,
    drafts: draft::Drafts,
    reading: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Feed {
    /// A feed of these sessions, which reads the log until `stop`.
    pub fn start(repository: SessionRepository, tasks: &Tasks, stop: CancellationToken) -> Self {
        let (deltas, queue) = mpsc::channel(QUEUE);
        let (frames, drafts) = (broadcast::Sender::new(BEHIND), draft::Drafts::default());
        let reading = Arc::new(Semaphore::new(READING));
        let feed = Self { repository, frames, deltas, drafts, reading, stop };
        let seen = *feed.repository.last_event().borrow();
        let reader = Reader { feed: feed.clone(), queue, next: None, seen };
        tasks.spawn(reader.follow());
        feed
    }

    fn hand_out(&self, frame: Frame) {
        // Nobody listens: nothing is lost, the log has it.
        let _ = self.frames.send(Arc::new(frame));
    }

    /// Begins to follow what a run writes.
    pub fn draft(&self, place: Place, run_id: RunId) -> Draft {
        self.drafts.begin(place, run_id)
    }

    /// Tells what is new of a message that is being written. What finds no place now is told with what comes next.
    pub fn tell(&self, draft: &Draft) {
        // Held until the delta is in the queue: who is shown the message meanwhile is shown this part, too.
        let mut written = draft.written();
        for reasoning in [true, false] {
            loop {
                let of = if reasoning { &written.reasoning } else { &written.text };
                let Some((offset, text)) = of.next() else { break };
                let (run_id, message_id) = (&written.run_id, &written.message_id);
                let data = json!({ "run_id": run_id, "message_id": message_id, "offset": offset, "text": text });
                let part = Part { message_id: message_id.clone(), reasoning, offset };
                let name = if reasoning { "reasoning.delta" } else { "message.delta" };
                if !self.pass(&written.place, name, data, Some(part)) {
                    return;
                }
                if reasoning { written.reasoning.pass() } else { written.text.pass() }
            }
        }
    }

    /// Tells something that passes.
    pub fn delta(&self, place: &Place, name: &str, data: Value) {
        self.pass(place, name, data, None);
    }

    /// Whether it was told, or there is nobody to tell.
    fn pass(&self, place: &Place, name: &str, mut data: Value, part: Option<Part>) -> bool {
        if self.frames.receiver_count() == 0 {
            return true;
        }
        data["event"] = json!(name);
        data["session_id"] = json!(place.session_id);
        data["root_session_id"] = json!(place.root_session_id);
        data["at"] = json!(Timestamp::now());
        let bytes = sse(None, name, &data);
        let (session_id, above) = (place.session_id.clone(), place.above.clone());
        let frame = Frame { event_id: None, session_id, above, last: false, part, bytes };
        self.deltas.try_send(Delta { after: *self.repository.last_event().borrow(), frame }).is_ok()
    }

    /// The messages that are being written in this scope, as far as they were told. Long ones show their end.
    pub fn writing(&self, scope: &EventScope) -> Vec<Shown> {
        let mut drafts = self.drafts.all();
        drafts.retain(|draft| {
            let Place { session_id, above, .. } = &draft::locked(draft).place;
            scope.holds(session_id, above)
        });
        let share = SHOWN / drafts.len().max(1) / 2;
        let shown = drafts.iter().map(|draft| {
            let draft = draft::locked(draft);
            let ((offset, text), (reasoning_offset, reasoning)) =
                (draft.text.ending(share), draft.reasoning.ending(share));
            let json = json!({
                "session_id": draft.place.session_id, "run_id": draft.run_id, "message_id": draft.message_id, "offset": offset,
                "text": text, "reasoning_offset": reasoning_offset, "reasoning": reasoning,
            });
            let told = (draft.text.told(), draft.reasoning.told());
            Shown { message_id: draft.message_id.clone(), told, json }
        });
        shown.filter(|shown| shown.told != (0, 0)).collect()
    }

    /// What is told from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Frame>> {
        self.frames.subscribe()
    }

    /// Cancelled when the server stops: subscriptions end then.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// A part of the log, of this many events at most, for a subscriber.
    pub async fn log(&self, scope: &EventScope, after: i64, limit: i64) -> Result<EventPage> {
        // Never closed.
        let _place = self.reading.acquire().await;
        self.repository.events(scope, after, limit).await
    }
}

/// The task that hands out.
struct Reader {
    feed: Feed,
    queue: mpsc::Receiver<Delta>,
    /// A delta that comes after what was read of the log so far.
    next: Option<Delta>,
    seen: i64,
}

impl Reader {
    async fn follow(mut self) {
        let stop = self.feed.stop.clone();
        stop.run_until_cancelled(self.hand_out()).await;
    }

    async fn hand_out(&mut self) {
        let mut last = self.feed.repository.last_event();
        loop {
            let until = tokio::select! {
                changed = last.changed() => match changed {
                    Ok(()) => *last.borrow_and_update(),
                    Err(_) => return,
                },
                delta = self.queue.recv() => {
                    self.next = delta;
                    self.next.as_ref().map_or(self.seen, |delta| delta.after)
                }
            };
            self.read_log(until).await;
            self.deltas_before(self.seen + 1);
        }
    }

    async fn read_log(&mut self, until: i64) {
        while self.seen < until {
            match self.feed.repository.events(&EventScope::All, self.seen, PAGE).await {
                Ok(page) => {
                    for event in &page.events {
                        self.deltas_before(event.event_id);
                        self.feed.hand_out(Frame::of(event, self.feed.repository.epoch()));
                    }
                    self.seen = page.through;
                }
                // Nothing is passed over: it goes on from here.
                Err(error) => {
                    tracing::warn!(%error, "the log of events was not read");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Hands out the deltas that were sent before this event was committed.
    fn deltas_before(&mut self, event: i64) {
        while let Some(delta) = self.next.take().or_else(|| self.queue.try_recv().ok()) {
            if delta.after >= event {
                self.next = Some(delta);
                return;
            }
            self.feed.hand_out(delta.frame);
        }
    }
}
