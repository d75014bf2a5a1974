//! An attachment on its way out: what part of it, and under which headers.
//!
//! **No stored byte runs in a browser.** A type is only what a client said. Every answer forbids guessing another and
//! anything to run; only images that are what they are said to be are shown, everything else is saved.

use std::ops::Range;

use aide::{
    OperationInput, OperationOutput,
    generate::GenContext,
    openapi::{self, MediaType},
};
use axum::{
    body::Body,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};

use super::{App, disposition, error::Problem, extract::describe_header};
use crate::{
    model::{Attachment, AttachmentId, SessionId},
    repository::SessionRepository,
    storage::{self, Error, Storage},
};

/// Bytes that storage reads at once.
const PIECE: u64 = storage::PIECE as u64;
/// Pieces that are read or wait for the client: what a download holds.
const AHEAD: usize = 2;

/// What a browser draws and never runs.
const SHOWN: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];

/// The request's conditions and its range.
pub(super) struct Wanted(HeaderMap);

impl FromRequestParts<App> for Wanted {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        Ok(Self(parts.headers.clone()))
    }
}

impl OperationInput for Wanted {
    fn operation_input(ctx: &mut GenContext, operation: &mut openapi::Operation) {
        for (name, meaning) in [
            ("Range", "One part, such as `bytes=0-99` or `bytes=-100`. Several parts, or other units, are as none."),
            ("If-Range", "The `ETag` that the part belongs to; if the attachment has another one, all of it is sent."),
            ("If-None-Match", "ETags that you have: 304 if the attachment has one of them."),
        ] {
            describe_header(ctx, operation, name, meaning);
        }
    }
}

impl Wanted {
    /// What of an attachment is sent. Fails with 416 when it has no such range.
    pub(super) fn of(self, attachment: Attachment, repository: SessionRepository) -> Result<Download, Problem> {
        let etag = format!("\"{}\"", attachment.sha256);
        let size = u64::try_from(attachment.size).unwrap_or_default();
        if self.lists(header::IF_NONE_MATCH, &etag) {
            return Ok(Download { status: StatusCode::NOT_MODIFIED, part: 0..0, attachment, repository });
        }
        // Another state of the file than the one that the client has a part of: all of it.
        let other = self.0.contains_key(header::IF_RANGE) && !self.lists(header::IF_RANGE, &etag);
        let (status, part) = match self.range(size).filter(|_| !other) {
            None => (StatusCode::OK, 0..size),
            Some(Ok(part)) => (StatusCode::PARTIAL_CONTENT, part),
            Some(Err(NoSuchRange)) => return Err(Problem::range_not_satisfiable(size)),
        };
        Ok(Download { status, part, attachment, repository })
    }

    fn lists(&self, name: header::HeaderName, etag: &str) -> bool {
        let strong = name == header::IF_RANGE;
        let tags = self.0.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        tags.split(',').map(str::trim).any(|tag| match tag.strip_prefix("W/") {
            Some(weak) => !strong && weak == etag,
            None => tag == etag || (!strong && tag == "*"),
        })
    }

    /// None when the whole is asked for: also by several ranges, or by what is no range, as HTTP allows.
    fn range(&self, size: u64) -> Option<Result<Range<u64>, NoSuchRange>> {
        let value = self.0.get(header::RANGE)?.to_str().ok()?;
        let asked = http_range_header::parse_range_header(value).ok().filter(|asked| asked.ranges.len() == 1)?;
        Some(match asked.validate(size) {
            Ok(ranges) => ranges.first().map(|range| *range.start()..*range.end() + 1).ok_or(NoSuchRange),
            Err(_) => Err(NoSuchRange),
        })
    }
}

struct NoSuchRange;

/// An attachment, or a part of it, or the word that the client has it.
pub(super) struct Download {
    status: StatusCode,
    part: Range<u64>,
    attachment: Attachment,
    repository: SessionRepository,
}

