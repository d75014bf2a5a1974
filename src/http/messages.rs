//! Messages over HTTP.

use axum::{extract::State, http::StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    App,
    error::Problem,
    extract::{Answer, Json, NoQuery, Path, Query, at_most},
    idempotency::{Key, once},
    sessions::InSession,
    version::{IfMatch, etag},
};
use crate::{
    model::{Message, MessageFilter, MessageId, NewMessage, PAGE_BYTES, Role, SessionId, Truncate, Window},
    storage::{AppendOptions, Error, Storage},
};

/// Messages that one append takes, and one page shows, at most.
const MANY: usize = 1000;

/// A message in a path.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct AtMessage {
    /// The session's id.
    id: SessionId,
    /// The message's id.
    message_id: MessageId,
}

/// The direction of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Asc,
    Desc,
}

/// Which messages to show; at most one of `after`, `before` and `around`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// The messages next after this `seq`.
    after: Option<i64>,
    /// The messages next before this `seq`.
    before: Option<i64>,
    /// The messages on both sides of this `seq`, and the one there.
    around: Option<i64>,
    /// 1 to 1000; 50 by default. A page ends sooner where its messages have about 8 MiB: then there is more.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<i64>,
    /// `desc` shows the last first; without a place it starts at the end.
    order: Option<Direction>,
    /// Only messages of this role.
    role: Option<Role>,
}

/// Messages in `seq` order: `limit` of them, or fewer where they have about 8 MiB; always the nearest one.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct PageBody {
    messages: Vec<Message>,
    last_seq: i64,
    /// Whether there are some before these.
    has_more_before: bool,
    /// Whether there are some after these.
    has_more_after: bool,
}

pub(super) async fn page(
    State(app): State<App>,
    Path(at): Path<InSession>,
    Query(query): Query<PageQuery>,
) -> Result<Answer<200, PageBody>, Problem> {
    let descending = query.order == Some(Direction::Desc);
    let window = match (query.after, query.before, query.around) {
        (None, None, None) if descending => Window::Last,
        (None, None, None) => Window::First,
        (Some(seq), None, None) => Window::After(seq),
        (None, Some(seq), None) => Window::Before(seq),
        (None, None, Some(seq)) => Window::Around(seq),
        (_, Some(_), _) => return Err(Problem::invalid("before", "one of after, before and around")),
        _ => return Err(Problem::invalid("around", "one of after, before and around")),
    };
    let limit = query.limit.unwrap_or(50);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::invalid("limit", "limit is 1 to 1000"));
    }
    let filter = MessageFilter { window, limit, bytes: PAGE_BYTES, role: query.role };
    Ok(Answer::raw(app.repository.messages_json(&at.id, filter, descending).await?))
}

/// Messages to append.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AppendBody {
    /// 1 to 1000 messages: all or none.
    #[serde(deserialize_with = "at_most::<MANY, _, _>")]
    messages: Vec<NewMessage>,
    /// Refuse unless this is the session's last `seq`.
    #[serde(default)]
    expected_last_seq: Option<i64>,
}

/// Messages as they were stored.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AppendedBody {
    messages: Vec<Message>,
    last_seq: i64,
}

impl AppendedBody {
    async fn answer(self) -> Answer<201, Self> {
        Answer::of(self.messages.iter().map(Message::bytes).sum(), self).await
    }
}

pub(super) async fn append(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
    key: Key,
    body: Json<AppendBody>,
) -> Result<Answer<201, AppendedBody>, Problem> {
    let (first, again, session) = (app.clone(), app.clone(), at.id.clone());
    let AppendBody { messages, expected_last_seq } = body.value;
    let work = move |claim| async move {
        check(&messages, &first)?;
        let options = AppendOptions { expected_last_seq, claim };
        let appended = first.repository.append_messages(&session, messages, options).await?;
        Ok(AppendedBody { messages: appended.messages, last_seq: appended.last_seq }.answer().await)
    };
    let again = move |kept: Value| async move { shown_again(&again, &at.id, &kept).await };
    once(app, key, body.bytes, work, again).await
}

