//! What every request passes and every answer has: who may call, the request's id, and one shape for what went wrong,
//! also where the framework said it.
//!
//! This is one function around the routes and not a router's layers: those clone and box one another for each request,
//! which cost as much as a handler that answers from the cache.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tower::ServiceExt;
use tracing::Instrument;

use super::{
    access::{Access, Caller},
    budget::{self, Budget, Needs},
    error::Problem,
    extract,
};
use crate::model::Limits;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The whole API, as connections call it. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Parts>);

struct Parts {
    routes: Router,
    access: Access,
    bytes: Arc<Budget>,
    limits: Limits,
}

impl Api {
    pub(super) fn new(routes: Router, access: Access, bytes: Arc<Budget>, limits: Limits) -> Self {
        Self(Arc::new(Parts { routes, access, bytes, limits }))
    }

    /// Gives the request an id, logs it, and finishes its answer. A request with the token is reported to `trust`.
    pub(super) async fn answer(self, request: Request, trust: impl FnOnce()) -> Response {
        let id = request_id(request.headers());
        let shown = id.to_str().unwrap_or_default();
        let span = tracing::debug_span!("request", method = %request.method(), path = request.uri().path(), id = shown);
        let start = Instant::now();
        let response = self.let_through(request, trust).instrument(span.clone()).await;
        let mut response = shaped(response, shown);
        span.in_scope(|| tracing::debug!(status = response.status().as_u16(), elapsed = ?start.elapsed(), "answered"));
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }

    /// What panics fails alone.
    async fn let_through(&self, request: Request, trust: impl FnOnce()) -> Response {
        let Parts { routes, access, bytes, limits } = &*self.0;
        match access.check(request.uri(), request.headers()) {
            Ok(Caller::User) => trust(),
            Ok(Caller::Stranger) => {}
            Err(problem) => return problem.into_response(),
        }
        match budget::needs(&request, limits) {
            Needs::Nothing => routed(routes, request).await,
            needs => match bytes.reserve(needs).await {
                Ok(reserved) => budget::holding(reserved, routed(routes, request)).await,
                Err(problem) => {
                    extract::pass_over(&mut request.into_body()).await;
                    problem.into_response()
                }
            },
        }
    }
}

async fn routed(routes: &Router, request: Request) -> Response {
    match AssertUnwindSafe(routes.clone().oneshot(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => {
            tracing::error!("a handler panicked");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The client's id where it is one: 1 to 128 visible ASCII characters.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_id = |id: &&HeaderValue| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    headers.get(REQUEST_ID).filter(is_id).cloned().unwrap_or_else(made_id)
}

/// The server's own id and a number: random bytes for each request would be a call of the system.
fn made_id() -> HeaderValue {
    static SERVER: LazyLock<String> = LazyLock::new(|| uuid::Uuid::now_v7().simple().to_string());
    static REQUESTS: AtomicU64 = AtomicU64::new(0);
    let id = format!("{}-{}", *SERVER, REQUESTS.fetch_add(1, Ordering::Relaxed));
    HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("0"))
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

#[cfg(test)]
mod tests {
    use axum::{body::Body, routing::get};
    use http_body_util::BodyExt;

    use super::*;

    async fn answer(api: &Api, path: &str) -> (StatusCode, HeaderValue, serde_json::Value) {
        let request = Request::get(path).header(header::HOST, "here").body(Body::empty()).unwrap();
        let response = api.clone().answer(request, || {}).await;
        let (status, id) = (response.status(), response.headers()[REQUEST_ID].clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, id, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_for_and_harms_no_other() {
        async fn panics() {
            panic!("as the test has it");
        }
        let routes = Router::new().route("/panics", get(panics)).route("/well", get(async || "\"well\""));
        let api = Api::new(routes, Access::new(None, ["here".to_owned()]), Arc::new(Budget::new(1)), Limits::default());
        let (status, id, problem) = answer(&api, "/panics").await;
        assert_eq!((status, &problem["code"]), (StatusCode::INTERNAL_SERVER_ERROR, &"internal".into()));
        assert_eq!(problem["request_id"], id.to_str().unwrap());
        let (status, other, body) = answer(&api, "/well").await;
        assert_eq!((status, body), (StatusCode::OK, "well".into()));
        assert_ne!(id, other, "each request has an id of its own");
    }
}
