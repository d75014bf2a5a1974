//! What this kind of executor can be told, and what is made of it: an address, and a client that speaks to it alone.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, time::Duration};

use reqwest::{
    Client, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderName},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{form::Manners, request::Provider};
use crate::{
    executor::{
        config::duration,
        web::{self, secret},
    },
    model::Invalid,
};

/// `[executors.NAME]` with `kind = "openai"`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the API is, up to and with its version: `http://127.0.0.1:11434/v1`.
    pub base_url: String,
    /// The model, when neither the run nor the session names one.
    pub model: String,
    /// The environment variable that holds the key.
    pub api_key_env: Option<String>,
    /// The file that holds the key.
    pub api_key_file: Option<PathBuf>,
    /// Further headers of each request. Some vendors take the key in one, so they are kept like it.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretString>,
    /// How long the provider may send nothing at all; two minutes when not given.
    #[serde(default, deserialize_with = "duration")]
    pub silence_timeout: Option<Duration>,
    /// How long it may send nothing of the reply while it keeps the connection open with heartbeats; twice
    /// `silence_timeout` when not given.
    #[serde(default, deserialize_with = "duration")]
    pub content_timeout: Option<Duration>,
    /// Whether to ask for a count of the tokens with `stream_options`. A provider that refuses the field is asked without
    /// it, from its first refusal on.
    #[serde(default = "yes")]
    pub stream_options: bool,
    /// Whether the model is offered the tool that asks the user; a model that knows no tools is better without.
    #[serde(default = "yes")]
    pub ask_user: bool,
    /// Whether the model is sent what it thought before, as `reasoning_content`. DeepSeek refuses a history with tool
    /// calls that lacks it, and models that think between calls do better with it; other vendors refuse the field. A
    /// provider that says it misses the field is sent it all the same, from then on.
    #[serde(default)]
    pub send_reasoning: bool,
}

/// Settings that were checked.
#[derive(Debug)]
pub struct Settings {
    /// The model of turns that name none.
    pub model: String,
    /// Whether the model is offered the tool that asks the user.
    pub ask_user: bool,
    /// How long to wait before the first retry; each further wait is twice as long.
    pub retry_delay: Duration,
    pub(super) provider: Provider,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not as it was written: a query may hold a key.
        let url = Url::parse(&self.base_url).map(|url| url.origin().ascii_serialization());
        write!(f, "openai, {} at {}", self.model, url.unwrap_or_default())
    }
}

impl Config {
    /// Checks the settings, and reads the key.
    pub fn settings(&self) -> Result<Settings, Invalid> {
        let silence = self.silence_timeout.unwrap_or(Duration::from_secs(120));
        if silence.is_zero() {
            return Err(Invalid::new("silence_timeout", "longer than nothing"));
        }
        let content = self.content_timeout.unwrap_or(silence.saturating_mul(2));
        if content.is_zero() {
            return Err(Invalid::new("content_timeout", "longer than nothing"));
        }
        let manners = Manners::new(self.stream_options, self.send_reasoning);
        let (url, key) = (self.url()?, self.key()?);
        let headers = self.headers(key.as_ref())?;
        if key.is_some() && url.scheme() == "http" && !is_loopback(&url) {
            tracing::warn!(
                host = url.host_str(),
                "the key of this provider is sent over a connection that is not encrypted"
            );
        }
        let client = client(&url, headers, silence).map_err(|error| Invalid::new("base_url", super::cause(&error)))?;
        let secrets = self.headers.values().cloned().chain(key).collect();
        Ok(Settings {
            model: self.model.clone(),
            ask_user: self.ask_user,
            retry_delay: Duration::from_millis(500),
            provider: Provider { client, url, secrets, silence, content, manners },
        })
    }

    /// The address of the one call that is made.
    fn url(&self) -> Result<Url, Invalid> {
        let invalid = |reason| Invalid::new("base_url", reason);
        let mut url =
            Url::parse(&self.base_url).map_err(|_| invalid("an address such as http://127.0.0.1:11434/v1"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(invalid("an address that begins with http:// or https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("an address without a name or password: use api_key_env or api_key_file"));
        }
        url.set_fragment(None);
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["chat", "completions"]);
        }
        Ok(url)
    }

    fn key(&self) -> Result<Option<SecretString>, Invalid> {
        let (param, key) = match (&self.api_key_env, &self.api_key_file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return Err(Invalid::new("api_key_file", "not together with api_key_env")),
            (Some(name), None) => ("api_key_env", std::env::var(name).map_err(|error| format!("{name}: {error}"))),
            (None, Some(path)) => {
                ("api_key_file", std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display())))
            }
        };
        let key = key.map_err(|reason| Invalid::new(param, reason))?;
        match key.trim() {
            "" => Err(Invalid::new(param, "there is no key in it")),
            key => Ok(Some(key.into())),
        }
    }

    fn headers(&self, key: Option<&SecretString>) -> Result<HeaderMap, Invalid> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let invalid = |reason| Invalid::new(format!("headers.{}", name.escape_debug()), reason);
            let parsed: HeaderName = name.parse().map_err(|_| invalid("not a header's name"))?;
            headers.insert(parsed, secret(value.expose_secret()).ok_or_else(|| invalid("not a header's value"))?);
        }
        if let Some(key) = key {
            let bearer = secret(&format!("Bearer {}", key.expose_secret()));
            let bearer = bearer.ok_or_else(|| Invalid::new("api_key", "a key of one line"))?;
            if headers.insert(AUTHORIZATION, bearer).is_some() {
                return Err(Invalid::new("headers.authorization", "not together with a key"));
            }
        }
        Ok(headers)
    }
}

fn client(url: &Url, headers: HeaderMap, silence: Duration) -> reqwest::Result<Client> {
    let client = web::client().default_headers(headers).read_timeout(silence);
    match url.scheme() {
        "http" => web::plain(client).build(),
        _ => client.build(),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn yes() -> bool {
    true
}
