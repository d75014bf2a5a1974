//! The server's own calls: whether it lives, whether it can work, and what it offers.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use aide::openapi::OpenApi;
use axum::{
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{App, error::Problem, extract::Answer};
use crate::{
    model::JsonObject,
    storage::{Error, Storage},
};

/// How long the database may take to say that it can be written.
const READY: Duration = Duration::from_secs(2);

/// All is well.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct StatusBody {
    status: String,
}

/// A write would be taken.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ReadyBody {
    /// `ok`.
    status: String,
    /// What an operator should look at although writes are taken: a checkpoint that fails, a write-ahead log that a reader
    /// keeps from being cut (with the reader's process), housekeeping that fails, a disk that is nearly full. The log has
    /// the same.
    warnings: Vec<String>,
}

fn well() -> Answer<200, StatusBody> {
    Answer::new(&StatusBody { status: "ok".into() })
}

pub(super) async fn health() -> Answer<200, StatusBody> {
    well()
}

/// Ready means that a write would be taken now.
pub(super) async fn ready(State(app): State<App>) -> Result<Answer<200, ReadyBody>, Problem> {
    match tokio::time::timeout(READY, app.repository.check_writable()).await {
        Ok(Ok(())) => Ok(Answer::new(&ReadyBody { status: "ok".into(), warnings: app.repository.warnings() })),
        // Here it is no failure of the call: it is the answer.
        Ok(Err(Error::Failed(reason) | Error::Damaged(reason))) => Err(not_ready(reason)),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(not_ready("the database does not take a write at the moment")),
    }
}

fn not_ready(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "storage_busy", "Storage busy", detail)
}

/// The OpenAPI document, made from the routes when the server starts.
#[derive(Debug, Clone, Default)]
pub(super) struct Document(Arc<OnceLock<Bytes>>);

/// One example of each body, under the name of its schema.
const EXAMPLES: &str = include_str!("examples.json");

impl Document {
    /// Takes the routes' own description, and adds the examples.
    pub(super) fn set(&self, described: &OpenApi) {
        let mut document = serde_json::to_value(described).unwrap_or_default();
        let examples: JsonObject = serde_json::from_str(EXAMPLES).unwrap_or_default();
        for (name, example) in examples {
            if let Some(schema) = document["components"]["schemas"].get_mut(&name) {
                schema["examples"] = Value::from(vec![example]);
            }
        }
        // A second router on the same application has the same routes.
        let _ = self.0.set(document.to_string().into());
    }
}

pub(super) async fn openapi(State(app): State<App>) -> Response {
    let document = app.document.0.get().cloned().unwrap_or_default();
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], document).into_response()
}

/// Leads a browser to the documentation.
pub(super) async fn root() -> axum::response::Redirect {
    axum::response::Redirect::temporary("/docs")
}

/// Browsers ask for one on every page: there is none.
pub(super) async fn icon() -> (StatusCode, [(HeaderName, HeaderValue); 1]) {
    (StatusCode::NO_CONTENT, [(header::CACHE_CONTROL, HeaderValue::from_static("max-age=86400"))])
}

/// The page of the documentation's library without what it would load from elsewhere, and without its picture.
fn page() -> String {
    let html = aide::scalar::Scalar::new("/api/v1/openapi.json").with_title("Culm").html();
    // The button that downloads the document lies over what a link leads to.
    let configured = "var configuration = { withDefaultFonts: false, hideDownloadButton: true,";
    let html = html.replacen("var configuration = {", configured, 1);
    let html = html.replace("https://fonts.scalar.com/", "data:,");
    let (begin, end) = ("customCss: `", "`,");
    let css = html.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    match css {
        Some((before, after)) => format!("{before}{begin}{end}{after}"),
        None => html,
    }
}

/// A page that shows the document, with all that it needs in itself: the policy lets it load nothing else.
pub(super) async fn docs() -> impl IntoResponse {
    static PAGE: OnceLock<String> = OnceLock::new();
    let page = PAGE.get_or_init(page);
    let policy = "default-src 'none'; connect-src 'self'; img-src 'self' data:; font-src data:; \
                  style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'";
    ([(HeaderName::from_static("content-security-policy"), HeaderValue::from_static(policy))], Html(page.as_str()))
}
