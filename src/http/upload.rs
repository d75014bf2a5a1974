//! An attachment on its way in: raw bytes as they arrive, or JSON that holds them.

use std::time::Duration;

use aide::{
    OperationInput,
    generate::GenContext,
    openapi::{Operation, ReferenceOr},
};
use axum::{
    body::{Body, HttpBody as _},
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use data_url::{DataUrl, forgiving_base64};
use futures_util::stream;
use http_body_util::BodyExt;
use mime::Mime;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    App, disposition,
    download::any_bytes,
    error::Problem,
    extract::{Json, Query, check_encoding, describe_header, pass_over, unsupported},
};
use crate::{
    storage::{Source, SourceError},
    tasks,
};

/// How long a body may be silent, and what it must bring on the average after that: slower ones are cut off.
const PATIENCE: Duration = Duration::from_secs(30);
const BYTES_PER_SECOND: u64 = 16 << 10;
/// Bytes of a file's name at most: what file systems take.
const NAME: usize = 255;

/// How the body is meant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UploadQuery {
    /// The body is the attachment, also where it is JSON.
    #[serde(default)]
    raw: bool,
}

/// An attachment within JSON.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InlineBody {
    /// The bytes, as base64 or as a data URL.
    pub(super) data: String,
    /// The type; that of the data URL by default.
    #[serde(default)]
    pub(super) mime_type: Option<String>,
    /// The file's name.
    #[serde(default)]
    pub(super) filename: Option<String>,
}

/// What a request brings.
pub(super) struct Upload {
    pub(super) mime_type: Option<String>,
    pub(super) filename: Option<String>,
    pub(super) bytes: Source,
}

impl FromRequest<App> for Upload {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (mut parts, mut body) = request.into_parts();
        let Query(query) = Query::<UploadQuery>::from_request_parts(&mut parts, app).await?;
        let declared = declared(&parts.headers)?;
        if !query.raw && declared.as_ref().is_some_and(|declared| declared.essence_str() == "application/json") {
            let body = Json::<InlineBody>::from_request(Request::from_parts(parts, body), app).await?;
            return inline(body.value, app.limits.attachment).await;
        }
        check_raw(&parts.headers, declared.as_ref())?;
        if body.size_hint().lower() > app.limits.attachment as u64 {
            pass_over(&mut body).await;
            return Err(Problem::too_large(app.limits.attachment));
        }
        let filename = named(&parts.headers)?;
        let bytes = metered(body, app.limits.attachment);
        Ok(Self { mime_type: declared.map(|declared| declared.to_string()), filename, bytes })
    }
}

fn declared(headers: &HeaderMap) -> Result<Option<Mime>, Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
    value.to_str().ok().and_then(|value| value.parse().ok()).map(Some).ok_or_else(|| unsupported("not a media type"))
}

/// What clients send that did not mean to send a file is refused, rather than stored.
fn check_raw(headers: &HeaderMap, declared: Option<&Mime>) -> Result<(), Problem> {
    match declared.map(Mime::essence_str) {
        Some("multipart/form-data" | "application/x-www-form-urlencoded") => {
            Err(unsupported("a form is no attachment: send the file as the body, with its own Content-Type"))
        }
        _ => check_encoding(headers),
    }
}

fn nothing() -> Problem {
    Problem::invalid("", "the body is the attachment, and it is empty")
}

/// The body's bytes, cut off where they are too many or come too slowly.
fn metered(body: Body, limit: usize) -> Source {
    let start = Instant::now();
    let pieces = stream::try_unfold((body, 0u64), move |(mut body, seen)| async move {
        let deadline = start + PATIENCE + Duration::from_secs(seen / BYTES_PER_SECOND);
        let silent = Instant::now() + PATIENCE;
        let piece = match tokio::time::timeout_at(deadline.min(silent), body.frame()).await {
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(Some(Err(error))) => {
                return Err(failed(Problem::invalid("", format!("the body did not arrive: {error}"))));
            }
            Ok(None) if seen == 0 => return Err(failed(nothing())),
            Ok(None) => return Ok(None),
            Err(_) => return Err(failed(Problem::of_status(StatusCode::REQUEST_TIMEOUT))),
        };
        let seen = seen + piece.len() as u64;
        if seen > limit as u64 {
            pass_over(&mut body).await;
            return Err(failed(Problem::too_large(limit)));
        }
        Ok(Some((piece, (body, seen))))
    });
    Box::pin(pieces)
}

fn failed(problem: Problem) -> SourceError {
    Box::new(problem)
}

/// What JSON holds.
pub(super) async fn inline(body: InlineBody, limit: usize) -> Result<Upload, Problem> {
    let InlineBody { data, mime_type, filename } = body;
    let decoded = tasks::on_bytes(data.len(), move || decode(&data)).await;
    let (of_url, bytes) = decoded.ok_or_else(|| {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Problem::new(status, "invalid_content", "Invalid content", "data is base64, or a data URL").about("data")
    })?;
    if bytes.is_empty() {
        return Err(Problem::invalid("data", "data is the attachment, and it is empty"));
    }
    if bytes.len() > limit {
        return Err(Problem::too_large(limit));
    }
    let given = mime_type.map(|given| match given.parse::<Mime>() {
        Ok(given) => Ok(given.to_string()),
        Err(_) => Err(Problem::invalid("mime_type", "mime_type is a media type such as image/png")),
    });
    let filename = filename.map(|name| check_name("filename", name)).transpose()?;
    let bytes = stream::once(async move { Ok(Bytes::from(bytes)) });
    Ok(Upload { mime_type: given.transpose()?.or(of_url), filename, bytes: Box::pin(bytes) })
}

/// A data URL's type, and the bytes.
fn decode(data: &str) -> Option<(Option<String>, Vec<u8>)> {
    match DataUrl::process(data) {
        Ok(url) => url.decode_to_vec().ok().map(|(bytes, _)| (Some(url.mime_type().to_string()), bytes)),
        Err(_) => forgiving_base64::decode_to_vec(data.as_bytes()).ok().map(|bytes| (None, bytes)),
    }
}

fn check_name(param: &str, name: String) -> Result<String, Problem> {
    match name.is_empty() || name.len() > NAME || name.chars().any(char::is_control) {
        true => Err(Problem::invalid(param, format!("a file's name is 1 to {NAME} bytes without control characters"))),
        false => Ok(name),
    }
}

fn named(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    const PARAM: &str = "Content-Disposition";
    let Some(value) = headers.get(header::CONTENT_DISPOSITION) else { return Ok(None) };
    let malformed = || Problem::invalid(PARAM, "Content-Disposition is such as attachment; filename=\"a.png\"");
    let name = disposition::filename(value).map_err(|_| malformed())?;
    name.map(|name| check_name(PARAM, name)).transpose()
}

impl OperationInput for Upload {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        Query::<UploadQuery>::operation_input(ctx, operation);
        Json::<InlineBody>::operation_input(ctx, operation);
        let Some(ReferenceOr::Item(body)) = &mut operation.request_body else { return };
        body.description = Some("The bytes with their own Content-Type, or JSON that holds them.".into());
        body.content.extend(any_bytes());
        let meaning = "The file's name, when the body is its bytes: `attachment; filename=\"a.png\"`, or `filename*` for \
            names that are not ASCII.";
        describe_header(ctx, operation, "Content-Disposition", meaning);
    }
}