fn check(messages: &[NewMessage], app: &App) -> Result<(), Problem> {
    if !(1..=MANY).contains(&messages.len()) {
        return Err(Problem::invalid("messages", format!("1 to {MANY} messages")));
    }
    for (place, message) in messages.iter().enumerate() {
        let checked = message.check_says_something().and_then(|()| message.check(&app.limits));
        checked.map_err(|invalid| invalid.within(&format!("messages[{place}]")))?;
    }
    Ok(())
}

/// The messages of an earlier append, as they are now.
async fn shown_again(app: &App, id: &SessionId, kept: &Value) -> Result<Answer<201, AppendedBody>, Problem> {
    let ids: Vec<MessageId> = serde_json::from_value(kept["messages"].clone()).unwrap_or_default();
    let session = app.repository.session(id).await?.ok_or_else(|| Error::SessionDeleted(id.clone()))?;
    let mut messages = Vec::with_capacity(ids.len());
    for message in ids {
        match app.repository.message(id, &message).await? {
            Some(message) => messages.push(message),
            None => {
                let detail = format!("the message '{message}' was deleted since");
                return Err(Problem::new(StatusCode::GONE, "message_deleted", "Message deleted", detail));
            }
        }
    }
    Ok(AppendedBody { messages, last_seq: session.last_seq }.answer().await)
}

pub(super) async fn read(
    State(app): State<App>,
    Path(at): Path<AtMessage>,
    _: NoQuery,
) -> Result<Answer<200, MessageBody>, Problem> {
    match app.repository.message(&at.id, &at.message_id).await? {
        Some(message) => Ok(Answer::of(message.bytes(), MessageBody { message }).await),
        None if app.repository.session(&at.id).await?.is_none() => Err(Error::SessionNotFound(at.id).into()),
        None => Err(Error::MessageNotFound(at.message_id).into()),
    }
}

/// One message.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct MessageBody {
    message: Message,
}

/// An assistant's new text.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EditBody {
    /// The text; not blank.
    content: String,
}

/// What a change of one message did.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChangedBody {
    success: bool,
    session_id: SessionId,
    message_id: MessageId,
    message_count: i64,
}

pub(super) async fn edit(
    State(app): State<App>,
    Path(at): Path<AtMessage>,
    _: NoQuery,
    IfMatch(version): IfMatch,
    body: Json<EditBody>,
) -> Result<Answer<200, ChangedBody>, Problem> {
    let content = body.value.content;
    NewMessage::text(Role::Assistant, &content).check(&app.limits)?;
    if content.trim().is_empty() {
        return Err(Problem::invalid("content", "not blank"));
    }
    let receipt = app.repository.edit_message(&at.id, &at.message_id, content, version).await?;
    Ok(changed(&app, at, receipt))
}

pub(super) async fn delete(
    State(app): State<App>,
    Path(at): Path<AtMessage>,
    _: NoQuery,
    IfMatch(version): IfMatch,
) -> Result<Answer<200, ChangedBody>, Problem> {
    let receipt = app.repository.delete_message(&at.id, &at.message_id, version).await?;
    Ok(changed(&app, at, receipt))
}

fn changed(app: &App, at: AtMessage, receipt: crate::model::MessageReceipt) -> Answer<200, ChangedBody> {
    let AtMessage { id: session_id, message_id } = at;
    let body = ChangedBody { success: true, session_id, message_id, message_count: receipt.message_count };
    Answer::new(&body).with(etag(receipt.version, app.repository.epoch()))
}

/// What a truncation did.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TruncatedBody {
    success: bool,
    session_id: SessionId,
    messages_removed: i64,
    message_count: i64,
}

pub(super) async fn truncate(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
    IfMatch(version): IfMatch,
    body: Json<Truncate>,
) -> Result<Answer<200, TruncatedBody>, Problem> {
    let receipt = app.repository.truncate_messages(&at.id, body.value, version).await?;
    let (messages_removed, message_count) = (receipt.messages_removed, receipt.message_count);
    let body = TruncatedBody { success: true, session_id: at.id, messages_removed, message_count };
    Ok(Answer::new(&body).with(etag(receipt.version, app.repository.epoch())))
}
