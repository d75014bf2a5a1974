//! Asking a provider: one request, and the same again where that can help.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE},
};
use secrecy::SecretString;
use tokio::sync::mpsc;

use super::{refusal::Broken, reply::Reply, stream};
use crate::{
    executor::{Error, Event},
    model::Limits,
};

const RETRIES: usize = 4;
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// A provider's API, with the client that has its key and speaks to no other.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) client: Client,
    pub(super) url: Url,
    /// What no error may repeat.
    pub(super) secrets: Vec<SecretString>,
    pub(super) silence: Duration,
}

impl Provider {
    /// The model's reply. Fragments are told as they come; until the first of them, a failed attempt is made again.
    pub(super) async fn complete(
        &self,
        body: Bytes,
        delay: Duration,
        limits: &Limits,
        events: &mpsc::Sender<Event>,
    ) -> Result<Reply, Error> {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(delay)
            .with_max_delay(LONGEST_DELAY)
            .with_max_times(RETRIES)
            .with_jitter();
        (|| self.attempt(body.clone(), limits, events))
            .retry(backoff)
            .when(|broken: &Broken| broken.transient)
            .adjust(|broken, delay| delay.map(|delay| broken.retry_after.unwrap_or(delay)))
            .notify(|broken, delay| {
                tracing::info!(host = self.host(), status = broken.status, ?delay, "the provider is asked again")
            })
            .await
            .map_err(|broken| broken.error)
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

    async fn attempt(&self, body: Bytes, limits: &Limits, events: &mpsc::Sender<Event>) -> Result<Reply, Broken> {
        let response = self.send(body).await?;
        let mut reply = Reply::default();
        match stream::read(self, response, &mut reply, limits, events).await {
            Ok(()) => Ok(reply),
            // A whole answer is not thrown away for what did not come after it.
            Err(_) if reply.finish_reason.is_some() => Ok(reply),
            Err(broken) => Err(Broken { transient: broken.transient && !reply.has_begun(), ..broken }),
        }
    }

    async fn send(&self, body: Bytes) -> Result<Response, Broken> {
        let request = self.client.post(self.url.clone());
        let request = request.header(CONTENT_TYPE, "application/json").header(ACCEPT, "text/event-stream").body(body);
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

    fn host(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}
