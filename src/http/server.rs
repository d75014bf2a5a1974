//! The server's own calls: whether it lives, whether it can work, and what it offers.

use std::{sync::OnceLock, time::Duration};

use aide::{OperationOutput, generate::GenContext, openapi};
use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    App,
    error::Problem,
    extract::{Answer, response_of},
};
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
        Ok(Err(Error::Closed(reason))) => Err(not_ready(reason)),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(not_ready("the database does not take a write at the moment")),
    }
}

fn not_ready(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "storage_busy", "Storage busy", detail)
}

/// The document itself.
pub(super) struct DocumentJson(Bytes);

impl IntoResponse for DocumentJson {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], self.0).into_response()
    }
}

impl OperationOutput for DocumentJson {
    type Inner = JsonObject;

    fn inferred_responses(ctx: &mut GenContext, _: &mut openapi::Operation) -> Vec<(Option<u16>, openapi::Response)> {
        vec![(Some(200), response_of::<JsonObject>(ctx, "The document.", "application/json"))]
    }
}

pub(super) async fn openapi(State(app): State<App>) -> DocumentJson {
    DocumentJson(app.document.text())
}

/// Leads a browser to the documentation.
pub(super) async fn root() -> axum::response::Redirect {
    axum::response::Redirect::temporary("/docs")
}

/// Browsers ask for one on every page: there is none.
pub(super) async fn icon() -> (StatusCode, [(header::HeaderName, HeaderValue); 1]) {
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

/// A page that shows the document.
pub(super) async fn docs() -> Page {
    static PAGE: OnceLock<String> = OnceLock::new();
    let page = PAGE.get_or_init(page);
    let policy = "default-src 'none'; connect-src 'self'; img-src 'self' data:; font-src data:; \
                  style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'";
    Page { html: page, policy }
}

/// A web page, with all that it needs in itself: the policy lets it load nothing else.
pub(super) struct Page {
    html: &'static str,
    policy: &'static str,
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        ([(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(self.policy))], Html(self.html)).into_response()
    }
}

impl OperationOutput for Page {
    type Inner = String;

    fn inferred_responses(ctx: &mut GenContext, _: &mut openapi::Operation) -> Vec<(Option<u16>, openapi::Response)> {
        vec![(Some(200), response_of::<String>(ctx, "The page.", "text/html"))]
    }
}
