//! What an error says, whatever shape a vendor gives it: a sentence for people, without HTML, without secrets.

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// Characters of an error that are told.
const TOLD: usize = 500;
/// Errors within errors that are looked through.
const DEPTH: usize = 8;
/// Where vendors put the words, the most telling first.
const KEYS: [&str; 16] = [
    "message",
    "Message",
    "msg",
    "detail",
    "details",
    "error",
    "errors",
    "error_description",
    "error_message",
    "error_msg",
    "status_msg",
    "faultstring",
    "fault",
    "title",
    "base_resp",
    "reason",
];

/// The words of an error: the message that most vendors have somewhere, or all of it.
pub(super) fn words(error: &Value, secrets: &[SecretString]) -> String {
    let all = || if error.is_object() || error.is_array() { error.to_string() } else { String::new() };
    let found = say(error, DEPTH).unwrap_or_else(all);
    plain(&found, secrets)
}

fn say(error: &Value, depth: usize) -> Option<String> {
    let deeper = depth.checked_sub(1)?;
    match error {
        Value::String(text) => {
            let text = text.trim();
            // Gateways put what they were answered into a string.
            let within = text.starts_with(['{', '[']).then(|| serde_json::from_str(text).ok()).flatten();
            within
                .and_then(|within: Value| say(&within, deeper))
                .or(Some(without_html(text)).filter(|text| !text.is_empty()))
        }
        Value::Array(errors) => {
            let said: Vec<String> = errors.iter().take(5).filter_map(|error| say(error, deeper)).collect();
            (!said.is_empty()).then(|| said.join("; "))
        }
        Value::Object(fields) => {
            let said = KEYS.iter().find_map(|key| say(fields.get(*key)?, deeper))?;
            let place = fields.get("loc").and_then(Value::as_array).map(|place| {
                let steps = place.iter().map(|step| step.as_str().map_or_else(|| step.to_string(), String::from));
                steps.collect::<Vec<_>>().join(".")
            });
            // A router says that a provider failed, and beside it how.
            let raw = fields.get("metadata").and_then(|metadata| say(metadata.get("raw")?, deeper));
            let said = place.map_or(said.clone(), |place| format!("{place}: {said}"));
            Some(raw.filter(|raw| !said.contains(raw.as_str())).map_or(said.clone(), |raw| format!("{said}: {raw}")))
        }
        _ => None,
    }
}

/// A page's title, or else its text.
pub(super) fn without_html(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    if !["<html", "<!doctype", "</", "<br", "<head"].iter().any(|tag| lower.contains(tag)) {
        return text.into();
    }
    let between = |open: &str, close: &str| {
        let from = lower.find(open)?;
        let from = from + lower[from..].find('>')? + 1;
        let to = from + lower[from..].find(close)?;
        Some(readable(&text[from..to])).filter(|text| !text.is_empty())
    };
    let before = readable(&text[..lower.find('<').unwrap_or_default()]);
    let page = between("<title", "</title").or_else(|| between("<h1", "</h1")).unwrap_or_else(|| readable(text));
    if before.is_empty() { page } else { format!("{before} {page}") }
}

/// A text without its tags, scripts and styles.
fn readable(html: &str) -> String {
    let mut text = String::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        text.push_str(&rest[..at]);
        text.push(' ');
        rest = &rest[at..];
        let lower = rest.get(..7).unwrap_or(rest).to_ascii_lowercase();
        let end = if lower == "<script" { "</script" } else { "<" };
        let end = if lower.starts_with("<style") { "</style" } else { end };
        let from = if end == "<" { Some(0) } else { rest.to_ascii_lowercase().find(end) };
        let close = from.and_then(|from| Some(from + rest[from..].find('>')? + 1));
        rest = close.map_or("", |close| &rest[close..]);
    }
    text.push_str(rest);
    let text = text.replace("&nbsp;", " ").replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A provider's words, fit for a log and for people: no secret that it repeats, one line, not too long.
pub(super) fn plain(text: &str, secrets: &[SecretString]) -> String {
    let known = |text: String, secret: &SecretString| match secret.expose_secret() {
        // Too short to be a secret, and likely to be a word.
        secret if secret.len() < 6 => text,
        secret => text.replace(secret, "[secret]"),
    };
    let text = secrets.iter().fold(text.to_owned(), known);
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(TOLD).collect();
    if text.is_empty() { "(without a word)".into() } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_words_are_found_in_every_shape() {
        let page =
            "<html>\r\n<head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1>nginx</body></html>";
        let detail = json!([{ "type": "extra_forbidden", "loc": ["body", "x", 0], "msg": "not permitted" }]);
        let cases = [
            (json!({ "error": { "message": "words", "code": 1 } }), "words"),
            (json!({ "error": "words" }), "words"),
            (json!("words"), "words"),
            (json!([{ "error": { "message": "words", "status": "INVALID_ARGUMENT" } }]), "words"),
            (json!({ "detail": "words" }), "words"),
            (json!({ "object": "error", "message": { "detail": detail } }), "body.x.0: not permitted"),
            (json!({ "errors": [{ "message": "one" }, { "message": "two" }] }), "one; two"),
            (json!({ "message": "{\"error\": {\"message\": \"words\"}}" }), "words"),
            (
                json!({ "message": "Provider returned error", "metadata": { "raw": "{\"error\":\"words\"}" } }),
                "Provider returned error: words",
            ),
            (json!({ "base_resp": { "status_code": 1, "status_msg": "words" } }), "words"),
            (json!({ "fault": { "faultstring": "words" } }), "words"),
            (json!({ "code": 3, "msg": "words" }), "words"),
            (json!({ "type": "about:blank", "title": "words", "status": 503 }), "words"),
            (json!({ "type": "overloaded" }), "{\"type\":\"overloaded\"}"),
            (json!(page), "502 Bad Gateway"),
            (json!({ "error": { "message": format!("upstream said: {page}") } }), "upstream said: 502 Bad Gateway"),
            (json!("<p>Not <b>here</b>&nbsp;&amp; there</p><style>x</style>"), "Not here & there"),
            (json!("1 < 2"), "1 < 2"),
            (json!(""), "(without a word)"),
            (json!(null), "(without a word)"),
        ];
        for (error, wanted) in cases {
            assert_eq!(words(&error, &[]), wanted, "{error}");
        }
    }
}
