//! Idempotency keys: the first request with a key does the work, each further one gets its answer.
//!
//! A refusal is kept only where waiting cannot change it ([`Problem::is_final`]).
//!
//! The key commits with the write. Until then a set in memory holds those that are under way: it may be lost with the
//! server, for then nothing is under way.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use aide::{OperationInput, generate::GenContext, openapi::Operation};
use axum::{
    extract::FromRequestParts,
    http::{HeaderValue, StatusCode, header::HeaderName, request::Parts},
};
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    App,
    document::may_fail,
    error::Problem,
    extract::{Answer, describe_header},
};
use crate::{
    model::hex,
    storage::{self, Claim, Storage},
    tasks,
};

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Keys whose first request is under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys(Arc<Mutex<HashSet<(String, String)>>>);

/// One key's place in the set, until it is dropped.
struct Place {
    set: Keys,
    key: (String, String),
}

impl Keys {
    fn enter(&self, claim: &Claim) -> Option<Place> {
        let key = (claim.scope.clone(), claim.key.clone());
        let entered = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        entered.then(|| Place { set: self.clone(), key })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.set.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// `Idempotency-Key`, if it is there, with what it is valid for.
pub(super) struct Key(Option<(String, String)>);

impl FromRequestParts<App> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        let key = value.to_str().unwrap_or_default();
        if !(1..=255).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Problem::invalid("Idempotency-Key", "a key is 1 to 255 visible ASCII characters"));
        }
        let token = parts.headers.get("authorization").map(HeaderValue::as_bytes).unwrap_or_default();
        let scope = hash(&[token, parts.method.as_str().as_bytes(), parts.uri.path().as_bytes()]);
        Ok(Self(Some((scope, key.to_owned()))))
    }
}

impl OperationInput for Key {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        let meaning = "The same key and body, sent again within 24 hours, do nothing twice and get the same answer. A refusal \
            is kept only if waiting cannot change it: 409 `session_busy`, for example, is decided again.";
        describe_header(ctx, operation, "Idempotency-Key", meaning);
        may_fail(operation, &["invalid_request", "idempotency_in_progress", "idempotency_key_reused"]);
    }
}

/// A hash of parts, each with its length: no two lists of parts have the same bytes.
fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize())
}

/// Does the work once for a key: `work` is given what to commit with its write, `again` makes the same answer from
/// the ids that were kept. Runs to its end even when the client is gone: the key's place must not be free before.
pub(super) async fn once<const STATUS: u16, T, W, A>(
    app: App,
    key: Key,
    body: Bytes,
    work: impl FnOnce(Option<Claim>) -> W + Send + 'static,
    again: impl FnOnce(Value) -> A + Send + 'static,
) -> Result<Answer<STATUS, T>, Problem>
where
    T: 'static,
    W: Future<Output = Result<Answer<STATUS, T>, Problem>> + Send + 'static,
    A: Future<Output = Result<Answer<STATUS, T>, Problem>> + Send + 'static,
{
    // The body is gone before the work begins, which has what it was read into.
    let Some((scope, key)) = key.0 else {
        drop(body);
        return work(None).await;
    };
    let body_hash = tasks::on_bytes(body.len(), move || hash(&[&body])).await;
    let claim = Claim { scope, key, body_hash };
    app.repository.clone().tasks().detached(claimed(app, claim, work, again)).await
}

async fn claimed<const STATUS: u16, T, W, A>(
    app: App,
    claim: Claim,
    work: impl FnOnce(Option<Claim>) -> W + Send + 'static,
    again: impl FnOnce(Value) -> A + Send + 'static,
) -> Result<Answer<STATUS, T>, Problem>
where
    W: Future<Output = Result<Answer<STATUS, T>, Problem>> + Send,
    A: Future<Output = Result<Answer<STATUS, T>, Problem>> + Send,
{
    let Some(_place) = app.under_way.keys.enter(&claim) else {
        let detail = "the first request with this key is still running";
        return Err(Problem::new(StatusCode::CONFLICT, "idempotency_in_progress", "Request in progress", detail));
    };
    if let Some(kept) = app.repository.answer(&claim.scope, &claim.key).await? {
        let answer = replay(kept, &claim, again).await?;
        return Ok(answer.with((REPLAYED, HeaderValue::from_static("true"))));
    }
    let outcome = work(Some(claim.clone())).await;
    if let Err(problem) = &outcome
        && problem.is_final()
    {
        let kept = serde_json::to_value(problem).unwrap_or_default();
        app.repository.keep_refusal(claim, problem.status, kept).await?;
    }
    outcome
}

async fn replay<const STATUS: u16, T, A>(
    kept: storage::Answer,
    claim: &Claim,
    again: impl FnOnce(Value) -> A,
) -> Result<Answer<STATUS, T>, Problem>
where
    A: Future<Output = Result<Answer<STATUS, T>, Problem>>,
{
    if kept.body_hash != claim.body_hash {
        let detail = "the key came before with another body";
        let (status, code) = (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused");
        return Err(Problem::new(status, code, "Idempotency key reused", detail));
    }
    match kept.status {
        200..300 => again(kept.body).await,
        _ => {
            Err(serde_json::from_value(kept.body)
                .unwrap_or_else(|_| Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR)))
        }
    }
}
