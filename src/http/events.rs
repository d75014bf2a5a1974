//! Server-sent events: a snapshot first, then what happens, or from a number on all that happened since.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use aide::{OperationInput, OperationOutput, generate::GenContext, openapi};
use axum::{
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::json;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    App,
    budget::{Needs, Reserved},
    document::may_fail,
    error::Problem,
    extract::{Path, Query, describe_header, response_of},
    sessions::InSession,
};
use crate::{
    feed::{Frame, Shown, sse},
    model::{EventScope, InEpoch, RawJson, RunFilter, SessionId, Timestamp},
    storage::{Error, Result, Storage},
};

/// After how much silence a comment is sent.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events that are read from the log at once at most, and bytes of them that wait for the client before more are read.
const PAGE: i64 = 100;
const READY: usize = 256 << 10;
/// Bytes that a snapshot may have.
const SNAPSHOT: usize = 8 << 20;
/// Sessions that the snapshot of a tree shows at most.
const TREE: i64 = 1000;

/// Where to go on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FeedQuery {
    /// The `id` of the last event that was received: a number, or `<number>-<epoch>`. Empty is as absent.
    #[serde(default, deserialize_with = "or_empty")]
    after: Option<InEpoch>,
    /// The same, as clients name it that cannot set headers.
    #[serde(default, rename = "lastEventId", deserialize_with = "or_empty")]
    last_event_id: Option<InEpoch>,
}

/// What of a session's tree, and where to go on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Also what happens below the session.
    #[serde(default)]
    tree: bool,
    /// The `id` of the last event that was received: a number, or `<number>-<epoch>`. Empty is as absent.
    #[serde(default, deserialize_with = "or_empty")]
    after: Option<InEpoch>,
    /// The same, as clients name it that cannot set headers.
    #[serde(default, rename = "lastEventId", deserialize_with = "or_empty")]
    last_event_id: Option<InEpoch>,
}

/// An id, or an empty text for none.
fn or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<InEpoch>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.trim() {
        "" => Ok(None),
        id => id.parse().map(Some).map_err(|_| D::Error::custom("not the id of an event, such as 17 or 17-2")),
    }
}

/// `Last-Event-ID`, if it is there.
pub(super) struct LastEventId(Option<InEpoch>);

impl FromRequestParts<App> for LastEventId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> std::result::Result<Self, Problem> {
        let value = parts.headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?").trim());
        // Clients that have seen no event send an empty one.
        let Some(id) = value.filter(|id| !id.is_empty()) else { return Ok(Self(None)) };
        let id = id.parse().ok();
        id.map(|id| Self(Some(id))).ok_or_else(|| Problem::invalid("Last-Event-ID", "the number of an event"))
    }
}

impl OperationInput for LastEventId {
    fn operation_input(ctx: &mut GenContext, operation: &mut openapi::Operation) {
        let meaning = "The `id` of the last event that was received. Empty is as absent. Wins over `after`.";
        describe_header(ctx, operation, "Last-Event-ID", meaning);
        may_fail(operation, &["invalid_request"]);
    }
}

pub(super) async fn all(
    State(app): State<App>,
    Query(query): Query<FeedQuery>,
    LastEventId(last): LastEventId,
) -> std::result::Result<Events, Problem> {
    Ok(Events::new(&app, EventScope::All, last.or(query.after).or(query.last_event_id)))
}

pub(super) async fn of_session(
    State(app): State<App>,
    Path(at): Path<InSession>,
    Query(query): Query<EventsQuery>,
    LastEventId(last): LastEventId,
) -> std::result::Result<Events, Problem> {
    let scope = match query.tree {
        true => EventScope::Tree(at.id.clone()),
        false => EventScope::Session(at.id.clone()),
    };
    let after = last.or(query.after).or(query.last_event_id);
    match (app.repository.session(&at.id).await?, after) {
        (Some(_), _) => {}
        // Who was following it hears that it was deleted; for others there is no such session.
        (None, Some(after)) => drop(app.runs.feed().log(&scope, known(&app, after).unwrap_or(0), 1).await?),
        (None, None) => return Err(Error::SessionNotFound(at.id).into()),
    }
    Ok(Events::new(&app, scope, after))
}

