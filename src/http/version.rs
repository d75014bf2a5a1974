//! Versions on the wire: the `ETag` of a session, and the preconditions that name it.
//!
//! A tag is `"<version>"`, and `"<version>-<epoch>"` once the database went back in time: a version of another epoch is
//! another state, and no precondition that names it holds.

use std::convert::Infallible;

use aide::{OperationInput, generate::GenContext, openapi};
use axum::{
    extract::FromRequestParts,
    http::{HeaderValue, header, request::Parts},
};

use super::{
    App,
    document::may_fail,
    error::Problem,
    extract::{Path, describe_header},
    sessions::InSession,
};
use crate::{model::InEpoch, storage::Storage};

/// The version that a change is based on: `If-Match`, if it is there.
pub(super) struct IfMatch(pub(super) Option<i64>);

impl FromRequestParts<App> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let lines = parts.headers.get_all(header::IF_MATCH).iter().map(|value| value.to_str().unwrap_or_default());
        let tags: Vec<String> = lines.flat_map(|line| line.split(',')).map(|tag| tag.trim().to_owned()).collect();
        // Proxies that compress answers weaken their tags: such a tag names the same version.
        let tags: Vec<&str> = tags.iter().map(|tag| tag.strip_prefix("W/").unwrap_or(tag)).collect();
        let epoch = app.repository.epoch();
        let version = |tag: &str| version(tag, epoch);
        let is_tag =
            |tag: &str| version(tag).is_some() || (tag.len() > 1 && tag.starts_with('"') && tag.ends_with('"'));
        match tags.as_slice() {
            [] | ["*"] => Ok(Self(None)),
            // A tag that no answer has had matches nothing, as no version is negative.
            [tag] if is_tag(tag) => Ok(Self(Some(version(tag).unwrap_or(-1)))),
            tags if tags.iter().all(|tag| is_tag(tag)) => {
                let current = current_version(parts, app).await?;
                Ok(Self(current.filter(|current| tags.iter().any(|tag| version(tag) == Some(*current))).or(Some(-1))))
            }
            _ => Err(Problem::invalid("If-Match", "If-Match is * or versions as ETag gave them")),
        }
    }
}

/// The version of the session in the path. Storage is asked for this very one again, in the transaction that changes it.
async fn current_version(parts: &mut Parts, app: &App) -> Result<Option<i64>, Problem> {
    let Path(at) = Path::<InSession>::from_request_parts(parts, app).await?;
    Ok(app.repository.session(&at.id).await?.map(|session| session.version))
}

impl OperationInput for IfMatch {
    fn operation_input(ctx: &mut GenContext, operation: &mut openapi::Operation) {
        describe_header(
            ctx,
            operation,
            "If-Match",
            "ETag of the version that you read: if the session has another one by now, the change is refused with 412. If \
             several are given, any may match. A weak tag counts as its strong twin. `*` matches every version.",
        );
        may_fail(operation, &["invalid_request", "version_conflict"]);
    }
}

/// The version that a tag names. One of another epoch is -1: it matches nothing, as no version is negative.
fn version(tag: &str, epoch: i64) -> Option<i64> {
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    let tag = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag);
    let InEpoch { number, epoch: of } = tag.parse().ok()?;
    Some(if of == epoch { number } else { -1 })
}

/// The versions that a client has: `If-None-Match`, if it is there.
pub(super) struct IfNoneMatch(Option<HeaderValue>);

impl FromRequestParts<App> for IfNoneMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Infallible> {
        Ok(Self(parts.headers.get(header::IF_NONE_MATCH).cloned()))
    }
}

impl OperationInput for IfNoneMatch {
    fn operation_input(ctx: &mut GenContext, operation: &mut openapi::Operation) {
        let meaning = "ETags of the versions that you have: 304 if the session still has one of them.";
        describe_header(ctx, operation, "If-None-Match", meaning);
    }
}

impl IfNoneMatch {
    /// Whether it names this version.
    pub(super) fn names(&self, current: i64, epoch: i64) -> bool {
        let tags = self.0.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
        tags.split(',').map(str::trim).any(|tag| tag == "*" || version(tag, epoch) == Some(current))
    }
}

/// The header of a version in this epoch.
pub(super) fn etag(version: i64, epoch: i64) -> (header::HeaderName, HeaderValue) {
    let tag = format!("\"{}\"", InEpoch { number: version, epoch });
    let value = HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"0\""));
    (header::ETAG, value)
}
