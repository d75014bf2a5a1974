//! What went wrong, in words for people, and whether asking again can help.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{
    Response, StatusCode,
    header::{HeaderMap, LOCATION, RETRY_AFTER},
};
use secrecy::SecretString;
use serde_json::Value;

use super::words::{plain, words};
use crate::{executor::Error, model::JsonObject};

/// Bytes of a refusal that are read.
const READ: usize = 64 << 10;
/// A provider that asks for more patience than this gets the next try all the same.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How providers say that a transcript is too long.
const TOO_LONG: [&str; 9] = [
    "context_length_exceeded",
    "exceed_context_size",
    "maximum context length",
    "context length",
    "context window",
    "context size",
    "prompt is too long",
    "input is too long",
    "too many tokens",
];
/// How they say, without a status, that they are busy or broken: words of an error's code or type.
const PASSING: [(&str, StatusCode); 7] = [
    ("rate_limit", StatusCode::TOO_MANY_REQUESTS),
    ("resource_exhausted", StatusCode::TOO_MANY_REQUESTS),
    ("overloaded", StatusCode::SERVICE_UNAVAILABLE),
    ("unavailable", StatusCode::SERVICE_UNAVAILABLE),
    ("timeout", StatusCode::GATEWAY_TIMEOUT),
    ("server_error", StatusCode::INTERNAL_SERVER_ERROR),
    ("internal", StatusCode::INTERNAL_SERVER_ERROR),
];
/// A quota that is used up does not fill again while one waits.
const USED_UP: [&str; 3] = ["insufficient_quota", "billing", "insufficient_balance"];

/// An attempt that failed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct Broken {
    pub(super) error: Error,
    /// Whether another attempt can succeed.
    pub(super) transient: bool,
    /// Whether it failed because the model said nothing.
    pub(super) empty: bool,
    /// How long the provider asks to wait before.
    pub(super) retry_after: Option<Duration>,
    /// The status that it answered, for the log: its words may repeat what it was sent.
    pub(super) status: Option<u16>,
    /// All that it said, in lower case, to find the names of fields in.
    pub(super) said: String,
    /// What the attempt used all the same.
    pub(super) usage: Option<JsonObject>,
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self {
            error,
            transient: false,
            empty: false,
            retry_after: None,
            status: None,
            said: String::new(),
            usage: None,
        }
    }
}

impl Broken {
    /// A connection that could not be made, or was lost.
    pub(super) fn connection(error: &reqwest::Error, host: &str, silence: Duration) -> Self {
        let cause = super::cause(error);
        let transient = |error: Error| Self { transient: true, ..error.into() };
        if error.is_connect() {
            transient(Error::Unavailable(format!("{host} cannot be reached: {cause}")))
        } else if error.is_timeout() {
            let silence = humantime::format_duration(silence);
            Error::Timeout(format!("the provider said nothing for {silence}")).into()
        } else {
            transient(Error::Failed(format!("the connection to the provider broke off: {cause}")))
        }
    }

    /// An answer that is no success.
    pub(super) async fn status(mut response: Response, secrets: &[SecretString]) -> Self {
        let status = response.status();
        let (wait, again) = (wait(response.headers()), should_retry(response.headers()));
        if status.is_redirection() {
            return redirected(&response, secrets).into();
        }
        let mut body = Vec::new();
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() > READ {
                break;
            }
        }
        let text = String::from_utf8_lossy(&body);
        let body = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.clone().into_owned()));
        let broken = refused(&format!("the provider answered {status}"), status, &body, secrets);
        let transient = again.unwrap_or(broken.transient);
        Self { transient, retry_after: wait, said: text.to_lowercase(), ..broken }
    }

    /// An error in the midst of a stream.
    pub(super) fn in_stream(error: &Value, secrets: &[SecretString]) -> Self {
        let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let places = [error, &error["error"]];
        let numbers = places.iter().flat_map(|error| ["code", "status", "status_code"].map(|key| number(&error[key])));
        let status = numbers.flatten().find_map(|status| StatusCode::from_u16(status.try_into().ok()?).ok());
        let names = || names(error).join(" ").to_lowercase();
        let by_name = || PASSING.iter().find(|(word, _)| names().contains(word)).map(|(_, status)| *status);
        let status = status.or_else(by_name).unwrap_or(StatusCode::BAD_REQUEST);
        refused("the provider broke off", status, error, secrets)
    }
}

