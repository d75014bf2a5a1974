//! A reply as it comes in, to its end: `[DONE]`, the end of the connection, or a little after the model has finished.
//!
//! **Every reply has an end.** What keeps a connection busy is not what keeps a reply going: only content counts.

use std::time::Duration;

use reqwest::{
    Response,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use serde_json::Value;
use tokio::{sync::mpsc, time::Instant};

use super::{
    chunk::{self, Chunk},
    refusal::Broken,
    reply::Reply,
    request::Provider,
    sse::{Piece, Splitter, TooLong},
    tell,
    words::{plain, without_html},
};
use crate::{
    executor::{Error, Event},
    model::Limits,
};

/// How long the count of tokens, or more content, may follow the reason of the end, and how long anything may follow both.
const AFTER_REASON: Duration = Duration::from_secs(2);
const AFTER_USAGE: Duration = Duration::from_millis(500);

/// Reads a reply to its end, and tells its fragments.
pub(super) async fn read(
    provider: &Provider,
    response: Response,
    reply: &mut Reply,
    limits: &Limits,
    events: &mpsc::Sender<Event>,
) -> Result<(), Broken> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_page = header(CONTENT_TYPE).starts_with("text/html");
    // What the client can read is not said any more.
    let encoding = header(CONTENT_ENCODING);
    if !matches!(encoding, "" | "identity") {
        return Err(failed(&format!("the provider compressed its answer as '{encoding}', which is not read here")));
    }
    let mut reading = Reading { provider, limits, events, reply, is_page, heard: Instant::now(), is_foreign: false };
    reading.read(response).await
}

/// A reply that is being read.
struct Reading<'a> {
    provider: &'a Provider,
    limits: &'a Limits,
    events: &'a mpsc::Sender<Event>,
    reply: &'a mut Reply,
    /// Whether it was labelled as a web page.
    is_page: bool,
    /// When there was content last.
    heard: Instant,
    /// Whether something came that is no part of a reply.
    is_foreign: bool,
}

impl Reading<'_> {
    async fn read(&mut self, mut response: Response) -> Result<(), Broken> {
        let mut splitter = Splitter::default();
        loop {
            let bytes = match tokio::time::timeout_at(self.deadline(), response.chunk()).await {
                Ok(bytes) => bytes.map_err(|error| self.provider.lost(&error))?,
                Err(_) if self.reply.finish_reason.is_some() => return Ok(()),
                Err(_) => return Err(self.only_beats()),
            };
            let Some(bytes) = bytes else { break };
            let pieces =
                splitter.take(&bytes).map_err(|TooLong| failed("the provider sent an event of more than 4 MiB"))?;
            if self.take(pieces).await? {
                return Ok(());
            }
        }
        // A reply that was not streamed may lack the reason of its end.
        let ended = self.take(splitter.finish()).await?;
        if ended || self.reply.finish_reason.is_some() || (splitter.is_json() && self.reply.has_begun()) {
            return Ok(());
        }
        if let Some(stray) = splitter.stray() {
            let stray = plain(&without_html(stray), &self.provider.secrets);
            return Err(failed(&format!("the provider's answer holds no reply: {stray}")));
        }
        if self.is_foreign && !self.reply.has_begun() {
            return Err(failed("the provider's answer holds no reply"));
        }
        Err(Broken { transient: true, ..failed("the provider's stream ended before the reply did") })
    }

    /// Until when something has to come.
    fn deadline(&self) -> Instant {
        let after = match (&self.reply.finish_reason, &self.reply.usage) {
            (None, _) => self.provider.content,
            (Some(_), None) => AFTER_REASON,
            (Some(_), Some(_)) => AFTER_USAGE,
        };
        self.heard + after
    }

    /// Takes pieces in. Whether the reply has ended.
    async fn take(&mut self, pieces: Vec<Piece>) -> Result<bool, Broken> {
        for piece in pieces {
            let (data, is_error) = match &piece {
                Piece::Data(data) => (data.trim(), false),
                Piece::Error(data) => (data.trim(), true),
            };
            match data {
                "[DONE]" => return Ok(true),
                "" => continue,
                _ => {}
            }
            let values = match chunk::values(data) {
                Ok(values) => values,
                Err(_) if is_error => vec![Value::String(data.into())],
                Err(error) => return Err(self.not_json(data, &error)),
            };
            for value in values {
                self.take_value(value, is_error).await?;
            }
        }
        Ok(false)
    }

    async fn take_value(&mut self, value: Value, is_error: bool) -> Result<(), Broken> {
        let whole = is_error.then(|| value.clone());
        let chunk = Chunk::read(value);
        let error = chunk.error.clone().or(whole);
        if !chunk.is_reply && error.is_none() {
            self.is_foreign = true;
            return Ok(());
        }
        let (had_usage, ends) = (self.reply.usage.is_some(), chunk.finish_reason.is_some());
        // What was said before the error is kept.
        let (told, has_content) = self.reply.take(chunk, self.limits)?;
        if has_content || self.reply.usage.is_some() != had_usage {
            self.heard = Instant::now();
        }
        for event in told {
            tell(self.events, event).await;
        }
        match error {
            Some(error) if ends => {
                self.reply.finish_reason = None;
                Err(Broken::in_stream(&error, &self.provider.secrets))
            }
            Some(error) => Err(Broken::in_stream(&error, &self.provider.secrets)),
            None => Ok(()),
        }
    }

    fn only_beats(&self) -> Broken {
        let content = humantime::format_duration(self.provider.content);
        Error::Timeout(format!("the provider kept the connection open and sent nothing of the reply for {content}"))
            .into()
    }

    fn not_json(&self, data: &str, error: &serde_json::Error) -> Broken {
        if self.is_page || data.starts_with('<') {
            let title = plain(&without_html(data), &self.provider.secrets);
            let why = "base_url is wrong, or a gateway is in between";
            return failed(&format!("the provider answered with a web page: {why} ({title})"));
        }
        failed(&format!("the provider sent what cannot be understood: {error}"))
    }
}

fn failed(words: &str) -> Broken {
    Error::Failed(words.into()).into()
}
