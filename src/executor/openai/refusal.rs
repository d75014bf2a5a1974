//! What went wrong, in words for people, and whether asking again can help.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{
    Response, StatusCode,
    header::{LOCATION, RETRY_AFTER},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::executor::Error;

/// Bytes of a refusal that are read, and characters of it that are told.
const READ: usize = 64 << 10;
const TOLD: usize = 500;
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

/// An attempt that failed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct Broken {
    pub(super) error: Error,
    /// Whether another attempt can succeed.
    pub(super) transient: bool,
    /// How long the provider asks to wait before.
    pub(super) retry_after: Option<Duration>,
    /// The status that it answered, for the log: its words may repeat what it was sent.
    pub(super) status: Option<u16>,
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self { error, transient: false, retry_after: None, status: None }
    }
}

impl Broken {
    /// A connection that could not be made, or was lost.
    pub(super) fn connection(error: &reqwest::Error, host: &str, silence: Duration) -> Self {
        let cause = super::cause(error);
        let transient = |error| Self { error, transient: true, retry_after: None, status: None };
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
        let (status, headers) = (response.status(), response.headers());
        let retry_after = headers.get(RETRY_AFTER).and_then(|text| retry_after(text.to_str().ok()?, Utc::now()));
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
        let body = String::from_utf8_lossy(&body);
        let body = serde_json::from_str(&body).unwrap_or_else(|_| Value::String(body.into_owned()));
        let what = format!("the provider answered {status}");
        Self { retry_after, ..refused(&what, status, body.get("error").unwrap_or(&body), secrets) }
    }

    /// An error in the midst of a stream.
    pub(super) fn in_stream(error: &Value, secrets: &[SecretString]) -> Self {
        let status = error["code"].as_u64().or(error["status"].as_u64());
        let status = status.and_then(|status| StatusCode::from_u16(status.try_into().ok()?).ok());
        refused("the provider broke off", status.unwrap_or(StatusCode::BAD_REQUEST), error, secrets)
    }
}

fn refused(what: &str, status: StatusCode, error: &Value, secrets: &[SecretString]) -> Broken {
    let words = words(error, secrets);
    let code = ["code", "type"].map(|key| error[key].as_str().unwrap_or_default());
    let too_long = || TOO_LONG.iter().any(|said| words.to_lowercase().contains(said) || code.contains(said));
    if status == StatusCode::PAYLOAD_TOO_LARGE || status == StatusCode::BAD_REQUEST && too_long() {
        return Error::ContextTooLong(words).into();
    }
    // A quota that is used up does not fill again while one waits.
    let transient = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    let transient = transient && !code.contains(&"insufficient_quota");
    let error = Error::Failed(format!("{what}: {words}"));
    Broken { error, transient, retry_after: None, status: Some(status.as_u16()) }
}

fn redirected(response: &Response, secrets: &[SecretString]) -> Error {
    let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
    let to = plain(to, secrets);
    Error::Failed(format!("the provider redirects to {to}, where the key does not go: correct base_url"))
}

/// What an error says: the message that most vendors have somewhere, or all of it.
fn words(error: &Value, secrets: &[SecretString]) -> String {
    let message = ["message", "detail", "error"].iter().find_map(|key| error[key].as_str());
    match message.or(error.as_str()) {
        Some(text) => plain(text, secrets),
        None => plain(&error.to_string(), secrets),
    }
}

/// A provider's words, fit for a log and for people: no secret that it repeats, one line, not too long.
fn plain(text: &str, secrets: &[SecretString]) -> String {
    let known = |text: String, secret: &SecretString| match secret.expose_secret() {
        // Too short to be a secret, and likely to be a word.
        secret if secret.len() < 6 => text,
        secret => text.replace(secret, "[secret]"),
    };
    let text = secrets.iter().fold(text.to_owned(), known);
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(TOLD).collect();
    if text.is_empty() { "(without a word)".into() } else { text }
}

/// `Retry-After`: seconds, or a date.
fn retry_after(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    let until = || (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().ok();
    Some(seconds.or_else(until)?.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_waited_for_as_long_as_it_asks_and_never_for_long() {
        let now = DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z").unwrap().to_utc();
        let cases = [
            ("7", Some(7)),
            ("3600", Some(60)),
            ("Thu, 01 Jan 2026 00:00:09 GMT", Some(9)),
            ("Fri, 02 Jan 2026 00:00:00 GMT", Some(60)),
            ("Wed, 31 Dec 2025 00:00:00 GMT", None),
            ("soon", None),
        ];
        for (text, seconds) in cases {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