fn refused(what: &str, status: StatusCode, error: &Value, secrets: &[SecretString]) -> Broken {
    let words = words(error, secrets);
    let names = names(error);
    let too_long = || TOO_LONG.iter().any(|said| words.to_lowercase().contains(said) || names.contains(said));
    if status == StatusCode::PAYLOAD_TOO_LARGE || status == StatusCode::BAD_REQUEST && too_long() {
        return Error::ContextTooLong(words).into();
    }
    let used_up = USED_UP.iter().any(|word| names.iter().any(|name| name.to_lowercase().contains(word)));
    let error = Error::Failed(format!("{what}: {words}"));
    Broken { transient: passes(status) && !used_up, status: Some(status.as_u16()), ..error.into() }
}

/// Whether a status is one of those that pass: those that the vendors' own clients try again.
fn passes(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 425 | 429)
}

/// The words that an error has for programs.
fn names(error: &Value) -> Vec<&str> {
    let places = [error, &error["error"], &error[0]["error"]];
    let names = places.into_iter().flat_map(|error| ["code", "type", "status"].map(|key| error[key].as_str()));
    names.flatten().collect()
}

fn redirected(response: &Response, secrets: &[SecretString]) -> Error {
    let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
    let to = plain(to, secrets);
    Error::Failed(format!("the provider redirects to {to}, where the key does not go: correct base_url"))
}

/// What a provider says of trying again: some say it outright.
fn should_retry(headers: &HeaderMap) -> Option<bool> {
    headers.get("x-should-retry")?.to_str().ok()?.parse().ok()
}

/// How long a provider asks to wait: `retry-after-ms`, or `Retry-After`.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let precise = text("retry-after-ms").and_then(|text| seconds(text, 1000.0));
    precise.or_else(|| retry_after(text(RETRY_AFTER.as_str())?, Utc::now()))
}

/// `Retry-After`: seconds, also with a fraction, or a date.
fn retry_after(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    let until = || (DateTime::parse_from_rfc2822(text.trim()).ok()?.to_utc() - now).to_std().ok();
    Some(seconds(text, 1.0).or_else(until)?.min(LONGEST_WAIT))
}

/// A number of units, so many of which are a second.
fn seconds(text: &str, unit: f64) -> Option<Duration> {
    let number: f64 = text.trim().trim_end_matches('s').parse().ok()?;
    let seconds = Some(number / unit).filter(|seconds| !seconds.is_nan())?.min(LONGEST_WAIT.as_secs_f64());
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_provider_is_waited_for_as_long_as_it_asks_and_never_for_long() {
        let now = DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z").unwrap().to_utc();
        let cases = [
            ("7", Some(7000)),
            ("1.5", Some(1500)),
            (" 2 ", Some(2000)),
            ("3600", Some(60_000)),
            ("1e300", Some(60_000)),
            ("-1", None),
            ("NaN", None),
            ("Thu, 01 Jan 2026 00:00:09 GMT", Some(9000)),
            ("Fri, 02 Jan 2026 00:00:00 GMT", Some(60_000)),
            ("Wed, 31 Dec 2025 00:00:00 GMT", None),
            ("soon", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(retry_after(text, now), wanted.map(Duration::from_millis), "{text}");
        }
        let headers = |name, text| HeaderMap::from_iter([(name, reqwest::header::HeaderValue::from_static(text))]);
        let name = reqwest::header::HeaderName::from_static("retry-after-ms");
        assert_eq!(wait(&headers(name, "1500")), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn an_error_in_a_stream_is_as_passing_as_its_code_says() {
        for (error, transient) in [
            (json!({ "code": 502, "message": "x" }), true),
            (json!({ "code": "429" }), true),
            (json!({ "type": "error", "error": { "type": "overloaded_error" } }), true),
            (json!({ "code": "server_error" }), true),
            (json!({ "code": "insufficient_quota", "status": 429 }), false),
            (json!({ "code": "invalid_request" }), false),
            (json!("upstream died"), false),
        ] {
            assert_eq!(Broken::in_stream(&error, &[]).transient, transient, "{error}");
        }
    }
}
