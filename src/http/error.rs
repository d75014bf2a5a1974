//! Errors on the wire: one shape (RFC 9457), and the one place where an error becomes a status.

use aide::{OperationOutput, generate::GenContext, openapi};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::document;
use crate::{
    lifecycle::WorktreeError,
    model::{AtRisk, ClockOutOfRange, Invalid},
    runs, storage, worktree,
};

/// Characters that an error says of what was sent.
const ECHO: usize = 500;

/// What is said of a request that failed. `code` is stable; `error` is for clients of the original API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Problem {
    /// `about:blank`: the code says what it is.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: String,
    /// The status.
    pub(super) status: u16,
    /// What happened, as a word.
    pub(super) code: String,
    /// What happened, in few words.
    error: String,
    /// What happened to this request.
    detail: String,
    /// The field that is wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    param: Option<String>,
    /// The request's id, also in the server's log.
    #[serde(default)]
    request_id: String,
    /// What else there is to say.
    #[serde(flatten)]
    #[schemars(with = "More")]
    more: Map<String, Value>,
}

/// What errors say besides, by their codes.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "described, and written field by field")]
struct More {
    /// The session that it is about.
    session_id: Option<String>,
    /// The parent that the child has.
    parent_session_id: Option<String>,
    /// The message that it is about.
    message_id: Option<String>,
    /// The attachment that it is about.
    attachment_id: Option<String>,
    /// The run that it is about.
    run_id: Option<String>,
    /// The receipt that it is about.
    receipt_id: Option<String>,
    /// The current version, of `version_conflict`.
    version: Option<i64>,
    /// The current last `seq`, of `version_conflict`.
    last_seq: Option<i64>,
    /// Bytes that are taken at most, of `payload_too_large`.
    limit: Option<u64>,
    /// Bytes that there are, of `range_not_satisfiable`.
    size: Option<u64>,
    /// The answers that the question takes.
    options: Option<Vec<String>>,
    /// The mode of cleanup that there is not.
    mode: Option<String>,
    /// The worktree's directory.
    path: Option<String>,
    /// The branch that is in use.
    branch: Option<String>,
    /// What kinds of work are at risk, of `work_at_risk`.
    checks: Option<Vec<String>>,
    /// The work at risk, of `work_at_risk`.
    at_risk: Option<AtRisk>,
    /// False, of calls of the original.
    success: Option<bool>,
    /// The error in words, of calls of the original.
    message: Option<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &str, error: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            code: code.into(),
            error: error.into(),
            detail: detail.into(),
            param: None,
            request_id: String::new(),
            more: Map::new(),
        }
    }

    /// Malformed: `param` names the field.
    pub(super) fn invalid(param: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::BAD_REQUEST, "invalid_request", "Invalid request", shortened(detail));
        problem.param = Some(shortened(param));
        problem
    }

    /// A cleanup of a mode that there is not.
    pub(super) fn invalid_mode(mode: &str, detail: &str) -> Self {
        let problem = Self { error: "Invalid cleanup mode".into(), ..Self::invalid("mode", detail) };
        problem.with("mode", shortened(mode))
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.into(), value.into());
        self
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let detail = format!("more than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "Payload too large", detail).with("limit", limit)
    }

    /// A text that becomes a message, and cannot be one: what is wrong is said of the field that it came in.
    pub(super) fn of_text(param: &str, invalid: &Invalid) -> Self {
        match invalid.limit {
            Some(limit) => Self::too_large(limit).about(param),
            None => Self::invalid(param, "a message's text, without NUL"),
        }
    }

    /// Others hold what it needs.
    pub(super) fn overloaded(detail: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded", detail)
    }

    /// The same, about this field.
    pub(super) fn about(mut self, param: &str) -> Self {
        self.param = Some(param.into());
        self
    }

    /// No byte of the range is there; the answer says how many there are.
    pub(super) fn range_not_satisfiable(size: u64) -> Self {
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        let detail = format!("there are {size} bytes");
        Self::new(status, "range_not_satisfiable", "Range not satisfiable", detail).about("Range").with("size", size)
    }

    /// The system clock cannot be right, and no time that it shows can be stored or sent.
    pub(super) fn of_clock() -> Self {
        let detail = ClockOutOfRange.to_string();
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "clock_out_of_range", "Clock out of range", detail)
    }

    /// The whole answer, where hyper cannot send it.
    pub(super) fn without_hyper(&self) -> Vec<u8> {
        let body = serde_json::to_string(self).unwrap_or_default();
        let (status, title, length) = (self.status, &self.title, body.len());
        let head = format!("HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n");
        let retry = if self.is_passing() { "retry-after: 1\r\n" } else { "" };
        format!("{head}{retry}content-length: {length}\r\nconnection: close\r\n\r\n{body}").into_bytes()
    }

    /// The problem that a bare status of the framework stands for.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => ("not_found", "there is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "this path does not take this method; see Allow"),
            StatusCode::REQUEST_TIMEOUT => ("request_timeout", "the request took too long to arrive"),
            status if status.is_client_error() => ("invalid_request", "the request was not understood"),
            _ => ("internal", "something went wrong; the server's log has it under the request's id"),
        };
        Self::new(status, code, status.canonical_reason().unwrap_or("Error"), detail)
    }

    /// Whether the same request may succeed in a moment.
    fn is_passing(&self) -> bool {
        matches!(self.code.as_str(), "storage_busy" | "overloaded")
    }

    /// Whether an idempotency key keeps this refusal: only what waiting cannot change. All others are decided again when
    /// the request is repeated, so that it succeeds once nothing is in its way. By their codes:
    ///
    /// - Kept. `invalid_request`, `invalid_content`: the body is wrong whatever is stored. `session_deleted`,
    ///   `session_exists`: another session has or had the id, and it is never free again. `not_root_session`, `not_child_session`, `not_child_of_parent`: the place in a tree is for life.
    /// - Not kept. `session_busy`: runs end. `session_not_found`, `message_not_found`, `run_not_found`: it may be created.
    ///   `message_exists`, `run_exists`: what has the id may be deleted. `version_conflict`: the history
    ///   may reach the expected place. `session_pinned`, `no_pending_question`, `worktree_exists`: a state that changes.
    ///   `invalid_request` about `executor`: one with this name may be configured. Access (401, 403), a body that was not
    ///   read (408, 413, 415) and load (429): refused before the key counts. 5xx: the server's own trouble.
    pub(super) fn is_final(&self) -> bool {
        match self.code.as_str() {
            "invalid_request" => self.param.as_deref() != Some("executor"),
            "invalid_content"
            | "session_deleted"
            | "session_exists"
            | "not_root_session"
            | "not_child_session"
            | "not_child_of_parent" => true,
            _ => false,
        }
    }

    /// The answer, with its body.
    pub(super) fn render(mut self, request_id: &str) -> Response {
        document::check(self.status, &self.code);
        self.request_id = request_id.into();
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.is_passing() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(size) = self.more.get("size").filter(|_| status == StatusCode::RANGE_NOT_SATISFIABLE)
            && let Ok(range) = HeaderValue::from_str(&format!("bytes */{size}"))
        {
            headers.insert(header::CONTENT_RANGE, range);
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (status, headers, Body::from(body)).into_response()
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

/// What a client sent comes back in an error, but not megabytes of it.
fn shortened(text: impl Into<String>) -> String {
    let mut text = text.into();
    if let Some((end, _)) = text.char_indices().nth(ECHO) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The body is made last, where the request's id is known.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Which errors a call has, and under which statuses, is said by `document/`.
impl OperationOutput for Problem {
    type Inner = Self;

    fn inferred_responses(ctx: &mut GenContext, _: &mut openapi::Operation) -> Vec<(Option<u16>, openapi::Response)> {
        let _ = ctx.schema.subschema_for::<Self>();
        Vec::new()
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        let detail = format!("{}: {}", invalid.param, invalid.reason);
        if let Some(limit) = invalid.limit {
            return Self { detail: shortened(detail), ..Self::too_large(limit).about(&shortened(invalid.param)) };
        }
        let mut problem = Self::invalid(invalid.param, detail);
        if invalid.content {
            problem.status = 422;
            problem.title = "Unprocessable Entity".into();
            problem.code = "invalid_content".into();
        }
        problem
    }
}

impl From<runs::Error> for Problem {
    fn from(error: runs::Error) -> Self {
        let detail = error.to_string();
        match error {
            runs::Error::NoExecutor => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, "executor_unavailable", "Executor unavailable", detail)
            }
            runs::Error::UnknownExecutor(_) => Self::invalid("executor", detail),
            runs::Error::Displaced { session, run } => {
                let problem = Self::new(StatusCode::CONFLICT, "session_busy", "Session is currently running", detail);
                problem.with("session_id", session.as_str()).with("run_id", run.as_str())
            }
            runs::Error::Storage(error) => error.into(),
        }
    }
}

impl From<WorktreeError> for Problem {
    fn from(error: WorktreeError) -> Self {
        use worktree::Error as E;
        let detail = error.to_string();
        let of = |status, code, words: &str| Self::new(status, code, words, detail.clone());
        match error {
            WorktreeError::Storage(error) => error.into(),
            WorktreeError::AtRisk(at_risk) => {
                let (checks, at_risk) = (at_risk.blocking(), serde_json::to_value(&at_risk).unwrap_or_default());
                of(StatusCode::CONFLICT, "work_at_risk", "Work is at risk")
                    .with("checks", checks)
                    .with("at_risk", at_risk)
            }
            WorktreeError::Failed(E::NoGit) => {
                of(StatusCode::SERVICE_UNAVAILABLE, "git_unavailable", "Git unavailable")
            }
            WorktreeError::Failed(E::Invalid { param, .. }) => Self::invalid(param, detail),
            WorktreeError::Failed(E::BranchInUse { branch, place }) => {
                of(StatusCode::CONFLICT, "branch_in_use", "Branch is in use").with("branch", branch).with("path", place)
            }
            WorktreeError::Failed(E::Stopping) => of(StatusCode::SERVICE_UNAVAILABLE, "stopping", "The server stops"),
            WorktreeError::Failed(error) => {
                tracing::warn!(%error, "git or the file system failed");
                // Git's own words are for the log.
                let detail = match &error {
                    E::Git { what, .. } => format!("git {what} failed; the log has its words"),
                    _ => detail,
                };
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "git_failed", "Git failed", detail)
            }
        }
    }
}

