//! What the server can be asked, over HTTP. Every call names the directory: the server keeps what works in one apart
//! from the rest, down to the list of who is busy.

use std::{net::Ipv4Addr, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{Stream, StreamExt};
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap},
};
use serde_json::Value;

use crate::executor::{
    Error,
    web::{self, cause},
};

/// Who asks.
pub(super) const USER: &str = "opencode";
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// Bytes of one event at most. The output of a tool comes in one.
const EVENT: usize = 32 << 20;
/// Characters of a refusal that are told.
const TOLD: usize = 500;

/// A server, and what it lets one in with.
pub(super) struct Api {
    client: Client,
    url: Url,
}

impl Api {
    pub(super) fn new(port: u16, password: &str) -> Result<Self, Error> {
        let broken = |what: String| Error::Unavailable(format!("the agent cannot be spoken to: {what}"));
        let url = Url::parse(&format!("http://{}:{port}", Ipv4Addr::LOCALHOST)).map_err(|e| broken(e.to_string()))?;
        let key = web::secret(&format!("Basic {}", STANDARD.encode(format!("{USER}:{password}"))));
        let key = key.ok_or_else(|| broken("its password is none".into()))?;
        let client = web::plain(web::client()).default_headers(HeaderMap::from_iter([(AUTHORIZATION, key)]));
        Ok(Self { client: client.build().map_err(|error| broken(cause(&error)))?, url })
    }

    /// A call, and its answer. None where what it is about is not there.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &[&str],
        directory: &str,
        body: Option<&Value>,
    ) -> Result<Option<Value>, Error> {
        let mut request = self.request(method, path, directory);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        answer(request).await
    }

    /// The sessions without one above them in whose titles a text stands, in whatever directory.
    pub(super) async fn find(&self, text: &str) -> Result<Option<Value>, Error> {
        let mut url = self.url(&["experimental", "session"]);
        url.query_pairs_mut().append_pair("search", text).append_pair("roots", "true");
        answer(self.client.get(url)).await
    }

    /// What is told of a directory from now on: each event once this has returned.
    pub(super) async fn events(
        &self,
        directory: &str,
    ) -> Result<impl Stream<Item = Result<Value, Error>> + use<>, Error> {
        let response = self.request(Method::GET, &["event"], directory).send().await.map_err(|error| lost(&error))?;
        let response = succeeded(response).await?;
        let mut events = Box::pin(web::events(response, EVENT).map(|data| match data {
            Ok(data) => serde_json::from_str(&data).map_err(|error| misunderstood(&error.to_string())),
            Err(broken) => Err(Error::Unavailable(format!("the agent's events ended: {broken}"))),
        }));
        // The first says that it listens.
        match events.next().await {
            Some(Ok::<Value, _>(_)) => Ok(events),
            Some(Err(error)) => Err(error),
            None => Err(misunderstood("it tells no events")),
        }
    }

    fn request(&self, method: Method, path: &[&str], directory: &str) -> RequestBuilder {
        let mut url = self.url(path);
        url.query_pairs_mut().append_pair("directory", directory);
        self.client.request(method, url)
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        url
    }
}

async fn answer(request: RequestBuilder) -> Result<Option<Value>, Error> {
    let response = request.timeout(ANSWER).send().await.map_err(|error| lost(&error))?;
    let status = response.status();
    let text = response.text().await.map_err(|error| lost(&error))?;
    match status {
        StatusCode::NOT_FOUND => Ok(None),
        status if !status.is_success() => Err(refused(status, &text)),
        _ if text.is_empty() => Ok(Some(Value::Null)),
        _ => serde_json::from_str(&text).map(Some).map_err(|error| misunderstood(&error.to_string())),
    }
}

async fn succeeded(response: Response) -> Result<Response, Error> {
    match response.status() {
        status if status.is_success() => Ok(response),
        status => Err(refused(status, &response.text().await.unwrap_or_default())),
    }
}

fn lost(error: &reqwest::Error) -> Error {
    Error::Unavailable(format!("the agent cannot be spoken to: {}", cause(error)))
}

fn refused(status: StatusCode, text: &str) -> Error {
    let told: String = text.chars().take(TOLD).collect();
    Error::Failed(format!("the agent refuses: {status} {told}"))
}

/// An answer that is not what was asked for.
pub(super) fn misunderstood(why: &str) -> Error {
    Error::Failed(format!("the agent cannot be understood: {why}"))
}