impl Download {
    fn headers(&self) -> HeaderMap {
        let a = &self.attachment;
        let text = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        let octets = HeaderValue::from_static("application/octet-stream");
        let shown = SHOWN.contains(&a.mime_type.as_str()) && a.detected_mime_type.as_ref() == Some(&a.mime_type);
        let mut headers: HeaderMap = [
            (header::ETAG, text(&format!("\"{}\"", a.sha256))),
            // Kept, but asked for again each time: it may have been deleted.
            (header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache")),
        ]
        .into_iter()
        .collect();
        if self.status != StatusCode::NOT_MODIFIED {
            headers.extend([
                (header::CONTENT_TYPE, HeaderValue::from_str(&a.mime_type).unwrap_or(octets)),
                (header::CONTENT_LENGTH, HeaderValue::from(self.part.end - self.part.start)),
                (header::CONTENT_DISPOSITION, disposition::of(shown, a.filename.as_deref())),
                (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
                (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
                (
                    header::CONTENT_SECURITY_POLICY,
                    HeaderValue::from_static("default-src 'none'; sandbox; frame-ancestors 'none'"),
                ),
                (
                    header::HeaderName::from_static("cross-origin-resource-policy"),
                    HeaderValue::from_static("same-origin"),
                ),
            ]);
        }
        if self.status == StatusCode::PARTIAL_CONTENT {
            let part = format!("bytes {}-{}/{}", self.part.start, self.part.end - 1, a.size);
            headers.insert(header::CONTENT_RANGE, text(&part));
        }
        headers
    }

    /// Piece by piece, the next one read while the client takes one: no snapshot of the database is held.
    fn bytes(self) -> impl Stream<Item = Result<Bytes, Error>> {
        let Self { part, attachment: Attachment { session_id, id, .. }, repository, .. } = self;
        let read = move |piece| read(repository.clone(), session_id.clone(), id.clone(), piece);
        let read = stream::iter(pieces(part)).map(read).buffered(AHEAD);
        read.map_ok(|chunks| stream::iter(chunks.into_iter().map(Ok))).try_flatten()
    }
}

/// A part as storage reads it.
fn pieces(part: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end_of = move |start: u64| (start / PIECE * PIECE + PIECE).min(part.end);
    let starts = std::iter::successors(Some(part.start), move |start| Some(end_of(*start)));
    starts.take_while(move |start| *start < part.end).map(move |start| start..end_of(start))
}

async fn read(
    repository: SessionRepository,
    session: SessionId,
    id: AttachmentId,
    piece: Range<u64>,
) -> Result<Vec<Bytes>, Error> {
    let offset = i64::try_from(piece.start).unwrap_or(i64::MAX);
    let mut chunks = repository.attachment_bytes(&session, &id, offset).await?;
    let mut wanted = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX);
    for chunk in &mut chunks {
        chunk.truncate(wanted);
        wanted -= chunk.len();
    }
    match wanted {
        0 => Ok(chunks),
        // Deleted while it was sent: the connection breaks, and the client knows that the rest is missing.
        _ => Err(Error::AttachmentNotFound(id)),
    }
}

impl IntoResponse for Download {
    fn into_response(self) -> Response {
        let (status, headers) = (self.status, self.headers());
        (status, headers, Body::from_stream(self.bytes())).into_response()
    }
}

impl OperationOutput for Download {
    type Inner = Self;

    fn inferred_responses(_: &mut GenContext, _: &mut openapi::Operation) -> Vec<(Option<u16>, openapi::Response)> {
        let said = |description: &str| openapi::Response { description: description.into(), ..Default::default() };
        let sent = |description| openapi::Response { content: any_bytes(), ..said(description) };
        vec![
            (Some(200), sent("The bytes.")),
            (Some(206), sent("The part that `Range` asks for.")),
            (Some(304), said("The client has the bytes.")),
        ]
    }
}

/// Bytes of any type. Generators know the first name; the second one says what the type can be.
pub(super) fn any_bytes() -> openapi::Content {
    let schema = schemars::json_schema!({ "type": "string", "format": "binary" });
    let schema = openapi::SchemaObject { json_schema: schema, external_docs: None, example: None };
    let bytes = MediaType { schema: Some(schema), ..MediaType::default() };
    [("application/octet-stream".to_owned(), bytes.clone()), ("*/*".to_owned(), bytes)].into_iter().collect()
}