impl From<storage::Error> for Problem {
    fn from(error: storage::Error) -> Self {
        use storage::Error as E;
        let detail = error.to_string();
        let of = |status, code, words: &str| Self::new(status, code, words, detail.clone());
        let not_found = |code, words| of(StatusCode::NOT_FOUND, code, words);
        let conflict = |code, words| of(StatusCode::CONFLICT, code, words);
        match error {
            E::SessionNotFound(id) => {
                not_found("session_not_found", "Session not found").with("session_id", id.as_str())
            }
            E::SessionDeleted(id) => {
                of(StatusCode::GONE, "session_deleted", "Session deleted").with("session_id", id.as_str())
            }
            E::SessionExists(id) => conflict("session_exists", "Session exists").with("session_id", id.as_str()),
            E::SessionBusy(id) => {
                conflict("session_busy", "Session is currently running").with("session_id", id.as_str())
            }
            E::SessionPinned(id) => conflict("session_pinned", "Session is pinned").with("session_id", id.as_str()),
            E::NotRootSession(id) => {
                conflict("not_root_session", "Session is not a root session").with("session_id", id.as_str())
            }
            E::NotChildSession(id) => {
                conflict("not_child_session", "Session is not a child session").with("session_id", id.as_str())
            }
            E::NotChildOfParent { child, parent } => {
                conflict("not_child_of_parent", "Session is the child of another session")
                    .with("session_id", child.as_str())
                    .with("parent_session_id", parent.as_str())
            }
            E::ChildIncomplete(param) => Self::invalid(param, detail),
            E::MessageNotFound(id) => {
                not_found("message_not_found", "Message not found").with("message_id", id.as_str())
            }
            E::MessageExists(id) => conflict("message_exists", "Message exists").with("message_id", id.as_str()),
            E::AttachmentNotFound(id) => {
                not_found("attachment_not_found", "Attachment not found").with("attachment_id", id.as_str())
            }
            E::ReceiptNotFound(id) => {
                not_found("receipt_not_found", "Receipt not found").with("receipt_id", id.as_str())
            }
            E::ReceiptExists(id) => conflict("receipt_exists", "Receipt exists").with("receipt_id", id.as_str()),
            E::BackendNotFound(_) => not_found("not_found", "Backend not found"),
            E::RunNotFound(id) => not_found("run_not_found", "Run not found").with("run_id", id.as_str()),
            E::RunExists(id) => conflict("run_exists", "Run exists").with("run_id", id.as_str()),
            E::RunOver(id) => conflict("session_busy", "Run is over").with("run_id", id.as_str()),
            E::WorktreeExists { root, path } => {
                let conflict = conflict("worktree_exists", "Worktree exists").with("path", path.to_string());
                conflict.with("session_id", root.as_str())
            }
            E::WorktreeNotFound(id) => {
                not_found("worktree_not_found", "Worktree not found").with("session_id", id.as_str())
            }
            E::NoPendingQuestion(id) => {
                conflict("no_pending_question", "No pending question").with("session_id", id.as_str())
            }
            E::InvalidAnswer(options) => Self::invalid("response", detail).with("options", options),
            // What the edge says of a body comes back as it was said.
            E::Source(error) => match error.downcast::<Self>() {
                Ok(problem) => *problem,
                Err(error) => Self::invalid("", format!("the body did not arrive: {error}")),
            },
            E::NotEditable(id) => Self::invalid("message_id", detail).with("message_id", id.as_str()),
            E::NoUserMessage => Self::invalid("mode", detail),
            E::MetadataTooLarge(_) => Self::invalid("metadata", detail),
            E::VersionConflict { what, current } => {
                of(StatusCode::PRECONDITION_FAILED, "version_conflict", "Version conflict").with(what, current)
            }
            E::Full => of(StatusCode::INSUFFICIENT_STORAGE, "storage_full", "Storage full"),
            E::Busy(_) => of(StatusCode::SERVICE_UNAVAILABLE, "storage_busy", "Storage busy"),
            E::ClockOutOfRange(_) => Self::of_clock(),
            E::Unavailable(reason) => {
                tracing::error!(%reason, "the disk fails");
                of(StatusCode::SERVICE_UNAVAILABLE, "storage_busy", "Storage unavailable")
            }
            E::Damaged(reason) => {
                tracing::error!(%reason, "the database is damaged: stop the server and run `culm check`");
                Self::of_status(StatusCode::INTERNAL_SERVER_ERROR)
            }
            // Logged once, when it happened.
            E::Stopped(_) => of(StatusCode::SERVICE_UNAVAILABLE, "storage_busy", "Storage unavailable"),
            E::Closed(reason) => {
                tracing::error!(reason, "storage failed");
                Self::of_status(StatusCode::INTERNAL_SERVER_ERROR)
            }
            E::Failed(reason) => {
                tracing::error!(%reason, "storage failed");
                Self::of_status(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::Error as E;

    fn id(text: &str) -> crate::model::SessionId {
        text.parse().unwrap()
    }

    #[test]
    fn only_a_refusal_that_waiting_cannot_change_is_final() {
        let child = || E::NotChildOfParent { child: id("a"), parent: id("b") };
        let kept = [
            Problem::invalid("title", "too long"),
            Invalid::content("content", "holds NUL").into(),
            E::SessionDeleted(id("a")).into(),
            E::SessionExists(id("a")).into(),
            E::NotRootSession(id("a")).into(),
            E::NotChildSession(id("a")).into(),
            child().into(),
        ];
        for problem in kept {
            assert!(problem.is_final(), "{problem:?}");
        }
        let message = || "m".parse::<crate::model::MessageId>().unwrap();
        let run = || "r".parse::<crate::model::RunId>().unwrap();
        let decided_again = [
            E::SessionBusy(id("a")).into(),
            E::SessionNotFound(id("a")).into(),
            E::SessionPinned(id("a")).into(),
            E::MessageNotFound(message()).into(),
            E::MessageExists(message()).into(),
            E::RunNotFound(run()).into(),
            E::RunExists(run()).into(),
            E::RunOver(run()).into(),
            E::NoPendingQuestion(id("a")).into(),
            E::VersionConflict { what: "last_seq", current: 1 }.into(),
            E::Full.into(),
            E::Busy("locked").into(),
            E::ClockOutOfRange(ClockOutOfRange).into(),
            E::Failed("broken".into()).into(),
            runs::Error::NoExecutor.into(),
            runs::Error::UnknownExecutor("later".into()).into(),
            Problem::too_large(1),
            Problem::of_status(StatusCode::REQUEST_TIMEOUT),
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", "Overloaded", ""),
            Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", ""),
            Problem::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", ""),
        ];
        for problem in decided_again {
            assert!(!problem.is_final(), "{problem:?}");
        }
    }
}
