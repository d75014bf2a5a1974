//! Headers of answers: their descriptions, and which answers have them.

use serde_json::{Map, Value, json};

/// Name, whether an answer that lists it always has it, and its description.
const HEADERS: &[(&str, bool, &str)] = &[
    ("X-Request-Id", true, "The request's id: the one that the client sent, or one that the server made."),
    ("ETag", true, "A session's version, or the SHA-256 of an attachment, in quotes."),
    ("Location", true, "The path of what was created."),
    ("Idempotency-Replayed", false, "`true` if the request was done before, under the same `Idempotency-Key`."),
    ("Preference-Applied", false, "The preference of `Prefer` that was followed."),
    ("Retry-After", false, "Seconds to wait before the next attempt."),
    ("WWW-Authenticate", true, "`Bearer`."),
    ("Content-Range", true, "The part that was sent, and the size of the whole: `bytes 0-9/100`."),
    ("Accept-Ranges", true, "`bytes`: parts can be asked for with `Range`."),
    ("Content-Length", true, "The number of bytes in the body."),
    ("Content-Disposition", true, "Whether to show or to save it, and the file's name (RFC 6266)."),
    ("Cache-Control", true, "How long the answer may be kept."),
    ("Content-Security-Policy", true, "Forbids whatever the content would run or load."),
    ("X-Content-Type-Options", true, "`nosniff`: the type is not to be guessed."),
    ("Cross-Origin-Resource-Policy", true, "`same-origin`: pages of others cannot embed it."),
];

/// References to some of them, as a response has them.
pub(super) fn of<'n>(names: impl IntoIterator<Item = &'n str>) -> Map<String, Value> {
    let reference = |name: &str| json!({ "$ref": format!("#/components/headers/{name}") });
    names.into_iter().map(|name| (name.to_owned(), reference(name))).collect()
}

/// All of them, as components.
pub(super) fn components() -> Map<String, Value> {
    let one = |&(name, required, description): &(&str, bool, &str)| {
        let header = json!({ "description": description, "required": required, "schema": { "type": "string" } });
        (name.to_owned(), header)
    };
    HEADERS.iter().map(one).collect()
}
