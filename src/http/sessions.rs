//! Sessions over HTTP.

use std::convert::Infallible;

use aide::{OperationInput, OperationOutput, generate::GenContext, openapi};
use axum::{
    extract::{FromRequestParts, State},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    App,
    error::Problem,
    extract::{Answer, Json, NoQuery, Path, Query, describe_header},
    idempotency::{Key, once},
    listing::{Listing, NoFilter},
    version::{IfMatch, IfNoneMatch, etag},
};
use crate::{
    lifecycle,
    model::{
        DeleteOptions, DeleteReceipt, NewSession, Page, RawObject, Session, SessionFilter, SessionId, SessionTree,
        SessionUpdate, UsageRecord,
    },
    storage::{Error, Storage},
};

/// Sessions that a tree shows at most.
const TREE: i64 = 1000;

/// A session in a path.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct InSession {
    /// The session's id.
    pub(super) id: SessionId,
}

/// One session.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct SessionBody {
    session: Session,
}

/// A page of sessions.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct SessionsBody {
    sessions: Vec<Session>,
    next_cursor: Option<String>,
}

fn created(session: Session, epoch: i64) -> Answer<201, SessionBody> {
    let path: String = form_urlencoded::byte_serialize(session.id.as_str().as_bytes()).collect();
    let path = format!("/api/v1/sessions/{}", path.replace('+', "%20"));
    let location = HeaderValue::from_str(&path).unwrap_or(HeaderValue::from_static("/api/v1/sessions"));
    Answer::new(&SessionBody { session: session.clone() })
        .with((header::LOCATION, location))
        .with(etag(session.version, epoch))
}

pub(super) async fn create(
    State(app): State<App>,
    _: NoQuery,
    key: Key,
    body: Json<NewSession>,
) -> Result<Answer<201, SessionBody>, Problem> {
    let (new, first, again, epoch) = (body.value, app.clone(), app.clone(), app.repository.epoch());
    let work = move |claim| async move {
        new.check(&first.limits)?;
        Ok(created(first.repository.create_session(new, claim).await?, epoch))
    };
    let again = move |kept: Value| async move {
        let id: Option<SessionId> = serde_json::from_value(kept["session"].clone()).ok();
        let id = id.ok_or_else(|| Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR))?;
        let session = again.repository.session(&id).await?.ok_or(Error::SessionDeleted(id))?;
        Ok(created(session, epoch))
    };
    once(app, key, body.bytes, work, again).await
}

pub(super) async fn list(
    State(app): State<App>,
    list: Listing<SessionFilter>,
) -> Result<Answer<200, SessionsBody>, Problem> {
    if list.filter.q.as_ref().is_some_and(|q| q.trim().is_empty()) {
        return Err(Problem::invalid("q", "q holds at least one word"));
    }
    let show = |page: Page<Session>| SessionsBody { sessions: page.items, next_cursor: list.cursor(page.next) };
    Ok(Answer::raw(app.repository.sessions_json(&list.filter, list.after, list.limit, show).await?))
}

pub(super) async fn read(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
    known: IfNoneMatch,
) -> Result<Answer<200, SessionBody>, NotModified> {
    let found = app.repository.session_json(&at.id).await.map_err(Problem::from)?;
    let (version, json) = found.ok_or_else(|| Problem::from(Error::SessionNotFound(at.id)))?;
    let epoch = app.repository.epoch();
    match known.names(version, epoch) {
        true => Err(NotModified::Still { version, epoch }),
        false => Ok(Answer::raw(json).with(etag(version, epoch))),
    }
}

/// No session to send: the client has it, or something went wrong.
pub(super) enum NotModified {
    Still { version: i64, epoch: i64 },
    Failed(Box<Problem>),
}

impl From<Problem> for NotModified {
    fn from(problem: Problem) -> Self {
        Self::Failed(Box::new(problem))
    }
}

impl IntoResponse for NotModified {
    fn into_response(self) -> Response {
        match self {
            Self::Still { version, epoch } => (StatusCode::NOT_MODIFIED, [etag(version, epoch)]).into_response(),
            Self::Failed(problem) => problem.into_response(),
        }
    }
}

impl OperationOutput for NotModified {
    type Inner = Problem;

    fn inferred_responses(
        ctx: &mut GenContext,
        operation: &mut openapi::Operation,
    ) -> Vec<(Option<u16>, openapi::Response)> {
        let description = "The session still has a version that the client has.".into();
        let mut responses = Problem::inferred_responses(ctx, operation);
        responses.push((Some(304), openapi::Response { description, ..Default::default() }));
        responses
    }
}

pub(super) async fn update(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
    IfMatch(version): IfMatch,
    body: Json<SessionUpdate>,
) -> Result<Answer<200, SessionBody>, Problem> {
    body.value.check(&app.limits)?;
    let update = SessionUpdate { metadata_limit: Some(app.limits.metadata), ..body.value };
    let session = app.repository.update_session(&at.id, update, version).await?;
    let version = session.version;
    Ok(Answer::new(&SessionBody { session }).with(etag(version, app.repository.epoch())))
}

