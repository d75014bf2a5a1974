//! Every code that an error can have, with its status and its meaning: the one table that the document shows.
//!
//! An error with a code that is not in this table panics in debug builds ([`check`]), so that a test finds it.

/// A code as errors carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) status: u16,
    pub(super) code: &'static str,
    /// When it is answered.
    pub(super) meaning: &'static str,
}

const fn code(status: u16, code: &'static str, meaning: &'static str) -> Code {
    Code { status, code, meaning }
}

/// Ordered by status.
pub(super) const CODES: &[Code] = &[
    code(400, "invalid_request", "Malformed JSON, a bad id, parameter, header or field. `param` names it."),
    code(400, "invalid_cursor", "The cursor is damaged, or was made for another list, other filters or another epoch."),
    code(400, "no_pending_question", "Only of the call `respond`: the session asks nothing."),
    code(401, "unauthorized", "The token is missing or wrong."),
    code(403, "forbidden", "The Host, the Origin or the request's target is not one of the server's own."),
    code(404, "not_found", "There is nothing at this path."),
    code(404, "session_not_found", "No session has this id."),
    code(404, "message_not_found", "The session has no such message."),
    code(404, "attachment_not_found", "The session has no such attachment."),
    code(404, "run_not_found", "No run has this id."),
    code(404, "receipt_not_found", "No receipt has this id, or it was dropped after seven days."),
    code(404, "worktree_not_found", "The session's tree has no worktree."),
    code(405, "method_not_allowed", "The path does not take this method; `Allow` lists those that it takes."),
    code(408, "request_timeout", "The body took too long to arrive."),
    code(409, "receipt_exists", "Another cleanup has this receipt id."),
    code(409, "session_busy", "A run is pending or running, and this change must wait for its end."),
    code(409, "session_exists", "Another session has this id."),
    code(409, "message_exists", "Another message of the session has this id."),
    code(409, "run_exists", "Another run has this id."),
    code(409, "session_pinned", "`force=false`, and the session or one below it is pinned."),
    code(409, "not_root_session", "The call needs a root session, or the depth limit of children is reached."),
    code(409, "not_child_session", "The call needs a child session."),
    code(409, "not_child_of_parent", "The session is the child of another one."),
    code(409, "no_pending_question", "The session asks nothing."),
    code(409, "idempotency_in_progress", "The first request with this `Idempotency-Key` is still running."),
    code(409, "work_at_risk", "The worktree contains work that would be lost; `at_risk` says which."),
    code(409, "worktree_exists", "The tree has another worktree, or another tree has this one."),
    code(409, "branch_in_use", "The branch is checked out in another worktree."),
    code(410, "session_deleted", "The session was deleted. Its id can never be used again."),
    code(410, "message_deleted", "The message that the first request with this `Idempotency-Key` stored was deleted."),
    code(
        412,
        "version_conflict",
        "`If-Match` or `expected_last_seq` is not the current one, which the error contains.",
    ),
    code(413, "payload_too_large", "The body, a message or an attachment is larger than `limit` bytes."),
    code(415, "unsupported_media_type", "The `Content-Type` or `Content-Encoding` is not taken here."),
    code(416, "range_not_satisfiable", "The attachment has no such bytes; it has `size` of them."),
    code(422, "invalid_content", "Well-formed, but it cannot be stored: text with NUL, or base64 that is none."),
    code(422, "idempotency_key_reused", "This `Idempotency-Key` was already used with a different body."),
    code(500, "internal", "A fault of the server. Its log has the details under the same `request_id`."),
    code(500, "git_failed", "git or the file system failed."),
    code(503, "executor_unavailable", "No executor is configured, or it cannot be started."),
    code(503, "git_unavailable", "git is not installed."),
    code(503, "stopping", "The server stops; its next start goes on with what was begun."),
    code(503, "storage_busy", "The database cannot be written at the moment. `Retry-After` says when to try again."),
    code(503, "overloaded", "Too much is under way. `Retry-After` says when to try again."),
    code(503, "clock_out_of_range", "The server's clock shows a year that cannot be stored."),
    code(507, "storage_full", "The disk is full. Deletes still work."),
];

/// The entries of a name as `operations.toml` has it: `code`, or `code@status` of one that has several.
pub(super) fn named(name: &str) -> Option<&'static Code> {
    let (name, status) = name.split_once('@').unwrap_or((name, ""));
    let fits = |code: &&Code| code.code == name && (status.is_empty() || code.status.to_string() == status);
    // The usual status stands last.
    CODES.iter().rev().find(fits)
}

/// Fails the test that meets a code which the table does not have.
pub(in crate::http) fn check(status: u16, code: &str) {
    let is_known = || CODES.iter().any(|known| known.code == code && known.status == status);
    // Bare statuses of the framework are answered with a code that stands for all of them.
    debug_assert!(
        is_known() || (code == "invalid_request" && status < 500) || (code == "internal" && status >= 500),
        "the error {status} {code} is missing in http/document/codes.rs"
    );
}

/// The table in Markdown.
pub(super) fn table() -> String {
    let row = |code: &Code| format!("| `{}` | {} | {} |\n", code.code, code.status, code.meaning);
    format!("| code | status | meaning |\n| --- | --- | --- |\n{}", CODES.iter().map(row).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_status_is_found_by_the_name_alone() {
        assert_eq!(named("no_pending_question").map(|code| code.status), Some(409));
        assert_eq!(named("no_pending_question@400").map(|code| code.status), Some(400));
        assert_eq!(named("nothing"), None);
    }

    #[test]
    fn the_table_is_ordered_and_has_each_code_once() {
        let keys: Vec<_> = CODES.iter().map(|code| (code.status, code.code)).collect();
        assert!(keys.is_sorted_by_key(|(status, _)| *status));
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), keys.len());
    }
}
