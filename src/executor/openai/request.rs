//! Asking a provider: one request, and the same again where that can help.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE},
};
use secrecy::SecretString;
use tokio::sync::mpsc;

use super::{
    form::{Form, Manners},
    refusal::Broken,
    reply::Reply,
    stream, usage,
};
use crate::{
    executor::{Error, Event},
    model::{JsonObject, Limits},
};

const RETRIES: usize = 4;
/// A model that says nothing is asked once more: each attempt costs what the whole transcript costs.
const EMPTY_RETRIES: usize = 1;
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// A provider's API, with the client that has its key and speaks to no other.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) client: Client,
    pub(super) url: Url,
    /// What no error may repeat.
    pub(super) secrets: Vec<SecretString>,
    /// How long it may send nothing, and how long nothing of the reply.
    pub(super) silence: Duration,
    pub(super) content: Duration,
    /// What it was found to take.
    pub(super) manners: Manners,
}

/// What is asked.
pub(super) struct Question<'a> {
    /// The request's body in this form.
    pub(super) body: &'a (dyn Fn(Form) -> Result<Bytes, Error> + Sync),
    /// The names of the vendor's own fields in it.
    pub(super) extra: Vec<String>,
    /// How long to wait before the first retry.
    pub(super) delay: Duration,
}

impl Provider {
    /// The model's reply, and what attempts that failed have used. Fragments are told as they come; until the first of
    /// them, a failed attempt is made again.
    pub(super) async fn complete(
        &self,
        question: &Question<'_>,
        limits: &Limits,
        events: &mpsc::Sender<Event>,
    ) -> (Result<Reply, Error>, Option<JsonObject>) {
        let (spent, empty) = (Mutex::new(None), AtomicUsize::new(0));
        let spend = |broken: &Broken| {
            if let Some(more) = &broken.usage {
                let mut spent = spent.lock().unwrap_or_else(PoisonError::into_inner);
                usage::add(spent.get_or_insert_default(), more.clone());
            }
        };
        let backoff = ExponentialBuilder::default()
            .with_min_delay(question.delay)
            .with_max_delay(LONGEST_DELAY)
            .with_max_times(RETRIES)
            .with_jitter();
        let reply = (|| self.attempt(question, limits, events))
            .retry(backoff)
            .when(|broken: &Broken| {
                broken.transient && (!broken.empty || empty.fetch_add(1, Ordering::Relaxed) < EMPTY_RETRIES)
            })
            .adjust(|broken, delay| delay.map(|delay| broken.retry_after.unwrap_or(delay)))
            .notify(|broken, delay| {
                spend(broken);
                tracing::info!(host = self.host(), status = broken.status, ?delay, "the provider is asked again");
            })
            .await;
        let reply = reply.map_err(|broken| {
            spend(&broken);
            broken.error
        });
        (reply, spent.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it answers, asked for its models: not all have a list, but a key that it does not take is refused there.
    pub(super) async fn reach(&self) -> Result<(), Error> {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop().pop().push("models");
        }
        let response = self.client.get(url).send().await.map_err(|error| self.lost(&error).error)?;
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Broken::status(response, &self.secrets).await.error)
            }
            _ => Ok(()),
        }
    }

    async fn attempt(
        &self,
        question: &Question<'_>,
        limits: &Limits,
        events: &mpsc::Sender<Event>,
    ) -> Result<Reply, Broken> {
        let response = self.ask(question).await?;
        let mut reply = Reply::default();
        let broken = match (stream::read(self, response, &mut reply, limits, events).await, reply.failure()) {
            (Ok(()), None) => return Ok(reply),
            // A whole answer is not thrown away for what did not come after it.
            (Err(_), None) if reply.finish_reason.is_some() => return Ok(reply),
            (Err(broken), _) => broken,
            (Ok(()), Some(error)) => {
                let empty = reply.is_empty();
                Broken { transient: !empty || reply.ended_as_usual(), empty, ..error.into() }
            }
        };
        Err(Broken { transient: broken.transient && !reply.has_begun(), usage: reply.usage.take(), ..broken })
    }

    /// Sends the request, and again in a form that the provider takes where it refuses one of the fields that not all know.
    async fn ask(&self, question: &Question<'_>) -> Result<Response, Broken> {
        let mut form = self.manners.form();
        let mut guessed = None;
        loop {
            let broken = match self.send((question.body)(form)?).await {
                Ok(response) => {
                    self.manners.accepts(form);
                    return Ok(response);
                }
                Err(broken) => broken,
            };
            match self.manners.other(form, &broken, &question.extra) {
                Some((other, is_guess)) => {
                    form = other;
                    guessed = is_guess.then_some(broken);
                }
                None if broken.transient => return Err(broken),
                // The guess was wrong: what was refused first is what is told.
                None => return Err(guessed.unwrap_or(broken)),
            }
        }
    }

    async fn send(&self, body: Bytes) -> Result<Response, Broken> {
        let request = self.client.post(self.url.clone());
        let request = request.header(CONTENT_TYPE, "application/json").header(ACCEPT, "text/event-stream");
        // Compressing proxies hold fragments back. What is compressed all the same is read.
        let request = request.header(ACCEPT_ENCODING, "identity").body(body);
        let response = request.send().await.map_err(|error| self.lost(&error))?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(Broken::status(response, &self.secrets).await),
        }
    }

    /// A connection that failed.
    pub(super) fn lost(&self, error: &reqwest::Error) -> Broken {
        Broken::connection(error, &self.host(), self.silence)
    }

    /// Where it is, without what may be secret.
    pub(super) fn host(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}