/// The fields of a snapshot.
type Fields = BTreeMap<&'static str, RawJson>;

fn of_tree(id: &SessionId, root: &SessionId) -> Fields {
    Fields::from([("session_id", RawJson::of(id)), ("root_session_id", RawJson::of(root))])
}

/// The number of an event of this epoch.
fn known(app: &App, id: InEpoch) -> Option<i64> {
    (id.epoch == app.repository.epoch()).then_some(id.number)
}

/// What comes next.
enum Mode {
    /// The state as it is.
    Snapshot,
    /// The log, from the last number on.
    Log,
    /// What is told.
    Live,
    Ended,
}

/// A subscriber. It holds nothing of the database while its client takes its time.
pub(super) struct Events {
    app: App,
    scope: EventScope,
    news: Receiver<Arc<Frame>>,
    /// The last number that was sent, or passed over.
    seen: i64,
    ready: VecDeque<Bytes>,
    /// Events to read at once: fewer where they are large.
    page: i64,
    /// What the snapshot showed of messages that were being written.
    shown: Vec<Shown>,
    mode: Mode,
    /// For what is ready, while it is.
    reserved: Option<Arc<Reserved>>,
}

impl Events {
    pub(super) fn new(app: &App, scope: EventScope, after: Option<InEpoch>) -> Self {
        // First the subscription: what is committed from now on is in it, or in what is read after this.
        let news = app.runs.feed().subscribe();
        let seen = after.and_then(|id| known(app, id));
        let mode = if seen.is_some() { Mode::Log } else { Mode::Snapshot };
        let (ready, shown) = (VecDeque::new(), Vec::new());
        let mut events = Self {
            app: app.clone(),
            scope,
            news,
            seen: seen.unwrap_or(0),
            ready,
            page: PAGE / 4,
            shown,
            mode,
            reserved: None,
        };
        // A number of another epoch is of another history.
        if let Some(after) = after.filter(|_| seen.is_none()) {
            events.reset(after.number);
        }
        events
    }