/// How to delete.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteQuery {
    /// `false` refuses when the session, or one below it, is pinned.
    #[serde(default = "yes")]
    force: bool,
    /// `true` also removes a worktree that holds work which would be lost.
    #[serde(default)]
    discard_worktree: bool,
}

fn yes() -> bool {
    true
}

pub(super) async fn delete(
    State(app): State<App>,
    Path(at): Path<InSession>,
    Query(query): Query<DeleteQuery>,
    IfMatch(if_match): IfMatch,
    preferred: Prefer,
) -> Result<Deleted, Problem> {
    let options = DeleteOptions { keep_pinned: !query.force, if_match, discard_worktree: query.discard_worktree };
    let receipt = lifecycle::delete(&app.runs, &app.worktrees, &at.id, options).await?;
    Ok(Deleted { receipt, preferred })
}

/// Whether the client prefers an answer with a body or without one (RFC 7240).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefer {
    Nothing,
    Representation,
    Minimal,
}

impl FromRequestParts<App> for Prefer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Infallible> {
        let lines = parts.headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        let mut wishes =
            lines.flat_map(|line| line.split(',')).filter_map(|wish| wish.split(';').next()).map(str::trim);
        let known = |wish: &str| match wish.to_ascii_lowercase().as_str() {
            "return=representation" => Some(Self::Representation),
            "return=minimal" => Some(Self::Minimal),
            _ => None,
        };
        // The first one counts.
        Ok(wishes.find_map(known).unwrap_or(Self::Nothing))
    }
}

impl OperationInput for Prefer {
    fn operation_input(ctx: &mut GenContext, operation: &mut openapi::Operation) {
        let meaning =
            "`return=minimal` asks for 204 without a body; `return=representation`, the default, for the receipt.";
        describe_header(ctx, operation, "Prefer", meaning);
    }
}

/// A deletion: with its receipt, unless the client prefers to have none.
pub(super) struct Deleted {
    receipt: DeleteReceipt,
    preferred: Prefer,
}

impl IntoResponse for Deleted {
    fn into_response(self) -> Response {
        let applied = |wish| (HeaderName::from_static("preference-applied"), HeaderValue::from_static(wish));
        match self.preferred {
            Prefer::Nothing => Answer::<200, _>::new(&self.receipt).into_response(),
            Prefer::Representation => {
                Answer::<200, _>::new(&self.receipt).with(applied("return=representation")).into_response()
            }
            Prefer::Minimal => (StatusCode::NO_CONTENT, [applied("return=minimal")]).into_response(),
        }
    }
}

impl OperationOutput for Deleted {
    type Inner = DeleteReceipt;

    fn inferred_responses(
        ctx: &mut GenContext,
        operation: &mut openapi::Operation,
    ) -> Vec<(Option<u16>, openapi::Response)> {
        let mut responses = Answer::<200, DeleteReceipt>::inferred_responses(ctx, operation);
        let description = "Deleted, and the client prefers to have no body.".into();
        responses.push((Some(204), openapi::Response { description, ..Default::default() }));
        responses
    }
}

/// What a clear did.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ClearedBody {
    success: bool,
    session_id: SessionId,
    messages_removed: i64,
    attachments_removed: i64,
}

pub(super) async fn clear(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
    IfMatch(version): IfMatch,
) -> Result<Answer<200, ClearedBody>, Problem> {
    let receipt = app.repository.clear_session(&at.id, version).await?;
    let (messages_removed, attachments_removed) = (receipt.messages_removed, receipt.attachments_removed);
    let body = ClearedBody { success: true, session_id: at.id, messages_removed, attachments_removed };
    Ok(Answer::new(&body).with(etag(receipt.version, app.repository.epoch())))
}

/// A session and what is below it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TreeBody {
    root: SessionTree,
    /// Whether there are more sessions than the tree shows.
    truncated: bool,
}

pub(super) async fn tree(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
) -> Result<Answer<200, TreeBody>, Problem> {
    let (root, truncated) = app.repository.session_tree(&at.id, TREE).await?;
    Ok(Answer::new(&TreeBody { root, truncated }))
}

/// One record for the token-usage log.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUsage {
    /// Any JSON object.
    record: RawObject,
}

pub(super) async fn append_usage(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
    body: Json<NewUsage>,
) -> Result<Answer<201, UsageRecord>, Problem> {
    crate::model::check_record(&body.value.record, &app.limits)?;
    Ok(Answer::new(&app.repository.append_usage(&at.id, body.value.record).await?))
}

/// A page of the token-usage log.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct UsageBody {
    usage: Vec<UsageRecord>,
    next_cursor: Option<String>,
}

pub(super) async fn usage(
    State(app): State<App>,
    Path(at): Path<InSession>,
    list: Listing<NoFilter>,
) -> Result<Answer<200, UsageBody>, Problem> {
    let page = app.repository.usage(&at.id, list.after, list.limit).await?;
    Ok(Answer::new(&UsageBody { usage: page.items, next_cursor: list.cursor(page.next) }))
}
