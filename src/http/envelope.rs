//! What every answer has: the request's id, and one shape for what went wrong, also where the framework said it.

use std::time::Instant;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::Response,
};
use tracing::Instrument;

use super::error::Problem;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives the request an id, logs it, and finishes its answer.
pub(super) async fn finish(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let span = tracing::info_span!("request", method = %request.method(), path = request.uri().path(), id);
    let start = Instant::now();
    let response = next.run(request).instrument(span.clone()).await;
    let mut response = shaped(response, &id);
    span.in_scope(|| tracing::info!(status = response.status().as_u16(), elapsed = ?start.elapsed(), "answered"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The client's id where it is one: 1 to 128 visible ASCII characters.
fn request_id(headers: &HeaderMap) -> String {
    let brought = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    match (1..=128).contains(&brought.len()) && brought.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => brought.to_owned(),
        false => uuid::Uuid::now_v7().to_string(),
    }
}

fn shaped(mut response: Response, id: &str) -> Response {
    let status = response.status();
    let problem = response.extensions_mut().remove::<Problem>();
    if problem.is_none() && !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let allow = response.headers_mut().remove(header::ALLOW);
    let mut shaped = problem.unwrap_or_else(|| Problem::of_status(status)).render(id);
    if let Some(allow) = allow {
        shaped.headers_mut().insert(header::ALLOW, allow);
    }
    shaped
}