    fn reset(&mut self, after: i64) {
        let data = json!({ "event": "reset", "at": Timestamp::now(), "after": after });
        self.ready.push_back(sse(None, "reset", &data));
        self.mode = Mode::Snapshot;
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes>> {
        stream::try_unfold(self, |mut events| async move {
            loop {
                if let Some(bytes) = events.ready.pop_front() {
                    return Ok(Some((bytes, events)));
                }
                // All of it was taken: nothing is held while it waits for more.
                events.reserved = None;
                match events.mode {
                    Mode::Ended => return Ok(None),
                    Mode::Snapshot => events.reading(SNAPSHOT, Self::snapshot).await?,
                    Mode::Log => events.reading(4 * READY, Self::log).await?,
                    Mode::Live => events.live().await,
                }
            }
        })
    }

    /// Reads what is to be sent next, of about so many bytes. Where these cannot be had, the stream ends: its client
    /// comes back with the last number that it saw.
    async fn reading(&mut self, bytes: usize, read: impl AsyncFnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let Ok(reserved) = self.app.under_way.bytes.reserve(Needs::Call(bytes)).await else {
            self.mode = Mode::Ended;
            return Ok(());
        };
        read(self).await?;
        reserved.shrink(self.ready.iter().map(Bytes::len).sum());
        self.reserved = Some(reserved);
        Ok(())
    }

    async fn snapshot(&mut self) -> Result<()> {
        self.seen = *self.app.repository.last_event().borrow();
        self.mode = Mode::Live;
        let state = match &self.scope {
            EventScope::All => Some(Fields::new()),
            EventScope::Session(id) => self.session(id).await?,
            EventScope::Tree(id) => self.tree(id).await?,
        };
        match state {
            Some(mut state) => {
                // After the number was taken: a message that is finished by now is told of later.
                self.shown = match self.scope {
                    EventScope::All => Vec::new(),
                    _ => self.app.runs.feed().writing(&self.scope),
                };
                if !self.shown.is_empty() {
                    let writing: Vec<_> = self.shown.iter_mut().map(|shown| shown.json.take()).collect();
                    state.insert("writing", RawJson::of(&writing));
                }
                state.insert("event", RawJson::of("snapshot"));
                state.insert("at", RawJson::of(&Timestamp::now()));
                self.ready.push_back(sse(Some(self.id()), "snapshot", &state));
            }
            None => self.mode = Mode::Ended,
        }
        Ok(())
    }

    /// The id of the last event that was sent.
    fn id(&self) -> InEpoch {
        InEpoch { number: self.seen, epoch: self.app.repository.epoch() }
    }

    async fn session(&self, id: &SessionId) -> Result<Option<Fields>> {
        let Some(session) = self.app.repository.session(id).await? else { return Ok(None) };
        let filter = RunFilter { session: Some(id.clone()), ..RunFilter::default() };
        let run = self.app.repository.runs(&filter, None, 1).await?.items.pop();
        let mut state = of_tree(id, &session.root_session_id);
        state.insert("session", RawJson::of(&session));
        if let Some(run) = run {
            state.insert("run", RawJson::of(&run));
        }
        Ok(Some(state))
    }

    async fn tree(&self, id: &SessionId) -> Result<Option<Fields>> {
        match self.app.repository.session_tree(id, TREE).await {
            Ok((tree, truncated)) => {
                let mut state = of_tree(id, &tree.session.root_session_id);
                state.insert("tree", RawJson::of(&tree));
                state.insert("truncated", RawJson::of(&truncated));
                Ok(Some(state))
            }
            Err(Error::SessionNotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn log(&mut self) -> Result<()> {
        let page = match self.app.runs.feed().log(&self.scope, self.seen, self.page).await {
            Ok(page) => page,
            Err(Error::SessionNotFound(_)) => {
                self.mode = Mode::Ended;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if page.gap {
            self.reset(self.seen);
            return Ok(());
        }
        if page.through <= self.seen {
            self.mode = Mode::Live;
        }
        let mut bytes = 0;
        for (place, event) in (1..).zip(&page.events) {
            let frame = Frame::of(event, self.app.repository.epoch());
            bytes += frame.bytes.len();
            self.take(&frame);
            if bytes > READY {
                // The rest is read again, when there is room for it.
                self.page = place;
                return Ok(());
            }
        }
        self.page = (self.page * 2).min(PAGE);
        self.seen = self.seen.max(page.through);
        Ok(())
    }

    async fn live(&mut self) {
        let stopping = self.app.runs.feed().stopping().clone();
        let news = tokio::select! {
            news = tokio::time::timeout(HEARTBEAT, self.news.recv()) => news,
            () = stopping.cancelled() => {
                self.mode = Mode::Ended;
                return;
            }
        };
        match news {
            Ok(Ok(frame)) => self.take(&frame),
            // Too slow: deltas are lost, the log has the rest.
            Ok(Err(RecvError::Lagged(_))) => self.mode = Mode::Log,
            Ok(Err(RecvError::Closed)) => self.mode = Mode::Ended,
            Err(_) => self.ready.push_back(Bytes::from_static(b": heartbeat\n\n")),
        }
    }

    fn take(&mut self, frame: &Frame) {
        if let Some(id) = frame.event_id {
            if id <= self.seen {
                return;
            }
            self.seen = id;
        }
        let shown = |part| self.shown.iter().any(|shown| shown.holds(part));
        if !self.scope.holds(&frame.session_id, &frame.above) || frame.part.as_ref().is_some_and(shown) {
            return;
        }
        self.ready.push_back(frame.bytes.clone());
        if let EventScope::Session(id) | EventScope::Tree(id) = &self.scope
            && frame.last
            && frame.session_id == *id
        {
            self.mode = Mode::Ended;
        }
    }
}

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        streamed(Body::from_stream(self.into_stream()))
    }
}

/// The answer that events come in.
pub(super) fn streamed(events: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
        // A proxy that gathers answers would hold events back.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, events).into_response()
}

impl OperationOutput for Events {
    type Inner = Self;

    fn inferred_responses(ctx: &mut GenContext, _: &mut openapi::Operation) -> Vec<(Option<u16>, openapi::Response)> {
        let description = "Server-sent events. `id` is an event's number; each `data` is one line of JSON with `event`, \
            `session_id`, `root_session_id`, `at` and fields of its own.";
        vec![(Some(200), response_of::<String>(ctx, description, "text/event-stream"))]
    }
}
