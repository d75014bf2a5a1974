//! A model without a network: it speaks the streaming protocol of chat completions, and does what the last message of
//! the user tells it to, word for word (`script.rs`). For tests and for a first tour; it knows nothing of Culm.

mod frames;
mod refusal;
mod script;

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Query, State},
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use flate2::{Compression, write::GzEncoder};
use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

use self::{
    frames::{Frame, What},
    refusal::Body as Words,
    script::Script,
};

pub use self::script::DIRECTIVES;

/// Images make requests large.
const BODY: usize = 256 << 20;
/// How long `/stats` waits for the numbers that it was asked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests whose attempts are counted; far more than are under way at once.
const COUNTED: usize = 1000;

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Stats {
    /// Requests for a completion.
    requests: u64,
    /// Those that are being answered. Each has a connection to itself, so one that was left counts no more.
    open: u64,
}

#[derive(Debug, Default)]
struct DemoModel {
    stats: watch::Sender<Stats>,
    /// How often a request came that is to fail a few times, by a hash of it.
    attempts: Mutex<HashMap<u64, u32>>,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    let router = Router::new()
        .route("/", get(DIRECTIVES))
        .route("/stats", get(stats))
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(complete))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(Arc::new(DemoModel::default()));
    axum::serve(listener, router).await
}

async fn models() -> Json<Value> {
    Json(json!({ "object": "list", "data": [{ "id": "demo", "object": "model", "created": 0, "owned_by": "culm" }] }))
}

/// Numbers to wait for.
#[derive(Debug, Deserialize)]
struct Awaited {
    requests: Option<u64>,
    open: Option<u64>,
}

async fn stats(State(model): State<Arc<DemoModel>>, Query(awaited): Query<Awaited>) -> Json<Stats> {
    let mut stats = model.stats.subscribe();
    let reached = stats.wait_for(|now| {
        awaited.requests.is_none_or(|requests| now.requests >= requests)
            && awaited.open.is_none_or(|open| now.open == open)
    });
    let _ = tokio::time::timeout(PATIENCE, reached).await;
    Json(*model.stats.borrow())
}

/// An answer that is being given.
struct Open(Arc<DemoModel>);

impl Open {
    fn new(model: Arc<DemoModel>) -> Self {
        model.stats.send_modify(|stats| (stats.requests, stats.open) = (stats.requests + 1, stats.open + 1));
        Self(model)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.stats.send_modify(|stats| stats.open -= 1);
    }
}

async fn complete(State(model): State<Arc<DemoModel>>, body: Bytes) -> Response {
    let open = Open::new(model.clone());
    let request: Value = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string()),
    };
    if request["stream"] != true {
        return refuse(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "the demo model only streams: send \"stream\": true",
        );
    }
    let script = Script::new(&request);
    let attempt = model.attempt(&body, script.failures());
    if let Some(refusal) = script.refusal(&request, attempt) {
        let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let wait = [(header::RETRY_AFTER, refusal.wait)];
        return match refusal.body {
            Words::Json(body) => (status, wait, Json(body)).into_response(),
            Words::Page(page) => (status, wait, Html(page)).into_response(),
        };
    }
    let (label, is_compressed) = (script.label().map(|label| label.map(String::from)), script.is_compressed());
    let frames = stream::iter(script.frames(&request, attempt)).then(move |frame| {
        let _ = &open;
        send(frame)
    });
    let body = if is_compressed { Body::from_stream(compressed(frames)) } else { Body::from_stream(frames) };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    if let Some(label) = label.unwrap_or_else(|| Some("text/event-stream".into())) {
        headers.extend(label.parse().ok().map(|label| (header::CONTENT_TYPE, label)));
    }
    if is_compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// The bytes in gzip, each piece so that it can be read as soon as it comes.
fn compressed(
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let pieces = pieces.map(Some).chain(stream::iter([None]));
    let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    pieces.scan(encoder, |encoder, piece| std::future::ready(Some(compress(encoder, piece))))
}

fn compress(encoder: &mut Option<GzEncoder<Vec<u8>>>, piece: Option<io::Result<Bytes>>) -> io::Result<Bytes> {
    match (encoder, piece) {
        (Some(encoder), Some(piece)) => {
            encoder.write_all(&piece?)?;
            encoder.flush()?;
            Ok(std::mem::take(encoder.get_mut()).into())
        }
        (encoder, _) => encoder.take().map_or(Ok(Bytes::new()), |encoder| Ok(encoder.finish()?.into())),
    }
}

impl DemoModel {
    /// How often this very request came before. After it has failed as often as it should, it starts anew.
    fn attempt(&self, body: &[u8], failures: Option<u32>) -> u32 {
        let Some(failures) = failures else { return 0 };
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.len() > COUNTED {
            attempts.clear();
        }
        let count = attempts.entry(hasher.finish()).or_default();
        let attempt = *count;
        *count = if attempt < failures { attempt + 1 } else { 0 };
        attempt
    }
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "error": { "message": message, "type": "demo", "code": code } }))).into_response()
}

async fn send(frame: Frame) -> io::Result<Bytes> {
    tokio::time::sleep(frame.after).await;
    match frame.what {
        What::Event(data) => Ok(format!("data: {data}\n\n").into()),
        What::Raw(bytes) => Ok(bytes.into()),
        What::Cut => Err(io::Error::other("the demo model was told to break off")),
        What::Silence => std::future::pending().await,
    }
}
